"""What `matrix` does to rows: their transform there, the comparison of bins k and N − k, and their transform back.

Bin d of row c is compared with bin B − 1 − d of row A − c. A transform leaves the ones where the last pass has DFT g of row c,
element q, and the others where it has DFT G − 1 − g of row A − c, element r − 1 − q: all digits are counted from the other
end. So a thread that does both DFTs has all their pairs in registers, and does the first DFTs of the way back at once. Rows 0
and A / 2 have their pairs in themselves, elsewhere: they are compared in shared memory.
"""

from functools import cache
from typing import Any

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft import matrix_layout
from taichi_spec.fft.matrix_columns import Integers, frame_of, turned
from taichi_spec.fft.matrix_layout import BLOCK, HEAD, LEVELS, Matrix
from taichi_spec.fft.matrix_lines import line_passes
from taichi_spec.fft.pairs import KNOWN, forces_of, measures_of, pair_comparer, two_bins
from taichi_spec.fft.together import pairs_writer

ADDING = 16  # threads that add up all threads' sums


@cache
def rows_kernel(matrix: Matrix, dtype: Any, parts: Parts, coefficients: int, fixed: bool, gradient: bool) -> Any:
    """The kernel that compares a chunk's bins, between the rows' transforms there and back.

    parts: what is summed. coefficients: in which column of `account` the coefficients begin.
    """
    N, A, B, C, FRAMES = matrix.n_fft, matrix.columns.n, matrix.rows.n, len(parts), 1 + fixed
    GRID, PAIRS = matrix_layout.GRID, matrix.pairs
    lines = matrix.row_lines(dtype, C)
    L, SIDE, PLANE, APART = lines.count, lines.count // 2, lines.plane, lines.apart
    M, GROUPS, R, LAST = lines.plan.spans[0], lines.groups, lines.plan.radices[0], lines.plan.radices[-1]
    NEAR = M if GROUPS % M == 0 else GROUPS  # neighbouring threads' DFTs along rows of one line
    TASKS = -(-PAIRS // SIDE)  # blocks that share a transform
    HALVES = 2 - A % 2  # rows that are compared with themselves
    TURNS, POSITIONS, twiddles = matrix.turns, HEAD + 2 * PAIRS, matrix.twiddles(matrix.rows)
    there, back = (line_passes(lines, dtype, twiddles, way) for way in (False, True))
    measures, write_pairs = measures_of(parts, fixed, dtype, tuple(range(C))), pairs_writer(dtype)
    compare_pair = pair_comparer(dtype, C, PLANE, fixed, gradient)
    Array, Values = ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)
    Pairs = ti.types.ndarray(dtype=ti.types.vector(2, dtype), ndim=1)

    @ti.func
    def row_of(integers: ti.template(), slot, line):
        """Where in a transform a line's row begins, the first one of slot `slot` or the second; and whether there is one."""
        second = line >= SIDE
        pair = slot + line - ti.select(second, SIDE, 0)
        exists = pair < PAIRS
        if ti.static(A % 2 == 1):
            exists = exists and (pair > 0 or not second)
        return integers[HEAD + 2 * ti.min(pair, PAIRS - 1) + ti.select(second, 1, 0)], exists

    @ti.func
    def bin_of(g):
        """The first bin of the DFT number g along rows: its digits, in reversed order."""
        d, rest, scale = 0, g, ti.static(GROUPS)
        for p in ti.static(range(len(lines.plan.radices) - 1)[::-1]):
            radix = ti.static(lines.plan.radices[p])
            higher = ti.raw_div(rest, radix)
            scale = ti.raw_div(scale, radix)
            d += (rest - higher * radix) * scale
            rest = higher
        return d

    @ti.func
    def compare(found: ti.template(), zr: ti.template(), zi: ti.template(), mr: ti.template(), mi: ti.template(), k0,
                goals: ti.template(), scale: ti.template(), second):  # fmt: skip
        """Adds the distances of two DFTs' bins, which become the gradients', real and imaginary parts exchanged."""
        for q in ti.static(range(LAST)):
            k = k0 + ti.static(q * A * GROUPS)
            z, m = ti.static([zr[q], zi[q]]), ti.static([mr[LAST - 1 - q], mi[LAST - 1 - q]])
            values, low, high = ti.static(two_bins(z, m, goals(ti.min(k, N - k)), scale, fixed, dtype))
            for j in ti.static(range(C)):
                found[j] += values[j]
                if ti.static(fixed):
                    found[j] += ti.select(second, values[C + j], 0)
            if ti.static(gradient):
                zr[q], zi[q] = low[1], low[0]
                mr[LAST - 1 - q], mi[LAST - 1 - q] = high[1], high[0]

    @ti.func
    def compare_alone(found: ti.template(), sm: ti.template(), integers: ti.template(), t, goals: ti.template(),
                      scale: ti.template(), second, live):  # fmt: skip
        """The same for a task's first pair of lines, rows that are compared with themselves, in shared memory."""
        m = t
        while m < HALVES * B and live:
            half = ti.raw_div(m, B)
            d = m - half * B
            mirror = ti.select(half == 0, ti.select(d == 0, 0, B - d), B - 1 - d)
            if d <= mirror:
                base = half * ti.static(SIDE * APART)
                at, other = base + integers[POSITIONS + d], base + integers[POSITIONS + mirror]
                z, w = ti.static([sm[at], sm[at + PLANE]]), ti.static([sm[other], sm[other + PLANE]])
                k = half * ti.static(A // 2) + A * d
                compare_pair(found, sm, at, other, z, w, ti.min(k, N - k), goals, scale, second)
            m += BLOCK

    @ti.func
    def back_alone(sm: ti.template(), table: ti.template(), t):
        """The way back's first DFTs of these lines."""
        m = t
        while m < HALVES * GROUPS:
            half = ti.raw_div(m, GROUPS)
            re, im = (
                [ti.cast(0, dtype) for _ in ti.static(range(LAST))],
                [ti.cast(0, dtype) for _ in ti.static(range(LAST))],
            )
            at = back.group(m - half * GROUPS, half * SIDE)
            back.fetch(re, im, sm, at, False)
            back.along(re, im, table)
            back.store(sm, re, im, at, False)
            m += BLOCK

    @ti.func
    def add_up(partial: ti.template(), shared: ti.template(), found: ti.template(), task, t):
        """partial[task, j] ← the threads' sums, always added in the same order."""
        for j in ti.static(range(C)):
            shared[t + ti.static(j * BLOCK)] = found[j]
        ti.simt.block.sync()
        if t < ADDING:
            for j in ti.static(range(C)):
                total = ti.cast(0, dtype)
                for e in range(ti.static(BLOCK // ADDING)):
                    total += shared[t + e * ADDING + ti.static(j * BLOCK)]
                shared[t + ti.static(j * BLOCK)] = total
        ti.simt.block.sync()
        if t == 0:
            for j in ti.static(range(C)):
                total = ti.cast(0, dtype)
                for e in range(ADDING):
                    total += shared[e + ti.static(j * BLOCK)]
                partial[task * C + j] = total

    @ti.kernel
    def rows(Z: Pairs, y: Array, table: Values, integers: Integers, items: Array, levels: Array,
             account: Array, partial: Array, first: ti.i32, count: ti.i32):  # fmt: skip
        """partial[unit, task, j] ← the distances of a task's pairs of rows; Z ← G's transforms, turned."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * PLANE,), dtype)
            shared = ti.simt.block.SharedArray((BLOCK * C,), dtype)
            t, group = i & (BLOCK - 1), i // BLOCK
            while group < count * TASKS:
                unit = group // TASKS
                slot = (group - unit * TASKS) * SIDE
                unit += first
                place = (unit - first) * N
                b, f = frame_of(unit, integers[5], FRAMES)
                ti.simt.block.sync()  # until the task before has been read
                m = t
                while m < M * L:
                    line = ti.raw_div(m, M)
                    j = m - line * M
                    row, _ = row_of(integers, slot, line)
                    at = (place + row + j) & KNOWN
                    some = [Z[at + ti.static(q * M)] for q in ti.static(range(R))]
                    re, im = [v[0] for v in ti.static(some)], [v[1] for v in ti.static(some)]
                    there.across(re, im, table, j)
                    there.store(sm, re, im, there.column(j, line), True)
                    m += BLOCK
                there.middle(sm, table, t)
                live, second = f < items[b, 1], f + 1 < items[b, 1]
                scale = [levels[unit, ti.static(j)] for j in ti.static(range(LEVELS - 2))]
                factors = [account[b, ti.static(coefficients + parts[j][0])] for j in ti.static(range(C))]
                goal = b * integers[6]
                goal0 = goal + ti.min(f, items[b, 1] - 1) * integers[7]
                goal1 = goal + ti.min(f + 1, items[b, 1] - 1) * integers[7]
                goals = ti.static(measures(y, goal0, goal1, forces_of(factors, scale)))
                found = [ti.cast(0, dtype) for _ in ti.static(range(C))]
                m = t
                while m < GROUPS * SIDE:
                    high = ti.raw_div(m, NEAR)
                    line = high % SIDE
                    g = m - high * NEAR + ti.raw_div(high, SIDE) * NEAR
                    at, other = there.group(g, line), there.group(GROUPS - 1 - g, line + SIDE)
                    zr, zi = (
                        [ti.cast(0, dtype) for _ in ti.static(range(LAST))],
                        [ti.cast(0, dtype) for _ in ti.static(range(LAST))],
                    )
                    mr, mi = (
                        [ti.cast(0, dtype) for _ in ti.static(range(LAST))],
                        [ti.cast(0, dtype) for _ in ti.static(range(LAST))],
                    )
                    there.fetch(zr, zi, sm, at, False)
                    there.fetch(mr, mi, sm, other, False)
                    there.along(zr, zi, table)
                    there.along(mr, mi, table)
                    c = slot + line
                    if c > 0:
                        if live and c < PAIRS:
                            compare(found, zr, zi, mr, mi, c + A * bin_of(g), goals, scale, second)
                        if ti.static(gradient):
                            back.along(zr, zi, table)
                            back.along(mr, mi, table)
                    if ti.static(gradient) or c == 0:
                        there.store(sm, zr, zi, at, False)
                        there.store(sm, mr, mi, other, False)
                    m += BLOCK
                ti.simt.block.sync()
                if slot == 0:
                    compare_alone(found, sm, integers, t, goals, scale, second, live)
                    ti.simt.block.sync()
                    if ti.static(gradient):
                        back_alone(sm, table, t)
                add_up(partial, shared, found, unit * TASKS + slot // SIDE, t)
                if ti.static(gradient):
                    back.middle(sm, table, t)
                    m = t
                    while m < M * L:
                        line = ti.raw_div(m, M)
                        j = m - line * M
                        re, im = (
                            [ti.cast(0, dtype) for _ in ti.static(range(R))],
                            [ti.cast(0, dtype) for _ in ti.static(range(R))],
                        )
                        back.fetch(re, im, sm, back.column(j, line), True)
                        back.across(re, im, table, j)
                        row, exists = row_of(integers, slot, line)
                        if exists:
                            e = (row + j) & KNOWN
                            some = [
                                turned(re[q], im[q], table, TURNS + 2 * e + ti.static(2 * q * M))
                                for q in ti.static(range(R))
                            ]
                            write_pairs(Z, [place + e + q * M for q in ti.static(range(R))], some)
                        m += BLOCK
                group += GRID

    return rows
