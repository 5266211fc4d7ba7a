"""The passes of a block's lines: the first one's and the last one's DFTs in registers, those between in shared memory.

A line comes from memory as the DFTs of its first pass, and goes back there as those of its last one, so that shared memory is
written and read once for each pass but one.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.lines import small_dft
from taichi_spec.fft.matrix_layout import BLOCK, Lines
from taichi_spec.fft.pairs import KNOWN


@cache
def line_passes(lines: Lines, dtype: Any, twiddles: int, back: bool, threads: int = BLOCK) -> SimpleNamespace:
    """The functions of one way: natural order to reversed or, `back`, the reverse. Both are forward transforms.

    twiddles: where in the table `line_table` begins. threads: of a block.
    """
    plan, ROW, STEP, APART, PLANE = lines.plan, lines.row, lines.step, lines.apart, lines.plane
    M, LAST = plan.spans[0], plan.radices[-1]
    dft = small_dft(plan, dtype, twiddles, back)
    between = range(1, len(plan.radices) - 1)[:: -1 if back else 1]
    FIRST_AWAY = [q * ROW for q in range(plan.radices[0])]
    LAST_AWAY = [q * STEP for q in range(LAST)]

    @ti.func
    def across(re: ti.template(), im: ti.template(), table: ti.template(), j):
        """The DFT of the elements j of all rows of a line."""
        dft(re, im, table, j, 0)

    @ti.func
    def along(re: ti.template(), im: ti.template(), table: ti.template()):
        """The DFT of neighbouring elements of a row."""
        dft(re, im, table, 0, ti.static(len(plan.radices) - 1))

    @ti.func
    def column(j, line):
        """Where element j of the rows lies, in the first one."""
        return (j * STEP + line * APART) & KNOWN

    @ti.func
    def group(g, line):
        """Where the elements begin that are number g of the DFTs along rows."""
        row = ti.raw_div(g, M // LAST)
        return (row * ROW + (g - row * ti.static(M // LAST)) * ti.static(LAST * STEP) + line * APART) & KNOWN

    def elements(of_rows):
        return FIRST_AWAY if of_rows else LAST_AWAY

    @ti.func
    def fetch(re: ti.template(), im: ti.template(), sm: ti.template(), at, of_rows: ti.template()):
        """The elements of a DFT across rows, or along one, which begin at `at`."""
        for q, away in ti.static(enumerate(elements(of_rows))):
            re[q], im[q] = sm[at + away], sm[at + ti.static(away + PLANE)]

    @ti.func
    def store(sm: ti.template(), re: ti.template(), im: ti.template(), at, of_rows: ti.template()):
        for q, away in ti.static(enumerate(elements(of_rows))):
            sm[at + away], sm[at + ti.static(away + PLANE)] = re[q], im[q]

    @ti.func
    def middle(sm: ti.template(), table: ti.template(), t):
        """The passes between the first and the last one; waits for the pass before."""
        for p in ti.static(between):
            ti.simt.block.sync()
            one_pass(sm, table, t, p)
        ti.simt.block.sync()

    @ti.func
    def one_pass(sm: ti.template(), table: ti.template(), t, p: ti.template()):
        radix, span = ti.static(plan.radices[p], plan.spans[p])
        m = t
        while m < ti.static(plan.n // radix * lines.count):
            i = ti.raw_div(m, lines.count)
            part = ti.raw_div(i, span)  # of the line, all of whose DFTs have the same twiddles
            j = i - part * span
            row = ti.raw_div(part, M // (radix * span))
            e = part * ti.static(radix * span) + j - row * M
            at = (row * ROW + e * STEP + (m - i * lines.count) * APART) & KNOWN
            re = [sm[at + ti.static(q * span * STEP)] for q in ti.static(range(radix))]
            im = [sm[at + ti.static(q * span * STEP + PLANE)] for q in ti.static(range(radix))]
            dft(re, im, table, j, p)
            for q in ti.static(range(radix)):
                sm[at + ti.static(q * span * STEP)] = re[q]
                sm[at + ti.static(q * span * STEP + PLANE)] = im[q]
            m += threads

    return SimpleNamespace(
        across=across, along=along, column=column, group=group, fetch=fetch, store=store, middle=middle
    )
