"""The fused pass on a GPU through memory: products of 2, 3, 5 and 7 that are too large for a block.

A frame of N = A B points is a matrix, point n = B a + b in row a and column b; and so are its bins, k = c + A d:

    columns     U[c, b]      = e^(−2πi b c / N) Σ_a z[B a + b] e^(−2πi a c / A)        A points, B times
    rows        Z[c + A d]   = Σ_b U[c, b] e^(−2πi b d / B)                            B points, A times
    compare     G[k], G[N−k] from Z[k], Z[N−k], which lie in rows c and A − c: see `pairs`
    rows        V[c, b]      = e^(−2πi b c / N) Σ_d G[c + A d] e^(−2πi b d / B)
    columns     v[B a + b]   = Σ_c V[c, b] e^(−2πi a c / A)
    gather      ∂x[s]       += Σ_f w[n] v[f, n]                                        all frames that contain s

z = x + i y are the windowed frames of both signals or, where the target is fixed, two frames of x. The way back has the
real and the imaginary part exchanged, so that it is the same transform. A line (a column or a row) is transformed in
shared memory, in place: its elements end in the digit-reversed order of its `Plan` and the way back takes them from
there, so nothing is ever sorted. Blocks take several lines side by side, of whichever frames.

Only a chunk of frames is in memory at once, 8 bytes a point, however long the signal.
"""

from dataclasses import dataclass
from functools import cache
from math import isqrt, prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import MAX_INDEX, itemsize, new_array, new_vectors, upload, upload_integers
from taichi_spec.bins import Account, Parts, columns_of, finish_function
from taichi_spec.fft.fused import GPUEngine, run_sums
from taichi_spec.fft.lines import line_table, line_transform, plan_of
from taichi_spec.fft.pairs import KNOWN, bits_of, forces_of, measures_of, pair_comparer, power_of_two
from taichi_spec.fft.plan import Plan, is_smooth, unit_circle
from taichi_spec.fft.together import pairs_writer
from taichi_spec.framing import IMAGES, add, annotation, framing, framing_of, item_sizes, load, touched
from taichi_spec.launch import Launch
from taichi_spec.runtime import arch_name
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

BLOCK = 128  # threads
GRID = 4096  # blocks that are launched: more than a large GPU has at work side by side
LINE_BYTES = 24 * 1024  # shared memory for a block's lines
LONGEST = 512  # points of a line
AT_ONCE = 8  # numbers that a thread asks memory for before it waits for the first
MOST_SUMS = 16  # for which a block has shared memory too
LEVELS = 7  # numbers that say how a transform's two halves are scaled: see `measure_levels`
# Integers at the head of a table: samples of an item, N, hop, padding, whether it mirrors, transforms of an item; and of
# a fixed target, numbers from an item to the next and from a frame.
HEAD = 8
Integers = ti.types.ndarray(dtype=ti.i32, ndim=1)


@dataclass(frozen=True)
class Matrix:
    """A frame as a matrix: the plans of its columns, A points, and of its rows, B points."""

    columns: Plan
    rows: Plan

    @property
    def n_fft(self) -> int:
        """N."""
        return self.columns.n * self.rows.n

    @property
    def pairs(self) -> int:
        """Rows that are compared with one another: 0 with itself, c with A − c, and with even A the middle with itself."""
        return self.columns.n // 2 + 1

    @property
    def turns(self) -> int:
        """Where in `table` the twiddles between columns and rows begin, behind the window."""
        return self.n_fft

    def twiddles(self, plan: Plan) -> int:
        """Where in `table` those of a line begin."""
        return 3 * self.n_fft + (2 * (self.columns.n - 1) if plan is self.rows else 0)

    def table(self, window: NDArray[Any]) -> NDArray[Any]:
        """All constants of a frame: the window, then twiddles, cosine beside sine."""
        order = np.argsort(self.columns.positions)  # which c lies where a column's transform leaves it
        turns = unit_circle(-np.outer(order, np.arange(self.rows.n)), self.n_fft)
        tables = (window, turns, line_table(self.columns), line_table(self.rows))
        return np.concatenate([np.ravel(table) for table in tables])

    def places(self) -> NDArray[np.int64]:
        """Where rows c and A − c lie, for each pair, and where bin d of a row lies: (2 pairs + B,)"""
        c = np.arange(self.pairs)
        rows = self.columns.positions[np.stack([c, -c % self.columns.n], 1)]
        return np.concatenate([rows.ravel(), self.rows.positions])


def choose(n_fft: int) -> Matrix | None:
    """The matrix that is nearest to a square, or None where n_fft has other factors or is too large."""
    if not is_smooth(n_fft):
        return None
    few = next(a for a in range(isqrt(n_fft), 0, -1) if n_fft % a == 0)
    if n_fft // few > LONGEST:
        return None
    return Matrix(plan_of(few), plan_of(n_fft // few))


def lines_of(plan: Plan, dtype: Any) -> int:
    """How many lines a block has side by side."""
    return max(n for n in (2, 4, 8, 16, 32) if plan.n * pitch_of(n) * 2 * itemsize(dtype) <= LINE_BYTES or n == 2)


def pitch_of(lines: int) -> int:
    """From one element of a line to the next: odd, so that lines and elements both meet all banks."""
    return lines + 1


def transforms_of(plan: Plan, dtype: Any, twiddles: int) -> Any:
    """The `line_transform` of a block's lines, there and back."""
    lines = lines_of(plan, dtype)
    sizes = lines, pitch_of(lines), 1, plan.n * pitch_of(lines)
    return (line_transform(plan, dtype, twiddles, way, BLOCK, *sizes) for way in (False, True))


@ti.func
def frame_of(unit, units, frames: ti.template()):
    """The item of a transform among all items' transforms, so many each, and the first of its frames there."""
    b = unit // units
    return b, (unit - b * units) * frames


@ti.func
def turned(re, im, table: ti.template(), at):
    """re + i im times the twiddle between columns and rows that begins at `at`."""
    cosine, sine = table[at], table[at + 1]
    return ti.Vector([re * cosine - im * sine, re * sine + im * cosine])


@cache
def column_kernels(matrix: Matrix, dtype: Any, is_field: bool, fixed: bool) -> SimpleNamespace:
    """The kernels before the rows' and after them. fixed: whether a transform has two frames of x, and none of y."""
    N, A, B, FRAMES = matrix.n_fft, matrix.columns.n, matrix.rows.n, 1 + fixed
    LINES = lines_of(matrix.columns, dtype)
    STEP = BLOCK // LINES  # from one element of a line to the next of the same thread
    PITCH, PLANE, TURNS = pitch_of(LINES), A * pitch_of(LINES), matrix.turns
    powers, twiddles, write_pairs = power_of_two(dtype), matrix.twiddles(matrix.columns), pairs_writer(dtype)
    forward, back = transforms_of(matrix.columns, dtype, twiddles)
    Signal, Array, Values = annotation(is_field), ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)
    Pairs = ti.types.ndarray(dtype=ti.types.vector(2, dtype), ndim=1)
    Bits = bits_of(dtype)

    @ti.func
    def source(own, f, n):
        """Which sample element n of frame f is, and whether it is one; no branch, for no load to wait for another."""
        s = own.sample(f, n)
        return ti.max(ti.min(s, own.n_samples - 1), 0), (f < own.n_frames) & (s >= 0)

    @ti.func
    def windowed(x: ti.template(), y: ti.template(), table: ti.template(), own, b, f, n):
        """Element n of both halves of a transform."""
        s, there = source(own, f, n)
        u, v, w = load(x, b, s), ti.cast(0, dtype), table[n]
        re, im = ti.select(there, w * u, 0), ti.cast(0, dtype)
        if ti.static(fixed):
            s, there = source(own, f + 1, n)
            v = load(x, b, s)
        else:
            v = load(y, b, s)
        im = ti.select(there, w * v, 0)
        return ti.Vector([re, im])

    @ti.kernel
    def measure_levels(x: Signal, y: Signal, table: Values, integers: Integers, items: Array, levels: Array,
                       units: ti.i32):  # fmt: skip
        """levels[unit] ← half of what undoes the scaling of both halves, or 0 for a silent one; 1/2 or 0, likewise;
        whether the halves are equal; and their scalings, powers of two that bring each to a peak near 1.

        The louder half's rounding would drown the quieter one, and squares of 1e-20 or 1e18 leave float32's range. Of
        two equal halves one is dropped, and its spectrum is taken to be the other's, so that their distance is 0.
        """
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            shared = ti.simt.block.SharedArray((3 * BLOCK,), dtype)
            t, unit = i & (BLOCK - 1), i // BLOCK
            while unit < units:
                b, f = frame_of(unit, integers[5], FRAMES)
                own = framing_of(items, b, integers[1], integers[2], integers[3], integers[4])
                peak_x, peak_y, differ = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, Bits)
                n = t
                while n < N:
                    # Beyond the last element the last one again, which changes nothing.
                    some = [
                        windowed(x, y, table, own, b, f, ti.min(n + e * BLOCK, N - 1))
                        for e in ti.static(range(AT_ONCE))
                    ]
                    for e in ti.static(range(AT_ONCE)):
                        peak_x, peak_y = ti.max(peak_x, abs(some[e][0])), ti.max(peak_y, abs(some[e][1]))
                        differ = differ | (ti.bit_cast(some[e][0], Bits) ^ ti.bit_cast(some[e][1], Bits))
                    n += ti.static(BLOCK * AT_ONCE)
                ti.simt.block.sync()  # until the unit before has been read
                shared[t], shared[BLOCK + t], shared[2 * BLOCK + t] = peak_x, peak_y, ti.cast(differ != 0, dtype)
                for s in ti.static((64, 32, 16, 8, 4, 2, 1)):
                    ti.simt.block.sync()
                    if t < s:
                        for half in ti.static(range(3)):
                            at = t + ti.static(half * BLOCK)
                            shared[at] = ti.max(shared[at], shared[at + s])
                if t == 0:
                    for half in ti.static(range(2)):
                        peak = shared[half * BLOCK]
                        up, down = powers(peak)
                        audible = ti.select(peak > 0, ti.cast(0.5, dtype), ti.cast(0, dtype))
                        levels[unit, half], levels[unit, 2 + half] = audible * up, audible
                        levels[unit, 5 + half] = down
                    if ti.static(not fixed):
                        equal = shared[2 * BLOCK] == 0
                        levels[unit, 4] = ti.cast(equal, dtype)
                        if equal:
                            levels[unit, 6] = 0
                unit += GRID

    @ti.func
    def column_of(at, count):
        """The transform and the column of line `at` among a chunk's, and whether there is one."""
        unit = at // B
        return ti.min(unit, count - 1), at - unit * B, unit < count

    @ti.func
    def put(sm: ti.template(), some: ti.template(), a, line):
        """Elements a, a + STEP, ... of a line, those that it has, to shared memory."""
        base = (a * PITCH + line) & KNOWN
        for e in ti.static(range(AT_ONCE)):
            if a + e * STEP < A:
                at = base + ti.static(e * STEP * PITCH)
                sm[at], sm[at + PLANE] = some[e][0], some[e][1]

    @ti.func
    def turned_element(sm: ti.template(), table: ti.template(), a, line, column):
        """Element a of a transformed line, turned."""
        at = a * PITCH + line
        return turned(sm[at], sm[at + PLANE], table, TURNS + 2 * (a * B + column))

    @ti.kernel
    def columns(x: Signal, y: Signal, table: Values, integers: Integers, items: Array, levels: Array, U: Pairs,
                first: ti.i32, count: ti.i32):  # fmt: skip
        """U ← the columns' transforms of a chunk, turned, in the order in which they end."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * PLANE,), dtype)
            t, group = i & (BLOCK - 1), i // BLOCK
            mine, line = t // LINES, t % LINES
            while group * LINES < count * B:
                unit, column, there = column_of(group * LINES + line, count)
                b, f = frame_of(first + unit, integers[5], FRAMES)
                own = framing_of(items, b, integers[1], integers[2], integers[3], integers[4])
                down = ti.Vector([levels[first + unit, 5], levels[first + unit, 6]])
                a = mine
                ti.simt.block.sync()
                while a < A:
                    some = [down * windowed(x, y, table, own, b, f, ti.min(a + e * STEP, A - 1) * B + column)
                            for e in ti.static(range(AT_ONCE))]  # fmt: skip
                    put(sm, some, a, line)
                    a += ti.static(STEP * AT_ONCE)
                forward(sm, table, 0, t)
                a = mine
                while a < A and there:
                    # Beyond the last element the last one again: several threads write the same number.
                    elements = [ti.min(a + e * STEP, A - 1) for e in ti.static(range(AT_ONCE))]
                    some = [turned_element(sm, table, e, line, column) for e in ti.static(elements)]
                    write_pairs(U, [unit * N + e * B + column for e in ti.static(elements)], some)
                    a += ti.static(STEP * AT_ONCE)
                group += GRID

    @ti.kernel
    def columns_back(table: Values, levels: Array, V: Pairs, first: ti.i32, count: ti.i32):
        """V ← w times its columns' transforms: what a chunk's frames add to the gradients, x's first, in natural order."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * PLANE,), dtype)
            t, group = i & (BLOCK - 1), i // BLOCK
            mine, line = t // LINES, t % LINES
            while group * LINES < count * B:
                unit, column, there = column_of(group * LINES + line, count)
                a = mine
                ti.simt.block.sync()
                while a < A:
                    some = [V[unit * N + ti.min(a + e * STEP, A - 1) * B + column] for e in ti.static(range(AT_ONCE))]
                    put(sm, some, a, line)
                    a += ti.static(STEP * AT_ONCE)
                back(sm, table, 0, t)
                # The gradient at a silent frame is 0, not the other one's rounding.
                audible_x, audible_y = levels[first + unit, 2] > 0, levels[first + unit, 3] > 0
                a = mine
                while a < A and there:
                    elements = [ti.min(a + e * STEP, A - 1) for e in ti.static(range(AT_ONCE))]  # as in `columns`
                    weights = [table[e * B + column] for e in ti.static(elements)]
                    cells = [e * PITCH + line for e in ti.static(elements)]
                    by_x = [weights[e] * sm[cells[e] + PLANE] for e in ti.static(range(AT_ONCE))]
                    by_y = [weights[e] * sm[cells[e]] for e in ti.static(range(AT_ONCE))]
                    some = [
                        ti.Vector([ti.select(audible_x, by_x[e], 0), ti.select(audible_y, by_y[e], 0)])
                        for e in ti.static(range(AT_ONCE))
                    ]
                    write_pairs(V, [unit * N + e * B + column for e in ti.static(elements)], some)
                    a += ti.static(STEP * AT_ONCE)
                group += GRID

    return SimpleNamespace(measure_levels=measure_levels, columns=columns, columns_back=columns_back)


@cache
def rows_kernel(matrix: Matrix, dtype: Any, parts: Parts, coefficients: int, fixed: bool, gradient: bool) -> Any:
    """The kernel that compares a chunk's bins, between the rows' transforms there and back.

    parts: what is summed. coefficients: in which column of `account` the coefficients begin.
    """
    N, A, B, C, FRAMES = matrix.n_fft, matrix.columns.n, matrix.rows.n, len(parts), 1 + fixed
    LINES = lines_of(matrix.rows, dtype)
    PITCH, PLANE, TURNS = pitch_of(LINES), B * pitch_of(LINES), matrix.turns
    PAIRS, SIDE = matrix.pairs, LINES // 2  # pairs of rows of a frame, and of a block: its first and its second half
    ALL = LINES * B  # elements of a block's lines
    POSITIONS = HEAD + 2 * PAIRS
    measures, write_pairs = measures_of(parts, fixed, dtype, tuple(range(C))), pairs_writer(dtype)
    twiddles = matrix.twiddles(matrix.rows)
    forward, back = transforms_of(matrix.rows, dtype, twiddles)
    compare_pair = pair_comparer(dtype, C, PLANE, fixed, gradient)
    Array, Values = ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)
    Pairs = ti.types.ndarray(dtype=ti.types.vector(2, dtype), ndim=1)

    @ti.func
    def find_rows(places: ti.template(), integers: ti.template(), t, group, count):
        """places ← for each line where its row begins in memory and in the table; −1 if it is not to be written."""
        if t < LINES:
            pair = group * SIDE + t % SIDE
            unit = ti.min(pair // PAIRS, count - 1)
            c = ti.min(pair - unit * PAIRS, PAIRS - 1)
            row = integers[HEAD + 2 * c + t // SIDE] * B
            alone = c == 0 or 2 * c == A
            places[t] = unit * N + row
            places[LINES + t] = ti.select(pair < count * PAIRS and (t < SIDE or not alone), row, -1)

    @ti.func
    def element(places: ti.template(), n):
        """Where element n of the lines is in memory."""
        return places[n // B] + n % B

    @ti.func
    def turned_element(sm: ti.template(), places: ti.template(), table: ti.template(), n):
        """Element n of the transformed lines, turned."""
        line, e = n // B, n % B
        at = e * PITCH + line
        return turned(sm[at], sm[at + PLANE], table, TURNS + 2 * (ti.max(places[LINES + line], 0) + e))

    @ti.func
    def compare(sums: ti.template(), sm: ti.template(), y: ti.template(), account: ti.template(),
                integers: ti.template(), items: ti.template(), levels: ti.template(), t, group, first,
                count):  # fmt: skip
        """Adds this thread's distances, all of one pair of rows; its bins become the gradients', parts exchanged."""
        line = t % SIDE
        pair = group * SIDE + line
        unit = ti.min(pair // PAIRS, count - 1)
        c = pair - unit * PAIRS
        b, f = frame_of(first + unit, integers[5], FRAMES)
        live, second = pair < count * PAIRS and f < items[b, 1], f + 1 < items[b, 1]
        scale = [levels[first + unit, ti.static(j)] for j in ti.static(range(LEVELS - 2))]
        factors = [account[b, ti.static(coefficients + parts[j][0])] for j in ti.static(range(C))]
        row = b * integers[6]
        row0 = row + ti.min(f, items[b, 1] - 1) * integers[7]
        row1 = row + ti.min(f + 1, items[b, 1] - 1) * integers[7]
        goals = ti.static(measures(y, row0, row1, forces_of(factors, scale)))
        alone = c == 0 or 2 * c == A
        d = t // SIDE
        while d < B:
            mirror = ti.select(c == 0, (B - d) % B, B - 1 - d)
            if live and (not alone or d <= mirror):
                k = c + A * d
                at = integers[POSITIONS + d] * PITCH + line
                other = integers[POSITIONS + mirror] * PITCH + line + ti.select(alone, 0, SIDE)
                z = ti.static([sm[at], sm[at + PLANE]])
                m = ti.static([sm[other], sm[other + PLANE]])
                compare_pair(sums, sm, at, other, z, m, ti.min(k, N - k), goals, scale, second)
            d += ti.static(BLOCK // SIDE)

    @ti.kernel
    def rows(Z: Pairs, y: Array, table: Values, integers: Integers, items: Array, levels: Array,
             account: Array, partial: Array, first: ti.i32, count: ti.i32):  # fmt: skip
        """partial[unit, pair, j] ← the distances of a pair of rows; Z ← G's transforms, turned."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * PLANE,), dtype)
            shared = ti.simt.block.SharedArray((BLOCK * C,), dtype)
            places = ti.simt.block.SharedArray((2 * LINES,), ti.i32)
            t, group = i & (BLOCK - 1), i // BLOCK
            while group * SIDE < count * PAIRS:
                ti.simt.block.sync()
                find_rows(places, integers, t, group, count)
                ti.simt.block.sync()
                n = t
                while n < ALL:
                    some = [Z[element(places, ti.min(n + e * BLOCK, ALL - 1))] for e in ti.static(range(AT_ONCE))]
                    for e in ti.static(range(AT_ONCE)):
                        at = n + e * BLOCK
                        if at < ALL:
                            at = at % B * PITCH + at // B
                            sm[at], sm[at + PLANE] = some[e][0], some[e][1]
                    n += ti.static(BLOCK * AT_ONCE)
                forward(sm, table, 0, t)
                sums = [ti.cast(0, dtype) for _ in ti.static(range(C))]
                compare(sums, sm, y, account, integers, items, levels, t, group, first, count)
                for j in ti.static(range(C)):
                    shared[t * C + j] = sums[j]
                ti.simt.block.sync()
                pair = group * SIDE + t
                if t < SIDE and pair < count * PAIRS:
                    for j in ti.static(range(C)):
                        total = ti.cast(0, dtype)
                        for e in range(ti.static(BLOCK // SIDE)):
                            total += shared[(t + e * SIDE) * C + j]
                        partial[pair * C + j] = total
                if ti.static(gradient):
                    back(sm, table, 0, t)
                    n = t
                    while n < ALL:
                        some = [
                            turned_element(sm, places, table, ti.min(n + e * BLOCK, ALL - 1))
                            for e in ti.static(range(AT_ONCE))
                        ]
                        every = n + ti.static((AT_ONCE - 1) * BLOCK) < ALL
                        for e in ti.static(range(AT_ONCE)):
                            every = every and places[LINES + ti.min(n + e * BLOCK, ALL - 1) // B] >= 0
                        if every:
                            write_pairs(Z, [element(places, n + e * BLOCK) for e in ti.static(range(AT_ONCE))], some)
                        else:
                            for e in ti.static(range(AT_ONCE)):
                                at = n + e * BLOCK
                                if at < ALL and places[LINES + at // B] >= 0:
                                    Z[element(places, at)] = some[e]
                        n += ti.static(BLOCK * AT_ONCE)
                group += GRID

    return rows


@cache
def gather_kernel(dtype: Any, fixed: bool) -> Any:
    """The kernel that adds a chunk's frames to the gradients."""
    Pairs = ti.types.ndarray(dtype=ti.types.vector(2, dtype), ndim=1)
    Array, FRAMES = ti.types.ndarray(), 1 + fixed

    @ti.kernel
    def gather(V: Pairs, gx: Array, gy: Array, integers: Integers, items: Array, first: ti.i32, count: ti.i32,
               low: ti.i32, high: ti.i32):  # fmt: skip
        """gx[s] += Σ V over the elements that read sample s, of samples low ... high - 1 of all items in a row."""
        for i in range(low, high):
            b = i // integers[0]
            s = i - b * integers[0]
            start = first - b * integers[5]  # which of the item's transforms is the chunk's first
            own = framing_of(items, b, integers[1], integers[2], integers[3], integers[4])
            total = ti.Vector.zero(dtype, 2)
            if s < own.n_samples:
                mirrored = (own.reflect == 1) & ((s <= own.pad) | (s + own.pad >= own.n_samples - 1))
                for image in range(ti.select(mirrored, IMAGES, 1)):
                    q = own.position(s, image)
                    if q >= 0:
                        begin = ti.max(own.first(q), start * FRAMES)
                        for f in range(begin, ti.min(own.last(q), (start + count) * FRAMES - 1) + 1):
                            value = V[(f // FRAMES - start) * own.n_fft + q - f * own.hop]
                            if ti.static(fixed):
                                total[0] += ti.select(f & 1, value[1], value[0])
                            else:
                                total += value
                add(gx, b, s, total[0])
                if ti.static(not fixed):
                    add(gy, b, s, total[1])

    return gather


@cache
def sums_kernels(matrix: Matrix, dtype: Any, terms: tuple[Term, ...], parts: Parts, adds: bool) -> SimpleNamespace:
    """The kernels that sum over the rows of a frame, and then over frames."""
    C, PAIRS = len(parts), matrix.pairs
    finish, add_runs = finish_function(terms, dtype, Account.of(terms)), run_sums(parts, len(parts), dtype)
    Array, Values = ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.kernel
    def over_rows(partial: Values, totals: Values, first: ti.i32, count: ti.i32):
        """totals[first + unit, j] ← Σ partial over its pairs of rows."""
        for unit in range(count):
            for j in ti.static(range(C)):
                total = ti.cast(0, dtype)
                for pair in range(PAIRS):
                    total += partial[(unit * PAIRS + pair) * C + j]
                totals[(first + unit) * C + j] = total

    @ti.kernel
    def over_frames(totals: Values, integers: Integers, account: Array, total: Array):
        """The sums and the total of each item, by one block."""
        ti.loop_config(block_dim=128)
        for i in range(128 * 128):
            shared = ti.simt.block.SharedArray((128 * C,), dtype)
            t, b = i & 127, i >> 7
            while b < account.shape[0]:
                add_runs(totals, account, shared, b, integers[5], t)
                if t == 0:
                    item = finish(account, account, account, account, b)
                    total[b] = (total[b] if ti.static(adds) else 0) + item
                b += 128

    return SimpleNamespace(over_rows=over_rows, over_frames=over_frames)


@cache
def zero_kernel() -> Any:
    """The kernel that clears a gradient."""

    @ti.kernel
    def clear(grad: ti.types.ndarray()):
        for i in ti.grouped(grad):
            grad[i] = 0

    return clear


def supports(stft: STFT, dtype: Any, batch: int, n_samples: int, terms: tuple[Term, ...], fixed: Any = None) -> bool:
    """Whether `MatrixEngine` can do this on this device, and no index leaves its range. Arguments: as it takes them."""
    if arch_name() not in ("cuda", "vulkan") or (dtype == ti.f64 and arch_name() == "vulkan"):
        return False
    units = batch * -(-stft.n_frames(n_samples) // (1 if fixed is None else 2))
    sums = columns_of(terms)[-1]
    sizes = (batch * n_samples, units * max(LEVELS, sums), 0 if fixed is None else prod(fixed.shape))
    return choose(stft.n_fft) is not None and sums <= MOST_SUMS and max(sizes) <= MAX_INDEX


class MatrixEngine(GPUEngine):
    """Loss and gradients of signals of one shape, on a GPU, a chunk of frames at a time.

    Args:
        stft: the transform.
        dtype: ti.f32 or ti.f64, of the signals.
        is_field: whether signals are fields or ndarrays.
        batch, n_samples: B and T.
        terms: what is summed over bins.
        weights: what each term of each item is multiplied by  # (B, terms)
        fixed: the target's magnitudes  # (B or 1, F or 1, K), or None if the target is a signal.
        lengths: samples of each item, T by default; nothing beyond is read.
        scratch_bytes: the most memory that a chunk may take.
    """

    def __init__(self, stft: STFT, dtype: Any, is_field: bool, batch: int, n_samples: int,
                 terms: tuple[Term, ...], weights: NDArray[np.float64], fixed: NDArray[Any] | None,
                 lengths: tuple[int, ...] | None, scratch_bytes: int) -> None:  # fmt: skip
        super().__init__(dtype, is_field, batch, n_samples, terms, weights, fixed is not None)
        matrix = choose(stft.n_fft)
        assert matrix is not None  # as `supports` said
        self.matrix, self.stft, pack = matrix, stft, 1 + self.fixed
        self.lengths = lengths or (n_samples,) * batch
        self.units = -(-stft.n_frames(n_samples) // pack)  # transforms of an item
        most = min(scratch_bytes // (2 * itemsize(dtype)), MAX_INDEX // 2) // stft.n_fft
        chunks = -(-batch * self.units // max(1, most))
        self.chunk = -(-batch * self.units // chunks)
        self.work = new_vectors(2, dtype, self.chunk * stft.n_fft)
        self.levels = new_array(dtype, (batch * self.units, LEVELS))
        self.partial = new_array(dtype, self.chunk * matrix.pairs * len(self.parts))
        self.totals = new_array(dtype, batch * self.units * len(self.parts))
        self.table = upload(matrix.table(stft.window_table), dtype)
        whole, strides = framing(stft, n_samples), self._keep_goal(fixed)
        head = (n_samples, whole.n_fft, whole.hop, whole.pad, whole.reflect, self.units, *strides)
        self.integers = upload_integers(np.concatenate([head, matrix.places()]))
        self.items = item_sizes(stft, self.lengths)  # (B, 2)

    def _evaluation(self, grad_x: Any, grad_y: Any, parts: Parts, total: Any, adds: bool) -> list[Launch]:
        backward, unused = grad_x is not None, self.levels
        columns = column_kernels(self.matrix, self.dtype, self.is_field, self.fixed)
        rows = rows_kernel(self.matrix, self.dtype, parts, self.at.coefficients, self.fixed, backward)
        sums = sums_kernels(self.matrix, self.dtype, self.terms, parts, adds)
        signals = ("x", "x" if self.fixed else "y", self.table, self.integers, self.items, self.levels)
        goal = self.goal if self.fixed else self.table  # one that is not read
        gradients = [grad for grad in (grad_x, grad_y) if grad is not None]
        launches = [] if adds else [Launch(zero_kernel(), (grad,)) for grad in gradients]
        launches.append(Launch(columns.measure_levels, (*signals, self.batch * self.units)))
        for first in range(0, self.batch * self.units, self.chunk):
            part = first, min(self.chunk, self.batch * self.units - first)
            launches += [
                Launch(columns.columns, (*signals, self.work, *part)),
                Launch(rows, (self.work, goal, self.table, self.integers, self.items, self.levels, self.account,
                              self.partial, *part)),
                Launch(sums.over_rows, (self.partial, self.totals, *part)),
            ]  # fmt: skip
            if backward:
                second = unused if grad_y is None else grad_y
                gather = self.work, grad_x, second, self.integers, self.items, *part, *self._touched(*part)
                launches.append(Launch(columns.columns_back, (self.table, self.levels, self.work, *part)))
                launches.append(Launch(gather_kernel(self.dtype, self.fixed), gather))
        return [*launches, Launch(sums.over_frames, (self.totals, self.integers, self.account, total))]

    def _touched(self, first: int, count: int) -> tuple[int, int]:
        """The samples that a chunk's frames read, of all items in a row, from the first one to the one after the last."""
        (b, unit), (c, last) = divmod(first, self.units), divmod(first + count - 1, self.units)
        low, _ = self._touched_of(b, unit, last if b == c else self.units - 1)
        _, high = self._touched_of(c, unit if b == c else 0, last)
        return b * self.n_samples + low, c * self.n_samples + high

    def _touched_of(self, b: int, unit: int, last: int) -> tuple[int, int]:
        """The samples of item b that its transforms `unit` ... `last` read, those beyond its frames none."""
        pack, length = 1 + self.fixed, self.lengths[b]
        frames = min((last + 1) * pack, self.stft.n_frames(length)) - unit * pack
        return touched(self.stft, length, unit * pack, frames) if frames > 0 else (length, 0)
