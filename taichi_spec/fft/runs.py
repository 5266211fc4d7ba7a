"""How the teams of a GPU share out the frames of all items: each takes runs of neighbouring frames.

What two runs share costs memory and time, and so does a run's beginning: the best runs are as many as teams work side by
side, and of one length, so that none waits for another.
"""

from typing import NamedTuple

MOST = 512  # transforms of a run: the sums of longer ones would be less exact
BEGINNING = 2  # transforms that would take as long as it takes to begin a run


class Runs(NamedTuple):
    """`number` runs of an item: of `short` transforms, but the first `longs` of them have one more."""

    number: int
    longs: int
    short: int

    def begin(self, c: int) -> int:
        """The transforms of an item before its run c."""
        return c * self.short + min(c, self.longs)

    def turns(self, batch: int, teams: int) -> tuple[int, int]:
        """How many turns all items' long runs take, and how many all runs, if `teams` of a block take as many at once."""
        long_ones = -(-batch * self.longs // teams) * teams
        return long_ones, long_ones + batch * (self.number - self.longs)

    @staticmethod
    def of(transforms: int, batch: int, teams: int, overlap: int) -> "Runs":
        """The runs that take the least time.

        Args:
            transforms: of an item.
            batch: how many items.
            teams: how many of them work side by side.
            overlap: how many transforms behind a run still meet samples of it: it is small beside a long run.
        """
        least = -(-transforms // max(MOST, 2 * overlap))
        rounds = -(-batch * least // teams)
        numbers = [min(transforms, max(least, n * teams // batch)) for n in range(rounds, rounds + 8)]
        number = min(numbers, key=lambda n: -(-batch * n // teams) * (-(-transforms // n) + BEGINNING))
        short, longs = divmod(transforms, number)
        return Runs(number, longs, short)
