"""What a team of `blocks` does by stages between its two transforms: see `compare_stages`.

Bins are in registers, as X in the first half of them and Y in the second.
"""

from typing import Any

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft.compare_room import BandPlaces, Room
from taichi_spec.fft.compare_stages import stage_functions
from taichi_spec.fft.pairs import hold
from taichi_spec.fft.stages import Stages


def by_stages(n_fft: int, points: int, dtype: Any, parts: Parts, fixed: bool, gradient: bool, stages: Stages,
              room: Room, places: BandPlaces, tools: Any) -> Any:  # fmt: skip
    """The `ti.func` from a frame's transform in registers to its sums and, in its place, to the gradients' transform.

    Args: as `stage_functions`', but for
        points: R, the points that a thread holds.
        tools: what `blocks` gives: functions for shared memory, and those that send mirrors to and fro.
    """
    C, T, HALF, MIDDLE = len(parts), room.threads, points // 2, n_fft // 2
    AT_ONCE = 2  # bins at work at once
    store, fetch, sync = tools.store, tools.fetch, tools.sync
    of = stage_functions(n_fft, dtype, parts, fixed, gradient, stages, room, places, tools)
    measure_bin, compare_quantities, gradients_of = of.measure_bin, of.compare_quantities, of.gradients_of
    scale_gradients, HAS_QUANTITIES, ON_SPECTRA = of.scale_gradients, of.has_quantities, of.on_spectra

    @ti.func
    def advance(re: ti.template(), im: ti.template(), done: ti.template()):
        """The first bins of both halves, (real, imaginary) of each, are done: they go last, and the next ones come first.

        An index into registers must be known, so a loop over bins takes the first ones each time, and after all of them
        each is back: such a program is shorter, see `blocks`.
        """
        count = ti.static(len(done))
        for n in ti.static(range(HALF - count)):
            re[n], im[n] = re[n + count], im[n + count]
            re[HALF + n], im[HALF + n] = re[HALF + n + count], im[HALF + n + count]
        for m in ti.static(range(count)):
            re[HALF - count + m], im[HALF - count + m], re[2 * HALF - count + m], im[2 * HALF - count + m] = done[m]

    def unpacked(re, im, sm, mirrors, equal):
        """X and Y in the first bins, real and imaginary parts. equal: whether both frames are the same."""
        done = []
        for m in range(AT_ONCE):
            p, q = fetch(sm, mirrors - m * T)
            xr, xi, yr, yi = hold(re[m] + p), hold(im[m] - q), hold(im[m] + q), hold(p - re[m])
            if not fixed:
                yr, yi = hold(ti.select(equal, xr, yr)), hold(ti.select(equal, xi, yi))
            done.append((xr, xi, yr, yi))
        return done

    @ti.func
    def unpack(re: ti.template(), im: ti.template(), middle: ti.template(), sm: ti.template(), team: ti.template(),
               t: ti.template(), scale: ti.template(), table: ti.template(), zero: ti.template()):  # fmt: skip
        """Registers m: from bins t + T m of the transform to X there, and registers HALF + m to Y; and measure them.

        middle: those of bin N / 2, which are real, in thread 0.
        """
        tools.lend_mirrors(re, im, sm, team, t)
        middle[0], middle[1] = 2 * re[HALF], 2 * im[HALF]
        equal = scale[4] > 0
        for step in range(ti.static(HALF // AT_ONCE) + zero):
            k = t + ti.static(AT_ONCE * T) * step
            mirrors = team + ti.static(2 * HALF * T - T) + 2 * t - k
            done = ti.static(unpacked(re, im, sm, mirrors, equal))
            if ti.static(HAS_QUANTITIES):  # no mirror lies where amplitudes do
                for m in ti.static(range(AT_ONCE)):
                    measure_bin(k + ti.static(T * m), *done[m], sm, team, scale, table)
            advance(re, im, done)
        sync(sm)  # until all mirrors have been read
        if t == 0:
            if ti.static(not fixed):
                middle[1] = ti.select(equal, middle[0], middle[1])
            if ti.static(HAS_QUANTITIES):
                measure_bin(MIDDLE, middle[0], 0, middle[1], 0, sm, team, scale, table)

    @ti.func
    def cotangent(re: ti.template(), im: ti.template(), middle: ti.template(), peaks: ti.template(),
                  sums: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template(), goal: ti.template(),
                  goals: ti.template(), second: ti.template(), scale: ti.template(), factors: ti.template(),
                  table: ti.template(), integers: ti.template(), zero: ti.template()):  # fmt: skip
        """Registers ← G where X and Y were. peaks ← this thread's largest of both. Bin N / 2 comes last, in thread 0."""
        for m in range(ti.static(HALF + 1) + zero):
            is_middle = m == HALF
            k = t + ti.select(is_middle and t > 0, 0, T * m)
            gxr, gxi, gyr, gyi = gradients_of(
                k, not is_middle or t == 0, ti.select(is_middle, middle[0], re[0]), ti.select(is_middle, 0, im[0]),
                ti.select(is_middle, middle[1], re[HALF]), ti.select(is_middle, 0, im[HALF]), sums, sm, team, goal,
                goals, second, scale, factors, table, integers)  # fmt: skip
            if ti.static(gradient):
                if not is_middle or t == 0:
                    peaks[0] = ti.max(peaks[0], ti.max(abs(gxr), abs(gxi)))
                    peaks[1] = ti.max(peaks[1], ti.max(abs(gyr), abs(gyi)))
                if is_middle:
                    middle[0], middle[1] = gxr, gyr
                else:
                    advance(re, im, ti.static([(gxr, gxi, gyr, gyi)]))

    def packed(re, im, sm, mirrors, k, by_x, by_y):
        """The first bins of the common transform; their mirrors go to shared memory."""
        done = []
        for m in range(AT_ONCE):
            by_a, by_b = (hold(ti.select(k == 0, 2 * by, by)) if m == 0 else by for by in (by_x, by_y))
            xr, xi = hold(re[m] * by_a), hold(im[m] * by_a)
            yr, yi = hold(re[HALF + m] * by_b), hold(im[HALF + m] * by_b)
            store(sm, mirrors - m * T, hold(yr - xi), hold(xr + yi))
            done.append((hold(xi + yr), hold(xr - yi), xr, xi))  # what comes last is not read
        return done

    @ti.func
    def pack(re: ti.template(), im: ti.template(), middle: ti.template(), peaks: ti.template(), sm: ti.template(),
             team: ti.template(), t: ti.template(), live: ti.template(), second: ti.template(), scale: ti.template(),
             zero: ti.template()):  # fmt: skip
        """From G to the bins of their common transform, re and im exchanged for the way back.

        Bins k and N - k take half of G each, which the window brings; a bin that is its own mirror all.
        """
        by_x, by_y = scale_gradients(peaks, sm, team, t, live, second, scale, zero)
        for step in range(ti.static(HALF // AT_ONCE) + zero):
            k = t + ti.static(AT_ONCE * T) * step
            mirrors = team + ti.static(2 * HALF * T - T) + 2 * t - k
            advance(re, im, ti.static(packed(re, im, sm, mirrors, k, by_x, by_y)))
        if t == 0:
            store(sm, team + ti.static((HALF - 1) * T), 2 * by_y * middle[1], 2 * by_x * middle[0])
        sync(sm)
        tools.take_mirrors(re, im, sm, team, t)

    @ti.func
    def compare(found: ti.template(), re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(),
                t: ti.template(), goal: ti.template(), goals: ti.template(), live: ti.template(), second: ti.template(),
                scale: ti.template(), factors: ti.template(), table: ti.template(), integers: ti.template(),
                zero: ti.template()):  # fmt: skip
        """Adds this thread's sums to what it has found; its bins become the gradients' bins.

        goals: where the rows of a fixed target begin, one for each half. live, second: whether the halves are frames.
        """
        sums = [ti.cast(0, dtype) for _ in ti.static(range(C))]
        middle = [ti.cast(0, dtype) for _ in ti.static(range(2))]
        peaks = [ti.cast(0, dtype) for _ in ti.static(range(2))]
        unpack(re, im, middle, sm, team, t, scale, table, zero)
        compare_quantities(sums, sm, team, t, goal, goals, second, factors, table, integers, zero)
        if ti.static(gradient or ON_SPECTRA):
            cotangent(re, im, middle, peaks, sums, sm, team, t, goal, goals, second, scale, factors, table, integers,
                      zero)  # fmt: skip
        if ti.static(gradient):
            pack(re, im, middle, peaks, sm, team, t, live, second, scale, zero)
        for j in ti.static(range(C)):
            found[j] += ti.select(live, sums[j], 0)

    return compare
