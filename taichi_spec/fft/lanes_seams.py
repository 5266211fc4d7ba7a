"""What `lanes` does where segments meet, and where signals end.

What a segment's last frame leaves over goes to `halo`, and from there to the segments it reaches into. What is in `edge` for
mirrored samples is added to the samples themselves.
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.lanes_layout import PLACES, lane_count


def seams(dtype: Any, fixed: bool, signals: SimpleNamespace) -> SimpleNamespace:
    """The functions `all_end` and `leave`, for a segment's end; `add_halos` and `fold`, for when all segments are done.

    Args:
        dtype, fixed: as `lanes.lane_kernel`'s.
        signals: functions of `lanes_signals`.
    """
    L = lane_count(dtype)
    pack, streams = (2, 1) if fixed else (1, 2)
    put_padded, add_padded = signals.put_padded, signals.add_padded
    extent, edge_index, piece, place = signals.extent, signals.edge_index, signals.piece, signals.place

    @ti.func
    def all_end(seats: ti.template(), run, step, size: ti.template()):
        """Whether every lane that has frames has its last ones now, as many as there can be."""
        ends = True
        l = 0 ^ size.zero
        while l < L:
            _, _, now, last = place(seats, run, step, l, size)
            ends = ends and ((last and now == pack) or seats[run, 2, l] == 0)
            l = (l + 1) ^ size.zero
        return ends

    @ti.func
    def leave(stream, work: ti.template(), ring, offset, seats: ti.template(), run, step, together, halo: ti.template(),
              size: ti.template(), zero):  # fmt: skip
        """After a segment's last frame, what is left in the ring of sums goes to the halo."""
        if together:  # what a lane without frames leaves is never read
            begin = pack * size.hop
            at = [halo_of(run * L + l, stream, begin, size) for l in ti.static(range(L))]
            part = 0 ^ zero
            while part < 2:
                i, end, shift = piece(part, begin, begin + size.overhang, offset, size)
                while i < end:
                    value = work[(ring + shift + i) & PLACES]
                    for l in ti.static(range(L)):
                        halo[at[l] + i] = value[l]
                    i = (i + 1) ^ zero
                part = (part + 1) ^ zero
        else:
            l = 0 ^ zero
            while l < L:
                _, _, now, last = place(seats, run, step, l, size)
                if last:
                    leave_lane(stream, work, ring, offset, l, run * L + l, now, halo, size)
                l = (l + 1) ^ zero

    @ti.func
    def leave_lane(
        stream, work: ti.template(), ring, offset, l, segment, now, halo: ti.template(), size: ti.template()
    ):
        """The same for one lane, which ends before others or lacks a frame."""
        begin = now * size.hop
        at = halo_of(segment, stream, begin, size)
        part = 0 ^ size.zero
        while part < 2:
            i, end, shift = piece(part, begin, begin + size.overhang, offset, size)
            while i < end:
                halo[at + i] = work[ring + shift + i][l]
                i = (i + 1) ^ size.zero
            part = (part + 1) ^ size.zero

    @ti.func
    def halo_of(segment, stream, begin, size: ti.template()):
        """Where in the halo a segment's stream begins, less where it does in the ring."""
        return (segment * streams + stream) * size.overhang - begin

    @ti.func
    def begin_of(segment, frames, size: ti.template()):
        """The first sample of a segment; that of the one after the last is where the last one's hops end."""
        return ti.min(segment * size.frames, frames) * size.hop - size.pad

    @ti.func
    def add_halos(
        g: ti.template(),
        stream: ti.template(),
        item,
        segment,
        adds,
        halo: ti.template(),
        edge: ti.template(),
        seats: ti.template(),
        size: ti.template(),
    ):
        """To the samples of one segment, add what the segments before it left over; an item's last one has none."""
        samples, frames = extent(seats, item, size)
        begin = begin_of(segment, frames, size)
        end = samples + size.pad
        if segment < size.segments:
            end = begin_of(segment + 1, frames, size)
        else:
            s = begin
            while s < end:
                put_padded(g, edge, stream, item, s, ti.cast(0, dtype), samples, adds, size)
                s = (s + 1) ^ size.zero
            s = samples
            while s < size.samples:
                g[item, s] = ti.cast(0, dtype)
                s = (s + 1) ^ size.zero
        source = segment - 1
        while source >= 0 and begin_of(source + 1, frames, size) + size.overhang > begin:
            if source * size.frames < frames:  # a short item's last segments are empty
                origin = begin_of(source + 1, frames, size)
                at = ((item * size.segments + source) * streams + stream) * size.overhang
                s = begin
                while s < ti.min(end, origin + size.overhang):
                    add_padded(g, edge, stream, item, s, halo[at + s - origin], samples, size)
                    s = (s + 1) ^ size.zero
            source -= 1

    @ti.func
    def fold(g: ti.template(), stream: ti.template(), item, edge: ti.template(), seats: ti.template(),
             size: ti.template()):  # fmt: skip
        """Mirrored samples are samples of the signal: add their gradients there."""
        samples, _ = extent(seats, item, size)
        i = 1
        while i <= size.pad:
            g[item, i] = g[item, i] + edge[edge_index(stream, item, -i, samples, size)]
            i = (i + 1) ^ size.zero
        i = 1
        while i <= size.pad:
            s = samples - 1 - i
            g[item, s] = g[item, s] + edge[edge_index(stream, item, samples - 1 + i, samples, size)]
            i = (i + 1) ^ size.zero

    return SimpleNamespace(all_end=all_end, leave=leave, add_halos=add_halos, fold=fold)
