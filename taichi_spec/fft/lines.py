"""Lines of a product of 2, 3, 5 and 7 points, transformed in a block's shared memory, in place.

A line's real parts lie in one plane, its imaginary parts in the next. Each pass of its `Plan` is a loop over the pass's small
DFTs.
"""

from functools import cache
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.fft.butterflies import RADICES, butterflies
from taichi_spec.fft.pairs import KNOWN
from taichi_spec.fft.plan import Plan


@cache
def plan_of(n: int) -> Plan:
    """The `Plan` of a line among others: few passes, of radices as even as can be, of two the one with powers of two first."""
    return Plan(
        n, min(factors(n), key=lambda radices: (len(radices), sum(radices), [(r & (r - 1) != 0, -r) for r in radices]))
    )


def factors(n: int) -> list[tuple[int, ...]]:
    """All ways to write n as a product of radices."""
    if n == 1:
        return [()]
    return [(r, *others) for r in RADICES if n % r == 0 for others in factors(n // r)]


def line_table(plan: Plan) -> NDArray[Any]:
    """The twiddles, for each pass as (q, cosine or sine, j): what neighbouring threads read lies side by side."""
    parts = [np.moveaxis(turns, 0, -1) for turns in plan.turns]
    return np.concatenate([part.ravel() for part in parts])


def small_dft(plan: Plan, dtype: Any, twiddles: int, back: bool) -> Any:
    """The `ti.func` (re, im, table, j, p) that does one of pass p's small DFTs, number j of its group, in registers.

    Arguments: as `line_transform`'s.
    """
    bf = butterflies(dtype)

    @ti.func
    def turn(re: ti.template(), im: ti.template(), table: ti.template(), j, p: ti.template()):
        radix, span = ti.static(plan.radices[p], plan.spans[p])
        at = (j + ti.static(twiddles + 2 * plan.offsets[p])) & KNOWN  # as in `known`
        for q in ti.static(range(1, radix)):
            cosine = table[at + ti.static(2 * (q - 1) * span)]
            bf.rotate(re, im, q, cosine, table[at + ti.static((2 * q - 1) * span)])

    @ti.func
    def dft(re: ti.template(), im: ti.template(), table: ti.template(), j, p: ti.template()):
        if ti.static(back and plan.spans[p] > 1):
            turn(re, im, table, j, p)
        bf.dft(re, im, ti.static(plan.radices[p]), 0, 1)
        if ti.static(not back and plan.spans[p] > 1):
            turn(re, im, table, j, p)

    return dft


def line_transform(
    plan: Plan, dtype: Any, twiddles: int, back: bool, threads: int, lines: int, apart: int, plane: int
) -> Any:
    """The `ti.func` (sm, table, base, t) that transforms lines: natural order to reversed or, `back`, the reverse.

    Both are forward transforms. Neighbouring threads take the same DFT of different lines.

    Args:
        twiddles: where in the table `line_table` begins.
        threads: that do it together, t of them this one; the blocks' all wait for each other.
        lines: how many. apart: from one line to the next. plane: from an element's real part to its imaginary part.
    """
    dft = small_dft(plan, dtype, twiddles, back)
    passes = range(len(plan.radices))[:: -1 if back else 1]

    @ti.func
    def one_pass(sm: ti.template(), table: ti.template(), base, t, p: ti.template()):
        radix, span = ti.static(plan.radices[p], plan.spans[p])
        m = t
        while m < ti.static(plan.n // radix * lines):
            i = ti.raw_div(m, lines)
            group = ti.raw_div(i, span)
            j = i - group * span
            at = (base + group * ti.static(radix * span) + j + (m - i * lines) * apart) & KNOWN
            re = [sm[at + ti.static(q * span)] for q in ti.static(range(radix))]
            im = [sm[at + ti.static(q * span + plane)] for q in ti.static(range(radix))]
            dft(re, im, table, j, p)
            for q in ti.static(range(radix)):
                sm[at + ti.static(q * span)] = re[q]
                sm[at + ti.static(q * span + plane)] = im[q]
            m += threads

    @ti.func
    def transform(sm: ti.template(), table: ti.template(), base, t):
        for p in ti.static(passes):
            ti.simt.block.sync()
            one_pass(sm, table, base, t, p)
        ti.simt.block.sync()

    return transform
