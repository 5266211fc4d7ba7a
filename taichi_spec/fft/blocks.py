"""The fused pass on a GPU for powers of two: frames as blocks. Other sizes: see `frames`; those too large for both: `matrix`.

A team of threads walks a run of neighbouring frames. Each thread holds `points` values of the frame in registers:
window, transform, distance per bin, transform back, window. Frames overlap-add in registers, and a sample's gradient is
written once, when the run has passed it. Only the tail that a run shares with the next goes through `scratch`.

Here is a team's walk. The rest of it:

    blocks_pass         the kernel
    blocks_layout       how frames lie on threads, and how many teams share out all frames
    blocks_window       samples to windowed frames, and frames to gradients
    blocks_shared       a block's shared memory
    blocks_levels       both parts of a transform brought to one level
    blocks_transform    the transform; the way back is the same code with real and imaginary parts exchanged: a loop runs one
                        body twice
    blocks_bins         between the two, where the loss is a sum over whole bins
    blocks_compare      between the two, where it is not
    blocks_seams        where runs meet each other and the signal's edges

On CUDA a thread's program has to stay below some 3,200 LLVM instructions, or LLVM no longer inlines it into the kernel, and
every access to memory becomes twice as long: hence the loops whose bounds have a `zero` that the compiler cannot see. An
index into registers must be known, so a loop over them takes the first one, and each next one takes its place.

What a loop does not change LLVM computes before it, and there it waits in registers. So code that few frames or only a run's
end need reads `zero` anew (`again`) and computes with that: of 154 registers at n_fft 1024, 18 were for the edges.

What limits the pass on an H200 at n_fft 1024: of each scheduler's three warps one or another can go on in 70 % of all cycles;
shared memory is busy in as many. Hence tables in shared memory, no bank conflicts, samples that are asked for in time, levels
by votes, and writes that do not wait for one another.

Functions without a decorator run while Taichi traces the kernel: they take and return Python lists of Taichi values,
one per register. Taichi then has values to name instead of variables to track, and compiles several times faster.
"""

from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import MAX_INDEX, new_array, upload, upload_integers
from taichi_spec.bins import Account, Parts, columns_of
from taichi_spec.fft.blocks_bins import whole_bins
from taichi_spec.fft.blocks_compare import by_stages
from taichi_spec.fft.blocks_layout import Head, Layout, choose, goal_width, record_of, runs_of, scratch_of
from taichi_spec.fft.blocks_levels import levels
from taichi_spec.fft.blocks_pass import Pass, fused_kernel
from taichi_spec.fft.blocks_seams import seams
from taichi_spec.fft.blocks_shared import shared_memory
from taichi_spec.fft.blocks_transform import transforms
from taichi_spec.fft.blocks_window import SECTOR, windows
from taichi_spec.fft.compare_room import band_tables
from taichi_spec.fft.fused import GPUEngine
from taichi_spec.fft.pairs import KNOWN, MAX_KNOWN, bits_of, power_of_two
from taichi_spec.fft.runs import Runs
from taichi_spec.fft.stages import Stages, gains_of, goal_of, stages_of
from taichi_spec.launch import Launch
from taichi_spec.runtime import arch_name
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

MARK = 0x7FC0DEAD  # the bits of a number that no signal has


def one_pass(this: Pass) -> SimpleNamespace:
    """The functions of one pass.

    threads: how many walk; walk: what a thread of a team does; settle: what one of `settling` blocks of 128 threads does
    then.
    """
    layout: Layout = this.layout
    dtype, terms, parts, wanted = this.dtype, this.terms, this.parts, this.wanted
    gradient, fixed, stages, places, cut = this.gradient, this.fixed, this.stages, this.places, this.cut
    BY_STAGES = stages is not None
    C, SUMS = len(parts), len(wanted)
    RECORD = record_of(layout, SUMS, fixed, gradient)
    COEFFICIENTS = Account.of(terms).coefficients
    N, H, R, T = layout.n_fft, layout.hop, layout.points, layout.threads
    BLOCK, CELLS, SPAN = layout.block, layout.cells, layout.span
    FRAMES = 2 if fixed else 1  # frames per transform
    # Entries of the table that a thread asks for before it puts any into shared memory, as LLVM still inlines them.
    AT_ONCE = (2 if N <= 1024 else 1) if gradient or fixed else max(1, min(8, -(-layout.resident // BLOCK)))
    NEAR = SECTOR[dtype]
    # Numbers that a thread asks for in time: of samples; of both rows of a goal, and of the second one's end, but for stray
    # frames, whose program would be too long.
    ASKED = 1 if not fixed else 4 - (gradient and layout.stray > 0)
    # The last of a goal's numbers of which a thread may ask for one in time.
    WIDTH = goal_width(layout.room.rows if layout.room else 0, N // 2 + 1, stages)
    LOG_T = T.bit_length() - 1
    HEAD, LENGTHS = Head.of(gradient), places.end
    Bits = bits_of(dtype)
    shared = shared_memory(layout, dtype, AT_ONCE)
    ARRAY, fill, sync, uniform = shared.array, shared.fill, shared.sync, shared.uniform
    store, fetch, store_one, fetch_one = shared.store, shared.fetch, shared.store_one, shared.fetch_one
    balance = levels(layout, dtype, fixed, shared)
    of_frames = transforms(layout, dtype, shared)
    transform, seconds = of_frames.transform, of_frames.seconds
    of_bins = whole_bins(layout, dtype, parts, wanted, fixed, gradient, shared, of_frames.mirror_of)
    spectral, rows = of_bins.spectral, of_bins.rows
    ends = seams(layout, dtype, terms, wanted, fixed, gradient, this.totals, this.edges, cut, this.adds, LENGTHS)
    run_at, begin, LEFT = ends.run_at, ends.begin, ends.left
    of_samples = windows(this, shared, ends)
    load_frames, touch_signals, kept_window = of_samples.load_frames, of_samples.touch_signals, of_samples.kept_window
    write_frames, leave_tail, role_at = of_samples.write_frames, of_samples.leave_tail, of_samples.role_at
    KEEP, HELD = of_samples.keep, of_samples.held

    @ti.func
    def threads(integers: ti.template()):
        """How many threads have a run at all."""
        return integers[HEAD.at_work] * T

    @ti.func
    def walk(i, x: ti.template(), y: ti.template(), gx: ti.template(), gy: ti.template(), table: ti.template(),
             integers: ti.template(), scratch: ti.template(), account: ti.template()):  # fmt: skip
        """Thread i's share of all runs of frames that its team takes."""
        zero = integers[HEAD.zero]
        sm = ti.simt.block.SharedArray((ARRAY[0],), ARRAY[1])
        t = ((i & ti.static(T - 1)) + zero) & KNOWN
        which = (i & ti.static(BLOCK - 1)) >> LOG_T
        team = which * CELLS
        turn = i >> LOG_T
        fill(sm, i, table, zero)
        kept = ti.static(kept_window(sm, table, t))
        level = [ti.cast(1, dtype)]  # near which both parts' peaks were last
        while turn - which < integers[HEAD.turns]:
            # Read anew for each run: what a loop over frames does not need is not to wait in registers.
            b, c, exists = run_at(integers, turn)
            whole, frames = integers[HEAD.samples], integers[HEAD.frames]
            item_stride, frame_stride = integers[HEAD.item_stride], integers[HEAD.frame_stride]
            length = whole
            if ti.static(cut):
                length, frames = integers[LENGTHS + 2 * b], integers[LENGTHS + 1 + 2 * b]
            factors = [account[b, ti.static(COEFFICIENTS + parts[j][0])] for j in ti.static(range(C))]
            found = [ti.cast(0, dtype) for _ in ti.static(range(SUMS))]
            wait = [ti.cast(0, dtype) for _ in ti.static(range(KEEP * (3 - FRAMES)))]
            re = [ti.cast(0, dtype) for _ in ti.static(range(R))]
            im = [ti.cast(0, dtype) for _ in ti.static(range(R))]
            scale = [ti.cast(1, dtype) for _ in ti.static(range(6))]
            samples = [ti.cast(0, dtype) for _ in ti.static(range(HELD * (3 - FRAMES)))]
            held = False  # whether they are the ones that the next transform needs
            ahead = [ti.cast(0, Bits) for _ in ti.static(range(ASKED))]  # what was asked for in time
            f = begin(integers, c) * FRAMES
            end = f + (integers[HEAD.short] + (c < integers[HEAD.longs])) * FRAMES
            while f < end:
                live = f < frames
                start = f * H - LEFT
                inside = live and start >= 0 and start + ti.static(SPAN + (FRAMES - 1) * H) <= length
                if ti.static(fixed):
                    inside = inside and f + 1 < frames
                for early in ti.static(ahead):  # in truth always; both ways are right
                    inside = inside and early != ti.static(MARK)
                inside = uniform(inside)
                role = role_at(start, t, zero)
                for way in range(ti.static(1 + gradient) + zero):  # forward; then, with gradients, back
                    second = ti.static(seconds(role, way))
                    if way == 0:
                        if ti.static(fixed):
                            load_frames(re, im, samples, held, x, x, table, kept, sm, team, role, b, f, frames, start,
                                        length, whole, inside, live, integers)  # fmt: skip
                            if ti.static(HELD == 0):
                                ahead[0] = touch_signals(x, x, b, t, start, length)
                        else:
                            load_frames(re, im, samples, held, x, y, table, kept, sm, team, role, b, f, frames, start,
                                        length, whole, inside, live, integers)  # fmt: skip
                            if ti.static(HELD == 0):
                                ahead[0] = touch_signals(x, y, b, t, start, length)
                        balance(re, im, sm, team, t, scale, level, zero)
                        # Not before: what is asked for before the votes ptxas may move there, and so await.
                        if ti.static(fixed):
                            goals = rows(b, f, frames, item_stride, frame_stride)
                            for frame in ti.static(range(2)):
                                k = ti.min(t * NEAR, WIDTH - 1)
                                ahead[1 + frame] = ti.bit_cast(y[goals[frame] + k], Bits)
                            if ti.static(ASKED > 3):  # where no other row begins
                                ahead[3] = ti.bit_cast(y[goals[1] + WIDTH - 1], Bits)
                    else:
                        between(found, re, im, sm, team, role, b, f, frames, y, item_stride, frame_stride, live, scale,
                                factors, table, integers, zero)  # fmt: skip
                    done = ti.static(transform(re, im, sm, team, role, second, table, zero))
                    for m in ti.static(range(R)):
                        re[m] = done[m][0]
                        im[m] = done[m][1]
                if ti.static(not gradient):
                    between(found, re, im, sm, team, role, b, f, frames, y, item_stride, frame_stride, live, scale,
                            factors, table, integers, zero)  # fmt: skip
                else:
                    write_frames(re, im, gx, gy, table, kept, wait, scale, sm, team, role, scratch, integers, b, start,
                                 length, whole, inside, exists, zero)  # fmt: skip
                f += FRAMES
            b, c, exists = run_at(integers, turn)  # found again, for the same reason
            run = b * integers[HEAD.runs] + c
            if ti.static(KEEP > 0):
                after = role_at(end * H - LEFT, t, zero)
                leave_tail(scratch, wait, after, run, exists, integers)
            add_team(found, scratch, run * RECORD, sm, team, t, exists, integers)
            sync()
            turn += integers[HEAD.at_work]

    @ti.func
    def between(found: ti.template(), re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(),
                t: ti.template(), row: ti.template(), f: ti.template(), frames: ti.template(), y: ti.template(),
                item_stride: ti.template(), frame_stride: ti.template(), live: ti.template(), scale: ti.template(),
                factors: ti.template(), table: ti.template(), integers: ti.template(),
                zero: ti.template()):  # fmt: skip
        """What is done to a frame's bins; adds this thread's sums."""
        if ti.static(not BY_STAGES):
            more = spectral(re, im, sm, team, t, row, f, frames, y, item_stride, frame_stride, scale, factors, zero)
            for j in ti.static(range(SUMS)):
                found[j] += ti.select(live, more[j], ti.cast(0, dtype))
        else:
            second = live and f + 1 < frames
            goals = rows(row, f, frames, item_stride, frame_stride)
            compare(found, re, im, sm, team, t, y, goals, live, second, scale, factors, table, integers, zero)

    @ti.func
    def add_team(values: ti.template(), scratch: ti.template(), first: ti.template(), sm: ti.template(),
                 team: ti.template(), t: ti.template(), writes: ti.template(), integers: ti.template()):  # fmt: skip
        """scratch[first + j] ← the sum of a team's j-th values, its threads always added in the same order."""
        mine = ti.static(1 if layout.cuda else 2) * team + t
        sync()
        for j in ti.static(range(SUMS)):
            store_one(sm, mine + ti.static(T * j), values[j])
        again = integers[HEAD.zero]  # see above: only a run's end needs it
        s = T // 2 + again
        while s > 0:
            sync()
            if t < s:
                for j in range(SUMS + again):
                    at = mine + T * j
                    store_one(sm, at, fetch_one(sm, at) + fetch_one(sm, at + s))
            s = s >> 1
        sync()
        j = t
        while j < SUMS and writes:
            scratch[first + j] = fetch_one(sm, mine - t + T * j)
            j += T

    @ti.func
    def sync_for(sm: ti.template()):
        sync()

    tools = SimpleNamespace(long=False, store=store, fetch=fetch, sync=sync_for, power_of_two=power_of_two(dtype),
                            lend_mirrors=of_bins.lend_mirrors, take_mirrors=of_bins.take_mirrors)  # fmt: skip
    compare: Any = None
    if stages is not None:
        assert layout.room is not None
        compare = by_stages(N, R, dtype, parts, fixed, gradient, stages, layout.room, places, tools)
    return SimpleNamespace(threads=threads, walk=walk, settle=ends.settle, settling=ends.settling)


def supports(stft: STFT, dtype: Any, batch: int, n_samples: int, terms: tuple[Term, ...], fixed: Any = None,
             bands: Any = None, bin_weights: Any = None, toward_target: bool = False) -> bool:  # fmt: skip
    """Whether `BlocksEngine` can do this on this device, and no index leaves its range. Arguments: as it takes them."""
    stages, rows = stages_of(terms, bands, bin_weights, toward_target), stft.n_bins if bands is None else len(bands)
    layout = choose(stft, dtype, arch_name(), stages, rows, columns_of(terms)[-1])
    if layout is None or columns_of(terms)[-1] > layout.points or (dtype == ti.f64 and not layout.cuda):
        return False
    both = runs_of(layout, stft, dtype, batch, n_samples, terms, fixed is not None)
    return in_range(
        layout, stft, batch, n_samples, both, columns_of(terms)[-1], fixed, goal_width(rows, stft.n_bins, stages)
    )


def in_range(layout: Any, stft: STFT, batch: int, n_samples: int, both: list[Runs], columns: int, fixed: Any,
             width: int) -> bool:  # fmt: skip
    """Whether no index of a pass leaves its range.

    both: the runs without gradients and with them. columns: what is summed. width: numbers of a fixed target's frame.
    """
    pack = 1 if fixed is None else 2
    # How far teams go, those without a run included.
    reached = [(runs.begin(runs.number + layout.teams) * pack + 1) * stft.hop_length for runs in both]
    _, scratch = scratch_of(layout, stft, batch, both, columns, fixed is not None)
    fits = max(batch * (n_samples + 2 * stft.n_fft), scratch, *reached) <= MAX_INDEX and batch * n_samples <= MAX_KNOWN
    return fits and (fixed is None or prod(fixed.shape[:2]) * width <= MAX_KNOWN)


class BlocksEngine(GPUEngine):
    """Loss and gradients of signals of one shape, on a GPU, in one pass.

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

    one_pass: Any = staticmethod(one_pass)

    def __init__(self, stft: STFT, dtype: Any, is_field: bool, batch: int, n_samples: int,
                 terms: tuple[Term, ...], weights: NDArray[np.float64], fixed: NDArray[Any] | None,
                 bands: NDArray[np.float64] | None = None,
                 bin_weights: NDArray[np.float64] | None = None, toward_target: bool = False,
                 lengths: tuple[int, ...] | None = None) -> None:  # fmt: skip
        super().__init__(dtype, is_field, batch, n_samples, terms, weights, fixed is not None)
        self.stages = stages = stages_of(terms, bands, bin_weights, toward_target)
        rows = stft.n_bins if bands is None else len(bands)
        layout = self.choose(stft, dtype, stages, rows, columns_of(self.terms)[-1])
        assert layout is not None  # as `supports` said
        self.edges = stft.pad_mode if stft.center else "none"
        self.layout = layout
        self.runs = self._runs(stft)
        padded, size = scratch_of(layout, stft, batch, self.runs, len(self.parts), self.fixed)
        self.scratch = new_array(dtype, size)
        kept = None if stages is None else stages.kept
        strides = self._keep_goal(None if fixed is None else goal_of(fixed, bands, bin_weights, kept))
        table = layout.table(stft.window_table).ravel()
        bin_places = self._bin_places()
        self.places, numbers, integers = band_tables(
            bands, gains_of(stft.n_bins, bin_weights), len(table), 2 * len(Head._fields) + len(bin_places)
        )
        self.table = upload(np.concatenate([table, numbers]), dtype)
        self.cut = lengths is not None
        items = [(length, stft.n_frames(length)) for length in lengths or ()]  # (B, 2)
        sizes = (0, batch, n_samples, stft.n_frames(n_samples))
        heads = [(*sizes, *runs[:3], *runs.turns(batch, layout.teams), *strides, padded) for runs in self.runs]
        self.integers = upload_integers(np.concatenate([*heads, bin_places, integers, np.ravel(items)]))

    @staticmethod
    def choose(stft: STFT, dtype: Any, stages: Stages | None, rows: int, columns: int) -> Any:
        """How frames lie on threads, or None where they do not fit."""
        return choose(stft, dtype, arch_name(), stages, rows, columns)

    def _runs(self, stft: STFT) -> list[Runs]:
        """How frames are shared out among teams, without gradients and with them."""
        return runs_of(self.layout, stft, self.dtype, self.batch, self.n_samples, self.terms, self.fixed)

    def _bin_places(self) -> NDArray[np.int64]:
        """Where each bin lies, if the kernel asks for it."""
        return np.zeros(0, np.int64)

    def _after_sums(self, grad_x: Any, grad_y: Any, total: Any, adds: bool) -> list[Launch]:
        return self._launch(grad_x, grad_y, self.first_parts, self.parts, total, adds)

    def _evaluation(self, grad_x: Any, grad_y: Any, parts: Parts, total: Any, adds: bool) -> list[Launch]:
        return self._launch(grad_x, grad_y, (), parts, total, adds)

    def _launch(self, grad_x: Any, grad_y: Any, before: Parts, parts: Parts, total: Any, adds: bool) -> list[Launch]:
        """One kernel for all. before: what its first pass sums, if it needs one."""
        backward = grad_x is not None
        unused = self.account  # an array where the kernel writes none
        gradients = [unused if grad is None else grad for grad in (grad_x, grad_y)]
        given = "x", self.goal if self.fixed else "y", *gradients
        arguments = *given, self.table, self.integers, self.scratch, self.account, total
        last = Pass(self.layout, self.dtype, self.terms, parts, before, backward, True, self.is_field, self.fixed, self.edges,
                    self.stages, self.places, self.cut, adds)  # fmt: skip
        kernel = fused_kernel(self.one_pass, last)
        return [Launch(kernel, arguments)]
