"""What `matrix` does to columns, before the rows and after them: samples to U, V to what frames add to the gradients."""

from functools import cache
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft import matrix_layout
from taichi_spec.fft.butterflies import butterflies
from taichi_spec.fft.matrix_layout import BLOCK, HEAD, Matrix
from taichi_spec.fft.matrix_lines import line_passes
from taichi_spec.fft.pairs import KNOWN, KNOWN_SAMPLE, bits_of, cell, element, hold, power_of_two, push, size, zeros
from taichi_spec.fft.together import planes_writer, read_planes
from taichi_spec.framing import annotation, framing_of, load

Integers = ti.types.ndarray(dtype=ti.i32, ndim=1)
AT_ONCE = 8  # samples of each half that a thread asks memory for before it waits for the first


@ti.func
def whole_of(part, parts, step: ti.template()):
    """The whole that a part belongs to, of wholes of so many parts, and where in it the part begins, `step` from the next.

    Of a transform, its item and its first frame there; of a block's task, its transform and what it does of that.
    """
    whole = part // parts
    return whole, (part - whole * parts) * step


@ti.func
def nothing(integers: ti.template()):
    """0, as LLVM does not know. What it could compute before a pass it would keep; and of an index < 2^k it would make
    an address of its own for each constant that is added: see `known`."""
    return integers[HEAD - 1]


@cache
def frame_functions(n_fft: int, window: int, dtype: Any, is_field: bool, fixed: bool) -> SimpleNamespace:
    """The functions that find the windowed samples of a transform.

    window: where in the table it begins. fixed: whether a transform has two frames of x, and none of y.
    """
    N, FRAMES = n_fft, 1 + fixed

    @ti.func
    def inside(own, f):
        """Whether all frames of a transform are there, and all of their samples."""
        start = f * own.hop - own.pad
        return (
            f + FRAMES <= own.n_frames and start >= 0 and start + ti.static(FRAMES - 1) * own.hop + N <= own.n_samples
        )

    def halves(x, y, table, own, b, f, samples, places):
        """Elements of both halves of a transform that is inside, all asked for before any is used.

        samples: of an item. places: of each element, a base and how far away from it, in the first half and in the second.
        """
        start = hold(f * own.hop - own.pad + (0 if is_field else b * samples))
        begins, signals = [start, hold(start + own.hop) if fixed else start], [x, x if fixed else y]
        values = [[hold(cell(signals[s], is_field, b, hold((begins[s] + base) & KNOWN_SAMPLE) + away))
                   for s, (base, away) in enumerate(both)] for both in places]  # fmt: skip
        weights = [
            [hold(element(table, base + (away + window))) for base, away in both[: 1 + fixed]] for both in places
        ]
        return [(w[0] * u, w[-1] * v) for w, (u, v) in zip(weights, values)]

    @ti.func
    def sample(x: ti.template(), table: ti.template(), own, b, f, n):
        """Element n of frame f, windowed, 0 if there is none."""
        s = own.sample(f, n)
        there = f < own.n_frames and s >= 0
        return ti.select(
            there, table[n + window] * load(x, b, ti.max(ti.min(s, own.n_samples - 1), 0)), ti.cast(0, dtype)
        )

    @ti.func
    def anywhere(x: ti.template(), y: ti.template(), table: ti.template(), own, b, f, n, m):
        """Element n of the first half and m of the second, wherever they are."""
        u, v = sample(x, table, own, b, f, n), ti.cast(0, dtype)
        if ti.static(fixed):
            v = sample(x, table, own, b, f + 1, m)
        else:
            v = sample(y, table, own, b, f, m)
        return u, v

    return SimpleNamespace(inside=inside, halves=halves, anywhere=anywhere)


def column_reader(of: SimpleNamespace, fixed: bool, count: int, apart: int, turned: Any = None) -> Any:
    """The `ti.func` that reads so many windowed elements of a column, `apart` from each other in a frame, into registers.

    Args:
        of: `frame_functions`.
        turned: where in a frame the matrix's element is, if the frame is turned by so much; None if none is.
    """
    inside, halves, anywhere = of.inside, of.halves, of.anywhere
    TURNS = turned is not None

    def places(e, ahead):
        """Where they are in both halves, as `halves` takes them."""
        if not TURNS:
            base = hold(e & KNOWN)
            return [[(base, q * apart)] * 2 for q in range(count)]
        halves_places = [[(hold(turned(e + q * apart, by)), 0) for q in range(count)] for by in ahead[: 1 + fixed]]
        return list(zip(halves_places[0], halves_places[-1]))

    def elements(e, ahead):
        """Where one of them is."""
        return [hold(turned(e, by)) for by in ahead] if TURNS else [hold(e)] * 2

    @ti.func
    def gather(re: ti.template(), im: ti.template(), x: ti.template(), y: ti.template(), table: ti.template(), own, b, f, e,
               ahead: ti.template(), down: ti.template(), zero):  # fmt: skip
        """Of any transform, one after the other."""
        for q in range(count + zero):  # + 0 keeps LLVM from unrolling it
            n, m = ti.static(elements(e + q * apart, ahead))
            u, v = anywhere(x, y, table, own, b, f, n, m)
            push(re, im, u * down[0], v * down[1])

    @ti.func
    def take(re: ti.template(), im: ti.template(), x: ti.template(), y: ti.template(), table: ti.template(), own, b, f,
             samples, e, ahead: ti.template(), down: ti.template()):  # fmt: skip
        """Of one that is inside, all at once. samples: of an item."""
        some = ti.static(halves(x, y, table, own, b, f, samples, places(e, ahead)))
        for q in ti.static(range(count)):
            re[q], im[q] = some[q][0] * down[0], some[q][1] * down[1]

    @ti.func
    def read(re: ti.template(), im: ti.template(), x: ti.template(), y: ti.template(), table: ti.template(),
             integers: ti.template(), own: ti.template(), b: ti.template(), f: ti.template(), e: ti.template(),
             ahead: ti.template(), down: ti.template()):  # fmt: skip
        """Both halves' elements e, e + apart, ... times `down`. ahead: by how much each half's frame is turned."""
        if inside(own, f):
            take(re, im, x, y, table, own, b, f, integers[0], e, ahead, down)
        else:
            gather(re, im, x, y, table, own, b, f, e, ahead, down, nothing(integers))

    return read


@cache
def levels_kernel(n_fft: int, window: int, dtype: Any, is_field: bool, fixed: bool) -> Any:
    """The kernel that measures each transform's halves."""
    N, FRAMES, GRID, Bits = n_fft, 1 + fixed, matrix_layout.GRID, bits_of(dtype)
    powers, of = power_of_two(dtype), frame_functions(n_fft, window, dtype, is_field, fixed)
    inside, halves, anywhere = of.inside, of.halves, of.anywhere
    Signal, Array, Values = annotation(is_field), ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.func
    def measure(peaks: ti.template(), differ: ti.template(), u, v):
        peaks[0], peaks[1] = ti.max(peaks[0], size(u)), ti.max(peaks[1], size(v))
        differ = differ | (ti.bit_cast(u, Bits) ^ ti.bit_cast(v, Bits))

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
                b, f = whole_of(unit, integers[5], FRAMES)
                own = framing_of(items, b, integers[1], integers[2], integers[3], integers[4])
                peaks, differ = [ti.cast(0, dtype), ti.cast(0, dtype)], ti.cast(0, Bits)
                n = t
                if inside(own, f):
                    while n < ti.static(N - (AT_ONCE - 1) * BLOCK):
                        base = n & KNOWN
                        some = ti.static(halves(x, y, table, own, b, f, integers[0],
                                                [[(base, e * BLOCK)] * 2 for e in range(AT_ONCE)]))  # fmt: skip
                        for e in ti.static(range(AT_ONCE)):
                            measure(peaks, differ, some[e][0], some[e][1])
                        n += ti.static(BLOCK * AT_ONCE)
                while n < N:
                    u, v = anywhere(x, y, table, own, b, f, n, n)
                    measure(peaks, differ, u, v)
                    n += BLOCK
                ti.simt.block.sync()  # until the unit before has been read
                shared[t], shared[BLOCK + t], shared[2 * BLOCK + t] = peaks[0], peaks[1], ti.cast(differ != 0, dtype)
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

    return measure_levels


@cache
def column_kernels(matrix: Matrix, dtype: Any, is_field: bool, fixed: bool, scaled: bool) -> SimpleNamespace:
    """The kernels before the rows' and after them.

    fixed: whether a transform has two frames of x, and none of y. scaled: whether gradients are, as by stages.
    """
    N, B, FRAMES = matrix.n_fft, matrix.rows.n, 1 + fixed
    lines = matrix.column_lines(dtype)
    L, M, GROUPS = lines.count, lines.plan.spans[0], lines.groups
    R, LAST = lines.plan.radices[0], lines.plan.radices[-1]
    TASKS = -(-B // L)  # blocks that share a transform
    GRID = matrix_layout.GRID
    TURNS, twiddles = matrix.turns, matrix.twiddles(matrix.columns)
    there, back = (line_passes(lines, dtype, twiddles, way) for way in (False, True))
    read_column = column_reader(frame_functions(N, matrix.window, dtype, is_field, fixed), fixed, R, M * B)
    write_planes, rotate = planes_writer(dtype), butterflies(dtype).rotate
    Signal, Array, Values = annotation(is_field), ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.func
    def column_of(m, part, zero):
        """Which DFT of a column is number m of a task's, in which line, and the line's column, if there is one."""
        k = ti.raw_div(m, L)
        line = m - k * L
        column = part * L + line
        return k + zero, line, ti.min(column, B - 1), column < B

    @ti.func
    def to_memory(U: ti.template(), sm: ti.template(), table: ti.template(), integers: ti.template(), part, place, t):
        """The last pass there, turned."""
        m = t
        while m < GROUPS * L:
            g, line, column, exists = column_of(m, part, nothing(integers))
            re, im = ti.static(zeros(LAST, dtype), zeros(LAST, dtype))
            there.fetch(re, im, sm, there.group(g, line), False)
            there.along(re, im, table)
            if exists:
                e = (g * ti.static(LAST * B) + column) & KNOWN
                for q in ti.static(range(LAST)):
                    at = e + ti.static(TURNS + q * B)
                    rotate(re, im, q, table[at], table[at + N])
                write_planes(U, (place + e) & KNOWN, B, re, im)
            m += BLOCK

    @ti.func
    def from_memory(
        V: ti.template(), sm: ti.template(), table: ti.template(), integers: ti.template(), part, place, t
    ):
        """The first pass back."""
        m = t
        while m < GROUPS * L:
            g, line, column, _ = column_of(m, part, nothing(integers))
            at = (place + g * ti.static(LAST * B) + column) & KNOWN
            re, im = ti.static(read_planes(V, at, B, LAST))
            back.along(re, im, table)
            back.store(sm, re, im, back.group(g, line), False)
            m += BLOCK

    @ti.kernel
    def columns(x: Signal, y: Signal, table: Values, integers: Integers, items: Array, levels: Array, U: Values,
                first: ti.i32, count: ti.i32):  # fmt: skip
        """U ← the columns' transforms of a chunk, turned, in the order in which they end."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * lines.plane,), dtype)
            t, task = i & (BLOCK - 1), i // BLOCK
            while task < count * TASKS:
                unit, part = whole_of(task, TASKS, 1)
                b, f = whole_of(first + unit, integers[5], FRAMES)
                own = framing_of(items, b, integers[1], integers[2], integers[3], integers[4])
                down = ti.Vector([levels[first + unit, 5], levels[first + unit, 6]])
                ti.simt.block.sync()  # until the task before has been read
                m = t
                while m < M * L:
                    j, line, column, _ = column_of(m, part, nothing(integers))
                    re, im = ti.static(zeros(R, dtype), zeros(R, dtype))
                    read_column(re, im, x, y, table, integers, own, b, f, j * B + column, None, down)
                    there.across(re, im, table, j)
                    there.store(sm, re, im, there.column(j, line), True)
                    m += BLOCK
                there.middle(sm, table, t)
                to_memory(U, sm, table, integers, part, unit * N, t)
                task += GRID

    @ti.kernel
    def columns_back(table: Values, integers: Integers, levels: Array, V: Values, first: ti.i32, count: ti.i32):
        """V ← w times its columns' transforms: what a chunk's frames add to the gradients, x's first, in natural order."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * lines.plane,), dtype)
            t, task = i & (BLOCK - 1), i // BLOCK
            while task < count * TASKS:
                unit, part = whole_of(task, TASKS, 1)
                # The gradient at a silent frame is 0, not the other one's rounding.
                up_x, up_y = levels[first + unit, 2], levels[first + unit, 3]
                audible_x, audible_y = up_x > 0, up_y > 0
                ti.simt.block.sync()
                from_memory(V, sm, table, integers, part, unit * N, t)
                back.middle(sm, table, t)
                m = t
                while m < M * L:
                    j, line, column, exists = column_of(m, part, nothing(integers))
                    re, im = ti.static(zeros(R, dtype), zeros(R, dtype))
                    back.fetch(re, im, sm, back.column(j, line), True)
                    back.across(re, im, table, j)
                    if exists:
                        n = (j * B + column) & KNOWN
                        weights = [table[n + ti.static(q * M * B)] for q in ti.static(range(R))]
                        for q in ti.static(range(R)):
                            if ti.static(scaled):
                                re[q], im[q] = up_y * re[q], up_x * im[q]
                            re[q] = ti.select(audible_y, weights[q] * re[q], 0)
                            im[q] = ti.select(audible_x, weights[q] * im[q], 0)
                        write_planes(V, (unit * N + n) & KNOWN, M * B, im, re)
                    m += BLOCK
                task += GRID

    return SimpleNamespace(columns=columns, columns_back=columns_back)
