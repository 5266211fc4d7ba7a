"""The fused pass on a GPU for frames of any size that fit a block's shared memory.

A team of threads, a block, walks a run of neighbouring frames, as in `blocks`, which takes the powers of two; but between the
passes of its transforms a frame lies in shared memory, not in registers, as its radices do not share it out evenly:

    forward     samples, from memory, times the window; the first pass → rows in shared memory; their passes
    between     compares bins; or `frames_compare`, where a loss is more than a sum over whole bins
    back        the rows' passes; the last pass, times the window → a ring of sums that wait; or, if finished, gradients

Of other sizes than products of 2, 3, 5 and 7 either transform is a convolution: see `frames_chirp`.

Here is a team's walk, and the comparison of whole bins. Samples in and gradients out: `frames_window`, and `frames_levels`;
how a frame lies: `frames_layout`. What runs leave each other, and what is done when all have ended, is that of `blocks_seams`.

What limits the pass on an H200 is shared memory. Hence few passes, rows that lie so that few accesses meet in a bank (`rows`),
twiddles that lie side by side for neighbouring threads, and first and last passes that have no more to do with it than they
must. LLVM has to inline a thread's program, as in `blocks`.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.bins import Account, columns_of
from taichi_spec.fft.blocks import BlocksEngine, in_range
from taichi_spec.fft.blocks_layout import Head, goal_width, record_of
from taichi_spec.fft.blocks_pass import Pass
from taichi_spec.fft.blocks_seams import seams
from taichi_spec.fft.frames_chirp import convolution
from taichi_spec.fft.frames_compare import by_stages
from taichi_spec.fft.frames_layout import Line, choose, runs_of
from taichi_spec.fft.frames_window import windows
from taichi_spec.fft.lines import line_transform
from taichi_spec.fft.pairs import KNOWN, forces_of, measures_of, pair_comparer, power_of_two
from taichi_spec.fft.runs import Runs
from taichi_spec.fft.stages import Stages, stages_of
from taichi_spec.runtime import arch_name
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

MOST_SUMS = 16  # of which a thread keeps its share
POSITIONS = 2 * len(Head._fields)  # where in the table of integers the bins' places begin


def one_pass(this: Pass) -> SimpleNamespace:
    """The functions of one pass: as `blocks.one_pass`'s."""
    layout, dtype, terms, parts, wanted = this.layout, this.dtype, this.terms, this.parts, this.wanted
    gradient, totals, fixed, cut = this.gradient, this.totals, this.fixed, this.cut
    stages, places = this.stages, this.places
    C, SUMS, BY_STAGES = len(parts), len(wanted), stages is not None
    N, H, T, OVERLAP = layout.n_fft, layout.hop, layout.threads, layout.overlap
    FRAMES = 2 if fixed else 1  # frames per transform
    R, M, ROW, PLANE = layout.plan.radices[0], layout.plan.spans[0], layout.row, layout.plane  # R rows of M elements
    # Signals whose sums have room in shared memory; a pass before another one takes no less memory than that.
    RINGS = 3 - FRAMES if gradient or not totals else 0
    PEAKS, SHARED = 2 * PLANE + RINGS * N, layout.numbers(RINGS)  # where these begin, and all ends
    USED, CHIRPED, WAYS = layout.used, layout.chirped, 1 + gradient
    # Samples from a transform's first to its last one, or to the end of a row.
    SPAN = max(USED * M, H) + (FRAMES - 1) * H
    RECORD, COEFFICIENTS = record_of(layout, SUMS, fixed, gradient), Account.of(terms).coefficients
    HEAD, LENGTHS = Head.of(gradient), places.end
    measures = measures_of(parts, fixed, dtype, tuple(map(parts.index, wanted)))
    TURNS = USED * M  # where the twiddles begin, the first pass's before the rows'
    inner = TURNS + 2 * (R - 1) * M
    forward, backward = (line_transform(layout.rest, dtype, inner, way, T, R, ROW, PLANE) for way in (False, True))
    convolve: Any = convolution(layout.plan, ROW, T, TURNS, dtype) if CHIRPED else None
    compare_pair = pair_comparer(dtype, SUMS, PLANE, fixed, gradient)
    ends = seams(layout, dtype, terms, wanted, fixed, gradient, totals, this.edges, cut, this.adds, LENGTHS)
    run_at, begin, LEFT = ends.run_at, ends.begin, ends.left
    of_samples = windows(this, ends, RINGS)
    begin_frame, last_pass, finish = of_samples.begin_frame, of_samples.last_pass, of_samples.finish
    clear, further, second_frame = of_samples.clear, of_samples.further, of_samples.second_frame
    leave_tail = of_samples.leave_tail
    compare_stages: Any = None
    if stages is not None:
        assert layout.room is not None
        tools = shared_tools(layout, dtype, PEAKS + layout.peaks)
        compare_stages = by_stages(N, dtype, parts, fixed, gradient, stages, layout.room, places, tools)

    @ti.func
    def threads(integers: ti.template()):
        """How many threads have a run at all."""
        return integers[HEAD.at_work] * T

    @ti.func
    def walk(i, x: ti.template(), y: ti.template(), gx: ti.template(), gy: ti.template(), table: ti.template(),
             integers: ti.template(), scratch: ti.template(), account: ti.template()):  # fmt: skip
        """Thread i's share of all runs of frames that its team takes."""
        sm = ti.simt.block.SharedArray((SHARED,), dtype)
        # With i % T LLVM would count all that counts from it anew for each turn, and keep it: 26 registers.
        thread, turn = ((i & ti.static(T - 1)) + integers[HEAD.zero]) & KNOWN, i >> ti.static(T.bit_length() - 1)
        gs = ti.static([gx] if fixed else [gx, gy])
        while turn < integers[HEAD.turns]:
            b, c, _ = run_at(integers, turn)
            whole, frames = integers[HEAD.samples], integers[HEAD.frames]
            length = whole
            if ti.static(cut):
                length, frames = integers[LENGTHS + 2 * b], integers[LENGTHS + 1 + 2 * b]
            factors = [account[b, ti.static(COEFFICIENTS + parts[j][0])] for j in ti.static(range(C))]
            found = [ti.cast(0, dtype) for _ in ti.static(range(SUMS))]
            f = begin(integers, c) * FRAMES
            end = f + (integers[HEAD.short] + (c < integers[HEAD.longs])) * FRAMES
            ring = 0  # where in it the next frame begins
            if ti.static(gradient):
                clear(sm, thread + integers[HEAD.zero])
            while f < end:
                # Read anew for each frame and each way: what no frame changes LLVM would compute before and keep.
                zero = integers[HEAD.zero]
                t = thread + zero
                start = f * H - LEFT
                inside = f + FRAMES <= frames and start >= 0 and start + SPAN <= length
                scale = [ti.cast(0, dtype) for _ in ti.static(range(5))]
                if ti.static(fixed):
                    begin_frame(scale, sm, x, x, table, integers, t, b, f, frames, start, length, whole, inside, zero)
                else:
                    begin_frame(scale, sm, x, y, table, integers, t, b, f, frames, start, length, whole, inside, zero)
                if ti.static(CHIRPED):
                    for way in range(WAYS + zero):  # one program for both
                        convolve(sm, table, thread + integers[HEAD.zero])
                        if way == 0:
                            compare_frame(found, sm, y, table, integers, t, b, f, frames, scale, factors)
                else:
                    forward(sm, table, 0, t)
                    compare_frame(found, sm, y, table, integers, t, b, f, frames, scale, factors)
                if ti.static(gradient):
                    zero = integers[HEAD.zero]
                    t = thread + zero
                    if ti.static(not CHIRPED):
                        backward(sm, table, 0, t)
                    last_pass(gs, sm, table, ring, t, b * whole + start, scale, inside, zero)
                    if ti.static(H > N) or not inside:
                        ti.simt.block.sync()
                        finish(gs, scratch, integers, sm, t, b, start, length, whole, inside)
                    ring = further(ring)
                    if ti.static(fixed):
                        ti.simt.block.sync()
                        second_frame(gs, scratch, integers, sm, ring, t, b, start + H, length, whole, inside)
                        ring = further(ring)
                ti.simt.block.sync()
                f += FRAMES
            run = turn * RECORD
            t = thread + integers[HEAD.zero]
            if ti.static(gradient and OVERLAP > 0):
                leave_tail(scratch, sm, ring, t, run)
            add_team(found, scratch, sm, t, run)
            turn += integers[HEAD.at_work]

    @ti.func
    def compare_frame(found: ti.template(), sm: ti.template(), y: ti.template(), table: ti.template(),
                      integers: ti.template(), t, b, f, frames, scale: ti.template(), factors: ti.template()):  # fmt: skip
        """Adds this thread's sums to what it has found; the bins in shared memory become the gradients'."""
        item = b * integers[HEAD.item_stride]
        rows = [item + ti.min(f + k, frames - 1) * integers[HEAD.frame_stride] for k in ti.static(range(2))]
        if ti.static(BY_STAGES):
            zero = integers[HEAD.zero]
            compare_stages(found, sm, zero, t, y, rows, f < frames, f + 1 < frames, scale, factors, table, integers,
                           zero)  # fmt: skip
        else:
            goals = ti.static(measures(y, *rows, forces_of(factors, scale)))
            if f < frames:
                compare(found, sm, integers, t, goals, scale, f + 1 < frames)

    @ti.func
    def compare(found: ti.template(), sm: ti.template(), integers: ti.template(), t, goals: ti.template(),
                scale: ti.template(), second: ti.template()):  # fmt: skip
        """Adds this thread's distances; its bins become the gradients', real and imaginary parts exchanged."""
        k = t
        while k <= N // 2:
            at = integers[POSITIONS + k]
            other = integers[POSITIONS + ti.select(k == 0, 0, N - k)]
            z, m = ti.static([sm[at], sm[at + PLANE]]), ti.static([sm[other], sm[other + PLANE]])
            compare_pair(found, sm, at, other, z, m, k, goals, scale, second)
            k += T

    @ti.func
    def add_team(found: ti.template(), scratch: ti.template(), sm: ti.template(), t, run):
        """scratch[run + j] ← the sum of a team's j-th values, its threads always added in the same order."""
        for j in ti.static(range(SUMS)):
            ti.simt.block.sync()
            sm[t] = found[j]
            ti.simt.block.sync()
            if t == 0:
                total = ti.cast(0, dtype)
                for e in range(T):
                    total += sm[e]
                scratch[run + j] = total
        ti.simt.block.sync()

    return SimpleNamespace(threads=threads, walk=walk, settle=ends.settle, settling=ends.settling)


def shared_tools(layout: Line, dtype: Any, at: int) -> SimpleNamespace:
    """The functions by which the stages meet shared memory. at: where in it their cells begin, of which each has a number in
    either half."""
    assert layout.room is not None
    CELLS, HALF, PLANE = at, layout.room.cells, layout.plane

    @ti.func
    def store(sm: ti.template(), cell, a, b):
        sm[CELLS + cell], sm[CELLS + HALF + cell] = a, b

    @ti.func
    def fetch(sm: ti.template(), cell):
        return sm[CELLS + cell], sm[CELLS + HALF + cell]

    @ti.func
    def place(integers: ti.template(), k):
        return integers[POSITIONS + k]

    @ti.func
    def read(sm: ti.template(), at):
        return sm[at], sm[at + PLANE]

    @ti.func
    def write(sm: ti.template(), at, re, im):
        sm[at], sm[at + PLANE] = re, im

    @ti.func
    def sync(sm: ti.template()):
        ti.simt.block.sync()

    return SimpleNamespace(long=False, store=store, fetch=fetch, place=place, read=read, write=write, sync=sync,
                           power_of_two=power_of_two(dtype))  # fmt: skip


def supports(stft: STFT, dtype: Any, batch: int, n_samples: int, terms: tuple[Term, ...], fixed: Any = None,
             bands: Any = None, bin_weights: Any = None, toward_target: bool = False) -> bool:  # fmt: skip
    """Whether `FramesEngine` can do this on this device, and no index leaves its range. Arguments: as it takes them."""
    stages, rows = stages_of(terms, bands, bin_weights, toward_target), stft.n_bins if bands is None else len(bands)
    line = choose(stft, dtype, arch_name(), stages, rows)
    if line is None or columns_of(terms)[-1] > MOST_SUMS:
        return False
    both = [runs_of(line, stft, batch, n_samples, fixed is not None)] * 2
    return in_range(
        line, stft, batch, n_samples, both, columns_of(terms)[-1], fixed, goal_width(rows, stft.n_bins, stages)
    )


class FramesEngine(BlocksEngine):
    """Loss and gradients of signals of one shape, on a GPU, in one pass. Arguments: as `BlocksEngine`'s."""

    one_pass: Any = staticmethod(one_pass)

    @staticmethod
    def choose(stft: STFT, dtype: Any, stages: Stages | None, rows: int, columns: int) -> Any:
        """As `BlocksEngine` says."""
        return choose(stft, dtype, arch_name(), stages, rows)

    def _runs(self, stft: STFT) -> list[Runs]:
        return [runs_of(self.layout, stft, self.batch, self.n_samples, self.fixed)] * 2

    def _bin_places(self) -> NDArray[np.int64]:
        places: NDArray[np.int64] = self.layout.places
        return places
