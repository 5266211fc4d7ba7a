"""Where the stages of a frame lie, for `compare_stages`, and how they find a bands' matrix."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taichi_spec.bins import Parts
from taichi_spec.fft.stages import Stages, rows_of
from taichi_spec.terms import BinTerm, Transport


class Room(NamedTuple):
    """Where the stages of a frame lie in shared memory, counted from where a team's begins.

    Attributes:
        bins: K.
        rows: how many numbers a quantity has: K or, with bands, their number.
        arrays: quantities that are kept apart; 0 without bands, where amplitudes stand for all.
        threads, group: of a team, and neighbours among them that are added first.
    """

    bins: int
    rows: int
    arrays: int
    threads: int
    group: int

    @staticmethod
    def of(stages: Stages, bins: int, rows: int, threads: int, group: int) -> "Room":
        """The room that these stages need."""
        return Room(bins, rows, len(stages.quantities) if stages.banded else 0, threads, group)

    def values(self, i: int) -> int:
        """Where quantity i begins."""
        return self.bins + 2 * i * self.rows if self.arrays else 0

    def slopes(self, i: int) -> int:
        """Where its slopes begin."""
        return self.values(i) + self.rows

    @property
    def list(self) -> int:
        """Where the list begins: behind the arrays, and behind the mirrors that a transform leaves or finds."""
        return max(self.slopes(max(self.arrays - 1, 0)) + self.rows, 2 * (self.bins - 1))

    @property
    def cells(self) -> int:
        """How much there is in all."""
        return self.list + self.threads + self.threads // self.group


@dataclass(frozen=True)
class Group:
    """Parts that compare the same numbers in shared memory.

    Attributes:
        on_bins, transports: which parts are sums over the numbers, and which are `Transport`.
        index: of the quantity.
        goal: where a fixed target's begins in its rows.
    """

    on_bins: list[int]
    transports: list[int]
    index: int
    goal: int


def groups_of(parts: Parts, stages: Stages, rows: int) -> list[Group]:
    """With bands one for each quantity, else one for all."""

    def those(kind: type, names: tuple[str, ...]) -> list[int]:
        return [j for j, (_, part) in enumerate(parts) if isinstance(part, kind) and part.quantity in names]

    sets = [(name,) for name in stages.quantities] if stages.banded else [stages.quantities]
    return [Group(those(BinTerm, names), those(Transport, names), i, i * rows) for i, names in enumerate(sets)]


class BandPlaces(NamedTuple):
    """Where a bands' matrix M lies in the kernel's tables, by its rows and by its columns, without zeros.

    Attributes:
        gains: in the table of numbers, where the bins' weights begin.
        row_entries, column_entries: there, M's entries in the order of the bins, and of the bands.
        bands: in the table of integers, where each band's bins begin, and then those bins.
        bins: there, where each bin's bands begin, and then those bands.
        end: there, what comes after them.
    """

    gains: int
    row_entries: int
    column_entries: int
    bands: int
    bins: int
    end: int


def band_tables(matrix: NDArray[np.float64] | None, gains: NDArray[np.float64], number: int,
                integer: int) -> tuple[BandPlaces, NDArray[np.float64], NDArray[np.int64]]:  # fmt: skip
    """The places, and what is to be appended to both tables, which have `number` and `integer` entries so far."""
    matrix = np.zeros((1, 1)) if matrix is None else matrix
    (bins_of_bands, by_row), (bands_of_bins, by_column) = rows_of(matrix), rows_of(matrix.T)
    row_entries, bins = number + len(gains), integer + len(bins_of_bands)
    places = BandPlaces(number, row_entries, row_entries + len(by_row), integer, bins, bins + len(bands_of_bins))
    return places, np.concatenate([gains, by_row, by_column]), np.concatenate([bins_of_bands, bands_of_bins])
