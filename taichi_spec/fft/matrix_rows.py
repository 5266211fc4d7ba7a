"""What `matrix` does to rows: their transform there, the comparison of bins k and N − k, and their transform back.

Bin d of row c is compared with bin B − 1 − d of row A − c. A transform leaves the ones where the last pass has DFT g of row c,
element q, and the others where it has DFT G − 1 − g of row A − c, element r − 1 − q: all digits are counted from the other
end. So a thread that does both DFTs has all their pairs in registers, and does the first DFTs of the way back at once. Rows 0
and A / 2 have their pairs in themselves, elsewhere: they are compared in shared memory.
"""

from functools import cache
from math import prod
from typing import Any

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft import matrix_layout
from taichi_spec.fft.butterflies import butterflies
from taichi_spec.fft.matrix_columns import Integers, nothing, whole_of
from taichi_spec.fft.matrix_layout import BLOCK, HEAD, LEVELS, Matrix
from taichi_spec.fft.matrix_lines import line_passes
from taichi_spec.fft.pairs import KNOWN, add_distances, forces_of, measures_of, pair_comparer, two_bins, zeros
from taichi_spec.fft.plan import Plan
from taichi_spec.fft.together import planes_writer, read_planes

ADDING = 16  # threads that add up all threads' sums


def digits_of(plan: Plan) -> list[tuple[int, int]]:
    """How a DFT along rows is counted, from its number's last digit on: a digit's radix, and its weight in a bin."""
    radices = plan.radices[:-1]
    return [(radices[p], prod(radices[:p])) for p in range(len(radices))[::-1]]


@cache
def adder(dtype: Any, C: int, block: int) -> Any:
    """The `ti.func` that adds up the C sums of a block's threads."""

    @ti.func
    def add_up(partial: ti.template(), shared: ti.template(), found: ti.template(), task, t):
        """partial[task, j] ← the threads' sums, always added in the same order."""
        for j in ti.static(range(C)):
            shared[t + ti.static(j * block)] = found[j]
        ti.simt.block.sync()
        if t < ADDING:
            for j in ti.static(range(C)):
                total = ti.cast(0, dtype)
                for e in range(ti.static(block // ADDING)):
                    total += shared[t + e * ADDING + ti.static(j * block)]
                shared[t + ti.static(j * block)] = total
        ti.simt.block.sync()
        if t == 0:
            for j in ti.static(range(C)):
                total = ti.cast(0, dtype)
                for e in range(ADDING):
                    total += shared[e + ti.static(j * block)]
                partial[task * C + j] = total

    return add_up


@cache
def rows_kernel(matrix: Matrix, dtype: Any, parts: Parts, coefficients: int, fixed: bool, gradient: bool) -> Any:
    """The kernel that compares a chunk's bins, between the rows' transforms there and back.

    parts: what is summed. coefficients: in which column of `account` the coefficients begin.
    """
    N, A, B, C, FRAMES = matrix.n_fft, matrix.columns.n, matrix.rows.n, len(parts), 1 + fixed
    lines = matrix.row_lines(dtype, C)
    GRID, PAIRS = matrix_layout.GRID, matrix.pairs
    L, SIDE, PLANE, APART = lines.count, lines.count // 2, lines.plane, lines.apart
    M, GROUPS, R, LAST = lines.plan.spans[0], lines.groups, lines.plan.radices[0], lines.plan.radices[-1]
    NEAR = M if GROUPS % M == 0 else GROUPS  # neighbouring threads' DFTs along rows of one line
    TASKS = matrix.tasks(dtype, C)
    ALONE = 2 - A % 2  # rows that are compared with themselves
    DIGITS = digits_of(lines.plan)
    TURNS, POSITIONS, twiddles = matrix.turns, HEAD + 2 * PAIRS, matrix.twiddles(matrix.rows)
    there, back = (line_passes(lines, dtype, twiddles, way) for way in (False, True))
    measures, write_planes = measures_of(parts, fixed, dtype, tuple(range(C))), planes_writer(dtype)
    add_up = adder(dtype, C, BLOCK)
    compare_pair, rotate = pair_comparer(dtype, C, PLANE, fixed, gradient), butterflies(dtype).rotate
    Array, Values = ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.func
    def element_of(m, integers: ti.template()):
        """Which DFT across rows is number m of a task's, and of which line."""
        line = ti.raw_div(m, M)
        return m - line * M + nothing(integers), line

    @ti.func
    def row_of(integers: ti.template(), slot, line):
        """Where in a transform a line's row begins, and whether there is one. slot: the task's first pair."""
        second = line >= SIDE
        pair = slot + line - ti.select(second, SIDE, 0)
        exists = pair < PAIRS
        if ti.static(A % 2 == 1):
            exists = exists and (pair > 0 or not second)
        return integers[HEAD + 2 * ti.min(pair, PAIRS - 1) + ti.select(second, 1, 0)], exists

    @ti.func
    def bin_of(g):
        """The first bin of DFT g along rows: the digits of g in reversed order."""
        d, rest = 0, g
        for radix, weight in ti.static(DIGITS):
            higher = ti.raw_div(rest, radix)
            d += (rest - higher * radix) * weight
            rest = higher
        return d

    @ti.func
    def first_pass(sm: ti.template(), Z: ti.template(), table: ti.template(), integers: ti.template(), slot, place, t):
        """Rows from memory, where the transform begins at `place`."""
        m = t
        while m < M * L:
            j, line = element_of(m, integers)
            row, _ = row_of(integers, slot, line)
            at = (place + row + j) & KNOWN
            re, im = ti.static(read_planes(Z, at, M, R))
            there.across(re, im, table, j)
            there.store(sm, re, im, there.column(j, line), True)
            m += BLOCK

    @ti.func
    def at_bins(found: ti.template(), sm: ti.template(), table: ti.template(), integers: ti.template(), slot, live,
                goals: ti.template(), scale: ti.template(), second, t):  # fmt: skip
        """The last DFTs, the comparison, the first DFTs of the way back; of rows compared with themselves the first alone."""
        m = t
        while m < GROUPS * SIDE:
            high = ti.raw_div(m, NEAR)
            line = high % SIDE
            g = m - high * NEAR + ti.raw_div(high, SIDE) * NEAR + nothing(integers)
            at, other = there.group(g, line), there.group(GROUPS - 1 - g, line + SIDE)
            zr, zi = ti.static(zeros(LAST, dtype), zeros(LAST, dtype))
            mr, mi = ti.static(zeros(LAST, dtype), zeros(LAST, dtype))
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

    @ti.func
    def compare(found: ti.template(), zr: ti.template(), zi: ti.template(), mr: ti.template(), mi: ti.template(), k0,
                goals: ti.template(), scale: ti.template(), second):  # fmt: skip
        """Adds the distances of two DFTs' bins, which become the gradients', real and imaginary parts exchanged."""
        for q in ti.static(range(LAST)):
            k = k0 + ti.static(q * A * GROUPS)
            z, m = ti.static([zr[q], zi[q]]), ti.static([mr[LAST - 1 - q], mi[LAST - 1 - q]])
            values, low, high = ti.static(two_bins(z, m, goals(ti.min(k, N - k)), scale, fixed, dtype))
            add_distances(found, values, second)
            if ti.static(gradient):
                zr[q], zi[q] = low[1], low[0]
                mr[LAST - 1 - q], mi[LAST - 1 - q] = high[1], high[0]

    @ti.func
    def compare_alone(found: ti.template(), sm: ti.template(), integers: ti.template(), t, goals: ti.template(),
                      scale: ti.template(), second, live):  # fmt: skip
        """The same for a task's first pair of lines, rows that are compared with themselves, in shared memory."""
        m = t
        while m < ALONE * B and live:
            middle = ti.raw_div(m, B)  # 0 in row 0, 1 in row A / 2
            d = m - middle * B
            mirror = ti.select(middle == 1, B - 1 - d, ti.select(d == 0, 0, B - d))
            if d <= mirror:
                base = middle * ti.static(SIDE * APART)
                at, other = base + integers[POSITIONS + d], base + integers[POSITIONS + mirror]
                z, w = ti.static([sm[at], sm[at + PLANE]]), ti.static([sm[other], sm[other + PLANE]])
                k = middle * ti.static(A // 2) + A * d
                compare_pair(found, sm, at, other, z, w, ti.min(k, N - k), goals, scale, second)
            m += BLOCK

    @ti.func
    def back_alone(sm: ti.template(), table: ti.template(), t):
        """The way back's first DFTs of these lines."""
        m = t
        while m < ALONE * GROUPS:
            middle = ti.raw_div(m, GROUPS)
            re, im = ti.static(zeros(LAST, dtype), zeros(LAST, dtype))
            at = back.group(m - middle * GROUPS, middle * SIDE)
            back.fetch(re, im, sm, at, False)
            back.along(re, im, table)
            back.store(sm, re, im, at, False)
            m += BLOCK

    @ti.func
    def last_pass(sm: ti.template(), Z: ti.template(), table: ti.template(), integers: ti.template(), slot, place, t):
        """Rows to memory, turned."""
        m = t
        while m < M * L:
            j, line = element_of(m, integers)
            re, im = ti.static(zeros(R, dtype), zeros(R, dtype))
            back.fetch(re, im, sm, back.column(j, line), True)
            back.across(re, im, table, j)
            row, exists = row_of(integers, slot, line)
            if exists:
                e = (row + j) & KNOWN
                for q in ti.static(range(R)):
                    at = e + ti.static(TURNS + q * M)
                    rotate(re, im, q, table[at], table[at + N])
                write_planes(Z, (place + e) & KNOWN, M, re, im)
            m += BLOCK

    @ti.kernel
    def rows(Z: Values, y: Array, table: Values, integers: Integers, items: Array, levels: Array,
             account: Array, partial: Array, first: ti.i32, count: ti.i32):  # fmt: skip
        """partial[unit, task, j] ← the distances of a task's pairs of rows; Z ← G's transforms, turned."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * PLANE,), dtype)
            shared = ti.simt.block.SharedArray((BLOCK * C,), dtype)
            t, task = i & (BLOCK - 1), i // BLOCK
            while task < count * TASKS:
                unit, slot = whole_of(task, TASKS, SIDE)
                place = unit * N
                unit += first
                b, f = whole_of(unit, integers[5], FRAMES)
                frames = items[b, 1]
                scale = [levels[unit, ti.static(j)] for j in ti.static(range(LEVELS - 2))]
                factors = [account[b, ti.static(coefficients + parts[j][0])] for j in ti.static(range(C))]
                goal = [b * integers[6] + ti.min(f + k, frames - 1) * integers[7] for k in ti.static(range(2))]
                goals = ti.static(measures(y, *goal, forces_of(factors, scale)))
                found = [ti.cast(0, dtype) for _ in ti.static(range(C))]
                ti.simt.block.sync()  # until the task before has been read
                first_pass(sm, Z, table, integers, slot, place, t)
                there.middle(sm, table, t)
                at_bins(found, sm, table, integers, slot, f < frames, goals, scale, f + 1 < frames, t)
                ti.simt.block.sync()
                if slot == 0:
                    compare_alone(found, sm, integers, t, goals, scale, f + 1 < frames, f < frames)
                    ti.simt.block.sync()
                    if ti.static(gradient):
                        back_alone(sm, table, t)
                add_up(partial, shared, found, first * TASKS + task, t)
                if ti.static(gradient):
                    back.middle(sm, table, t)
                    last_pass(sm, Z, table, integers, slot, place, t)
                task += GRID

    return rows
