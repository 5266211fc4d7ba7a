"""What a team of `frames` does by stages between its two transforms, or a block of `matrix`: see `compare_stages`.

The bins are in shared memory, or in memory: G of x where the transform left bin k, and G of y where it left bin N - k. Where
the two are one place both are real: one is its real part, one its imaginary.
"""

from typing import Any

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft.compare_room import BandPlaces, Room
from taichi_spec.fft.compare_stages import stage_functions
from taichi_spec.fft.stages import Stages


def by_stages(n_fft: int, dtype: Any, parts: Parts, fixed: bool, gradient: bool, stages: Stages, room: Room,
              places: BandPlaces, tools: Any) -> Any:  # fmt: skip
    """The `ti.func` from a frame's transform to its sums and, in its place, to the gradients' transform.

    Args: as `compare_stages.stage_functions`', but for
        tools: also `place`, from the table of integers to where a bin lies, and `read` and `write` for what is there.
    """
    N, T, C = n_fft, room.threads, len(parts)
    of = stage_functions(n_fft, dtype, parts, fixed, gradient, stages, room, places, tools)
    measure_bin, compare_quantities, gradients_of = of.measure_bin, of.compare_quantities, of.gradients_of
    scale_gradients, HAS_QUANTITIES, ON_SPECTRA = of.scale_gradients, of.has_quantities, of.on_spectra

    read, write = tools.read, tools.write

    @ti.func
    def places_of(integers: ti.template(), k):
        """Where bins k and N - k lie."""
        return tools.place(integers, k), tools.place(integers, ti.select(k == 0, 0, N - k))

    @ti.func
    def put(sm: ti.template(), at, other, xr, xi, yr, yi):
        write(sm, at, xr, ti.select(at == other, yr, xi))
        if at != other:
            write(sm, other, yr, yi)

    @ti.func
    def take(sm: ti.template(), at, other):
        """What `put` has put there."""
        alone, none = at == other, ti.cast(0, dtype)
        xr, xi = read(sm, at)
        yr, yi = read(sm, other)
        return xr, ti.select(alone, none, xi), ti.select(alone, xi, yr), ti.select(alone, none, yi)

    @ti.func
    def unpacked(sm: ti.template(), at, other, scale: ti.template()):
        """X and Y from their common transform."""
        p, q = read(sm, at)
        u, v = read(sm, other)
        xr, xi, yr, yi = p + u, q - v, q + v, u - p
        if ti.static(not fixed):
            yr, yi = ti.select(scale[4] > 0, xr, yr), ti.select(scale[4] > 0, xi, yi)
        return xr, xi, yr, yi

    @ti.func
    def measure(sm: ti.template(), cells, t, scale: ti.template(), table: ti.template(), integers: ti.template()):
        """The amplitudes of X and Y."""
        k = t
        while k <= N // 2:
            at, other = places_of(integers, k)
            xr, xi, yr, yi = unpacked(sm, at, other, scale)
            measure_bin(k, xr, xi, yr, yi, sm, cells, scale, table)
            k += T

    @ti.func
    def cotangent(peaks: ti.template(), sums: ti.template(), sm: ti.template(), cells, t, goal: ti.template(),
                  goals: ti.template(), second, scale: ti.template(), factors: ti.template(), table: ti.template(),
                  integers: ti.template()):  # fmt: skip
        """G where the transform was. peaks ← this thread's largest of both."""
        k = t
        while k <= N // 2:
            at, other = places_of(integers, k)
            xr, xi, yr, yi = unpacked(sm, at, other, scale)
            gxr, gxi, gyr, gyi = gradients_of(k, True, xr, xi, yr, yi, sums, sm, cells, goal, goals, second, scale, factors,
                                              table, integers)  # fmt: skip
            if ti.static(gradient):
                peaks[0] = ti.max(peaks[0], ti.max(abs(gxr), abs(gxi)))
                peaks[1] = ti.max(peaks[1], ti.max(abs(gyr), abs(gyi)))
                put(sm, at, other, gxr, gxi, gyr, gyi)
            k += T

    @ti.func
    def pack(peaks: ti.template(), sm: ti.template(), cells, t, live, second, scale: ti.template(),
             integers: ti.template(), zero):  # fmt: skip
        """From G to the bins of their common transform, real and imaginary parts exchanged for the way back."""
        by_x, by_y = scale_gradients(peaks, sm, cells, t, live, second, scale, zero)
        k = t
        while k <= N // 2:
            at, other = places_of(integers, k)
            xr, xi, yr, yi = take(sm, at, other)
            part = ti.select(at == other, ti.cast(1, dtype), ti.cast(0.5, dtype))  # of G, to either bin
            xr, xi, yr, yi = part * by_x * xr, part * by_x * xi, part * by_y * yr, part * by_y * yi
            write(sm, other, yr - xi, xr + yi)
            write(sm, at, yr + xi, xr - yi)
            k += T

    @ti.func
    def compare(found: ti.template(), sm: ti.template(), cells, t, goal: ti.template(), goals: ti.template(), live, second,
                scale: ti.template(), factors: ti.template(), table: ti.template(), integers: ti.template(),
                zero):  # fmt: skip
        """Adds this thread's sums to what it has found; its bins become the gradients' bins.

        goals: where the rows of a fixed target begin, one for each half. live, second: whether the halves are frames.
        """
        sums = [ti.cast(0, dtype) for _ in ti.static(range(C))]
        peaks = [ti.cast(0, dtype) for _ in ti.static(range(2))]
        if ti.static(HAS_QUANTITIES):
            measure(sm, cells, t, scale, table, integers)
        compare_quantities(sums, sm, cells, t, goal, goals, second, factors, table, integers, zero)
        if ti.static(gradient or ON_SPECTRA):
            cotangent(peaks, sums, sm, cells, t, goal, goals, second, scale, factors, table, integers)
        if ti.static(gradient):
            pack(peaks, sm, cells, t, live, second, scale, integers, zero)
        for j in ti.static(range(C)):
            found[j] += ti.select(live, sums[j], 0)

    return compare
