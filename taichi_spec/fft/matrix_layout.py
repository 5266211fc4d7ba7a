"""How `matrix` lays out a frame of N = A B points in memory, and a block's columns or rows in shared memory."""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taichi_spec.arrays import itemsize
from taichi_spec.fft.lines import line_table, plan_of
from taichi_spec.fft.plan import Plan, is_smooth, unit_circle
from taichi_spec.fft.rows import BANKS
from taichi_spec.runtime import arch_name, shared_bytes

BLOCK = 128  # threads
GRID = 4096  # blocks that are launched: more than a large GPU has at work side by side
LONGEST = 512  # points of a line
COLUMNS, PAIRS = 32, 8  # of a block, at most
LINE_BYTES = 44 * 1024  # shared memory for a block's lines, so that several blocks are at work
LEVELS = 7  # numbers that say how a transform's two halves are scaled: see `matrix_columns`
# Integers at the head of a table: samples of an item, N, hop, padding, whether it mirrors, transforms of an item; and of
# a fixed target, numbers from an item to the next and from a frame; and 0.
HEAD = 9


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

    @property
    def n_fft(self) -> int:
        """N."""
        return self.columns.n * self.rows.n

    @property
    def pairs(self) -> int:
        """Pairs of rows that are compared: c with A − c, from 1 on. Before them stand row 0, and of even A the middle row,
        each of which is compared with itself."""
        return (self.columns.n + 1) // 2

    @property
    def turns(self) -> int:
        """Where in `table` the twiddles between columns and rows begin, behind the window."""
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

    def places(self, rows: Lines) -> NDArray[np.int64]:
        """Where the rows of each pair lie in memory, and where bin d of a row lies in shared memory: (2 pairs + B,)"""
        A, B = self.columns.n, self.rows.n
        c = np.arange(self.pairs)
        pairs = np.stack([c, -c % A], 1)
        pairs[0, 1] = A // 2 if A % 2 == 0 else 0
        return np.concatenate([self.columns.positions[pairs].ravel() * B, rows.places])

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


def room(other: int) -> int:
    """Bytes of shared memory for a block's lines beside so many others."""
    return min(LINE_BYTES, shared_bytes(arch_name()) - other)


def choose(n_fft: int) -> Matrix | None:
    """The matrix that is nearest to a square, or None where n_fft has other factors or is too large."""
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
