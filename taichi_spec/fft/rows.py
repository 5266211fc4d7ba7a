"""How a frame lies in shared memory: in rows, one for each point of its first radix, with some room between them.

The first pass turns element i of all rows into as many bins, one for each row; then each row is a line of its own. Which
radices, and how far apart the rows lie, is found by count: a pass takes a thread's time whether it has a DFT to do or not,
and those of a warp's accesses that meet in a bank of shared memory wait for each other.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from taichi_spec.fft.lines import factors
from taichi_spec.fft.plan import Plan

BANKS = 32  # of shared memory, and threads of a warp
BETWEEN = 16  # numbers between two rows, at most
# Points of a DFT of the first pass, if that may be: of fewer a pass does little, and of more a thread needs more registers
# than there are for as many teams: at n_fft 800 a pass of 16 before the others took 1.18 times as long as one of 8.
FIRST = range(5, 11)
CYCLES = 10  # that a warp takes for a point of each of its threads in a pass there and back, beside accesses; roughly


def rest_of(plan: Plan) -> Plan:
    """How rows are transformed after the plan's first pass."""
    return Plan(plan.spans[0], plan.radices[1:])


def bins_at(plan: Plan, k: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in its row the transform leaves each of bins k, and in which row."""
    rows = plan.radices[0]
    return rest_of(plan).positions[k // rows], k % rows


@cache
def rows_of(n: int, threads: int, free: int) -> tuple[Plan, int]:
    """The plan of a frame for a team of so many threads, and how far apart its rows lie.

    Of all plans with the fewest passes, and a first one that is neither short nor long, the one that takes the fewest cycles.
    free: how many numbers there may be between rows, in all.
    """

    def passes(radices: tuple[int, ...]) -> tuple[int, bool]:
        return len(radices), radices[0] not in FIRST

    ways = factors(n)
    fewest = min(map(passes, ways))
    plans = [Plan(n, radices) for radices in ways if passes(radices) == fewest]
    _, row, radices = min((*_cycles(plan, threads, free), plan.radices) for plan in plans)
    return Plan(n, radices), row


def _cycles(plan: Plan, threads: int, free: int) -> tuple[int, int]:
    """How many cycles a team's warps take, and how far apart rows lie then."""
    rows, row = plan.radices[0], plan.spans[0]
    points = sum(-(-plan.n // r // threads) * r for r in plan.radices)  # of a thread, or for which it waits for others
    together = _together(plan)
    pitches = range(row, row + min(free // rows, BETWEEN) + 1)
    waits = [sum(often * _wavefronts(place + i * pitch) for place, i, often in together) for pitch in pitches]
    return min((CYCLES * points * threads // BANKS + wait, pitch) for wait, pitch in zip(waits, pitches))


def _together(plan: Plan) -> list[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """What neighbouring threads ask for together: where in its row and in which row; and how often, there and back."""
    rows, rest, k = plan.radices[0], rest_of(plan), np.arange(plan.n // 2 + 1)
    found = [(*bins_at(plan, bins), 4) for bins in (k, -k % plan.n)]  # k and n - k are compared
    for r, span in zip(rest.radices, rest.spans):
        i, row = np.divmod(np.arange(plan.n // r), rows)
        found.append((i // span * span * r + i % span, row, 8 * r))
    return found


def _wavefronts(places: NDArray[np.int64]) -> int:
    """How many accesses the threads' warps take for these places, as each bank has one at a time."""
    threads = np.arange(len(places))
    wanted = np.bincount(threads // BANKS * BANKS + places % BANKS, minlength=-(-len(places) // BANKS) * BANKS)
    return int(wanted.reshape(-1, BANKS).max(1).sum())
