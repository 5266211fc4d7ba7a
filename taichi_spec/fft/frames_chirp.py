"""How a frame whose size has other prime factors than 2, 3, 5 and 7 is transformed in shared memory: Bluestein's convolution.

With the chirp c, of which C is the transform of P >= 2 N - 1 points (see `plan.Bluestein`), and as an inverse is the forward
transform of exchanged real and imaginary parts, exchanged back:

    z c, zeros behind it  →  P points forward  →  times C, exchanged  →  P points back, exchanged  →  times c: bins in order

The gradients' bins go back the same way, as the transform is its own transpose. That of P points ends in the order in which
its reverse begins: the last pass of the one, C and the first of the other meet in registers. The chirp is part of the first
pass and of the last one.
"""

from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.fft.butterflies import butterflies
from taichi_spec.fft.matrix_layout import Lines
from taichi_spec.fft.matrix_lines import line_passes
from taichi_spec.fft.pairs import KNOWN, zeros
from taichi_spec.fft.plan import Bluestein, Plan


def chirp_table(n_fft: int, plan: Plan) -> NDArray[Any]:
    """The chirp, 0 behind the frame  # (2, P); its transform, as neighbouring threads ask for it  # (2, last radix, P / it)"""
    of, last = Bluestein(n_fft, plan), plan.radices[-1]
    chirp = np.pad(of.chirp, ((0, plan.n - n_fft), (0, 0)))
    response = of.response.reshape(-1, last, 2)
    return np.concatenate([chirp.T.ravel(), response.transpose(2, 1, 0).ravel()])


def convolution(plan: Plan, row: int, threads: int, twiddles: int, dtype: Any) -> Any:
    """The `ti.func` that transforms n_fft points in shared memory, in rows so far apart, in natural order before and after.

    threads: that do it together. twiddles: where in the table those of `plan` begin, with `chirp_table` behind them.
    """
    P, R, M, LAST, T = plan.n, plan.radices[0], plan.spans[0], plan.radices[-1], threads
    CHIRP = twiddles + 2 * (P - 1)
    RESPONSE, GROUPS = CHIRP + 2 * P, P // LAST
    lines = Lines(plan, 1, 1, row, 0, R * row)
    there, back = (line_passes(lines, dtype, twiddles, way, T) for way in (False, True))
    rotate = butterflies(dtype).rotate

    @ti.func
    def turn(re: ti.template(), im: ti.template(), table: ti.template(), first, step: ti.template()):
        """Times numbers of the table from `first` on, `step` apart, of which the imaginary parts are P further on."""
        at = first & KNOWN
        for q in ti.static(range(len(re))):
            rotate(re, im, q, table[at + ti.static(q * step)], table[at + ti.static(q * step + P)])

    @ti.func
    def ends(sm: ti.template(), table: ti.template(), t, is_last: ti.template()):
        """The first pass there or the last one back, with the chirp before it or behind it."""
        j = t
        while j < M:
            at = there.column(j, 0)
            re, im = ti.static(zeros(R, dtype), zeros(R, dtype))
            there.fetch(re, im, sm, at, True)
            if ti.static(is_last):
                back.across(re, im, table, j)
                turn(im, re, table, CHIRP + j, M)
                there.store(sm, im, re, at, True)
            else:
                turn(re, im, table, CHIRP + j, M)
                there.across(re, im, table, j)
                there.store(sm, re, im, at, True)
            j += T

    @ti.func
    def convolve(sm: ti.template(), table: ti.template(), t):
        """All of it; waits for all threads before and after."""
        ti.simt.block.sync()
        ends(sm, table, t, False)
        there.middle(sm, table, t)
        g = t
        while g < GROUPS:
            at = there.group(g, 0)
            re, im = ti.static(zeros(LAST, dtype), zeros(LAST, dtype))
            there.fetch(re, im, sm, at, False)
            there.along(re, im, table)
            turn(re, im, table, RESPONSE + g, GROUPS)
            back.along(im, re, table)
            back.store(sm, im, re, at, False)
            g += T
        back.middle(sm, table, t)
        ends(sm, table, t, True)
        ti.simt.block.sync()

    return convolve
