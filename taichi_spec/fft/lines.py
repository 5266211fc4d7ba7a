"""Lines of a product of 2, 3, 5 and 7 points, transformed in a block's shared memory, in place.

A line's real parts lie in one plane, its imaginary parts in the next. Each pass of its `Plan` is a loop over the pass's small
DFTs. Several lines may lie side by side, element by element.
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
    """The `Plan` of a line: few passes of radices as even as can be.

    In the last pass the elements of neighbouring threads lie a radix apart. If it is odd these are in different banks, if it
    is even two of them are in one, if it is a multiple of 4 so many that another pass takes less time.
    """
    ways = _factors(n)
    some = [radices for radices in ways if radices and radices[-1] % 4]
    return Plan(n, min(some if n & (n - 1) else ways, key=_cost))


def _factors(n: int) -> list[tuple[int, ...]]:
    """All ways to write n as a product of radices."""
    if n == 1:
        return [()]
    return [(r, *others) for r in RADICES if n % r == 0 for others in _factors(n // r)]


def _cost(radices: tuple[int, ...]) -> Any:
    """Less is better. Of several orders the one with powers of two first, the largest first."""
    return len(radices), radices[-1:] and radices[-1] % 2 == 0, sum(radices), [(r & (r - 1) != 0, -r) for r in radices]


def line_table(plan: Plan) -> NDArray[Any]:
    """The twiddles, for each pass as (q, cosine or sine, j): what neighbouring threads read lies side by side."""
    parts = [np.moveaxis(turns, 0, -1) for turns in plan.turns]
    return np.concatenate([part.ravel() for part in parts])


def line_transform(
    plan: Plan, dtype: Any, twiddles: int, back: bool, threads: int, lines: int = 1, pitch: int = 1
) -> Any:
    """The `ti.func` (sm, table, base, t) that transforms lines: natural order to reversed or, `back`, the reverse.

    Both are forward transforms.

    Args:
        twiddles: where in the table `line_table` begins.
        threads: that do it together, t of them this one; the blocks' all wait for each other.
        lines: side by side. pitch: from one element of a line to the next.
    """
    bf, plane = butterflies(dtype), plan.n * pitch
    passes = list(zip(plan.radices, plan.spans, plan.offsets))[:: -1 if back else 1]

    @ti.func
    def turn(
        re: ti.template(), im: ti.template(), table: ti.template(), at, radix: ti.template(), span: ti.template()
    ):
        for q in ti.static(range(1, radix)):
            cosine = table[at + ti.static(2 * (q - 1) * span)]
            bf.rotate(re, im, q, cosine, table[at + ti.static((2 * q - 1) * span)])

    @ti.func
    def one_pass(sm: ti.template(), table: ti.template(), base, t, radix: ti.template(), span: ti.template(),
                 offset: ti.template()):  # fmt: skip
        m = t
        while m < ti.static(plan.n // radix * lines):
            i, line = m // lines, m % lines
            j = i % span
            at = (base + ((i - j) * radix + j) * pitch + line) & KNOWN  # as in `known`, here and below
            re = [sm[at + ti.static(q * span * pitch)] for q in ti.static(range(radix))]
            im = [sm[at + ti.static(q * span * pitch + plane)] for q in ti.static(range(radix))]
            turns = (j + ti.static(twiddles + 2 * offset)) & KNOWN
            if ti.static(back and span > 1):
                turn(re, im, table, turns, radix, span)
            bf.dft(re, im, radix, 0, 1)
            if ti.static(not back and span > 1):
                turn(re, im, table, turns, radix, span)
            for q in ti.static(range(radix)):
                sm[at + ti.static(q * span * pitch)] = re[q]
                sm[at + ti.static(q * span * pitch + plane)] = im[q]
            m += threads

    @ti.func
    def transform(sm: ti.template(), table: ti.template(), base, t):
        for p in ti.static(range(len(passes))):
            ti.simt.block.sync()
            one_pass(sm, table, base, t, passes[p][0], passes[p][1], passes[p][2])
        ti.simt.block.sync()

    return transform
