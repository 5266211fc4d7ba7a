"""How `matrix` lays out a frame of N = A B points in memory, and its columns and rows in shared memory or registers."""

from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import itemsize
from taichi_spec.fft.blocks_layout import Layout, fused_twiddles, radices_of, teams_at_work
from taichi_spec.fft.lines import line_table, plan_of
from taichi_spec.fft.plan import Plan, is_smooth, unit_circle
from taichi_spec.fft.rows import BANKS
from taichi_spec.runtime import arch_name, shared_bytes, warp_threads

BLOCK = 128  # threads
GRID = 4096  # blocks that are launched: more than a large GPU has at work side by side
FRAMES_AT_WORK = 512  # by stages, for which memory has room: more than a large GPU is busy with
LONGEST = 512  # points of a line
COLUMNS, PAIRS = 32, 8  # of a block, at most
# Shared memory for a block's lines, so that several blocks are at work; a multiprocessor has less by NVIDIA's Vulkan.
LINE_BYTES, LINE_BYTES_ON_VULKAN = 44 * 1024, 24 * 1024
LEVELS = 7  # numbers that say how a transform's two halves are scaled: see `matrix_columns`
# Integers at the head of a table: samples of an item, N, hop, padding, whether it mirrors, transforms of an item; and of
# a fixed target, numbers from an item to the next and from a frame; of `Teams`, transforms of a run, and blocks that are
# at work on rows; and 0.
HEAD = 11
LONGEST_RUN = 16  # transforms whose gradients `Teams` add up before they are written
AT_WORK = 512  # blocks of columns that all runs of a chunk should have
WIDE = 256  # threads of such a block: each has 128 registers then, not more, which are enough
ROWS = 16  # of a frame, each for a team of threads
ROW_POINTS = 16  # of a thread
SHORTEST_ROW, LONGEST_ROW = 512, 2048  # points: a block of two teams has 64 to 256 threads


@dataclass(frozen=True)
class Lines:
    """How a block's lines lie in shared memory.

    A line of r M points, r the first radix of its plan, is r rows of M elements: element q M + j of line l is number
    q row + j step + l apart of the real parts, and of the imaginary parts, which begin `plane` further on.

    In the first pass neighbouring threads have neighbouring j, in the last one neighbouring rows; in both, few of them should
    meet in a bank.
    """

    plan: Plan
    count: int
    step: int
    row: int
    apart: int
    plane: int

    @staticmethod
    def beside(plan: Plan, count: int) -> "Lines":
        """Side by side, element by element: neighbouring threads have neighbouring lines."""
        r, M = plan.radices[0], plan.spans[0]
        row = M * count + (count - M * count) % BANKS * (BANKS % count == 0)
        return Lines(plan, count, count, row, 1, r * row)

    @staticmethod
    def behind(plan: Plan, count: int) -> "Lines":
        """One behind the other: neighbouring threads have neighbouring elements, or rows, as many as M of a line."""
        r, M = plan.radices[0], plan.spans[0]
        row = M | 1
        apart = r * row + (M - r * row) % BANKS
        return Lines(plan, count, 1, row, apart, count * apart)

    @property
    def groups(self) -> int:
        """DFTs of a line in the last pass, each of as many neighbouring elements as the last radix."""
        return self.plan.n // self.plan.radices[-1]

    @property
    def places(self) -> NDArray[np.int64]:
        """Where in its line each bin is left, in shared memory  # (n,)"""
        row, j = np.divmod(self.plan.positions, self.plan.spans[0])
        places: NDArray[np.int64] = row * self.row + j * self.step
        return places

    def bytes(self, dtype: Any) -> int:
        """How much shared memory they take."""
        return 2 * self.plane * itemsize(dtype)


@dataclass(frozen=True)
class Matrix:
    """A frame as a matrix: the plans of its columns, A points, and of its rows, B points."""

    columns: Plan
    rows: Plan
    window = 0  # where in `table` it begins

    @property
    def n_fft(self) -> int:
        """N."""
        return self.columns.n * self.rows.n

    @property
    def goals(self) -> int:
        """Numbers of a fixed target's frame."""
        return self.n_fft // 2 + 1

    @property
    def pairs(self) -> int:
        """Pairs of rows that are compared: c with A − c, from 1 on. Before them stand row 0, and of even A the middle row,
        each of which is compared with itself."""
        return (self.columns.n + 1) // 2

    @property
    def turns(self) -> int:
        """Where the twiddles between columns and rows begin."""
        return self.n_fft

    def twiddles(self, plan: Plan) -> int:
        """Where in `table` those of a line begin."""
        return 3 * self.n_fft + (2 * (self.columns.n - 1) if plan is self.rows else 0)

    def table(self, window: NDArray[Any]) -> NDArray[Any]:
        """All constants of a frame: the window, cosines and then sines of the twiddles between columns and rows, lines'."""
        order = np.argsort(self.columns.positions)  # which c lies where a column's transform leaves it
        turns = unit_circle(-np.outer(order, np.arange(self.rows.n)), self.n_fft)
        tables = (window, np.moveaxis(turns, -1, 0), line_table(self.columns), line_table(self.rows))
        return np.concatenate([np.ravel(table) for table in tables])

    def places(self, dtype: Any) -> NDArray[np.int64]:
        """Where the rows of each pair lie in memory, and where bin d of a row lies in shared memory: (2 pairs + B,)"""
        rows = self.row_lines(dtype, 1)  # the same for any number of lines
        A, B = self.columns.n, self.rows.n
        c = np.arange(self.pairs)
        pairs = np.stack([c, -c % A], 1)
        pairs[0, 1] = A // 2 if A % 2 == 0 else 0
        return np.concatenate([self.columns.positions[pairs].ravel() * B, rows.places])

    def goals_of(self, magnitudes: NDArray[Any]) -> NDArray[Any]:
        """A target's magnitudes in the order in which rows ask for them  # (..., K)"""
        return magnitudes

    def at_work(self, transforms: int, fixed: bool) -> int:
        """How many blocks are at work on rows side by side, or more: all."""
        return GRID

    def column_lines(self, dtype: Any) -> Lines:
        """How a block's columns lie in shared memory."""
        count = COLUMNS
        while count > 1 and Lines.beside(self.columns, count).bytes(dtype) > room(0):
            count //= 2
        return Lines.beside(self.columns, min(count, self.rows.n))

    def row_lines(self, dtype: Any, sums: int) -> Lines:
        """How a block's pairs of rows lie there: all first ones, then all second ones. sums: that its threads add up."""
        count = PAIRS
        while count > 1 and Lines.behind(self.rows, 2 * count).bytes(dtype) > room(BLOCK * sums * itemsize(dtype)):
            count //= 2
        blocks = -(-self.pairs // count)
        return Lines.behind(self.rows, 2 * -(-self.pairs // blocks))

    def tasks(self, dtype: Any, sums: int) -> int:
        """How many blocks share a transform's rows."""
        return -(-2 * self.pairs // self.row_lines(dtype, sums).count)


@dataclass(frozen=True)
class Teams:
    """A frame of a power of two as a matrix of 16 rows of B points, each of which a team of threads has in registers, and B
    columns, each of which one thread has in registers.

    layout: how a row lies on threads. A block has two teams.
    """

    layout: Layout

    @staticmethod
    def of(n_fft: int, dtype: Any, sums: int) -> "Teams | None":
        """For n_fft points, or None where they are too many or too few, or a block has too little shared memory.

        sums: that a block's threads add up.
        """
        B, arch = n_fft // ROWS, arch_name()
        if dtype != ti.f32 or n_fft & (n_fft - 1) or not SHORTEST_ROW <= B <= LONGEST_ROW:
            return None
        cuda, radices = arch == "cuda", radices_of(B, ROW_POINTS, False)
        layout = Layout(B, B, ROW_POINTS, 0, ROW_POINTS, radices, 2, cuda, 0, warp_threads(arch), by_halves=not cuda)
        free = (shared_bytes(arch) - 4 * sums * layout.block) // 8 - layout.block_cells
        return None if free < 0 else Teams(replace(layout, resident=min(free, layout.offsets[-1])))

    @property
    def n_fft(self) -> int:
        """N."""
        return ROWS * self.layout.n_fft

    @property
    def goals(self) -> int:
        """Numbers of a fixed target's frame."""
        return (ROWS // 2 + 1) * self.layout.n_fft

    def run_of(self, transforms: int) -> int:
        """How many of a chunk's transforms a run should have, so that a large GPU is busy with the columns' blocks."""
        return min(LONGEST_RUN, transforms * self.column_blocks // AT_WORK)

    @property
    def column_blocks(self) -> int:
        """How many blocks share a run's columns."""
        return self.layout.n_fft // WIDE

    @property
    def window(self) -> int:
        """Where in `table` it begins, behind what rows need."""
        return 2 * self.layout.entries

    @property
    def turns(self) -> int:
        """Where the twiddles between columns and rows begin."""
        return self.window + self.n_fft

    @property
    def fused(self) -> int:
        """Where those of the way back begin, ROWS / 2 of each column: cosines, and behind them tangents."""
        return self.turns + 2 * self.n_fft

    def table(self, window: NDArray[Any]) -> NDArray[Any]:
        """All constants of a frame: of a row's `Layout`; the window; cosines and sines of the twiddles between columns and
        rows  # (2, ROWS, B); the same for the way back, as `fused_dft` takes them  # (2, ROWS / 2, B)"""
        B = self.layout.n_fft
        turns = unit_circle(-np.outer(np.arange(ROWS), np.arange(B)), self.n_fft)
        back = np.swapaxes(fused_twiddles(np.arange(B) / B, ROWS), 0, 1)
        parts = self.layout.table(np.ones(B)), window, np.moveaxis(turns, -1, 0), back
        return np.concatenate([np.ravel(part) for part in parts])

    def goals_of(self, magnitudes: NDArray[Any]) -> NDArray[Any]:
        """A target's magnitudes as rows 0 to 8 have them, one row behind the other; others have the same in reverse.
        # (..., K) → (..., goals)
        """
        c, d = np.ogrid[: ROWS // 2 + 1, : self.layout.n_fft]
        k = c + ROWS * d
        return magnitudes[..., np.minimum(k, self.n_fft - k).ravel()]

    def places(self, dtype: Any) -> NDArray[np.int64]:
        """Nothing that a kernel would have to look up."""
        return np.zeros(0, np.int64)

    def tasks(self, dtype: Any, sums: int) -> int:
        """How many blocks share a transform's rows."""
        return ROWS // 2

    def at_work(self, transforms: int, fixed: bool) -> int:
        """How many blocks the device has at work on rows side by side, or some more, if there are so many."""
        registers = 128 if fixed else 96  # of a thread on CUDA, at most: ptxas's choice
        teams = teams_at_work(self.layout, ti.f32, registers, transforms * ROWS)
        return min(GRID, teams // 2, transforms * ROWS // 2)


def room(other: int) -> int:
    """Bytes of shared memory for a block's lines beside so many others."""
    arch = arch_name()
    return min(LINE_BYTES if arch == "cuda" else LINE_BYTES_ON_VULKAN, shared_bytes(arch) - other)


def choose(n_fft: int, dtype: Any, sums: int, by_stages: bool) -> Matrix | Teams | None:
    """`Teams` where they can; else the matrix that is nearest to a square, or None where n_fft has other factors or is too
    large."""
    return (None if by_stages else Teams.of(n_fft, dtype, sums)) or nearest_to_a_square(n_fft)


def nearest_to_a_square(n_fft: int) -> Matrix | None:
    """That `Matrix`, or None."""
    if not is_smooth(n_fft):
        return None
    few = next(a for a in range(isqrt(n_fft), 0, -1) if n_fft % a == 0)
    if few == 1 or n_fft // few > LONGEST:
        return None
    return Matrix(two_passes(few), two_passes(n_fft // few))


def two_passes(n: int) -> Plan:
    """The plan of a line, of two passes at least: the first one takes it from memory, the last one brings it back."""
    plan = plan_of(n)
    return plan if len(plan.radices) > 1 else Plan(n, (n, 1))
