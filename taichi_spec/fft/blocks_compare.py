"""What a team of `blocks` does by stages between its two transforms: see `stages`.

`stage_functions` serve `frames_compare` too; what is in registers is in `by_stages`.

A transform has two halves, real and imaginary part: frames of two signals, x and y, or, where the target is fixed, two
frames of x. Bins are in registers, as X in the first half of them and Y in the second. What terms compare lies in
shared memory: cells of two numbers, one a half.

    bins       amplitudes |w[k] X[k]| and |w[k] Y[k]|, K cells
    values     the quantities, a cell a band; without bands the amplitudes themselves, squared when a term asks for it
    slopes     the loss's slopes by them
    list       a cell a thread, for sums and maxima over the team

Sums over a team add the threads of each group in order, then the groups: the same bits every time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.bins import Parts, part_distance
from taichi_spec.fft.pairs import hold
from taichi_spec.fft.stages import Stages, rows_of
from taichi_spec.polar import polar
from taichi_spec.terms import BinTerm, Complex, Transport
from taichi_spec.terms.transport import cost, inverse, share


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


def stage_functions(n_fft: int, dtype: Any, parts: Parts, fixed: bool, gradient: bool, stages: Stages, room: Room,
                    places: BandPlaces, tools: Any) -> SimpleNamespace:  # fmt: skip
    """The functions between a frame's bins and their gradients, which ask shared memory alone.

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
    GROUP, LOG_GROUP, LIST = room.group, room.group.bit_length() - 1, room.list
    SHARE = GROUP if tools.long else 1  # threads that have a band together
    CHUNK = -(-ROWS // T)  # neighbours that a thread takes on their way along the frequency axis
    TINY = 1e-36 if dtype == ti.f32 else 1e-288  # only keeps 1 / sqrt finite
    AXIS = 2 * ROWS if stages.banded else n_fft  # steps of the frequency axis in a cycle per sample
    banded, toward_target = stages.banded, stages.toward_target
    GAINS, ROW_ENTRIES, COLUMN_ENTRIES, BANDS, BINS, _ = places
    groups = groups_of(parts, stages, ROWS)
    on_spectra = [j for j, (_, part) in enumerate(parts) if isinstance(part, Complex)]
    # Where a fixed target's spectrum begins in its rows: behind its quantities.
    PHASE = len(groups) * ROWS
    store, fetch, sync, power_of_two = tools.store, tools.fetch, tools.sync, tools.power_of_two
    of_bins = part_distance(parts, dtype)

    # ---- a team's sums and maxima -----------------------------------------------------------------------------------

    def list_combiner(combine: Callable[..., Any]) -> Any:
        """A `ti.func` that combines some cells, in order."""

        @ti.func
        def over_list(sm: ti.template(), first, count, zero):
            x, y = fetch(sm, first)
            for e in range(1, count + zero):
                p, q = fetch(sm, first + e)
                x, y = combine(x, p), combine(y, q)
            return x, y

        return over_list

    def over_team(combine: Callable[..., Any]) -> Any:
        """A `ti.func` from two numbers of each thread to the same two for all: both combined, in a fixed order."""
        over_list = list_combiner(combine)

        @ti.func
        def over(a: ti.template(), b: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template(),
                 zero: ti.template()):  # fmt: skip
            at = team + LIST
            store(sm, at + t, a, b)
            sync(sm)
            x, y = over_list(sm, at + (t & ti.static(-GROUP)), GROUP, zero)
            if t & ti.static(GROUP - 1) == 0:
                store(sm, at + T + (t >> LOG_GROUP), x, y)
            sync(sm)
            x, y = over_list(sm, at + T, ti.static(T // GROUP), zero)
            return x, y

        return over

    @ti.func
    def plus(a, b):
        return a + b

    total_of, largest_of, least_of = over_team(plus), over_team(ti.max), over_team(ti.min)
    sum_of_list = list_combiner(plus)

    @ti.func
    def sums_of_groups(values: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template(),
                       zero: ti.template()):  # fmt: skip
        """Numbers in pairs: each becomes its sum over the threads of a group."""
        at = team + LIST
        for i in ti.static(range(0, len(values), 2)):
            sync(sm)  # until all have read what was in the list
            store(sm, at + t, values[i], values[i + 1])
            sync(sm)
            values[i], values[i + 1] = sum_of_list(sm, at + (t & ti.static(-GROUP)), GROUP, zero)

    @ti.func
    def sum_above(value: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template(), zero: ti.template()):
        """The sum of the values of all threads above t."""
        at, mine = team + LIST, t >> LOG_GROUP
        store(sm, at + t, value, value)
        sync(sm)
        whole, above = ti.cast(0, dtype), ti.cast(0, dtype)
        for e in range(GROUP + zero):
            u = (t | ti.static(GROUP - 1)) - e
            v, _ = fetch(sm, at + u)
            whole += v
            above += ti.select(u > t, v, 0)
        if t & ti.static(GROUP - 1) == 0:
            store(sm, at + T + mine, whole, whole)
        sync(sm)
        groups_above = ti.cast(0, dtype)
        for e in range(ti.static(T // GROUP) + zero):
            group = ti.static(T // GROUP - 1) - e
            v, _ = fetch(sm, at + T + group)
            groups_above += ti.select(group > mine, v, 0)
        return groups_above + above

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
    def quantities(j: ti.template(), side, i, sm: ti.template(), values, goal: ti.template(), row):
        """What part j compares at place i: of two signals, or of this half of a transform and its goal."""
        a, b = fetch(sm, values + i)
        if ti.static(fixed):
            a = ti.select(side == 0, a, b)
            b = goal[row + i]
        if ti.static(not banded and parts[j][1].quantity == "power"):
            a, b = a * a, b * b
        return a, b

    @ti.func
    def add_slopes(j: ti.template(), side, i, slope_a, slope_b, sm: ti.template(), values, slopes):
        """Add slopes by what part j compares, at place i: squares of amplitudes, perhaps."""
        by_a, by_b = ti.cast(slope_a, dtype), ti.cast(slope_b, dtype)
        if ti.static(fixed):
            by_a, by_b = ti.select(side == 0, by_a, 0), ti.select(side == 0, 0, by_a)
        if ti.static(not banded and parts[j][1].quantity == "power"):
            a, b = fetch(sm, values + i)
            by_a, by_b = 2 * a * by_a, 2 * b * by_b
        a, b = fetch(sm, slopes + i)
        store(sm, slopes + i, a + by_a, b + by_b)

    @ti.func
    def transport(j: ti.template(), group: ti.template(), side, sm: ti.template(), team: ti.template(),
                  t: ti.template(), goal: ti.template(), row, factor, zero: ti.template()):  # fmt: skip
        """This thread's share of Σ_k |Cx − Cy|^p Δ, as `Transport` says; slopes += factor times its own.

        A thread has CHUNK neighbours, from `last` down to `first`; what lies above them it hears from the others.
        """
        values, slopes = team + ti.static(room.values(group.index)), team + ti.static(room.slopes(group.index))
        first = t * CHUNK
        count = ti.max(ti.min(first + CHUNK, ROWS) - first, 0)
        last = first + count - 1
        floor, step = dtype(parts[j][1].floor), 1 / ti.cast(AXIS, dtype)
        x, y, peak_x, peak_y = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
        for e in range(count):
            x, y = quantities(j, side, first + e, sm, values, goal, row)
            peak_x, peak_y = ti.max(peak_x, x), ti.max(peak_y, y)
        peak_x, peak_y = largest_of(peak_x, peak_y, sm, team, t, zero)
        least_x, least_y = floor * peak_x, floor * peak_y
        sum_x, sum_y = ti.cast(0, dtype), ti.cast(0, dtype)
        top_x, top_y = ti.cast(ROWS, dtype), ti.cast(ROWS, dtype)  # the first of the largest
        for e in range(count):
            x, y = quantities(j, side, last - e, sm, values, goal, row)
            sum_x += ti.max(x - least_x, 0)
            sum_y += ti.max(y - least_y, 0)
            top_x = ti.select(x == peak_x, ti.cast(last - e, dtype), top_x)
            top_y = ti.select(y == peak_y, ti.cast(last - e, dtype), top_y)
        sum_x, sum_y = total_of(sum_x, sum_y, sm, team, t, zero)
        scale_x, scale_y = inverse(sum_x, dtype), inverse(sum_y, dtype)
        audible = scale_x > 0 and scale_y > 0
        scale_x, scale_y = ti.select(audible, scale_x, 0), ti.select(audible, scale_y, 0)
        start = ti.cast(0, dtype)  # d above this thread's neighbours
        for e in range(count):
            x, y = quantities(j, side, last - e, sm, values, goal, row)
            start -= share(x, least_x, scale_x) - share(y, least_y, scale_y)
        start = sum_above(start, sm, team, t, zero)
        d, s, value = start, ti.cast(0, dtype), ti.cast(0, dtype)
        mean_x, mean_y, held_x, held_y = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
        for e in range(count):
            x, y = quantities(j, side, last - e, sm, values, goal, row)
            x, y = share(x, least_x, scale_x), share(y, least_y, scale_y)
            part, psi = cost(d, parts[j][1].p, dtype)
            value += part
            s += psi
            mean_x += x * s
            mean_y += y * s
            held_x += x
            held_y += y
            d -= x - y
        if ti.static(gradient):
            above = sum_above(s, sm, team, t, zero)
            mean_x, mean_y = total_of(mean_x + held_x * above, mean_y + held_y * above, sm, team, t, zero)
            by_x, by_y = factor * step * scale_x, -factor * step * scale_y
            d, s, sum_x, sum_y = start, above, ti.cast(0, dtype), ti.cast(0, dtype)
            for e in range(count):
                x, y = quantities(j, side, last - e, sm, values, goal, row)
                x, y = share(x, least_x, scale_x), share(y, least_y, scale_y)
                _, psi = cost(d, parts[j][1].p, dtype)
                s += psi
                slope_x = ti.select(x > 0, by_x * (s - mean_x), 0)
                slope_y = ti.select(y > 0, by_y * (s - mean_y), 0)
                sum_x += slope_x
                sum_y += slope_y
                add_slopes(j, side, last - e, slope_x, slope_y, sm, values, slopes)
                d -= x - y
            if ti.static(parts[j][1].floor > 0):
                sum_x, sum_y = total_of(sum_x, sum_y, sm, team, t, zero)
                top_x, top_y = least_of(top_x, top_y, sm, team, t, zero)
                i, k = ti.cast(top_x, ti.i32), ti.cast(top_y, ti.i32)
                if first <= i <= last:
                    add_slopes(j, side, i, -floor * sum_x, 0, sm, values, slopes)
                if ti.static(not fixed):  # noqa: SIM102
                    if first <= k <= last:
                        add_slopes(j, side, k, 0, -floor * sum_y, sm, values, slopes)
        return step * value

    @ti.func
    def transports(group: ti.template(), sums: ti.template(), sm: ti.template(), team: ti.template(),
                   t: ti.template(), goal: ti.template(), goals: ti.template(), second: ti.template(),
                   factors: ti.template(), zero: ti.template()):  # fmt: skip
        sync(sm)  # neighbours have been measured by other threads
        for j in ti.static(group.transports):
            for side in range(ti.static(2 if fixed else 1) + zero):
                row = ti.select(side == 0, goals[0], goals[1]) + ti.static(group.goal)
                value = transport(j, group, side, sm, team, t, goal, row, factors[j], zero)
                sums[j] += ti.select(side == 0 or second, value, 0)
        sync(sm)

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
