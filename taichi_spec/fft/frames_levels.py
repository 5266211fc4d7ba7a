"""What `frames` does to bring both halves of a transform to one level: see `blocks_levels`."""

from typing import Any

import taichi as ti

from taichi_spec.fft.pairs import KNOWN, power_of_two

GROUP = 8  # threads whose peaks one of them compares


def levels(layout: Any, dtype: Any, fixed: bool, at: int) -> Any:
    """The function `to_levels`.

    Args:
        layout: the `Line`.
        dtype, fixed: as in `Pass`.
        at: where in shared memory threads put what they compare.
    """
    T, WARP, PEAKS, powers = layout.threads, layout.warp, at, power_of_two(dtype)

    @ti.func
    def to_levels(scale: ti.template(), down: ti.template(), sm: ti.template(), mine: ti.template(), unlike, t):
        """Finds `scale`, and whether the halves have to be brought to other levels, by `down`.

        mine: the largest of each half among this thread's elements; unlike: whether any differs from the other half's.
        """
        half, none = ti.cast(0.5, dtype), ti.cast(0, dtype)
        peaks = of_team(sm, mine, t)
        equal = False
        if ti.static(not fixed):  # noqa: SIM102  known when the kernel is compiled
            if peaks[0] == peaks[1]:
                equal = not of_any(sm, unlike, t)
        on_x, on_y = ti.select(peaks[0] > 0, half, none), ti.select(peaks[1] > 0, half, none)
        scale[0], scale[1], scale[2], scale[3], scale[4] = on_x, on_y, on_x, on_y, ti.cast(equal, dtype)
        low, high = ti.min(peaks[0], peaks[1]), ti.max(peaks[0], peaks[1])
        moves = low * ti.cast(16, dtype) < high or high > 1e9 or low < 1e-9 or equal
        if moves:
            up_x, down_x = powers(peaks[0])
            up_y, down_y = powers(peaks[1])
            scale[0], scale[1] = on_x * up_x, on_y * up_y
            down[0], down[1] = down_x, ti.select(equal, none, down_y)
        return moves

    @ti.func
    def of_team(sm: ti.template(), mine: ti.template(), t):
        """The largest of two numbers >= 0 among a team's threads: of each warp or GROUP of neighbours, then of all."""
        count = ti.static(T // (WARP or GROUP))
        ti.simt.block.sync()
        if ti.static(WARP > 0):
            for k in ti.static(range(2)):
                most = ti.simt.subgroup.reduce_max(ti.bit_cast(mine[k], ti.i32))  # bits are in the same order
                if ti.simt.subgroup.invocation_id() == 0:
                    sm[PEAKS + ti.raw_div(t, WARP) + ti.static(k * count)] = ti.bit_cast(most, ti.f32)
        else:
            at = (PEAKS + t) & KNOWN  # as in `known`
            for k in ti.static(range(2)):
                sm[at + ti.static(k * T)] = mine[k]
            ti.simt.block.sync()
            if t % GROUP == 0:
                for k in ti.static(range(2)):
                    most = mine[k]
                    for e in ti.static(range(1, GROUP)):
                        most = ti.max(most, sm[at + ti.static(k * T + e)])
                    sm[at + ti.static(k * T)] = most
        ti.simt.block.sync()
        largest = ti.Vector.zero(dtype, 2)
        for k in ti.static(range(2)):
            for g in range(count):
                place = g + ti.static(k * count) if ti.static(WARP > 0) else g * GROUP + ti.static(k * T)
                largest[k] = ti.max(largest[k], sm[PEAKS + place])
        return largest

    @ti.func
    def of_any(sm: ti.template(), condition, t):
        """Whether it holds for any of a team's threads."""
        if ti.static(layout.cuda):
            return ti.simt.block.sync_any_nonzero(ti.cast(condition, ti.i32)) != 0
        else:
            return of_team(sm, ti.Vector([ti.cast(condition, dtype), 0]), t)[0] > 0

    return to_levels
