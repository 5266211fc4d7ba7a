"""The fast engine on the CPU: frames ride side by side as the lanes of a vector, and one pass does everything.

A segment is a number of consecutive frames of one item of the batch; a run is as many segments as a vector has lanes.
At step g, lane l has frame g of segment l of its run: each lane walks along its own piece of signal, and lanes never
meet.

    load       the samples that are new since the last step, transposed into a ring of N lane vectors
    fill       window times ring, scaled to about 1, the two signals as real and imaginary part
    transform  in place, passes from left to right: bins come out in digit-reversed order
    compare    both spectra, the distances, both gradients, packed again: `lanes_compare`
    transform  in place, passes from right to left: back in natural order
    overlap    window times frame, added to a ring of N lane vectors
    flush      the samples that no later frame of the segment touches: to the gradients

What the last frame of a segment leaves over, N - hop samples, goes to `halo`; a second loop adds it to the segments
it reaches into, in fixed order. Segments depend on sizes alone, and a run writes to places of its own: the result is
the same to the last bit whichever threads there are and whichever of them takes a run. Each takes the next one when
it has done its last: one that is woken late, some milliseconds on a small virtual machine, leaves more to the others.

Fixed target (only |Y| is known, and no gradient for it): two frames of x ride in one transform, as its real and its
imaginary part; a step has two frames, and the ring is N + hop long.

Scaling: each frame is multiplied by a power of two that brings it to about 1. So |X|^2 neither overflows nor
underflows, and the rounding errors of a loud frame do not leak into a quiet one that shares its transform; a silent
frame has the spectrum 0 exactly, and no gradient but that of a term which moves silence. The spectrum of one of two
equal frames is taken to be that of the other as well: they have no distance, not even rounding.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import new_array, new_vectors, upload, upload_integers
from taichi_spec.bins import Account, Parts, finish_function
from taichi_spec.fft.butterflies import butterflies
from taichi_spec.fft.fused import BinEngine
from taichi_spec.fft.lanes_compare import (
    ARRAYS,
    NOTES,
    SPARE,
    VECTOR_BYTES,
    by_stages,
    columns_of_bands,
    lane_count,
    powers_of_two,
    whole_bins,
)
from taichi_spec.fft.plan import Bluestein, Plan, factorise, is_smooth, smooth_size
from taichi_spec.fft.stages import Stages, gains_of, goal_of, stages_of
from taichi_spec.launch import Launch
from taichi_spec.runtime import bounds_checked
from taichi_spec.stft import STFT
from taichi_spec.terms import Term
from taichi_spec.vectors import absolute

BLOCK_BYTES = 1 << 14  # parts of a transform that are finished within the first cache
TASK = 512  # iterations of a parallel loop: Taichi gives a CPU's thread no fewer, whatever `block_dim` says
# So many runs at least, where there are enough frames: what many cores can share. But a run begins and ends in the time
# that one and a half transforms take: there are no more than FEW where each would have less than LEAST of them.
RUNS, FEW, LEAST = 16, 4, 4

Size = ti.types.struct(
    n=ti.i32, inner=ti.i32, hop=ti.i32, samples=ti.i32, items=ti.i32, pad=ti.i32, reflect=ti.i32, total=ti.i32,
    frames=ti.i32, segments=ti.i32, runs=ti.i32, steps=ti.i32, shift=ti.i32, length=ti.i32, kept=ti.i32, gap=ti.i32,
    overhang=ti.i32, goal_run=ti.i32, goal_step=ti.i32, vectors=ti.i32, columns=ti.i32, rows=ti.i32, width=ti.i32,
    axis=ti.i32, scratch=ti.i32, zero=ti.i32,
)  # fmt: skip


def layout(stft: STFT, inner: int, n_samples: int, batch: int, pack: int, lanes: int, threads: int,
           columns: int, rows: int, quantities: int, width: int) -> SimpleNamespace:  # fmt: skip
    """How the frames are shared out: a function of sizes alone, but for the slots, the runs worked at at once.

    Args:
        stft: the transform.
        inner: points of the plan's transform, n_fft or more.
        n_samples, batch: T and B.
        pack: frames of a segment in one transform: 2 with a fixed target, else 1.
        lanes: frames side by side.
        threads: how many runs can be worked at at once.
        columns: sums over the bins.
        rows: bins, or bands.
        quantities: how many quantities of them are kept in work memory.
        width: numbers in a frame of the goal.
    """
    n, hop, total = stft.n_fft, min(stft.hop_length, 2**30), stft.n_frames(n_samples)
    # A segment is long enough that its halo is small beside it, but there are RUNS runs if there are that many frames.
    most = max(32, -(-8 * n // hop))
    fair, fewer = (-(-total * batch // (number * lanes)) for number in (RUNS, FEW))
    fair = max(fair, min(fewer, LEAST * pack))
    segments = -(-total // max(pack, min(most, fair)))
    frames = -(-total // segments)
    segments = -(-total // frames)
    runs, steps = -(-batch * segments // lanes), -(-frames // pack)
    shift = min(hop, n) * (pack - 1)  # from one frame of a step to the next, in the ring
    # work memory of a slot: transform, notes and coefficients, rings, sums, quantities
    scratch = NOTES + columns + 2 * (3 - pack) * (n + shift)
    vectors = 2 * inner + scratch + SPARE + ARRAYS * pack * quantities * rows
    return SimpleNamespace(
        n=n, inner=inner, hop=hop, samples=n_samples, items=batch, pad=stft.pad,
        reflect=int(stft.center and stft.pad_mode == "reflect"), total=total,
        frames=frames, segments=segments, runs=runs, steps=steps,
        shift=shift, length=n + shift,
        kept=max(0, n - hop),  # ring elements that the next step has too
        gap=max(0, hop - n) * (pack - 1),  # samples between the two frames of a step that the ring leaves out
        overhang=max(0, n - hop),
        goal_run=steps, goal_step=1,  # records of the goal from run to run, from step to step
        slots=min(threads, runs), vectors=vectors + vectors % 2, columns=columns,
        rows=rows, width=width,
        axis=n,  # steps of the frequency axis in a sampling rate
        scratch=scratch, zero=0,
    )  # fmt: skip


def seats(size: SimpleNamespace, lanes: int, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each lane of each run its segment: the item, its first sample, how many frames: (runs, 6, lanes).

    Then the item's samples and frames, which are the rows of `items`, and the first sample counted from the beginning
    of all items, one after the other. Where an item is short, its last segments have no frames.
    """
    table = np.zeros((size.runs, 6, lanes), np.int64)
    q = np.arange(size.items * size.segments)
    item, first_frame = q // size.segments, q % size.segments * size.frames
    samples, frames = items[item].T
    count = np.clip(frames - first_frame, 0, size.frames)
    first = first_frame * size.hop - size.pad
    for i, column in enumerate((item, first, count, samples, frames, item * size.samples + first)):
        table[q // lanes, i, q % lanes] = column
    return table


@cache
def lane_kernel(
    dtype: Any,
    radices: tuple[int, ...],
    chirped: bool,
    terms: tuple[Term, ...],
    parts: Parts,
    stages: Stages | None,
    is_field: bool,
    fixed: bool,
    backward: bool,
) -> Any:
    """The fused pass as one kernel, compiled once for all sizes whose plans use these radices.

    Args:
        dtype: ti.f32 or ti.f64.
        radices: those of the plan, each once.
        chirped: whether frames are transformed by Bluestein's way.
        terms: what the loss is made of, for the functions of the sums.
        parts: what is summed, and in which column of `account`.
        stages: how the quantities are made that are summed, or None for whole bins, a bin at a time.
        is_field: whether the signals are fields or ndarrays; the gradients are ndarrays.
        fixed: whether the target is an array of quantities, packed by `goal_kernel`, rather than a signal.
        backward: whether to make the gradients too.
    """
    L = lane_count(dtype)
    C = len(parts)
    account_of = Account.of(terms)
    finish = finish_function(terms, dtype, account_of)
    pack = 2 if fixed else 1  # frames of a segment in one transform
    streams = 1 if fixed else 2  # signals in one transform
    Signal = ti.template() if is_field else ti.types.ndarray()
    Gradient = ti.types.ndarray()
    bf = butterflies(dtype)
    lane = ti.types.vector(L, dtype)
    Vectors = ti.types.ndarray(dtype=lane, ndim=1)
    Numbers = ti.types.ndarray(dtype=dtype, ndim=1)
    Numbers2 = ti.types.ndarray(dtype=dtype, ndim=2)
    Doubles = ti.types.ndarray(dtype=ti.f64, ndim=1)
    Integers = ti.types.ndarray(dtype=ti.i32, ndim=1)
    Table2 = ti.types.ndarray(dtype=ti.i32, ndim=2)
    Table3 = ti.types.ndarray(dtype=ti.i32, ndim=3)

    # How to have LLVM join lanes to vector instructions. Taichi hands it L scalars each time, and it joins those whose
    # addresses it can prove to be consecutive. Three things keep it from that, and so the loops below look as they do:
    # - A 32-bit loop counter might wrap around, for all it knows. `^ zero`, where zero is among the sizes and is 0,
    #   hides the counter: what is left is a number shifted to the left, and adding less than the shift cannot wrap.
    # - Where it can, it vectorises over the iterations of a loop first, with gathers and scatters. It leaves alone a
    #   `while` whose counter is hidden by `^ zero`.
    # - It reads an array's address anew for each store, but not where the vector that is stored to was read before.
    # Other loops are such a `while` too, where LLVM would unroll them, the outer ones with all that is in them: to twice
    # the code, no faster. Taichi's cache does not hold machine code, which each process has made anew.

    # ---- the transform ---------------------------------------------------------------------------------------------
    # `work` holds complex lane vectors, real part at 2 i and imaginary part at 2 i + 1.

    @ti.func
    def butterfly(work: ti.template(), table: ti.template(), r: ti.template(), first, span, row):
        """One butterfly, in place: element q at first + q * span, its twiddle entry q - 1 of a row of the table."""
        at = [2 * (first + q * span) for q in ti.static(range(r))]
        re = [work[at[q]] for q in ti.static(range(r))]
        im = [work[at[q] + 1] for q in ti.static(range(r))]
        bf.turn(re, im, r, table, row * ti.static(2 * r))
        bf.dft(re, im, r, 0, 1)
        for q in ti.static(range(r)):
            work[at[q]] = re[q]
            work[at[q] + 1] = im[q]

    @ti.func
    def butterflies_of(loops: ti.template(), back, row, base, work: ti.template(), table: ti.template(),
                       r: ti.template(), zero):  # fmt: skip
        span, first, turns = loops[back, row, 1], base + loops[back, row, 2], loops[back, row, 3]
        outer, outer_step, outer_turns = loops[back, row, 4], loops[back, row, 5], loops[back, row, 6]
        inner, inner_step, inner_turns = loops[back, row, 7], loops[back, row, 8], loops[back, row, 9]
        i = 0 ^ zero
        while i < outer:
            j = 0 ^ zero
            while j < inner:
                butterfly(work, table, r, (first + i * outer_step + j * inner_step) ^ zero, span,
                          (turns + i * outer_turns + j * inner_turns) ^ zero)  # fmt: skip
                j = (j + 1) ^ zero
            i = (i + 1) ^ zero

    @ti.func
    def transform(loops: ti.template(), back, base, work: ti.template(), table: ti.template(), zero):
        """In place, natural order to reversed order, or back; forward both times."""
        for row in range(loops.shape[1]):
            radix = loops[back, row, 0]
            for r in ti.static(radices):
                if radix == r:
                    butterflies_of(loops, back, row, base, work, table, r, zero)

    @ti.func
    def multiply(work: ti.template(), base, table: ti.template(), count, swap_in: ti.template(),
                 swap_out: ti.template(), zero):  # fmt: skip
        """Element i times table[i], for i < count; re and im change places before or after."""
        for i in range(count):
            at = 2 * ((base + i) ^ zero)
            re, im = [work[at + ti.static(int(swap_in))]], [work[at + ti.static(int(not swap_in))]]
            bf.rotate(re, im, 0, table[2 * i], table[2 * i + 1])
            work[at + ti.static(int(swap_out))] = re[0]
            work[at + ti.static(int(not swap_out))] = im[0]

    @ti.func
    def convolve(
        loops: ti.template(),
        base,
        work: ti.template(),
        table: ti.template(),
        chirp: ti.template(),
        response: ti.template(),
        size: ti.template(),
        zero,
    ):
        """The transform of any n points by Bluestein's way, natural order in and out.

        Swapping re and im makes the second of its two transforms the inverse.
        """
        multiply(work, base, chirp, size.n, False, False, zero)
        for i in range(size.n, size.inner):
            at = 2 * ((base + i) ^ zero)
            work[at] = lane(0)
            work[at + 1] = lane(0)
        for back in range(2):
            transform(loops, back, base, work, table, zero)
            if back == 0:
                multiply(work, base, response, size.inner, False, True, zero)
        multiply(work, base, chirp, size.n, True, False, zero)

    # ---- signal to lanes, lanes to signal --------------------------------------------------------------------------

    @ti.func
    def get(x: ti.template(), item, s):
        value = ti.cast(0, dtype)
        if ti.static(len(x.shape) == 1):
            value = x[s]
        else:
            value = x[item, s]
        return value

    @ti.func
    def put(x: ti.template(), item, s, value):
        if ti.static(len(x.shape) == 1):
            x[s] = value
        else:
            x[item, s] = value

    # Of signals in memory, all items one after the other, a sample is reached without its item, and so without a product.

    @ti.func
    def cell(x: ti.template(), item, at):
        """What lies `at` places behind those that `origin` counts from, in a signal."""
        if ti.static(is_field or bounds_checked()):
            return get(x, item, at)
        return x[0, at]

    @ti.func
    def put_cell(g: ti.template(), item, at, value, adds):
        """The same for gradients: written there, or added to what is there."""
        if ti.static(bounds_checked()):
            if adds:
                value += get(g, item, at)
            put(g, item, at, value)
        else:
            if adds:
                value += g[0, at]
            g[0, at] = value

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
            value = get(x, item, s)
        elif size.reflect:
            value = get(x, item, ti.select(s < 0, -s, 2 * (samples - 1) - s))
        return value

    @ti.func
    def edge_index(stream, item, s, samples, size: ti.template()):
        """Where the gradient of the sample s < 0 or s >= samples is kept, 2 pad numbers a stream."""
        return (item * streams + stream) * 2 * size.pad + s + size.pad - ti.select(s >= 0, samples, 0)

    @ti.func
    def put_padded(g: ti.template(), edge: ti.template(), stream, item, s, value, samples, adds, size: ti.template()):
        if 0 <= s < samples:
            if adds:
                value += get(g, item, s)
            put(g, item, s, value)
        elif s < samples + size.pad:
            edge[edge_index(stream, item, s, samples, size)] = value

    @ti.func
    def add_padded(g: ti.template(), edge: ti.template(), stream, item, s, value, samples, size: ti.template()):
        if 0 <= s < samples:
            put(g, item, s, get(g, item, s) + value)
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
                    work[(ring + shift + i) ^ zero] = lane(samples)
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
                    value = work[(ring + shift + i) ^ zero]
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
                    value = work[(ring + shift + i) ^ zero]
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
                put(g, item, s, ti.cast(0, dtype))
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
            put(g, item, i, get(g, item, i) + edge[edge_index(stream, item, -i, samples, size)])
            i = (i + 1) ^ size.zero
        i = 1
        while i <= size.pad:
            s = samples - 1 - i
            put(g, item, s, get(g, item, s) + edge[edge_index(stream, item, samples - 1 + i, samples, size)])
            i = (i + 1) ^ size.zero

    # ---- per frame -------------------------------------------------------------------------------------------------
    # `half` is 0 for the real part of the transform and 1 for its imaginary part: two signals, or two frames of one.

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
                a, b = work[(to_a + i) ^ zero], work[(to_b + i) ^ zero]
                sum_a += absolute(a * window[i])
                sum_b += absolute(b * window[i])
                if ti.static(not fixed):
                    between += absolute((a - b) * window[i])
                i = (i + 1) ^ zero
            part = (part + 1) ^ zero
        work[notes], work[notes + 1], work[notes + 6] = sum_a, sum_b, between
        scaling(work, notes, seats, run, step, size)
        part = 0 ^ zero
        while part < 3:
            i, end, to_a, to_b = stretch(part, ring_a, ring_b, offset, size)
            while i < end:
                at = (2 * (base + i)) ^ zero
                scales = (notes + (i & zero)) ^ zero  # read each time, so that they come as vectors
                a = work[(to_a + i) ^ zero] * (work[scales] * window[i])
                b = work[(to_b + i) ^ zero] * (work[scales + 1] * window[i])
                # Read, though never used, as zero is 0: see above.
                work[at], work[at + 1] = ti.select(zero == 0, a, work[at]), ti.select(zero == 0, b, work[at + 1])
                i = (i + 1) ^ zero
            part = (part + 1) ^ zero

    @ti.func
    def overlap(work: ti.template(), base, sums_a, sums_b, offset, fresh, notes, window: ti.template(),
                size: ti.template(), zero):  # fmt: skip
        """Add the two windowed frames to the rings of sums, whose elements from `fresh` on are still to begin.

        What belongs to the real part is in the imaginary parts of `work`: the swap that makes it an inverse transform.
        """
        begun = size.n if streams == 2 else size.shift  # from there on, the other frame has begun the elements of both
        part = 0 ^ zero
        while part < 3:
            i, end, to_a, to_b = stretch(part, sums_a, sums_b, offset, size)
            while i < end:
                z, a, b = (2 * (base + i)) ^ zero, (to_a + i) ^ zero, (to_b + i) ^ zero
                sounds = (notes + 4 + (i & zero)) ^ zero  # 0 for a silent frame: no rounding errors of the other there
                sum_a = ti.select(i < fresh or i >= begun, work[a], lane(0))
                work[a] = sum_a + work[z + 1] * (work[sounds] * window[i])
                sum_b = ti.select(i + size.shift < fresh, work[b], lane(0))
                work[b] = sum_b + work[z] * (work[sounds + 1] * window[i])
                i = (i + 1) ^ zero
            part = (part + 1) ^ zero

    if stages is None:
        compare = whole_bins(dtype, parts, fixed, backward, place)
    else:
        compare = by_stages(dtype, parts, fixed, backward, place, stages)

    @ti.func
    def size_of(sizes: ti.template()):
        return Size(*[sizes[0, i] for i in ti.static(range(len(Size.members)))])

    @ti.kernel
    def fused(x: Signal, y: Signal, grad_x: Gradient, grad_y: Gradient, account: Numbers2,
              goal: Vectors, window: Numbers, twiddles: Numbers, chirp: Numbers, response: Numbers, gains: Numbers,
              entries: Numbers, bands: Integers, loops: Table3, pairs: Table2, seats: Table3, work: Vectors,
              halo: Numbers, edge: Numbers, shares: Doubles, taken: Integers, sizes: Table2, total: Numbers,
              slots: ti.i32, adds: ti.i32):  # fmt: skip
        """Sums and totals, and with `backward` the gradients. The signals, the target, tables, work memory, sizes.

        adds: whether total and gradients are added to what is there.
        """
        for task in range(slots * TASK):
            if task % TASK == 0:
                slot, size = task // TASK, size_of(sizes)
                zero = size.zero
                base = slot * size.vectors // 2
                notes = slot * size.vectors + 2 * size.inner
                rings = notes + NOTES + size.columns
                sums = rings + streams * size.length
                other = (streams - 1) * size.length
                run = ti.atomic_add(taken[0], 1)
                while run < size.runs:
                    l = 0 ^ zero
                    while l < L:
                        for j in ti.static(range(C)):
                            shares[(run * L + l) * C + j] = 0
                            column = ti.static(account_of.coefficients + parts[j][0])
                            work[notes + NOTES + j][l] = account[seats[run, 0, l], column]
                        l = (l + 1) ^ zero
                    for step in range(size.steps):
                        offset = ti.select(size.hop < size.n, step * pack * size.hop % size.length, 0)
                        fresh = ti.select(step > 0, size.kept, 0)
                        whole = all_whole(seats, run, step, size.length + size.gap, size) and size.gap == 0
                        load(x, work, rings, offset, fresh, seats, run, step, whole, size, zero)
                        if ti.static(streams == 2):
                            load(y, work, rings + other, offset, fresh, seats, run, step, whole, size, zero)
                        fill(work, base, rings, rings + other, offset, notes, seats, run, step, window, size, zero)
                        for back in range(ti.static(2 if backward else 1)):
                            if ti.static(chirped):
                                convolve(loops, base, work, twiddles, chirp, response, size, zero)
                            else:
                                transform(loops, back, base, work, twiddles, zero)
                            if back == 0:
                                compare(work, base, notes, shares, pairs, goal, gains, bands, entries, seats, run, step,
                                        size, zero)  # fmt: skip
                        if ti.static(backward):
                            overlap(work, base, sums, sums + other, offset, fresh, notes, window, size, zero)
                            whole = size.hop <= size.n and all_whole(seats, run, step, pack * size.hop, size)
                            flush(grad_x, 0, work, sums, offset, seats, run, step, whole, adds, edge, size, zero)
                            if ti.static(streams == 2):
                                flush(grad_y, 1, work, sums + other, offset, seats, run, step, whole, adds, edge, size,
                                      zero)  # fmt: skip
                            together = all_end(seats, run, step, size)
                            stream = 0 ^ zero
                            while stream < streams:
                                leave(stream, work, sums + stream * other, offset, seats, run, step, together, halo, size,
                                      zero)  # fmt: skip
                                stream = (stream + 1) ^ zero
                    run = ti.atomic_add(taken[0], 1)
        if ti.static(backward):
            for task in range(slots * TASK):
                if task % TASK == 0:
                    slot, size = task // TASK, size_of(sizes)
                    count = size.items * (size.segments + 1)
                    for i in range((count - slot + slots - 1) // slots):
                        q = slot + i * slots
                        item = q // (size.segments + 1)
                        segment = q - item * (size.segments + 1)
                        add_halos(grad_x, 0, item, segment, adds, halo, edge, seats, size)
                        if ti.static(streams == 2):
                            add_halos(grad_y, 1, item, segment, adds, halo, edge, seats, size)
        for task in range(slots * TASK):
            if task % TASK == 0:
                slot, size = task // TASK, size_of(sizes)
                taken[0] = 0  # for the next call
                item = slot ^ size.zero
                while item < size.items:
                    for j in ti.static(range(C)):
                        value = ti.cast(0, ti.f64)
                        for segment in range(size.segments):
                            value += shares[(item * size.segments + segment) * C + j]
                        account[item, ti.static(parts[j][0])] = ti.cast(value, dtype)
                    before = ti.select(adds != 0, total[item], ti.cast(0, dtype))
                    total[item] = before + finish(account, account, account, account, item)
                    item = (item + slots) ^ size.zero
                if ti.static(backward):
                    item = slot ^ size.zero
                    while size.reflect and item < size.items:
                        fold(grad_x, 0, item, edge, seats, size)
                        if ti.static(streams == 2):
                            fold(grad_y, 1, item, edge, seats, size)
                        item = (item + slots) ^ size.zero

    return fused


@cache
def goal_kernel(dtype: Any) -> Any:
    """The kernel that brings a target's quantities to the order in which `lane_kernel` reads them."""
    L = lane_count(dtype)
    Vectors = ti.types.ndarray(dtype=ti.types.vector(L, dtype), ndim=1)

    @ti.kernel
    def pack_goal(Y: ti.types.ndarray(dtype=dtype, ndim=3), seats: ti.types.ndarray(dtype=ti.i32, ndim=3),
                  goal: Vectors, hop: ti.i32, pad: ti.i32, steps: ti.i32):  # fmt: skip
        """goal[2 (record K + k) + half][lane] = |Y| of the lane's frame 2 step + half, record = run steps + step."""
        for record, k in ti.ndrange(goal.shape[0] // (2 * Y.shape[2]), Y.shape[2]):
            run, step = record // steps, record % steps
            for l in range(L):
                b = ti.min(seats[run, 0, l], Y.shape[0] - 1)
                for half in range(2):
                    f = ti.min((seats[run, 1, l] + pad) // hop + 2 * step + half, Y.shape[1] - 1)
                    goal[2 * (record * Y.shape[2] + k) + half][l] = Y[b, f, k]

    return pack_goal


class LanesEngine(BinEngine):
    """Loss and gradients of signals of one shape, on the CPU, in one pass.

    Args:
        stft: the transform.
        dtype: ti.f32 or ti.f64, of the signals.
        is_field: whether signals are fields or ndarrays.
        batch, n_samples: B and T.
        terms: what is summed, over bins or bands.
        weights: what each term of each item is multiplied by  # (B, terms)
        fixed: the target's weighted magnitudes or, where its phase counts, its weighted spectrum
            # (B or 1, F or 1, K), or None if the target is a signal.
        bands: the bands' matrix (n_bands, K), or None.
        bin_weights: what each bin of the spectra is multiplied by  # (K,), or None.
        toward_target: whether the direction of x at X = 0 is the target's.
        lengths: samples of each item, T by default; nothing beyond is read.
    """

    def __init__(self, stft: STFT, dtype: Any, is_field: bool, batch: int, n_samples: int,
                 terms: tuple[Term, ...], weights: NDArray[np.float64], fixed: NDArray[Any] | None,
                 bands: NDArray[np.float64] | None = None,
                 bin_weights: NDArray[np.float64] | None = None, toward_target: bool = False,
                 lengths: tuple[int, ...] | None = None) -> None:  # fmt: skip
        super().__init__(dtype, is_field, batch, n_samples, terms, weights, fixed is not None)
        self.chirped = not is_smooth(stft.n_fft)
        inner = smooth_size(2 * stft.n_fft - 1) if self.chirped else stft.n_fft
        self.plan = Plan(inner, factorise(inner))
        lanes = lane_count(dtype)
        columns = len(self.parts)
        rows = stft.n_bins if bands is None else len(bands)
        self.stages = stages_of(terms, bands, bin_weights, toward_target)
        goal = None if fixed is None else goal_of(fixed, bands, bin_weights, self.stages)
        size = self.layout = layout(
            stft, inner, n_samples, batch, 1 + self.fixed, lanes, ti.cfg.cpu_max_num_threads, columns, rows,
            quantities=0 if self.stages is None else len(self.stages.quantities),
            width=rows if goal is None else goal.shape[2],
        )  # fmt: skip
        if bands is not None:
            size.axis = 2 * rows
        self._make_tables(stft.window_table)
        self.gains = upload(gains_of(stft.n_bins, bin_weights), dtype)  # (K,)
        self.bands, self.entries = columns_of_bands(bands, dtype)
        items = np.array([(length, stft.n_frames(length)) for length in lengths or (n_samples,) * batch])
        self.seats = upload_integers(seats(size, lanes, items))
        self.work = new_vectors(lanes, dtype, size.slots * size.vectors)
        streams = 1 if self.fixed else 2
        self.halo = new_array(dtype, max(1, size.runs * lanes * streams * size.overhang))
        self.edge = new_array(dtype, max(1, batch * streams * 2 * size.pad))
        self.shares_of_segments = new_array(ti.f64, size.runs * lanes * columns)
        self.taken = new_array(ti.i32, 1)  # how many runs of a call have been taken
        self.taken.fill(0)
        self.goal = new_vectors(lanes, dtype, 1) if goal is None else self._pack(upload(goal, dtype))
        self.sizes = upload_integers(np.array([[getattr(size, name) for name in Size.members]]))

    def _make_tables(self, window: np.ndarray) -> None:
        plan, n, dtype = self.plan, self.layout.n, self.dtype
        self.window = upload(window, dtype)
        self.twiddles = upload(plan.rows[0].ravel(), dtype)
        self.loops = upload_integers(plan.loops(BLOCK_BYTES // (2 * VECTOR_BYTES)))
        self.chirp = self.response = self.window
        pairs = plan.pairs
        if self.chirped:
            bluestein = Bluestein(n, plan)
            self.chirp, self.response = (
                upload(bluestein.chirp.ravel(), dtype),
                upload(bluestein.response.ravel(), dtype),
            )
            k = np.arange(n // 2 + 1)
            pairs = np.stack([k, -k % n], 1)
        self.pairs = upload_integers(pairs)

    def _pack(self, target: Any) -> Any:
        """The target, for each run, step and bin or band a vector for each of the two frames in a transform.

        One spectrum for all frames is kept once for each run, and if it is for all items too, once.
        """
        size = self.layout
        if target.shape[1] == 1:
            size.goal_step, size.goal_run = 0, int(target.shape[0] > 1)
        records = (size.runs - 1) * size.goal_run + (size.steps - 1) * size.goal_step + 1
        goal = new_vectors(lane_count(self.dtype), self.dtype, 2 * records * target.shape[2])
        steps = size.steps if size.goal_step else 1
        goal_kernel(self.dtype)(target, self.seats, goal, size.hop, size.pad, steps)
        return goal

    @property
    def spared(self) -> tuple[str, ...]:
        """As `FusedEngine` says: what takes half of the first call, and changes nothing.

        And lanes stay vectors for LLVM, unless a term that is not one of ours may need what Taichi does with numbers alone.
        """
        ours = all(type(term).__module__.startswith("taichi_spec.terms.") for term in self.terms)
        return ("cfg_optimization", *["real_matrix_scalarize"] * ours)

    def _evaluation(self, grad_x: Any, grad_y: Any, parts: Parts, total: Any, adds: bool) -> list[Launch]:
        backward = grad_x is not None
        radices = tuple(sorted(set(self.plan.radices)))
        if set(radices) <= {4, 8}:
            radices = (4, 8)  # one kernel for all powers of two
        kernel = lane_kernel(self.dtype, radices, self.chirped, self.terms, parts, self.stages, self.is_field,
                             self.fixed, backward)  # fmt: skip
        unused = self.window  # an array where the kernel reads and writes none
        gradients = [unused if grad is None else grad for grad in (grad_x, grad_y)]
        arguments = (
            "x", "x" if self.fixed else "y", *gradients, self.account, self.goal, self.window,
            self.twiddles, self.chirp, self.response, self.gains, self.entries, self.bands, self.loops, self.pairs,
            self.seats, self.work, self.halo, self.edge, self.shares_of_segments, self.taken, self.sizes,
            total, self.layout.slots, int(adds))  # fmt: skip
        return [Launch(kernel, arguments)]
