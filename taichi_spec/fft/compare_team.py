"""Sums and maxima over the threads of a team, for `compare_stages`: the threads of each group in order, then the groups.

So the same numbers have the same bits every time.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.compare_room import Room


def teams(dtype: Any, room: Room, tools: Any) -> SimpleNamespace:
    """The functions `total_of`, `largest_of` and `least_of`, from two numbers of each thread to the same two for all;
    `sums_of_groups`, and `sum_above`.

    Args:
        dtype: ti.f32 or ti.f64.
        room: where the list lies by which threads hear from each other.
        tools: functions for the memory that they share.
    """
    T, GROUP, LOG_GROUP, LIST = room.threads, room.group, room.group.bit_length() - 1, room.list
    store, fetch, sync = tools.store, tools.fetch, tools.sync

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

    return SimpleNamespace(total_of=total_of, largest_of=largest_of, least_of=least_of, sums_of_groups=sums_of_groups,
                           sum_above=sum_above)  # fmt: skip
