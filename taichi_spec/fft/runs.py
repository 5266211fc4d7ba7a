"""How the teams of a GPU share out the frames of all items: each takes runs of neighbouring frames.

What two runs share costs memory and time, and so does a run's beginning: the best runs are as many as teams work side by
side, or a small multiple of it, and of one length, so that none waits for another.

They must not be too long: the farther apart the teams are that work at once, in memory, the slower they read and write.
Of 2^26 samples at n_fft 256, an H100's 4,224 teams took 2.1 ms with one run each, 1.24 ms with eight. Wider frames, whose
samples come in longer pieces and to fewer teams, suffer less: at 1024 four runs take 2 % longer than one, but one took
2.2 ms instead of 1.4 in a process that had used much memory before.
"""

from typing import NamedTuple

MOST = 512  # transforms of a run: the sums of longer ones would be less exact
AHEAD = 70_000  # transforms that all teams together have before them; see above
LEAST = 32  # transforms of a run, whatever AHEAD says
BEGINNING = 2  # transforms that would take as long as it takes to begin a run


def round_up(n: int, unit: int) -> int:
    """The least multiple of a unit that is not below n."""
    return -(-n // unit) * unit


class Runs(NamedTuple):
    """`number` runs of an item: of `short` transforms, but the first `longs` of them have one more."""

    number: int
    longs: int
    short: int
    teams: int  # that may work side by side: each takes one run, or one in so many

    def begin(self, c: int) -> int:
        """The transforms of an item before its run c."""
        return c * self.short + min(c, self.longs)

    def turns(self, batch: int, block: int) -> tuple[int, int, int]:
        """How many teams work, in whole blocks of so many; and the turns of all items' long runs, and of all runs.

        No block has runs of both lengths.
        """
        long_ones = round_up(batch * self.longs, block)
        turns = long_ones + batch * (self.number - self.longs)
        return min(self.teams, round_up(turns, block)), long_ones, turns

    def rounds(self, batch: int, block: int) -> int:
        """How many runs the busiest team has, one after the other."""
        return -(-self.turns(batch, block)[-1] // self.teams)

    @staticmethod
    def of(transforms: int, batch: int, teams: int, overlap: int, block: int) -> "Runs":
        """The runs that take the least time.

        Args:
            transforms: of an item.
            batch: how many items.
            teams: how many of them work side by side.
            overlap: how many transforms behind a run still meet samples of it: it is small beside a long run.
            block: teams of a block, which all have long runs or short ones.
        """
        most = max(2 * overlap, min(MOST, max(LEAST, AHEAD // teams)))
        least = -(-transforms // most)
        rounds = -(-batch * least // teams)
        idle = -(-(block - 1) // batch)  # runs of an item that may have to make room for teams without any
        full = [n * teams // batch - less for n in range(rounds, rounds + 8) for less in (0, idle)]
        numbers = [min(transforms, max(least, 1, number)) for number in full]
        choices = [Runs(number, transforms % number, transforms // number, teams) for number in numbers]
        return min(choices, key=lambda runs: runs.rounds(batch, block) * (-(-transforms // runs.number) + BEGINNING))
