"""What `lanes` does between signals and rings: `load`, samples in, and its adjoint `flush`, their finished gradients out.

load     ring[i] ← x[s]           of the segment that a lane has, s from its step's first sample on
flush    ∂x[s] ← or += sums[i]    padding is read, and so has gradients too: those are kept in `edge`
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.lanes_layout import PLACES, lane_count
from taichi_spec.framing import load as sample
from taichi_spec.runtime import bounds_checked


def signals(dtype: Any, is_field: bool, fixed: bool) -> SimpleNamespace:
    """The functions between signals in memory and the rings of `lanes`. Arguments: as `lanes.lane_kernel`'s."""
    L = lane_count(dtype)
    lane = ti.types.vector(L, dtype)
    pack, streams = (2, 1) if fixed else (1, 2)  # frames of a segment in one transform; signals in it

    # Of signals in memory, all items one after the other, a sample is reached without its item, and so without a product.

    @ti.func
    def cell(x: ti.template(), item, at):
        """What lies `at` places behind those that `origin` counts from, in a signal."""
        if ti.static(is_field or bounds_checked()):
            return sample(x, item, at)
        return x[0, at]

    @ti.func
    def put_cell(g: ti.template(), item, at, value, adds):
        """The same for gradients: written there, or added to what is there."""
        if ti.static(not bounds_checked()):
            item = 0
        if adds:
            value += g[item, at]
        g[item, at] = value

    def origin(in_memory):
        """The row of `seats` that says where a lane's segment begins, for `cell` and `put_cell`."""
        return 5 if in_memory and not bounds_checked() else 1

    @ti.func
    def extent(seats: ti.template(), item, size: ti.template()):
        """The samples and the frames of an item."""
        q = item * size.segments
        return seats[q // L, 3, q % L], seats[q // L, 4, q % L]

    @ti.func
    def get_padded(x: ti.template(), item, s, samples, size: ti.template()):
        """Sample s of a signal that goes on beyond its ends, mirrored or with zeros."""
        value = ti.cast(0, dtype)
        if 0 <= s < samples:
            value = sample(x, item, s)
        elif size.reflect:
            value = sample(x, item, ti.select(s < 0, -s, 2 * (samples - 1) - s))
        return value

    @ti.func
    def edge_index(stream, item, s, samples, size: ti.template()):
        """Where the gradient of the sample s < 0 or s >= samples is kept, 2 pad numbers a stream."""
        return (item * streams + stream) * 2 * size.pad + s + size.pad - ti.select(s >= 0, samples, 0)

    @ti.func
    def put_padded(g: ti.template(), edge: ti.template(), stream, item, s, value, samples, adds, size: ti.template()):
        if 0 <= s < samples:
            if adds:
                value += g[item, s]
            g[item, s] = value
        elif s < samples + size.pad:
            edge[edge_index(stream, item, s, samples, size)] = value

    @ti.func
    def add_padded(g: ti.template(), edge: ti.template(), stream, item, s, value, samples, size: ti.template()):
        if 0 <= s < samples:
            g[item, s] = g[item, s] + value
        elif s < samples + size.pad:
            i = edge_index(stream, item, s, samples, size)
            edge[i] = edge[i] + value

    @ti.func
    def piece(part, begin, end, offset, size: ti.template()):
        """Of ring elements begin .. end-1, those before (part 0) or after (part 1) the wrap: which, and what to add to
        get their place."""
        cut = ti.min(ti.max(size.length - offset, begin), end)
        return ti.select(part == 0, begin, cut), ti.select(part == 0, cut, end), offset - part * size.length

    @ti.func
    def place(seats: ti.template(), run, step, l, size: ti.template()):
        """Lane l at a step: its item, its first sample, how many frames it has, whether these are its last."""
        count = seats[run, 2, l]
        now = ti.max(0, ti.min(pack, count - step * pack))
        return seats[run, 0, l], seats[run, 1, l] + step * pack * size.hop, now, now > 0 and step * pack + now == count

    @ti.func
    def all_whole(seats: ti.template(), run, step, length, size: ti.template()):
        """Whether every lane has all its frames, and `length` samples from the first on lie within the signal."""
        whole = True
        l = 0 ^ size.zero
        while l < L:
            _, first, now, _ = place(seats, run, step, l, size)
            whole = whole and now == pack and first >= 0 and first + length <= seats[run, 3, l]
            l = (l + 1) ^ size.zero
        return whole

    @ti.func
    def load(
        x: ti.template(),
        work: ti.template(),
        ring,
        offset,
        fresh,
        seats: ti.template(),
        run,
        step,
        whole,
        size: ti.template(),
        zero,
    ):
        """Bring the ring of every lane up to date: the samples from the step's first one on."""
        if whole:
            begun = step * pack * size.hop
            item = [seats[run, 0, l] for l in ti.static(range(L))]
            first = [seats[run, ti.static(origin(not is_field)), l] + begun for l in ti.static(range(L))]
            part = 0 ^ zero
            while part < 2:
                i, end, shift = piece(part, fresh, size.length, offset, size)
                while i < end:
                    samples = [cell(x, item[l], first[l] + i) for l in ti.static(range(L))]
                    work[(ring + shift + i) & PLACES] = lane(samples)
                    i = (i + 1) ^ zero
                part = (part + 1) ^ zero
        else:
            l = 0 ^ zero
            while l < L:
                load_lane(x, work, ring, offset, fresh, l, seats, run, step, size)
                l = (l + 1) ^ zero

    @ti.func
    def load_lane(
        x: ti.template(),
        work: ti.template(),
        ring,
        offset,
        fresh,
        l,
        seats: ti.template(),
        run,
        step,
        size: ti.template(),
    ):
        """The same for one lane, where samples or frames are missing, or between frames that do not touch."""
        item, first, now, _ = place(seats, run, step, l, size)
        count = ti.select(now > 0, size.n + (now - 1) * size.shift, 0)
        end = count
        if now < pack and (now > 0 or fresh == 0):
            end = size.length  # a lane without frames, or an odd frame without its partner: zeros
        i = fresh
        while i < end:
            value = ti.cast(0, dtype)
            if i < count:
                s = first + i + ti.select(i >= size.n, size.gap, 0)
                value = get_padded(x, item, s, seats[run, 3, l], size)
            work[ring + (offset + i) % size.length][l] = value
            i = (i + 1) ^ size.zero

    @ti.func
    def flush(
        g: ti.template(),
        stream: ti.template(),
        work: ti.template(),
        ring,
        offset,
        seats: ti.template(),
        run,
        step,
        whole,
        adds,
        edge: ti.template(),
        size: ti.template(),
        zero,
    ):
        """Write what is complete to the gradient, or add it to what is there."""
        if whole:
            begun = step * pack * size.hop
            item = [seats[run, 0, l] for l in ti.static(range(L))]
            first = [seats[run, ti.static(origin(True)), l] + begun for l in ti.static(range(L))]
            part = 0 ^ zero
            while part < 2:
                i, end, shift = piece(part, 0, pack * size.hop, offset, size)
                while i < end:
                    value = work[(ring + shift + i) & PLACES]
                    for l in ti.static(range(L)):
                        put_cell(g, item[l], first[l] + i, value[l], adds)
                    i = (i + 1) ^ zero
                part = (part + 1) ^ zero
        else:
            l = 0 ^ zero
            while l < L:
                flush_lane(g, stream, work, ring, offset, l, seats, run, step, adds, edge, size)
                l = (l + 1) ^ zero

    @ti.func
    def flush_lane(
        g: ti.template(),
        stream: ti.template(),
        work: ti.template(),
        ring,
        offset,
        l,
        seats: ti.template(),
        run,
        step,
        adds,
        edge: ti.template(),
        size: ti.template(),
    ):
        """The same for one lane, where samples or frames are missing, or between frames that do not touch."""
        item, first, now, _ = place(seats, run, step, l, size)
        i = 0
        while i < now * size.hop:
            value = ti.cast(0, dtype)
            frame = i // size.hop
            if size.hop <= size.n:
                value = work[ring + (offset + i) % size.length][l]
            elif i - frame * size.hop < size.n:
                value = work[ring + i - frame * (size.hop - size.n)][l]
            put_padded(g, edge, stream, item, first + i, value, seats[run, 3, l], adds, size)
            i = (i + 1) ^ size.zero

    return SimpleNamespace(extent=extent, edge_index=edge_index, put_padded=put_padded,
                           add_padded=add_padded, piece=piece, place=place, all_whole=all_whole, load=load,
                           flush=flush)  # fmt: skip
