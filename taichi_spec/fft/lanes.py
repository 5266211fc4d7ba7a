"""The fast engine on the CPU: frames ride side by side as the lanes of a vector, and one pass does everything.

A segment is a number of consecutive frames of one item of the batch; a run is as many segments as a vector has lanes.
At step g, lane l has frame g of segment l of its run: each lane walks along its own piece of signal, and lanes never
meet.

    load       the samples that are new since the last step, transposed into a ring of N lane vectors   lanes_signals
    fill       window times ring, scaled to about 1, the two signals as real and imaginary part         lanes_window
    transform  in place, passes from left to right: bins come out in digit-reversed order               lanes_transform
    compare    both spectra, the distances, both gradients, packed again                lanes_compare, lanes_stages
    transform  in place, passes from right to left: back in natural order                               lanes_transform
    overlap    window times frame, added to a ring of N lane vectors                                    lanes_window
    flush      the samples that no later frame of the segment touches: to the gradients                 lanes_signals

What the last frame of a segment leaves over, N - hop samples, goes to `halo`; a second loop adds it to the segments
it reaches into, in fixed order: see `lanes_seams`. Segments depend on sizes alone, and a run writes to places of its own:
the result is the same to the last bit whichever threads there are and whichever of them takes a run. Each takes the next
one when it has done its last: one that is woken late, some milliseconds on a small virtual machine, leaves more to the
others.

Fixed target (only |Y| is known, and no gradient for it): two frames of x ride in one transform, as its real and its
imaginary part; a step has two frames, and the ring is N + hop long.

Scaling: each frame is multiplied by a power of two that brings it to about 1. So |X|^2 neither overflows nor
underflows, and the rounding errors of a loud frame do not leak into a quiet one that shares its transform; a silent
frame has the spectrum 0 exactly, and no gradient but that of a term which moves silence. The spectrum of one of two
equal frames is taken to be that of the other as well: they have no distance, not even rounding.
"""

from functools import cache
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import new_array, new_vectors, upload, upload_integers
from taichi_spec.bins import Account, Parts, finish_function
from taichi_spec.fft.fused import BinEngine
from taichi_spec.fft.lanes_compare import whole_bins
from taichi_spec.fft.lanes_layout import NOTES, VECTOR_BYTES, Size, keeps_vectors, lane_count, layout, seats, size_of
from taichi_spec.fft.lanes_seams import seams
from taichi_spec.fft.lanes_signals import signals
from taichi_spec.fft.lanes_stages import by_stages, columns_of_bands
from taichi_spec.fft.lanes_transform import transforms
from taichi_spec.fft.lanes_window import windows
from taichi_spec.fft.plan import Bluestein, Plan, factorise, is_smooth, smooth_size
from taichi_spec.fft.stages import Stages, gains_of, goal_of, stages_of
from taichi_spec.framing import annotation
from taichi_spec.launch import Launch
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

BLOCK_BYTES = 1 << 14  # parts of a transform that are finished within the first cache
TASK = 512  # iterations of a parallel loop: Taichi gives a CPU's thread no fewer, whatever `block_dim` says

# How LLVM comes to few instructions. Lanes are vectors for it, but with a user's own term Taichi hands it L scalars each time,
# and it joins those whose addresses it can prove to be consecutive. So the loops of `lanes_transform`, `lanes_signals`,
# `lanes_window` and `lanes_seams` look as they do:
# - A 32-bit index might wrap around, for all it knows. One `& PLACES` cannot: so it knows scalars to be consecutive, and has
#   one address for a vector and the next one, real and imaginary part, instead of an address for each. Not so if it knows
#   the index to be even: then it takes the addition of one for an `or`. So `base` and tables count vectors, not pairs.
# - What goes along with a loop's counter is hidden by `^ zero` as well, or it keeps one for each address that follows from it.
# - Where it can, it vectorises over the iterations of a loop first, with gathers and scatters. It leaves alone a
#   `while` whose counter is hidden by `^ zero`, where zero is among the sizes and is 0.
# - It reads an array's address anew for each store of a scalar, but not where it was read before.
# Other loops are such a `while` too, where LLVM would unroll them, the outer ones with all that is in them: to twice
# the code, no faster. Taichi's cache does not hold machine code, which each process has made anew.


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
    Signal = annotation(is_field)
    Gradient = ti.types.ndarray()
    Vectors = ti.types.ndarray(dtype=ti.types.vector(L, dtype), ndim=1)
    Numbers = ti.types.ndarray(dtype=dtype, ndim=1)
    Numbers2 = ti.types.ndarray(dtype=dtype, ndim=2)
    Doubles = ti.types.ndarray(dtype=ti.f64, ndim=1)
    Integers = ti.types.ndarray(dtype=ti.i32, ndim=1)
    Table2 = ti.types.ndarray(dtype=ti.i32, ndim=2)
    Table3 = ti.types.ndarray(dtype=ti.i32, ndim=3)

    of_signals, of_frames = signals(dtype, is_field, fixed), transforms(dtype, radices)
    load, flush, all_whole, place = of_signals.load, of_signals.flush, of_signals.all_whole, of_signals.place
    transform, convolve = of_frames.transform, of_frames.convolve
    windowed = windows(dtype, fixed, keeps_vectors(terms), place, of_signals.piece)
    fill, overlap = windowed.fill, windowed.overlap
    meeting = seams(dtype, fixed, of_signals)
    all_end, leave, add_halos, fold = meeting.all_end, meeting.leave, meeting.add_halos, meeting.fold
    if stages is None:
        compare = whole_bins(dtype, parts, fixed, backward, place)
    else:
        compare = by_stages(dtype, parts, fixed, backward, place, stages)

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
                base = slot * size.vectors
                notes = base + 2 * size.inner
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
        self.pairs = upload_integers(2 * pairs)

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

        And lanes stay vectors for LLVM where they can.
        """
        return ("cfg_optimization", *["real_matrix_scalarize"] * keeps_vectors(self.terms))

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
