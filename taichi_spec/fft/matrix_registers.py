"""What `matrix` does to columns of 16 points, each of which a thread has in registers, before the rows and after them.

A thread walks a run of neighbouring frames. Each is turned by as many points as it begins behind the run's first one: then
element e of the matrix is in all of them a sample whose number, counted from the run's beginning, is e modulo N, whatever the
hop. So a thread adds up in registers what frames have in common, and writes a sample's sum once, when no frame of the run has
it any more. A turned frame's bins have other phases, but the same magnitudes. The twiddles between rows and columns are fused
into the columns' DFTs on the way back.

    turned      z[e]     = frame[(e − s) mod N]                  s: samples from the run's beginning to the frame's
    overlap     V[s + n] = Σ_frames w[n] v[(s + n) mod N]
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft import matrix_layout
from taichi_spec.fft.butterflies import butterflies, fused_dft
from taichi_spec.fft.matrix_columns import Integers, column_reader, frame_functions, nothing, whole_of
from taichi_spec.fft.matrix_layout import BLOCK, ROWS, WIDE, Teams
from taichi_spec.fft.pairs import KNOWN, element, hold, zeros
from taichi_spec.fft.together import half, planes_writer, read_planes
from taichi_spec.framing import annotation, framing_of


def place_of(V, p, turn):
    """Where position p of a run is, behind the run's beginning in V. turn: after so many positions both planes take turns, as
    frames of x do that share a transform; or None."""
    if turn is None:
        return p
    turns = hold(ti.raw_div(p, turn))
    return hold((turns >> 1) * turn + p - turns * turn + (turns & 1) * half(V))


@cache
def register_kernels(teams: Teams, dtype: Any, is_field: bool, fixed: bool) -> SimpleNamespace:
    """The kernels before the rows' and after them. fixed: whether a transform has two frames of x, and none of y."""
    N, B, FRAMES = teams.n_fft, teams.layout.n_fft, 1 + fixed
    TASKS, BLOCKS = teams.column_blocks, matrix_layout.GRID * BLOCK // WIDE
    WINDOW, TURNS, FUSED = teams.window, teams.turns, teams.fused
    write_planes, bf = planes_writer(dtype), butterflies(dtype)
    Signal, Array, Values = annotation(is_field), ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.func
    def turned(e, ahead):
        """Which element of a frame is the matrix's element e, if the frame is turned by `ahead`."""
        return ti.select(e < ahead, e - ahead + N, e - ahead)

    @ti.func
    def turns_of(j, hop):
        """By how much the frames of a run's transform j are turned."""
        ahead = j * FRAMES * hop % N
        return ahead, (ahead + hop * ti.static(FRAMES - 1)) % N

    read_column = column_reader(frame_functions(N, WINDOW, dtype, is_field, fixed), fixed, ROWS, B, turned)

    @ti.func
    def share_of(task, t, integers: ti.template()):
        """A task's run, and which column a thread has of it."""
        run, part = whole_of(task, TASKS, WIDE)
        return run, (part + t + nothing(integers)) & KNOWN

    @ti.kernel
    def columns(x: Signal, y: Signal, table: Values, integers: Integers, items: Array, levels: Array, U: Values,
                first: ti.i32, count: ti.i32):  # fmt: skip
        """U ← the columns' transforms of a chunk, turned."""
        ti.loop_config(block_dim=WIDE)
        for i in range(BLOCKS * WIDE):
            t, task = i & (WIDE - 1), i // WIDE
            length, hop = integers[8], ti.min(integers[2], N)
            while task * length < count * TASKS:
                run, e = share_of(task, t, integers)
                for j in range(length):
                    unit = run * length + j
                    b, f = whole_of(first + unit, integers[5], FRAMES)
                    own = framing_of(items, b, integers[1], integers[2], integers[3], integers[4])
                    down = ti.Vector([levels[first + unit, 5], levels[first + unit, 6]])
                    ahead = turns_of(j, hop)
                    re, im = ti.static(zeros(ROWS, dtype), zeros(ROWS, dtype))
                    read_column(re, im, x, y, table, integers, own, b, f, e, ahead, down)
                    bf.dft(re, im, ROWS, 0, 1)
                    for q in ti.static(range(1, ROWS)):
                        at = e + ti.static(TURNS + q * B)
                        bf.rotate(re, im, q, table[at], table[at + N])
                    write_planes(U, (unit * N + e) & KNOWN, B, re, im)
                task += BLOCKS

    def twiddles(table, e):
        """A function from an entry to its twiddle's cosine and tangent."""
        return lambda q: tuple(hold(element(table, e + (FUSED + q * B + away))) for away in (0, N // 2))

    @ti.func
    def let_go(V: ti.template(), waiting: ti.template(), k: ti.template(), place, p):
        """Writes what waits in register k, and of y behind it, at position p of the run that begins at `place`."""
        at = ti.static([place_of(V, p, N if fixed else None)])[0] + place
        V[at] = waiting[k]
        waiting[k] = ti.cast(0, dtype)
        if ti.static(not fixed):
            V[at + half(V)] = waiting[k + ROWS]
            waiting[k + ROWS] = ti.cast(0, dtype)

    @ti.func
    def overlap(V: ti.template(), waiting: ti.template(), done: ti.template(), table: ti.template(), e, ahead: ti.template(),
                audible: ti.template(), place, p, hop, ends):  # fmt: skip
        """Adds a transform's elements e, e + B, ... to what waits; what is finished goes.

        p: where in the run the transform begins, the run at `place`. ends: whether with it the run does.
        """
        for s in ti.static(range(FRAMES)):
            for q in ti.static(range(ROWS)):
                n = turned(e + ti.static(q * B), ahead[s])
                w = table[n + WINDOW]
                waiting[q] += ti.select(audible[s], w * done[q][ti.static(1 - s)], 0)
                if ti.static(not fixed):
                    waiting[q + ROWS] += ti.select(audible[1], w * done[q][0], 0)
                if n < hop or (ends and ti.static(s + 1 == FRAMES)):
                    let_go(V, waiting, q, place, p + s * hop + n)

    @ti.kernel
    def columns_back(table: Values, integers: Integers, levels: Array, V: Values, first: ti.i32, count: ti.i32):
        """V ← the sums of w times its columns' transforms over each run of a chunk: what its frames add to the gradients, at
        the run's positions, from the first frame's first sample on; x's first."""
        ti.loop_config(block_dim=WIDE)
        for i in range(BLOCKS * WIDE):
            t, task = i & (WIDE - 1), i // WIDE
            length, hop = integers[8], ti.min(integers[2], N)
            while task * length < count * TASKS:
                run, e = share_of(task, t, integers)
                waiting = ti.static(zeros(ROWS * (3 - FRAMES), dtype))
                for j in range(length):
                    unit = run * length + j
                    # The gradient at a silent frame is 0, not the other one's rounding.
                    audible = levels[first + unit, 2] > 0, levels[first + unit, 3] > 0
                    re, im = ti.static(read_planes(V, hold((unit * N + e) & KNOWN), B, ROWS))
                    done = ti.static(fused_dft(list(zip(re, im)), twiddles(table, e), dtype))
                    overlap(V, waiting, done, table, e, turns_of(j, hop), audible, run * length * N, j * FRAMES * hop, hop,
                            j + 1 == length)  # fmt: skip
                task += BLOCKS

    return SimpleNamespace(columns=columns, columns_back=columns_back)
