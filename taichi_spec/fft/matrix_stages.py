"""What `matrix` does where a loss is more than a sum over whole bins: rows there, the stages of `stages`, rows back.

A frame's bins are in memory between the kernels, in natural order. One block compares a frame, as in `frames_compare`; what
the stages keep is in memory too, and only sums over its threads lie in shared memory.
"""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import new_array
from taichi_spec.bins import Parts
from taichi_spec.fft import matrix_layout
from taichi_spec.fft.butterflies import butterflies
from taichi_spec.fft.compare_room import BandPlaces, Room, band_tables
from taichi_spec.fft.frames_compare import by_stages
from taichi_spec.fft.matrix_columns import Integers, nothing, whole_of
from taichi_spec.fft.matrix_layout import BLOCK, LEVELS, Lines, Matrix
from taichi_spec.fft.matrix_lines import line_passes
from taichi_spec.fft.matrix_rows import adder
from taichi_spec.fft.pairs import KNOWN, power_of_two, zeros
from taichi_spec.fft.rows import BANKS
from taichi_spec.fft.stages import Stages, gains_of, goal_of
from taichi_spec.fft.together import half, planes_writer, read_planes
from taichi_spec.runtime import arch_name
from taichi_spec.stft import STFT

THREADS, GROUP = 256, 16  # of a frame, and of them those that are added first


class Rows(NamedTuple):
    """How rows are transformed, and where the table of integers has what that takes.

    Attributes:
        lines: as they lie in shared memory, for threads that have neighbouring elements first, and then neighbouring lines.
        begins: where each row c begins in memory, A numbers.
        bins: which bin of a row is the first one of each DFT along rows.
    """

    lines: Lines
    begins: int
    bins: int

    @staticmethod
    def of(matrix: Matrix, dtype: Any, first: int) -> tuple["Rows", NDArray[np.int64]]:
        """And its tables, which begin at `first`."""
        plan, some = matrix.rows, matrix.row_lines(dtype, 1)
        size = plan.radices[0] * some.row
        apart = size + (1 - size) % BANKS
        lines = replace(some, apart=apart, plane=some.count * apart)
        bins = np.argsort(plan.positions)[:: plan.radices[-1]]
        begins = matrix.columns.positions * plan.n
        return Rows(lines, first, first + len(begins)), np.concatenate([begins, bins])


@cache
def row_kernels(matrix: Matrix, rows: Rows, dtype: Any) -> SimpleNamespace:
    """The kernels that transform a chunk's rows, from `work` to bins Z in natural order, and back."""
    N, A, lines = matrix.n_fft, matrix.columns.n, rows.lines
    L, M, GROUPS = lines.count, lines.plan.spans[0], lines.groups
    R, LAST = lines.plan.radices[0], lines.plan.radices[-1]
    TASKS, GRID, TURNS, twiddles = -(-A // L), matrix_layout.GRID, matrix.turns, matrix.twiddles(matrix.rows)
    of_there, of_back = (line_passes(lines, dtype, twiddles, way) for way in (False, True))
    write_planes, rotate = planes_writer(dtype), butterflies(dtype).rotate
    Values = ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.func
    def element_of(m, integers: ti.template(), first):
        """Which DFT across rows is number m of a task's, of which line, and where its row begins, if there is one.

        first: the task's first row.
        """
        line = ti.raw_div(m, M)
        row = first + line
        return m - line * M + nothing(integers), line, integers[rows.begins + ti.min(row, A - 1)], row < A

    @ti.func
    def bins_of(m, integers: ti.template(), first):
        """Which DFT along rows is number m of a task's, of which line, and its first bin, if there is one; the next one is
        N / LAST further on."""
        g = ti.raw_div(m, L)
        line = m - g * L
        row = first + line
        return g + nothing(integers), line, ti.min(row, A - 1) + A * integers[rows.bins + g], row < A

    @ti.kernel
    def there(work: Values, Z: Values, table: Values, integers: Integers, count: ti.i32):
        """Z ← the rows' transforms."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * lines.plane,), dtype)
            t, task = i & (BLOCK - 1), i // BLOCK
            while task < count * TASKS:
                unit, first = whole_of(task, TASKS, L)
                ti.simt.block.sync()  # until the task before has been read
                m = t
                while m < M * L:
                    j, line, row, _ = element_of(m, integers, first)
                    re, im = ti.static(read_planes(work, (unit * N + row + j) & KNOWN, M, R))
                    of_there.across(re, im, table, j)
                    of_there.store(sm, re, im, of_there.column(j, line), True)
                    m += BLOCK
                of_there.middle(sm, table, t)
                m = t
                while m < GROUPS * L:
                    g, line, k, exists = bins_of(m, integers, first)
                    re, im = ti.static(zeros(LAST, dtype), zeros(LAST, dtype))
                    of_there.fetch(re, im, sm, of_there.group(g, line), False)
                    of_there.along(re, im, table)
                    if exists:
                        write_planes(Z, (unit * N + k) & KNOWN, N // LAST, re, im)
                    m += BLOCK
                task += GRID

    @ti.kernel
    def back(work: Values, Z: Values, table: Values, integers: Integers, count: ti.i32):
        """work ← the rows' transforms, turned."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((2 * lines.plane,), dtype)
            t, task = i & (BLOCK - 1), i // BLOCK
            while task < count * TASKS:
                unit, first = whole_of(task, TASKS, L)
                ti.simt.block.sync()
                m = t
                while m < GROUPS * L:
                    g, line, k, _ = bins_of(m, integers, first)
                    re, im = ti.static(read_planes(Z, (unit * N + k) & KNOWN, N // LAST, LAST))
                    of_back.along(re, im, table)
                    of_back.store(sm, re, im, of_back.group(g, line), False)
                    m += BLOCK
                of_back.middle(sm, table, t)
                m = t
                while m < M * L:
                    j, line, row, exists = element_of(m, integers, first)
                    re, im = ti.static(zeros(R, dtype), zeros(R, dtype))
                    of_back.fetch(re, im, sm, of_back.column(j, line), True)
                    of_back.across(re, im, table, j)
                    if exists:
                        e = (row + j) & KNOWN
                        for q in ti.static(range(R)):
                            at = e + ti.static(TURNS + q * M)
                            rotate(re, im, q, table[at], table[at + N])
                        write_planes(work, (unit * N + e) & KNOWN, M, re, im)
                    m += BLOCK
                task += GRID

    return SimpleNamespace(there=there, back=back)


class FrameStages:
    """What the stages of one transform need to know, and their memory.

    Args:
        matrix: how a frame lies.
        stft, dtype, stages, bands, bin_weights: as in `BlocksEngine`.
        number, integer: how many entries both tables have before these.

    Attributes:
        numbers, integers: what stands behind the matrix's own tables.
        kinds: what `stages_kernel` takes beside a pass's own.
        numbers_of_a_frame: that it needs in memory.
        bins, cells, fences: that memory, after `make_room`.
    """

    def __init__(self, matrix: Matrix, stft: STFT, dtype: Any, stages: Stages, bands: NDArray[np.float64] | None,
                 bin_weights: NDArray[np.float64] | None, number: int, integer: int) -> None:  # fmt: skip
        self.n_fft, self.dtype, self.stages = stft.n_fft, dtype, stages
        self.bands, self.bin_weights = bands, bin_weights
        room = Room.of(stages, stft.n_bins, stft.n_bins if bands is None else len(bands), THREADS, GROUP)
        self.rows, of_rows = Rows.of(matrix, dtype, integer)
        gains = gains_of(stft.n_bins, bin_weights)
        places, self.numbers, band_integers = band_tables(bands, gains, number, integer + len(of_rows))
        self.integers = np.concatenate([of_rows, band_integers])
        self.kinds = stages, room, places, matrix_layout.FRAMES_AT_WORK
        self.numbers_of_a_frame = 2 * (stft.n_fft + room.list)

    def make_room(self, chunk: int) -> None:
        """Memory for so many transforms: their bins; of those at work cells, and a number of each thread."""
        _, room, _, most = self.kinds
        self.bins = new_array(self.dtype, 2 * chunk * self.n_fft)
        self.cells = new_array(self.dtype, 2 * room.list * min(chunk, most))
        self.fences = new_array(ti.i32, room.threads * min(chunk, most))

    def goals_of(self, fixed: NDArray[Any]) -> NDArray[Any]:
        """What a fixed target's frames are compared with  # (B or 1, F or 1, width)"""
        return goal_of(fixed, self.bands, self.bin_weights, self.stages.kept)


class FrameMemory(NamedTuple):
    """What a thread has to do with, in Taichi's terms.

    Attributes:
        Z: all bins. begin: where in it the frame's begin.
        cells: of two numbers, of all frames at work. first: where in them the frame's begin.
        listed: those of the list, in shared memory.
        fences: integers, of which the thread has one, number `thread`.
    """

    Z: Any
    begin: Any
    cells: Any
    first: Any
    listed: Any
    fences: Any
    thread: Any


def memory_tools(room: Room, dtype: Any) -> SimpleNamespace:
    """The functions by which the stages meet memory; what they call `sm` is a `FrameMemory`."""
    LIST = room.list

    @ti.func
    def place(integers: ti.template(), k):
        return k

    @ti.func
    def read(sm: ti.template(), k):
        at = sm.begin + k
        return sm.Z[at], sm.Z[at + half(sm.Z)]

    @ti.func
    def write(sm: ti.template(), k, re, im):
        at = sm.begin + k
        sm.Z[at] = re
        sm.Z[at + half(sm.Z)] = im

    @ti.func
    def store(sm: ti.template(), cell, a, b):
        if cell < LIST:
            at = sm.first + 2 * cell
            sm.cells[at] = a
            sm.cells[at + 1] = b
        else:
            at = 2 * (cell - LIST)
            sm.listed[at], sm.listed[at + 1] = a, b

    @ti.func
    def fetch(sm: ti.template(), cell):
        a, b = ti.cast(0, dtype), ti.cast(0, dtype)
        if cell < LIST:
            at = sm.first + 2 * cell
            a, b = sm.cells[at], sm.cells[at + 1]
        else:
            at = 2 * (cell - LIST)
            a, b = sm.listed[at], sm.listed[at + 1]
        return a, b

    @ti.func
    def sync(sm: ti.template()):
        """All threads of a block wait for each other, and see what the others wrote to memory.

        On CUDA that is one thing. On Vulkan Taichi's barrier is for shared memory alone, but before each atomic operation
        there is one for all memory.
        """
        if ti.static(arch_name() == "vulkan"):
            ti.atomic_or(sm.fences[sm.thread], 0)
            ti.simt.block.sync()
            ti.atomic_or(sm.fences[sm.thread], 0)
        else:
            ti.simt.block.sync()

    return SimpleNamespace(long=True, place=place, read=read, write=write, store=store, fetch=fetch, sync=sync,
                           power_of_two=power_of_two(dtype))  # fmt: skip


@cache
def stages_kernel(n_fft: int, dtype: Any, parts: Parts, coefficients: int, fixed: bool, gradient: bool, stages: Stages,
                  room: Room, places: BandPlaces, most: int) -> Any:  # fmt: skip
    """The kernel that compares a chunk's frames.

    Arguments: as `rows_kernel`'s and `compare_stages.stage_functions`'; most: frames that are at work at once.
    """
    N, C, FRAMES, T, BLOCKS = n_fft, len(parts), 1 + fixed, room.threads, most
    tools, add_up = memory_tools(room, dtype), adder(dtype, C, T)
    compare = by_stages(N, dtype, parts, fixed, gradient, stages, room, places, tools)
    Array, Values = ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.kernel
    def compare_frames(Z: Values, y: Values, table: Values, integers: Integers, items: Array, levels: Array, account: Array,
                       partial: Array, cells: Values, fences: Integers, first: ti.i32, count: ti.i32):  # fmt: skip
        """partial[unit, j] ← the distances of its frames; Z ← G, and levels ← what undoes its scaling."""
        ti.loop_config(block_dim=T)
        for i in range(BLOCKS * T):
            shared = ti.simt.block.SharedArray((T * C,), dtype)
            listed = ti.simt.block.SharedArray((2 * (room.cells - room.list),), dtype)
            t, block = i & (T - 1), i // T
            unit = block
            while unit < count:
                whole = first + unit
                b, f = whole_of(whole, integers[5], FRAMES)
                frames = items[b, 1]
                scale = [levels[whole, ti.static(j)] for j in ti.static(range(LEVELS - 2))]
                factors = [account[b, ti.static(coefficients + parts[j][0])] for j in ti.static(range(C))]
                goals = [b * integers[6] + ti.min(f + k, frames - 1) * integers[7] for k in ti.static(range(2))]
                found = [ti.cast(0, dtype) for _ in ti.static(range(C))]
                memory = ti.static(
                    FrameMemory(Z, unit * N, cells, block * ti.static(2 * room.list), listed, fences, i)
                )
                zero = nothing(integers)
                compare(found, memory, zero, t, y, goals, f < frames, f + 1 < frames, scale, factors, table, integers,
                        zero)  # fmt: skip
                if ti.static(gradient):  # noqa: SIM102  known when the kernel is compiled
                    if t == 0:
                        for s in ti.static((2, 3)):
                            levels[whole, s] = scale[s]
                add_up(partial, shared, found, whole, t)
                ti.simt.block.sync()  # until all have read the sums
                unit += BLOCKS

    return compare_frames
