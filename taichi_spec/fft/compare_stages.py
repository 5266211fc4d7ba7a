"""What is done by stages between the two transforms of a frame, by a team of threads: see `stages`.

A transform has two halves, real and imaginary part: frames of two signals, x and y, or, where the target is fixed, two
frames of x. Here is what does not depend on where bins are: `blocks_compare` has them in registers, `frames_compare` in
shared memory or in memory. What terms compare lies in cells of two numbers, one a half:

    bins       amplitudes |w[k] X[k]| and |w[k] Y[k]|, K cells
    values     the quantities, a cell a band; without bands the amplitudes themselves, squared when a term asks for it
    slopes     the loss's slopes by them
    list       a cell a thread, for sums and maxima over the team: `compare_team`
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.bins import Parts, part_distance
from taichi_spec.fft.compare_room import BandPlaces, Room, groups_of
from taichi_spec.fft.compare_team import teams
from taichi_spec.fft.compare_transport import transporting
from taichi_spec.fft.stages import Stages
from taichi_spec.polar import polar
from taichi_spec.terms import Complex


def stage_functions(n_fft: int, dtype: Any, parts: Parts, fixed: bool, gradient: bool, stages: Stages, room: Room,
                    places: BandPlaces, tools: Any) -> SimpleNamespace:  # fmt: skip
    """The functions between a frame's bins and their gradients, which ask shared cells alone.

    Args:
        n_fft: N.
        dtype, parts, fixed, gradient: as in `Pass`.
        stages: how quantities are made.
        room: where they lie.
        places: where the bands' matrix lies in the kernel's tables.
        tools: functions for shared memory; and whether frames are `long`, so that a band has many bins.

    measure_bin: from spectra to amplitudes; compare_quantities: from these to sums and slopes; gradients_of: from slopes to a
    bin's gradients; scale_gradients: what brings both halves' to about 1.
    """
    T, ROWS = room.threads, room.rows
    SHARE = room.group if tools.long else 1  # threads that have a band together
    TINY = 1e-36 if dtype == ti.f32 else 1e-288  # only keeps 1 / sqrt finite
    banded, toward_target = stages.banded, stages.toward_target
    GAINS, ROW_ENTRIES, COLUMN_ENTRIES, BANDS, BINS, _ = places
    groups = groups_of(parts, stages, ROWS)
    on_spectra = [j for j, (_, part) in enumerate(parts) if isinstance(part, Complex)]
    # Where a fixed target's spectrum begins in its rows: behind its quantities.
    PHASE = len(groups) * ROWS
    store, fetch, sync, power_of_two = tools.store, tools.fetch, tools.sync, tools.power_of_two
    of_bins, of_team = part_distance(parts, dtype), teams(dtype, room, tools)
    largest_of, sums_of_groups = of_team.largest_of, of_team.sums_of_groups
    AXIS = 2 * ROWS if banded else n_fft  # steps of the frequency axis in a cycle per sample
    transports = transporting(dtype, parts, fixed, gradient, banded, AXIS, room, tools, of_team)

    # ---- spectra to quantities -------------------------------------------------------------------------------------

    @ti.func
    def length_of(re, im):
        """1 / |z| and |z|, of z that is about 1 or 0."""
        square = re * re + (im * im + dtype(TINY))
        inverse_root = ti.rsqrt(square)
        return inverse_root, square * inverse_root

    @ti.func
    def amplitude(re, im, to):
        """|z| times `to`. The maximum keeps the product apart from what is subtracted of it, or equal ones would differ."""
        _, length = length_of(re, im)
        return ti.max(length * to, 0)

    @ti.func
    def measure_bin(k, xr, xi, yr, yi, sm: ti.template(), team: ti.template(), scale: ti.template(),
                    table: ti.template()):  # fmt: skip
        a, b = amplitude(xr, xi, scale[0] * table[GAINS + k]), amplitude(yr, yi, scale[1] * table[GAINS + k])
        if ti.static(not fixed):  # equal ones may be rounded in different ways
            b = ti.select(scale[4] > 0, a, b)
        store(sm, team + k, a, b)

    @ti.func
    def to_bands(sm: ti.template(), team: ti.template(), t: ti.template(), table: ti.template(),
                 integers: ti.template(), zero: ti.template()):  # fmt: skip
        """A[j] = Σ_k M[j, k] |w X|, or of the squares, for every quantity."""
        sync(sm)
        j = t // SHARE
        ahead = j if ti.static(SHARE > 1) else 0
        while j < ROWS + ahead:  # as often in each thread, where some wait for each other
            sums = [ti.cast(0, dtype) for _ in ti.static(range(2 * len(groups)))]
            band = ti.min(j, ROWS - 1) if ti.static(SHARE > 1) else j
            e, end = integers[BANDS + band] + t % SHARE, integers[BANDS + 1 + band]
            while e < end:
                a, b = fetch(sm, team + integers[ti.static(BANDS + ROWS + 1) + e])
                for i in ti.static(range(len(groups))):
                    if ti.static(stages.quantities[i] == "power"):
                        sums[2 * i] += table[ROW_ENTRIES + e] * (a * a)
                        sums[2 * i + 1] += table[ROW_ENTRIES + e] * (b * b)
                    else:
                        sums[2 * i] += table[ROW_ENTRIES + e] * a
                        sums[2 * i + 1] += table[ROW_ENTRIES + e] * b
                e += SHARE
            if ti.static(SHARE > 1):
                sums_of_groups(sums, sm, team, t, zero)
            if ti.static(SHARE == 1) or (j < ROWS and t % SHARE == 0):
                for i in ti.static(range(len(groups))):
                    store(sm, team + ti.static(room.values(i)) + j, sums[2 * i], sums[2 * i + 1])
            j += ti.static(T // SHARE)

    # ---- quantities to sums and slopes -----------------------------------------------------------------------------

    @ti.func
    def distance(a: ti.template(), b: ti.template(), j: ti.template()):
        """A part's distance of two numbers of its group, and both slopes."""
        phi, phi_a, phi_b = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
        if ti.static(banded):
            phi, phi_a, phi_b = parts[j][1].distance(a, b, dtype)
        else:
            phi, phi_a, phi_b = of_bins(a, b, j)
        return phi, phi_a, phi_b

    @ti.func
    def compare_bins(group: ti.template(), sums: ti.template(), sm: ti.template(), team: ti.template(),
                     t: ti.template(), goal: ti.template(), goals: ti.template(), second: ti.template(),
                     factors: ti.template()):  # fmt: skip
        """Add the distances of this thread's cells to its sums; slopes ← theirs."""
        values, slopes = team + ti.static(room.values(group.index)), team + ti.static(room.slopes(group.index))
        i = t
        while i < ROWS:
            a, b = fetch(sm, values + i)
            slope_a, slope_b = ti.cast(0, dtype), ti.cast(0, dtype)
            for j in ti.static(group.on_bins):
                if ti.static(fixed):
                    phi, phi_a, _ = distance(a, goal[goals[0] + i + ti.static(group.goal)], j)
                    more, phi_b, _ = distance(b, goal[goals[1] + i + ti.static(group.goal)], j)
                    sums[j] += phi + ti.select(second, more, 0)
                    slope_a += factors[j] * phi_a
                    slope_b += factors[j] * phi_b
                else:
                    phi, phi_a, phi_b = distance(a, b, j)
                    sums[j] += phi
                    slope_a += factors[j] * phi_a
                    slope_b += factors[j] * phi_b
            if ti.static(gradient):
                store(sm, slopes + i, slope_a, slope_b)
            i += T

    @ti.func
    def compare_quantities(sums: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template(),
                           goal: ti.template(), goals: ti.template(), second: ti.template(), factors: ti.template(),
                           table: ti.template(), integers: ti.template(), zero: ti.template()):  # fmt: skip
        """Adds this thread's distances to its sums; slopes ← theirs."""
        if ti.static(len(stages.quantities) > 0):
            if ti.static(banded):
                to_bands(sm, team, t, table, integers, zero)
                if ti.static(SHARE > 1):
                    sync(sm)  # one thread of a group has written what another one compares
            for group in ti.static(groups):
                compare_bins(group, sums, sm, team, t, goal, goals, second, factors)
                if ti.static(len(group.transports) > 0):
                    transports(group, sums, sm, team, t, goal, goals, second, factors, zero)
            if ti.static(banded):
                sync(sm)  # until all slopes are there

    # ---- slopes to spectra -----------------------------------------------------------------------------------------

    @ti.func
    def slopes_of(k, sm: ti.template(), team: ti.template(), table: ti.template(), integers: ti.template()):
        """The loss's slopes by both amplitudes of bin k."""
        slope_a, slope_b = ti.cast(0, dtype), ti.cast(0, dtype)
        if ti.static(not banded):
            slope_a, slope_b = fetch(sm, team + ti.static(room.slopes(0)) + k)
        else:
            e, end = integers[BINS + k], integers[BINS + 1 + k]
            a, b = fetch(sm, team + k)
            while e < end:
                j, entry = integers[ti.static(BINS + room.bins + 1) + e], table[COLUMN_ENTRIES + e]
                for i in ti.static(range(len(groups))):
                    by_a, by_b = fetch(sm, team + ti.static(room.slopes(i)) + j)
                    if ti.static(stages.quantities[i] == "power"):
                        slope_a += entry * (2 * a * by_a)
                        slope_b += entry * (2 * b * by_b)
                    else:
                        slope_a += entry * by_a
                        slope_b += entry * by_b
                e += 1
        return slope_a, slope_b

    @ti.func
    def by_phase(is_x: ti.template(), sums: ti.template(), counts, differ, re, im, other_re, other_im, slope,
                 factors: ti.template()):  # fmt: skip
        """What terms on spectra add to G / w; and the target's direction where that of 0 is asked for.

        differ: 0 if both frames are the same, else 1: the difference of two products might be one's rounding.
        """
        G_re, G_im = ti.cast(0, dtype), ti.cast(0, dtype)
        if ti.static(toward_target and is_x):
            _, u, v = polar(other_re, other_im)
            at_0 = ti.select(re == 0 and im == 0, slope, 0)
            G_re, G_im = at_0 * u, at_0 * v
        for j in ti.static(on_spectra):
            phi, u, v = parts[j][1].distance(differ * (re - other_re), differ * (im - other_im))
            if ti.static(is_x):
                sums[j] += ti.select(counts, phi, 0)
            G_re += factors[j] * u
            G_im += factors[j] * v
        return G_re, G_im

    @ti.func
    def gradients_of(k, mine, xr, xi, yr, yi, sums: ti.template(), sm: ti.template(), team: ti.template(),
                     goal: ti.template(), goals: ti.template(), second: ti.template(), scale: ti.template(),
                     factors: ti.template(), table: ti.template(), integers: ti.template()):  # fmt: skip
        """G of both halves in bin k, from X and Y. mine: whether this thread counts the bin."""
        slope_a, slope_b = ti.cast(0, dtype), ti.cast(0, dtype)
        if ti.static(gradient and len(stages.quantities) > 0):
            slope_a, slope_b = slopes_of(k, sm, team, table, integers)
        gain = table[GAINS + k]
        unit_x, _ = length_of(xr, xi)
        unit_y, _ = length_of(yr, yi)
        by_x = ti.select(scale[0] > 0, slope_a * unit_x, 0)
        by_y = ti.select(scale[1] > 0, slope_b * unit_y, 0)
        gxr, gxi, gyr, gyi = by_x * xr, by_x * xi, by_y * yr, by_y * yi
        if ti.static(toward_target or len(on_spectra) > 0):
            to_x, to_y = scale[0] * gain, scale[1] * gain
            ar, ai, br, bi = xr * to_x, xi * to_x, yr * to_y, yi * to_y
            if ti.static(fixed):
                at, then = goals[0] + ti.static(PHASE) + k, goals[1] + ti.static(PHASE) + k
                more_re, more_im = by_phase(True, sums, mine, 1, ar, ai, goal[at], goal[at + room.bins], slope_a,
                                            factors)  # fmt: skip
                gxr, gxi = gxr + more_re, gxi + more_im
                more_re, more_im = by_phase(True, sums, mine and second, 1, br, bi, goal[then],
                                            goal[then + room.bins], slope_b, factors)  # fmt: skip
                gyr, gyi = gyr + more_re, gyi + more_im
            else:
                differ = 1 - scale[4]
                more_re, more_im = by_phase(True, sums, mine, differ, ar, ai, br, bi, slope_a, factors)
                gxr, gxi = gxr + more_re, gxi + more_im
                more_re, more_im = by_phase(False, sums, mine, differ, br, bi, ar, ai, slope_b, factors)
                gyr, gyi = gyr + more_re, gyi + more_im
        return gxr * gain, gxi * gain, gyr * gain, gyi * gain

    @ti.func
    def scale_gradients(peaks: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template(),
                        live: ti.template(), second: ti.template(), scale: ti.template(),
                        zero: ti.template()):  # fmt: skip
        """What the halves' gradients are multiplied by before they are transformed, peaks being this thread's largest ones.

        They may differ by any factor: Transport's grows as a frame gets quieter. Each is brought to about 1; scale[2] and
        scale[3] ← what undoes it, or 0 where nothing moves a frame.
        """
        peak_x, peak_y = largest_of(peaks[0], peaks[1], sm, team, t, zero)
        up_x, down_x = power_of_two(peak_x)
        up_y, down_y = power_of_two(peak_y)
        scale[2] = ti.select(live and peak_x > 0, up_x, 0)
        there = live
        if ti.static(fixed):
            there = second
        scale[3] = ti.select(there and peak_y > 0, up_y, 0)
        by_x = ti.select(scale[2] > 0, down_x, 0)
        by_y = ti.select(scale[3] > 0, down_y, 0)
        return by_x, by_y

    return SimpleNamespace(measure_bin=measure_bin, compare_quantities=compare_quantities, gradients_of=gradients_of,
                           scale_gradients=scale_gradients, has_quantities=len(stages.quantities) > 0,
                           on_spectra=len(on_spectra) > 0)  # fmt: skip
