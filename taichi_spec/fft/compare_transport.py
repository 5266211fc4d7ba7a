"""`Transport` between numbers in memory that a team's threads share: its value and, its adjoint, its slopes."""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft.compare_room import Room
from taichi_spec.terms.transport import cost, inverse, share


def transporting(dtype: Any, parts: Parts, fixed: bool, gradient: bool, banded: bool, axis: int, room: Room, tools: Any,
                 team: SimpleNamespace) -> Any:  # fmt: skip
    """The `ti.func` that adds all transports of a group's numbers to a thread's sums, and their slopes to the group's.

    Args:
        dtype, parts, fixed, gradient, room, tools: as `compare_stages.stage_functions`'.
        banded: whether the numbers are bands, or else bins.
        axis: steps of the frequency axis in a cycle per sample.
        team: functions of `compare_team`.
    """
    ROWS, AXIS = room.rows, axis
    CHUNK = -(-ROWS // room.threads)  # neighbours that a thread takes on their way along the frequency axis
    store, fetch, sync = tools.store, tools.fetch, tools.sync
    total_of, largest_of, least_of, sum_above = team.total_of, team.largest_of, team.least_of, team.sum_above

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

    return transports
