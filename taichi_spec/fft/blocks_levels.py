"""Two parts of a transform that differ much: each is brought to a level near 1 before, and back after.

On CUDA most frames' levels are found by votes; only where those fail, and on Vulkan, do the threads of a team find their
largest values.
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.blocks_layout import Layout
from taichi_spec.fft.pairs import bits_of, hold, power_of_two


def levels(layout: Layout, dtype: Any, fixed: bool, shared: SimpleNamespace) -> Any:
    """The `ti.func` that balances a transform's parts.

    Args:
        layout: which threads have a frame.
        dtype: ti.f32 or ti.f64.
        fixed: whether the parts are two frames of one signal, which are not compared with each other.
        shared: functions of `shared_memory`.
    """
    CUDA, T = layout.cuda, layout.threads
    WARP, GROUP = layout.warp, layout.group
    VOTES = CUDA and GROUP == WARP  # whether a team fills its warps; Taichi has no votes on Vulkan
    PEAKS = layout.cells - layout.peak_cells  # of groups, if these are warps or lie in one
    LOG_GROUP = GROUP.bit_length() - 1
    FIRST, ROWS = layout.first, layout.rows
    Bits = bits_of(dtype)
    powers = power_of_two(dtype)
    store, fetch, sync, uniform = shared.store, shared.fetch, shared.sync, shared.uniform

    def peak_of(values):
        """The largest magnitude among this thread's values."""
        peak = magnitude(values[0])
        for value in values[1:]:
            peak = hold(ti.max(peak, magnitude(value)))
        return peak

    def magnitude(value):
        """|value|. On CUDA `abs` is a function, which counts for ten instructions when LLVM decides what to inline."""
        zero = ti.cast(0, dtype)
        return hold(ti.select(value > zero, value, zero - value) if CUDA else abs(value))

    def difference_of(first, second):
        """Bits that are 0 if two lists of values are the same."""
        found = ti.cast(0, Bits)
        for a, b in zip(first, second):
            found = hold(found | (ti.bit_cast(a, Bits) ^ ti.bit_cast(b, Bits)))
        return found

    @ti.func
    def vote(condition, bit: ti.template()):
        """The bit, if the condition holds for any thread of the warp."""
        return ti.simt.warp.any_nonzero(ti.u32(0xFFFFFFFF), ti.cast(condition, ti.i32)) * ti.static(bit)

    @ti.func
    def near(x: ti.template(), y: ti.template(), level: ti.template()):
        """Whether both peaks of the team lie from level / 4 to 4 level, and its two parts surely are not the same.

        x and y: this thread's peaks. Votes take a third of the time that finding the peaks does. Whatever the level, the
        answer is only a shorter way to the same: peaks no farther apart than a factor of 16, neither of them extreme. Each
        warp has to find that in its own points, which asks for more, but a block agrees on it in one barrier.
        """
        most, least = level * 4, level * ti.cast(0.25, dtype)
        votes = vote(x > most or y > most, 1) | vote(x >= least, 2) | vote(y >= least, 4)
        if ti.static(not fixed):
            votes = votes | vote(x != y, 8)
        both = votes == ti.static(6 if fixed else 14)
        if ti.static(GROUP < T):
            both = ti.simt.block.sync_all_nonzero(ti.cast(both, ti.i32)) != 0
        return uniform(both)

    @ti.func
    def in_subgroup(x: ti.template()):
        """The largest x >= 0 of the team in this thread's subgroup, as Vulkan calls a warp, which may have several teams."""
        mine = ti.simt.subgroup.invocation_id() >> LOG_GROUP
        found = 0
        for g in ti.static(range(WARP // GROUP)):
            here = mine == g
            most = ti.simt.subgroup.reduce_max(ti.select(here, ti.bit_cast(x, ti.i32), 0))
            found = ti.select(here, most, found)
        return ti.bit_cast(found, ti.f32)

    @ti.func
    def team_peaks(x: ti.template(), y: ti.template(), d: ti.template(), sm: ti.template(), team: ti.template(),
                   t: ti.template(), zero: ti.template()):  # fmt: skip
        """The largest of x and of y in the team, and 1 if any d is not 0: among GROUP neighbours, then all groups.

        A warp compares magnitudes by their bits, which are in the same order. Where it is not known which threads are one,
        they are listed where the frame's values are to be exchanged.
        """
        a, b, c = x, y, ti.cast(d != 0, dtype)
        if ti.static(WARP > 0 and not CUDA):
            a, b = in_subgroup(x), in_subgroup(y)
            if ti.static(not fixed):
                c = in_subgroup(c)
        elif ti.static(WARP > 0):
            i, j, k = ti.bit_cast(x, ti.i32), ti.bit_cast(y, ti.i32), d
            s = 1 + zero  # as in `blocks`
            while s < GROUP:
                i = ti.max(i, ti.simt.warp.shfl_xor_i32(ti.u32(0xFFFFFFFF), i, s))
                j = ti.max(j, ti.simt.warp.shfl_xor_i32(ti.u32(0xFFFFFFFF), j, s))
                if ti.static(not fixed and not VOTES):  # a vote is among all of a warp
                    k = k | ti.simt.warp.shfl_xor_i32(ti.u32(0xFFFFFFFF), k, s)
                s = 2 * s
            if ti.static(not fixed and VOTES):
                k = vote(k != 0, 1)
            a, b, c = ti.bit_cast(i, ti.f32), ti.bit_cast(j, ti.f32), ti.cast(k != 0, dtype)
        else:
            sync()  # until all threads have read the last exchange
            a, b, c = shared_peaks(a, b, c, sm, team, t, True, t & ti.static(-GROUP), ti.static(GROUP))
        if ti.static(GROUP < T):
            groups = team + ti.static(PEAKS if WARP else 2 * T)
            a, b, c = shared_peaks(a, b, c, sm, groups, t >> LOG_GROUP, t & ti.static(GROUP - 1) == 0, 0,
                                   ti.static(T // GROUP))  # fmt: skip
        return a, b, c

    @ti.func
    def shared_peaks(a: ti.template(), b: ti.template(), c: ti.template(), sm: ti.template(), base: ti.template(),
                     mine: ti.template(), writes: ti.template(), first: ti.template(),
                     count: ti.template()):  # fmt: skip
        """The largest among entries `first` ... `first + count - 1` of a list in shared memory, this thread's at `mine`."""
        if writes:
            store(sm, base + 2 * mine, a, b)
            if ti.static(not fixed):
                store(sm, base + 2 * mine + 1, c, c)
        sync()
        x, y, d = a, b, c
        for e in ti.static(range(count)):
            p, q = fetch(sm, base + 2 * (first + e))
            x, y = ti.max(x, p), ti.max(y, q)
            if ti.static(not fixed):
                r, _ = fetch(sm, base + 2 * (first + e) + 1)
                d = ti.max(d, r)
        return x, y, d

    @ti.func
    def balance(re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(), t: ti.template(),
                scale: ti.template(), level: ti.template(), zero: ti.template()):  # fmt: skip
        """Bring both parts to a peak near 1 where they differ much or are extreme.

        scale: what makes an amplitude of each half, or 0 for a silent part; 1 or 0; whether the parts are equal; and whether
        any of that is not as for most frames, whose parts stay as they are.

        The louder part's rounding would drown the quieter one, and squares of 1e-20 or 1e18 leave float32's range.
        A silent part has no spectrum at all: its second factor is 0, so that no rounding is taken for one. Of two
        equal parts one is dropped, and its spectrum is taken to be the other's, so that their distance is 0.
        """
        for k in ti.static(range(6)):
            scale[k] = ti.cast(k < 4, dtype)
        peaks = ti.static([peak_of(layout.windowed(re)), peak_of(layout.windowed(im))])
        found = False
        if ti.static(VOTES):
            found = near(peaks[0], peaks[1], level[0])
        if not found:
            different = ti.static(
                [ti.cast(0, Bits) if fixed else difference_of(layout.windowed(re), layout.windowed(im))]
            )
            x, y, d = team_peaks(peaks[0], peaks[1], different[0], sm, team, t, zero)
            if ti.static(VOTES):
                level[0] = ti.min(ti.max(ti.sqrt(x) * ti.sqrt(y), 1e-8), 1e8)
            low, high = ti.min(x, y), ti.max(x, y)
            scale[2], scale[3] = ti.cast(x > 0, dtype), ti.cast(y > 0, dtype)
            unlike = low * ti.cast(16, dtype) < high or high > 1e9 or low < 1e-9
            if uniform(unlike):
                up_x, down_x = powers(x)
                up_y, down_y = powers(y)
                scale[0], scale[1] = scale[2] * up_x, scale[3] * up_y
                for m in ti.static(range(FIRST, FIRST + ROWS)):
                    re[m] = re[m] * down_x
                    im[m] = im[m] * down_y
            if ti.static(not fixed):
                scale[4] = ti.cast(d == 0, dtype)
                if uniform(d == 0):
                    for m in ti.static(range(FIRST, FIRST + ROWS)):
                        im[m] = ti.cast(0, dtype)
            scale[5] = ti.cast(unlike or scale[4] > 0, dtype)

    return balance
