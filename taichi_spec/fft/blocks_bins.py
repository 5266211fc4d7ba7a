"""What is done to a frame's bins between its two transforms, where the loss is a sum over whole bins.

Bin k and its mirror N - k are compared together, by the thread that holds k < N / 2 in its first registers. It finds the
mirror in shared memory, or has it itself.
"""

from types import SimpleNamespace
from typing import Any, NamedTuple

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft.blocks_layout import Layout
from taichi_spec.fft.pairs import KNOWN, forces_of, hold, known, measures_of, two_bins
from taichi_spec.terms import Magnitude


class Aim(NamedTuple):
    """What a frame is compared with.

    Attributes:
        y: magnitudes, if the target is fixed.
        rows: where in y those of both frames begin that share a transform.
        second: whether there are two.
        factors: of each part's derivatives.
    """

    y: Any
    rows: Any
    second: Any
    factors: Any


def is_light(parts: Parts) -> bool:
    """Whether a bin's distance takes the fewest instructions and registers there are."""
    return len(parts) == 1 and isinstance(parts[0][1], Magnitude) and parts[0][1].p == 2


def whole_bins(layout: Layout, dtype: Any, parts: Parts, wanted: Parts, fixed: bool, gradient: bool,
               shared: SimpleNamespace, mirror_of: Any) -> SimpleNamespace:  # fmt: skip
    """The functions `spectral`, `rows`, and those that send mirrors to and fro.

    Args:
        layout: which bins a thread holds.
        dtype, parts, fixed, gradient: as in `Pass`.
        wanted: which parts are summed.
        shared: functions of `shared_memory`.
        mirror_of: of `transforms`.
    """
    C, SUMS = len(parts), len(wanted)
    N, R, T, HALF = layout.n_fft, layout.points, layout.threads, layout.points // 2
    MIRRORED = layout.mirrored
    HEAVY = C == 1 and not is_light(parts)
    # Whether the frames that need no scale, as most do, have a program of their own: where LLVM inlines both. Theirs takes
    # a fourth fewer instructions.
    PLAIN = C == 1 and not (fixed and layout.stray > 0) and (gradient or (N < 2048 and not (MIRRORED and HEAVY)))
    # Pairs of bins at work at once: as many as there are registers for, and LLVM still inlines.
    PAIRS = 4 if C <= 3 and not fixed else 2
    if C == 1:
        PAIRS = HALF if N < 2048 else 4
    if (MIRRORED and HEAVY and (gradient or fixed)) or (fixed and gradient and layout.stray > 0):
        PAIRS //= 2
    if C > 1 and N >= 4096:
        PAIRS = max(1, PAIRS // 2)
    # The same of frames that need a scale, if the others have a program of their own.
    SCALED = 1 if fixed or N > 1024 else 4 if MIRRORED else 2
    # Cells before the first row that `spectral` has mirrors in: by halves there is memory for the other ones alone.
    UNUSED = (HALF - 1) * T if layout.by_halves else 0
    measures = measures_of(parts, fixed, dtype, tuple(map(parts.index, wanted)))
    sync, uniform, nothing, store, fetch, fetch_from = (
        shared.sync, shared.uniform, shared.nothing, shared.store, shared.fetch, shared.fetch_from)  # fmt: skip

    @ti.func
    def spectral(re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(),
                 t: ti.template(), row: ti.template(), f: ti.template(), frames: ti.template(), y: ti.template(),
                 item_stride: ti.template(), frame_stride: ti.template(), scale: ti.template(),
                 factors: ti.template(), zero: ti.template()):  # fmt: skip
        """Distance of every bin; re and im become the gradients' spectrum, exchanged for the way back.

        Bin k and its mirror N - k are compared together.
        """
        sums = [ti.cast(0, dtype) for _ in ti.static(range(SUMS))]
        second = f + 1 < frames
        aim = ti.static(Aim(y, rows(row, f, frames, item_stride, frame_stride), second, factors))
        if ti.static(MIRRORED):
            compare_own(sums, re, im, sm, team, t, aim, scale, zero)
        else:
            compare_lent(sums, re, im, sm, team, t, aim, scale, zero)
        return sums

    @ti.func
    def compare_lent(sums: ti.template(), re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(),
                     t: ti.template(), aim: ti.template(), scale: ti.template(), zero: ti.template()):  # fmt: skip
        """By the thread that holds k < N / 2 in its first registers.

        It finds the mirror in shared memory, in row m of which lie, from right to left, the threads' registers m >= R / 2.
        Those of thread 0 lie one row above: then all mirrors of register m lie in row R - 1 - m, from left to right.
        Bin 0, its own mirror, joins them there; bin N / 2 is left over, for thread 0 to do alone.
        """
        lend_mirrors(re, im, sm, team, t)
        compare_all(sums, re, im, sm, team, t, aim, scale, zero)
        if t == 0:
            middle = team + ti.static((HALF - 1) * T - UNUSED)
            bins = ti.static([fetch(sm, middle)])
            goals = ti.static(goals_of(aim, t, scale))
            found, low, _ = ti.static(distances(bins, bins, True, [goals(T * HALF)], aim, scale))
            add(sums, found)
            if ti.static(gradient):
                store(sm, middle, *ti.static(low)[0])
        if ti.static(gradient):
            sync()
            take_mirrors(re, im, sm, team, t)

    @ti.func
    def compare_all(sums: ti.template(), re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(),
                    t: ti.template(), aim: ti.template(), scale: ti.template(), zero: ti.template()):  # fmt: skip
        """All pairs of bins but the middle."""
        if ti.static(not PLAIN):
            compare_groups(sums, re, im, sm, team, t, aim, scale, PAIRS, zero)
        elif uniform(scale[5] > 0):
            compare_groups(sums, re, im, sm, team, t, aim, scale, SCALED, zero)
        else:
            compare_groups(sums, re, im, sm, team, t, aim, None, PAIRS, zero)

    @ti.func
    def compare_groups(sums: ti.template(), re: ti.template(), im: ti.template(), sm: ti.template(),
                       team: ti.template(), t: ti.template(), aim: ti.template(), scale: ti.template(),
                       count: ti.template(), zero: ti.template()):  # fmt: skip
        """The same, so many at once. scale: None for frames that need none.

        Bins are in registers m < R / 2, their mirrors in R - 1 - m, or where others have left them.
        """
        for group in range(ti.static(HALF // count) + ti.static(count < HALF) * zero):  # + 0, see `blocks`
            first = group * ti.static(count)
            bins = ti.static(list(zip(re, im)))
            cell = (team + t + ti.static((R - count) * T - UNUSED) - first * T) & KNOWN  # the last one's mirror
            goals = ti.static([goals_of(aim, start, scale) for start in starts_of(t, first, count)])
            measured = ti.static([goals[m % len(goals)](first * T + T * m) for m in range(count)])
            alone = (t | first) == 0
            mirrors = ti.static(mirrors_of(bins, sm, cell, count))
            found, low, high = ti.static(distances(bins[:count], mirrors, alone, measured, aim, scale))
            add(sums, found)
            for k in ti.static(range(HALF - count)):  # the next ones take their place; after all groups each is back
                re[k], im[k] = re[k + count], im[k + count]
                if ti.static(MIRRORED):
                    re[R - 1 - k], im[R - 1 - k] = re[R - 1 - k - count], im[R - 1 - k - count]
            if ti.static(gradient):
                for m in ti.static(range(count)):
                    re[HALF - count + m], im[HALF - count + m] = ti.static(low)[m]
                    if ti.static(MIRRORED):
                        re[HALF - 1 + count - m], im[HALF - 1 + count - m] = ti.static(high)[m]
                    else:
                        store(sm, cell + ti.static((count - 1 - m) * T), *ti.static(high)[m])

    @ti.func
    def compare_own(sums: ti.template(), re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(),
                    t: ti.template(), aim: ti.template(), scale: ti.template(), zero: ti.template()):  # fmt: skip
        """By a thread that has its bins' mirrors itself, see `transforms`: no shared memory.

        Thread 0 has bin N / 2 in the middle, and bins and mirrors in other registers than the others.
        """
        middle = [re[HALF], im[HALF]]
        mirrors = ti.static(turned_over(list(zip(re, im)), t))
        for m in ti.static(range(HALF)):
            re[R - 1 - m], im[R - 1 - m] = ti.static(mirrors)[m]
        compare_all(sums, re, im, sm, team, t, aim, scale, zero)
        if t == 0:
            goals = ti.static(goals_of(aim, t, scale))
            found, central, _ = ti.static(distances([middle], [middle], True, [goals(T * HALF)], aim, scale))
            add(sums, found)
            middle[0], middle[1] = ti.static(central)[0]
        if ti.static(gradient):
            back = ti.static(turned_back(list(zip(re, im)), middle, t))
            for m in ti.static(range(HALF)):
                re[HALF + m], im[HALF + m] = ti.static(back)[m]

    @ti.func
    def add(sums: ti.template(), found: ti.template()):
        for j in ti.static(range(SUMS)):
            sums[j] += found[j]

    def turned_over(bins, t):
        """The mirrors of this thread's first bins, in their order."""
        return [chosen_of(t == 0, bins[(R - m) % R], bins[R - 1 - m]) for m in range(HALF)]

    def turned_back(bins, middle, t):
        """This thread's last bins, in their order, from mirrors' places; of thread 0 one is in the middle."""
        below = [middle, *bins[HALF:]]
        return [chosen_of(t == 0, below[m], bins[HALF + m]) for m in range(HALF)]

    def chosen_of(condition, one, other):
        """One of two complex numbers."""
        return tuple(hold(ti.select(condition, a, b)) for a, b in zip(one, other))

    def starts_of(t, first, count):
        """The numbers that bins `first`, first + 1, ... count from, in turn: see `seconds`. count: how many there are."""
        if not (fixed and MIRRORED):
            return [t]
        own, across = t, mirror_of(t) - T
        return [own, across] if count > 1 else [hold(ti.select(first & 1, across, own))]

    def goals_of(aim, start, scale):
        """What measures this thread's bins from `start` on: `measures`. scale: as `two_bins` takes it."""
        forces = forces_of(aim.factors, scale)
        return measures(aim.y, *[known(row + start) for row in aim.rows], forces)

    def mirrors_of(bins, sm, cell, count):
        """Of a thread's first bins, so many: among its last ones, or those that others have left from `cell` on."""
        if MIRRORED:
            return bins[: R - 1 - count : -1]
        return [fetch_from(sm, cell, T * m) for m in reversed(range(count))]

    @ti.func
    def lend_mirrors(re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template()):
        """Registers m >= R / 2 go to shared memory, where other threads find them: see `spectral`."""
        at = mirror_cells(team, t)
        sync()  # until all threads have read the last exchange
        for m in ti.static(range(HALF)):
            store(sm, at + ti.static(T * m), re[HALF + m], im[HALF + m])
        if t == 0:
            store(sm, team + ti.static((R - 1) * T - UNUSED), re[0], im[0])
        sync()

    @ti.func
    def take_mirrors(re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template()):
        """And what others have left there comes back."""
        at = mirror_cells(team, t + nothing(t, 2))
        found = ti.static([fetch_from(sm, at, T * m) for m in range(HALF)])
        for m in ti.static(range(HALF)):
            re[HALF + m], im[HALF + m] = ti.static(found)[m]

    @ti.func
    def mirror_cells(team: ti.template(), t):
        """Where the first of them lies."""
        return (team + ti.static(HALF * T - UNUSED) + ti.select(t == 0, -T, T - t)) & KNOWN

    @ti.func
    def rows(row: ti.template(), f: ti.template(), frames: ti.template(), item_stride: ti.template(),
             frame_stride: ti.template()):  # fmt: skip
        """Where the target's magnitudes of frames f and f + 1 begin; of the last one, if there are no more."""
        item = row * item_stride
        return item + ti.min(f, frames - 1) * frame_stride, item + ti.min(f + 1, frames - 1) * frame_stride

    def distances(bins, mirrors, alone, measure, aim, scale):
        """The sums of distances in pairs of bins, and the gradients' bins and their mirrors, exchanged for the way back.

        alone: whether the first bin is its own mirror.
        """
        totals, lows, highs = None, [], []
        for m, (z, mirror) in enumerate(zip(bins, mirrors)):
            found, low, high = two_bins(z, mirror, measure[m], scale, fixed, dtype)
            if gradient and m == 0:
                low, high = [[hold(ti.select(alone, 2 * v, v)) for v in both_parts] for both_parts in (low, high)]
            lows.append(low[::-1])
            highs.append(high[::-1])
            if scale is not None:
                found = of_both(found, aim.second)  # there are no registers for more
            totals = found if totals is None else [hold(s + v) for s, v in zip(totals, found)]
        return of_both(totals, aim.second), lows, highs

    def of_both(found, second):
        """The values of two frames that share a transform, together; the second frame's count only if it is there."""
        if len(found) == SUMS:
            return found
        none = ti.cast(0, dtype)
        return [hold(a + ti.select(second, b, none)) for a, b in zip(found[:SUMS], found[SUMS:])]

    return SimpleNamespace(spectral=spectral, rows=rows, lend_mirrors=lend_mirrors, take_mirrors=take_mirrors)
