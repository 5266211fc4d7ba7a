"""Between the rings and the transform: `fill`, windowed frames in, and its adjoint `overlap`, windowed frames out.

    fill       v = s w x      s: the power of two that brings the frame to about 1
    overlap    ∂x += w ∂v     ∂v: the gradient by w x, as bins are compared at their own level, V / s

`half` is 0 for the real part of the transform and 1 for its imaginary part: two signals, or two frames of one.
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.lanes_compare import powers_of_two
from taichi_spec.fft.lanes_layout import PLACES, lane_count
from taichi_spec.vectors import absolute


def windows(dtype: Any, fixed: bool, vectors: bool, place: Any, piece: Any) -> SimpleNamespace:
    """The functions `fill` and `overlap`.

    Args:
        dtype, fixed: as `lanes.lane_kernel`'s.
        vectors: whether lanes stay vectors for LLVM.
        place, piece: of `lanes_signals`.
    """
    L = lane_count(dtype)
    lane = ti.types.vector(L, dtype)
    pack, streams = (2, 1) if fixed else (1, 2)

    @ti.func
    def stretch(part, ring_a, ring_b, offset, size: ti.template()):
        """The part of a frame, of three, in which neither half's ring wraps: begin, end, what to add for the places."""
        cut_a = ti.min(size.length - offset, size.n)
        cut_b = ti.min(ti.max(size.length - offset - size.shift, 0), size.n)
        first, second = ti.min(cut_a, cut_b), ti.max(cut_a, cut_b)
        begin = ti.select(part == 0, 0, ti.select(part == 1, first, second))
        end = ti.select(part == 0, first, ti.select(part == 1, second, size.n))
        to_a = ring_a + offset - ti.select(begin < cut_a, 0, size.length)
        to_b = ring_b + offset + size.shift - ti.select(begin < cut_b, 0, size.length)
        return begin, end, to_a, to_b

    @ti.func
    def scaling(work: ti.template(), notes, seats: ti.template(), run, step, size: ti.template()):
        """Turn the two frames' sums of magnitudes, in `notes`, to what scales them.

        Per lane: the power of two that brings a frame to about 1; half of its inverse, or 0 in silence; 1, or 0 in
        silence. Last, from what is there between the two frames, 0 if they are equal, else 1.
        """
        l = 0 ^ size.zero
        while l < L:
            work[notes + 6][l] = ti.cast(work[notes + 6][l] > 0, dtype)
            l = (l + 1) ^ size.zero
        half = 0 ^ size.zero
        while half < 2:
            l = 0 ^ size.zero
            while l < L:
                magnitude = work[notes + half][l]
                down, up = powers_of_two(magnitude, dtype)
                _, _, now, _ = place(seats, run, step, l, size)
                sounds = ti.cast(magnitude > 0 and half < now + 2 - pack, dtype)
                work[notes + half][l] = down
                work[notes + 2 + half][l] = sounds * up * ti.cast(0.5, dtype)
                work[notes + 4 + half][l] = sounds
                l = (l + 1) ^ size.zero
            half = (half + 1) ^ size.zero

    @ti.func
    def fill(
        work: ti.template(),
        base,
        ring_a,
        ring_b,
        offset,
        notes,
        seats: ti.template(),
        run,
        step,
        window: ti.template(),
        size: ti.template(),
        zero,
    ):
        """Bring the two windowed frames to about 1: the real and the imaginary part of the transform's input."""
        sum_a, sum_b, between = lane(0), lane(0), lane(0)
        part = 0 ^ zero
        while part < 3:
            i, end, to_a, to_b = stretch(part, ring_a, ring_b, offset, size)
            while i < end:
                a, b = work[(to_a + i) & PLACES], work[(to_b + i) & PLACES]
                sum_a += absolute(a * window[i])
                sum_b += absolute(b * window[i])
                if ti.static(not fixed):
                    between += absolute((a - b) * window[i])
                i = (i + 1) ^ zero
            part = (part + 1) ^ zero
        work[notes], work[notes + 1], work[notes + 6] = sum_a, sum_b, between
        scaling(work, notes, seats, run, step, size)
        down_a, down_b = work[notes], work[notes + 1]
        part = 0 ^ zero
        while part < 3:
            i, end, to_a, to_b = stretch(part, ring_a, ring_b, offset, size)
            while i < end:
                at = (base + 2 * i) & PLACES
                a = work[(to_a + i) & PLACES] * (down_a * window[i])
                b = work[(to_b + i) & PLACES] * (down_b * window[i])
                if ti.static(not vectors):  # read, though never used, as zero is 0: see `lanes`
                    a, b = ti.select(zero == 0, a, work[at]), ti.select(zero == 0, b, work[at + 1])
                work[at], work[at + 1] = a, b
                i = (i + 1) ^ zero
            part = (part + 1) ^ zero

    @ti.func
    def begin(work: ti.template(), ring, offset, fresh, size: ti.template(), zero):
        """The elements of a ring of sums from `fresh` on begin at 0."""
        part = 0 ^ zero
        while part < 2:
            i, end, shift = piece(part, fresh, size.length, offset, size)
            while i < end:
                work[(ring + shift + i) & PLACES] = lane(0)
                i = (i + 1) ^ zero
            part = (part + 1) ^ zero

    @ti.func
    def overlap(work: ti.template(), base, sums_a, sums_b, offset, fresh, notes, window: ti.template(),
                size: ti.template(), zero):  # fmt: skip
        """Add the two windowed frames to the rings of sums, whose elements from `fresh` on are still to begin.

        What belongs to the real part is in the imaginary parts of `work`: the swap that makes it an inverse transform.
        """
        begin(work, sums_a, offset, fresh, size, zero)
        if ti.static(streams == 2):
            begin(work, sums_b, offset, fresh, size, zero)
        sounds_a, sounds_b = work[notes + 4], work[notes + 5]  # 0 for a silent frame: no rounding errors of the other
        part = 0 ^ zero
        while part < 3:
            i, end, to_a, to_b = stretch(part, sums_a, sums_b, offset, size)
            while i < end:
                z, a, b = (base + 2 * i) & PLACES, (to_a + i) & PLACES, (to_b + i) & PLACES
                work[a] = work[a] + work[z + 1] * (sounds_a * window[i])
                work[b] = work[b] + work[z] * (sounds_b * window[i])
                i = (i + 1) ^ zero
            part = (part + 1) ^ zero

    return SimpleNamespace(fill=fill, overlap=overlap)
