"""What `lanes` does between the two transforms of a step: packed spectra to sums and, in place, to packed gradients.

A step has two halves, the real and the imaginary part of its transform: frames of two signals or, where the target is
fixed, two frames of one. Z[k] and Z[N - k] hold bin k of both, A and B.

Here are sums over whole bins, a bin at a time: nothing is kept. Everything else is done in `lanes_stages`.
"""

from typing import Any

import taichi as ti

from taichi_spec.bins import Parts, part_distance
from taichi_spec.fft.lanes_layout import NOTES, PLACES, lane_count

CHUNK = 256  # bins
# Added to the amplitude of a bin in a frame of about 1: far below rounding, and a slope divided by it stays finite.
TINY = {ti.f32: 1e-15, ti.f64: 1e-30}


@ti.func
def powers_of_two(magnitude, real: ti.template()):
    """The power of two that brings a number ≥ 0 to about 1, and its inverse: normal numbers both."""
    Bits, BIAS, MANTISSA = ti.static((ti.i64, 1023, 52) if real == ti.f64 else (ti.i32, 127, 23))
    bits = ti.bit_cast(magnitude, Bits) & (ti.cast(2 * BIAS + 1, Bits) << MANTISSA)
    bits = ti.min(ti.max(bits, ti.cast(1, Bits) << MANTISSA), ti.cast(2 * BIAS - 1, Bits) << MANTISSA)
    return ti.bit_cast((ti.cast(2 * BIAS, Bits) << MANTISSA) - bits, real), ti.bit_cast(bits, real)


def each_lane(function: Any, dtype: Any) -> Any:
    """A `ti.func` (a, b, j) → φ, ∂φ/∂a, ∂φ/∂b, lane by lane: a term may branch, and LLVM joins the lanes again where
    it does not."""
    L = lane_count(dtype)
    lane = ti.types.vector(L, dtype)

    @ti.func
    def distances(a, b, j: ti.template()):
        phi, phi1, phi2 = lane(0), lane(0), lane(0)
        for l in ti.static(range(L)):
            phi[l], phi1[l], phi2[l] = function(a[l], b[l], j)
        return phi, phi1, phi2

    return distances


def packing(dtype: Any, fixed: bool, columns: int, place: Any) -> Any:
    """The `ti.func`s `unpack`, `pack` and `add_shares`, which both ways to compare have in common.

    Args:
        dtype: ti.f32 or ti.f64.
        fixed: whether the two halves are frames of one signal.
        columns: sums over the bins.
        place: `lanes_signals`' function that says which frames a lane has.
    """
    L = lane_count(dtype)

    @ti.func
    def unpack(work: ti.template(), p, m, apart):
        """Twice the spectra A and B of real and imaginary part, from Z[k] and Z[N-k], where Z = A + iB."""
        ar, ai = work[p] + work[m], work[p + 1] - work[m + 1]
        br, bi = work[p + 1] + work[m + 1], work[m] - work[p]
        if ti.static(not fixed):
            br, bi = br * apart + ar * (1 - apart), bi * apart + ai * (1 - apart)
        return ar, ai, br, bi

    @ti.func
    def pack(work: ti.template(), p, m, ar, ai, br, bi):
        """Z[k] and Z[N-k] of the gradients A and B, re and im swapped."""
        work[p], work[p + 1] = ai + br, ar - bi
        work[m], work[m + 1] = br - ai, ar + bi

    @ti.func
    def add_shares(shares: ti.template(), values, column: ti.template(), half, work: ti.template(), notes,
                   seats: ti.template(), run, step, size: ti.template()):  # fmt: skip
        """Add a sum of each lane's frame, if it has that half, to its segment's shares."""
        work[notes] = values
        l = 0 ^ size.zero
        while l < L:
            _, _, now, _ = place(seats, run, step, l, size)
            if half < now:
                at = (run * L + l) * columns + column
                shares[at] = shares[at] + ti.cast(work[notes][l], ti.f64)
            l = (l + 1) ^ size.zero

    return unpack, pack, add_shares


def whole_bins(dtype: Any, parts: Parts, fixed: bool, backward: bool, place: Any) -> Any:
    """The `ti.func` for sums over whole bins of functions of the two magnitudes there.

    Args:
        dtype, fixed, backward, place: as in `packing` and `lanes.lane_kernel`.
        parts: what is summed.
    """
    C = len(parts)
    lane = ti.types.vector(lane_count(dtype), dtype)
    distance = each_lane(part_distance(parts, dtype), dtype)
    unpack, pack, add_shares = packing(dtype, fixed, C, place)

    @ti.func
    def compare(work: ti.template(), base, notes, shares: ti.template(), pairs: ti.template(), goal: ti.template(),
                gains: ti.template(), bands: ti.template(), entries: ti.template(), seats: ti.template(), run, step,
                size: ti.template(), zero):  # fmt: skip
        """For every bin k: the distances of the two spectra, or of each to its goal.

        Adds each lane's distances to its segment's shares of the sums. Bins k and N - k become those of the packed
        gradients, re and im swapped.
        """
        power_a, power_b, sounds_a, sounds_b = work[notes + 2], work[notes + 3], work[notes + 4], work[notes + 5]
        apart = work[notes + 6]
        bins = size.n // 2 + 1
        record = run * size.goal_run + step * size.goal_step
        chunk = 0 ^ zero
        while chunk < (bins + CHUNK - 1) // CHUNK:  # float32 sums over a chunk, float64 sums over the chunks
            values_a = [lane(0) for _ in ti.static(range(C))]
            values_b = [lane(0) for _ in ti.static(range(C))]
            k = chunk * CHUNK
            end_k = ti.min(bins, (chunk + 1) * CHUNK)
            while k < end_k:
                p, m = (base + pairs[k, 0]) & PLACES, (base + pairs[k, 1]) & PLACES
                ar, ai, br, bi = unpack(work, p, m, apart)
                a, b = ti.sqrt(ar * ar + ai * ai), ti.sqrt(br * br + bi * bi)
                slope_a, slope_b = lane(0), lane(0)
                at = 2 * (record * bins + k)
                for j in ti.static(range(C)):
                    coefficient = work[(notes + NOTES + j) & PLACES]
                    if ti.static(fixed):
                        phi, phi_a, _ = distance(a * power_a, goal[at], j)
                        values_a[j] += phi
                        slope_a += coefficient * phi_a
                        phi, phi_b, _ = distance(b * power_b, goal[at + 1], j)
                        values_b[j] += phi
                        slope_b += coefficient * phi_b
                    else:
                        phi, phi_a, phi_b = distance(a * power_a, b * power_b, j)
                        values_a[j] += phi
                        slope_a += coefficient * phi_a
                        slope_b += coefficient * phi_b
                if ti.static(backward):
                    # G = slope X / |X|, one-sided: k and N - k take half of it each, a bin that is its own mirror all.
                    weight = ti.select(p == m, ti.cast(1, dtype), ti.cast(0.5, dtype))
                    by_a = slope_a * (sounds_a * weight) / (a + ti.cast(TINY[dtype], dtype))
                    by_b = slope_b * (sounds_b * weight) / (b + ti.cast(TINY[dtype], dtype))
                    pack(work, p, m, ar * by_a, ai * by_a, br * by_b, bi * by_b)
                k = (k + 1) ^ zero
            for j in ti.static(range(C)):
                add_shares(shares, values_a[j], j, 0, work, notes, seats, run, step, size)
                if ti.static(fixed):
                    add_shares(shares, values_b[j], j, 1, work, notes, seats, run, step, size)
            chunk = (chunk + 1) ^ zero

    return compare
