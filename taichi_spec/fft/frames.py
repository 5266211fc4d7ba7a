"""The fused pass on a GPU for frames of any size that fit a block's shared memory.

A team of threads, a block, walks a run of neighbouring frames, as in `blocks`, which takes the powers of two; but between the
passes of its transforms a frame lies in shared memory, not in registers, as its radices do not share it out evenly:

    forward     samples, from memory, times the window; the first pass → rows in shared memory; their passes
    between     compares bins; or `frames_compare`, where a loss is more than a sum over whole bins
    back        the rows' passes; the last pass, times the window → a ring of sums that wait; or, if finished, gradients

Of other sizes than products of 2, 3, 5 and 7 either transform is a convolution: see `frames_chirp`.

What runs leave each other, and what is done when all have ended, is that of `blocks_seams`.

What limits the pass on an H200 is shared memory. Hence few passes, rows that lie so that few accesses meet in a bank (`rows`),
twiddles that lie side by side for neighbouring threads, and first and last passes that have no more to do with it than they
must. LLVM has to inline a thread's program, as in `blocks`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import itemsize
from taichi_spec.bins import Account, columns_of
from taichi_spec.fft import blocks_layout
from taichi_spec.fft.blocks import BlocksEngine, in_range
from taichi_spec.fft.blocks_compare import Room
from taichi_spec.fft.blocks_layout import LAUNCHED, Head, goal_width, record_of
from taichi_spec.fft.blocks_pass import Pass
from taichi_spec.fft.blocks_seams import seams
from taichi_spec.fft.frames_chirp import chirp_table, convolution
from taichi_spec.fft.frames_compare import by_stages
from taichi_spec.fft.lines import line_table, line_transform, small_dft
from taichi_spec.fft.pairs import (
    KNOWN,
    KNOWN_SAMPLE,
    bits_of,
    cell,
    forces_of,
    measures_of,
    pair_comparer,
    power_of_two,
    push,
    size,
)
from taichi_spec.fft.plan import Plan, is_smooth, smooth_size
from taichi_spec.fft.rows import bins_at, rest_of, rows_of
from taichi_spec.fft.runs import LEAST, Runs
from taichi_spec.fft.stages import Stages, stages_of
from taichi_spec.fft.together import four_writer, rows_writer
from taichi_spec.framing import load
from taichi_spec.runtime import arch_name, cuda_multiprocessors, in_software, shared_bytes, warp_threads
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

# Points of a frame that a thread has, at most, unless its team would have more threads than that. On Vulkan a multiprocessor
# has shared memory for few teams.
POINTS, LARGEST = {"cuda": 16, "vulkan": 8}, {"cuda": 128, "vulkan": 256}
# How many CUDA starts for each multiprocessor, at least and at most. By the registers they need 16 or 20 are at work at once,
# and of 80 none waits long for the last ones.
FEW_WARPS, MANY_WARPS = 16, 80
GROUP = 8  # threads whose peaks one of them compares
MOST_SUMS = 16  # of which a thread keeps its share
POSITIONS = 2 * len(Head._fields)  # where in the table of integers the bins' places begin


@dataclass(frozen=True)
class Line:
    """How a frame lies in shared memory, and the sizes that `blocks_seams` and `blocks_layout` ask for.

    The real parts, the imaginary parts, and the ring of both signals. The parts lie in rows, as many as the first radix has
    points: element n_fft / radix of a frame is the first one of row 1.
    """

    n_fft: int
    hop: int
    threads: int  # of a team
    plan: Plan  # how a frame is transformed
    row: int  # how far apart its rows lie
    cuda: bool
    least_blocks: int  # that have work, as far as there is some
    most_blocks: int  # that are launched
    warp: int = 0  # so many neighbouring threads compare their peaks without shared memory
    room: Room | None = None  # where the stages of a frame lie, behind all else
    teams: int = 1  # of a block
    first: int = 0  # the window's first row, of so many numbers as there are threads, that is not left out

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.threads

    @property
    def settlers(self) -> int:
        """As `blocks_layout.Layout`'s."""
        return blocks_layout.GRID

    @property
    def overlap(self) -> int:
        """How many of a frame's samples the next one sees again."""
        return max(self.n_fft - self.hop, 0)

    @property
    def chirped(self) -> bool:
        """Whether transforms are convolutions, which have more points than a frame."""
        return self.plan.n != self.n_fft

    @property
    def used(self) -> int:
        """Rows of the first pass, and the last one, that have samples of the frame."""
        return -(-self.n_fft // self.plan.spans[0])

    @cached_property
    def rest(self) -> Plan:
        """How its rows are transformed after the first pass, or before the last one."""
        return rest_of(self.plan)

    @property
    def plane(self) -> int:
        """From a number's real part to its imaginary part."""
        return self.plan.radices[0] * self.row

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the transform leaves each bin  # (N,)"""
        if self.chirped:
            row, place = np.divmod(np.arange(self.n_fft), self.plan.spans[0])
        else:
            place, row = bins_at(self.plan, np.arange(self.n_fft))
        places: NDArray[np.int64] = place + row * self.row
        return places

    @property
    def peaks(self) -> int:
        """Numbers that its threads compare, or their warps."""
        return 2 * self.threads // max(self.warp, 1)

    def numbers(self, rings: int) -> int:
        """Numbers of a block in shared memory: the frame, the rings, the peaks, the stages' cells; or its threads' sums."""
        cells = self.room.cells if self.room else 0
        return max(2 * self.plane + rings * self.n_fft + self.peaks + 2 * cells, self.threads)

    def table(self, window: NDArray[Any]) -> NDArray[Any]:
        """All constants of a frame: the window, with zeros to the end of a row; the twiddles; what a convolution takes."""
        window = np.pad(window, (0, self.used * self.plan.spans[0] - self.n_fft))
        chirp = [chirp_table(self.n_fft, self.plan)] if self.chirped else []
        return np.concatenate([window, line_table(self.plan), *chirp])


def choose(stft: STFT, dtype: Any, arch: str, stages: Stages | None, rows: int) -> Any:
    """The `Line` of a frame, or None where a block has too little shared memory for it.

    rows: how many numbers a quantity has, where there are stages.
    """
    if arch not in ("cuda", "vulkan") or (dtype == ti.f64 and arch == "vulkan"):
        return None
    points = stft.n_fft if is_smooth(stft.n_fft) else smooth_size(2 * stft.n_fft - 1)
    threads = 32
    while threads * POINTS[arch] < points and threads < LARGEST[arch]:
        threads *= 2
    least = most = blocks_layout.GRID
    if arch == "cuda" and cuda_multiprocessors()[0]:
        least, most = (cuda_multiprocessors()[0] * warps * 32 // threads for warps in (FEW_WARPS, MANY_WARPS))
    elif not in_software(arch):
        most = LAUNCHED // threads
    room = None if stages is None else Room.of(stages, stft.n_bins, rows, threads, 8)
    warp = warp_threads(arch) if arch == "vulkan" else 0
    # In one pass it needs as much memory; to find a long frame's plan takes seconds.
    whole = Plan(points, (points,))
    line = Line(stft.n_fft, stft.hop_length, threads, whole, 1, arch == "cuda", least, most, warp, room)
    free = shared_bytes(arch) // itemsize(dtype) - line.numbers(2)
    if free < 0:
        return None
    # Room between rows brings nothing on Vulkan, and less memory more teams.
    plan, row = rows_of(points, threads, free // 2 if arch == "cuda" else 0)
    return replace(line, plan=plan, row=row)


def teams_at_work(line: Line, transforms: int) -> int:
    """How many teams share so many transforms: as many as leave each a run of some length, within bounds."""
    return min(max(transforms // LEAST, line.least_blocks), line.most_blocks)


def runs_of(line: Line, stft: STFT, batch: int, n_samples: int, fixed: bool) -> Runs:
    """How the frames of signals (B, T) are shared out among teams."""
    pack = 1 + fixed  # frames that share a transform
    transforms = -(-stft.n_frames(n_samples) // pack)
    overlap = -(-line.overlap // (stft.hop_length * pack))
    return Runs.of(transforms, batch, teams_at_work(line, batch * transforms), overlap, 1)


def one_pass(this: Pass) -> SimpleNamespace:
    """The functions of one pass: as `blocks.one_pass`'s."""
    layout, dtype, terms, parts, wanted = this.layout, this.dtype, this.terms, this.parts, this.wanted
    gradient, totals, is_field, fixed, edges = this.gradient, this.totals, this.is_field, this.fixed, this.edges
    stages, places, cut, adds, BY_STAGES = this.stages, this.places, this.cut, this.adds, this.stages is not None
    C, SUMS = len(parts), len(wanted)
    N, H, T, OVERLAP = layout.n_fft, layout.hop, layout.threads, layout.overlap
    FRAMES = 2 if fixed else 1  # frames per transform
    SIGNALS = 1 if fixed else 2  # with gradients
    TOGETHER = 4 if layout.cuda else 1  # samples of a second frame that are written at once: see `four_writer`
    R, M, ROW, PLANE = layout.plan.radices[0], layout.plan.spans[0], layout.row, layout.plane  # R rows of M elements
    RINGS = SIGNALS if gradient or not totals else 0  # a pass before another one takes no less memory than that
    RING, PEAKS, SHARED = 2 * PLANE, 2 * PLANE + RINGS * N, layout.numbers(RINGS)  # where these begin, and all ends
    WARP = layout.warp
    USED, CHIRPED, WAYS = layout.used, layout.chirped, 1 + gradient
    LATER = (FRAMES - 1) * H  # how much later a second frame begins
    SPAN = max(USED * M, H) + LATER  # samples from a transform's first to its last one, or to the end of a row
    RECORD, COEFFICIENTS = record_of(layout, SUMS, fixed, gradient), Account.of(terms).coefficients
    HEAD, LENGTHS, Bits = Head.of(gradient), places.end, bits_of(dtype)
    measures, powers = measures_of(parts, fixed, dtype, tuple(map(parts.index, wanted))), power_of_two(dtype)
    ways = False, True  # forward and back
    TURNS = USED * M  # where the twiddles begin, the first pass's before the rows'
    outer, outer_back = (small_dft(layout.plan, dtype, TURNS, way) for way in ways)
    inner = TURNS + 2 * (R - 1) * M
    forward, backward = (line_transform(layout.rest, dtype, inner, way, T, R, ROW, PLANE) for way in ways)
    convolve: Any = convolution(layout.plan, ROW, T, TURNS, dtype) if CHIRPED else None
    write_rows = rows_writer(dtype, adds, M, min(H, N))
    compare_pair = pair_comparer(dtype, SUMS, PLANE, fixed, gradient)
    ends = seams(layout, dtype, terms, wanted, fixed, gradient, totals, edges, cut, adds, LENGTHS)
    run_at, begin, source, put, LEFT = ends.run_at, ends.begin, ends.source, ends.put, ends.left
    write_four = four_writer(dtype, adds)
    CELLS = PEAKS + layout.peaks  # where those of the stages begin, of which each has a number in either half
    compare_stages: Any = None
    if stages is not None:
        assert layout.room is not None
        HALF = layout.room.cells

        @ti.func
        def store(sm: ti.template(), cell, a, b):
            sm[CELLS + cell], sm[CELLS + HALF + cell] = a, b

        @ti.func
        def fetch(sm: ti.template(), cell):
            return sm[CELLS + cell], sm[CELLS + HALF + cell]

        @ti.func
        def bin_place(integers: ti.template(), k):
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

        tools = SimpleNamespace(long=False, store=store, fetch=fetch, place=bin_place, read=read, write=write, sync=sync,
                                power_of_two=powers)  # fmt: skip
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
    def clear(sm: ti.template(), t):
        """Nothing waits where a run begins."""
        n = t
        while n < RINGS * N:
            sm[RING + n] = 0
            n += T

    @ti.func
    def begin_frame(scale: ti.template(), sm: ti.template(), x: ti.template(), other: ti.template(), table: ti.template(),
                    integers: ti.template(), t, b, f, frames, start, length, whole, inside, zero):  # fmt: skip
        """The first pass of the windowed frame and of `other`'s: once more, with each brought to a peak near 1, if they differ
        much or are extreme. scale ← what `two_bins` takes.

        A silent half has no spectrum at all, and of two equal ones one is dropped: see `blocks_levels`.
        """
        down = ti.Vector([ti.cast(1, dtype), ti.cast(1, dtype)])
        turn, turns = 0, 1
        while turn < turns:
            mine, unlike = ti.Vector.zero(dtype, 2), ti.cast(0, Bits)
            i = t
            while i < M:
                here = (i + zero) & KNOWN
                re, im = (
                    [ti.cast(0, dtype) for _ in ti.static(range(R))],
                    [ti.cast(0, dtype) for _ in ti.static(range(R))],
                )
                if inside and turn == 0:
                    take(re, im, x, other, table, b, start + (0 if ti.static(is_field) else b * whole), here, zero)
                else:
                    gather(re, im, x, other, table, down, b, f, frames, start, length, here, integers)
                for q in ti.static(range(R)):
                    mine[0], mine[1] = ti.max(mine[0], size(re[q])), ti.max(mine[1], size(im[q]))
                    if ti.static(not fixed):
                        unlike = unlike | (ti.bit_cast(re[q], Bits) ^ ti.bit_cast(im[q], Bits))
                if ti.static(not CHIRPED):
                    outer(re, im, table, here, 0)
                for q in ti.static(range(R)):
                    sm[here + ti.static(q * ROW)], sm[here + ti.static(q * ROW + PLANE)] = re[q], im[q]
                i += T
            if turn == 0:  # noqa: SIM102  Taichi would do all of the function in either case
                if to_levels(scale, down, sm, mine, unlike != 0, t):
                    turns = 2
            turn += 1

    @ti.func
    def take(re: ti.template(), im: ti.template(), x: ti.template(), other: ti.template(), table: ti.template(), b, start, i,
             zero):  # fmt: skip
        """A DFT's windowed samples, all inside. start: of the frame, in the signal's memory."""
        at = (start + i) & KNOWN_SAMPLE
        samples = ti.static(
            [(cell(x, is_field, b, at + q * M), cell(other, is_field, b, at + (LATER + q * M))) for q in range(USED)]
        )
        there = (i + zero) & KNOWN  # an address of its own
        weights = [table[there + ti.static(q * M)] for q in ti.static(range(USED))]
        for q in ti.static(range(USED)):
            re[q], im[q] = weights[q] * ti.static(samples)[q][0], weights[q] * ti.static(samples)[q][1]

    @ti.func
    def gather(re: ti.template(), im: ti.template(), x: ti.template(), other: ti.template(), table: ti.template(),
               down: ti.template(), b, f, frames, start, length, i, integers: ti.template()):  # fmt: skip
        """The same wherever they are, one after the other, times `down`."""
        again = integers[HEAD.zero]  # what LLVM could compute before the frame would wait in registers
        for q in range(R + again):  # + 0 keeps LLVM from unrolling it
            n = i + again + q * M
            u = windowed(x, table, b, start + n, n, f + again < frames, length + again)
            v = windowed(other, table, b, start + LATER + n, n, f + again + FRAMES <= frames, length + again)
            if ti.static(CHIRPED):
                u, v = ti.select(n < N, u, 0), ti.select(n < N, v, 0)
            push(re, im, u * down[0], v * down[1])

    @ti.func
    def to_levels(scale: ti.template(), down: ti.template(), sm: ti.template(), mine: ti.template(), unlike, t):
        """Finds `scale`, and whether the halves have to be brought to other levels, by `down`.

        mine: the largest of each half among this thread's elements; unlike: whether any differs from the other half's.
        """
        half, none = ti.cast(0.5, dtype), ti.cast(0, dtype)
        peaks = of_team(sm, mine, t)
        equal = False
        if ti.static(not fixed):  # noqa: SIM102  known when the kernel is compiled
            if peaks[0] == peaks[1]:
                equal = not of_any(sm, unlike, t)
        on_x, on_y = ti.select(peaks[0] > 0, half, none), ti.select(peaks[1] > 0, half, none)
        scale[0], scale[1], scale[2], scale[3], scale[4] = on_x, on_y, on_x, on_y, ti.cast(equal, dtype)
        low, high = ti.min(peaks[0], peaks[1]), ti.max(peaks[0], peaks[1])
        moves = low * ti.cast(16, dtype) < high or high > 1e9 or low < 1e-9 or equal
        if moves:
            up_x, down_x = powers(peaks[0])
            up_y, down_y = powers(peaks[1])
            scale[0], scale[1] = on_x * up_x, on_y * up_y
            down[0], down[1] = down_x, ti.select(equal, none, down_y)
        return moves

    @ti.func
    def windowed(x: ti.template(), table: ti.template(), b, s, n, live, length):
        """Sample s of item b, 0 if there is none, times the window's n."""
        at = source(s, length)
        return ti.select(live and at >= 0, table[n] * load(x, b, ti.max(at, 0)), ti.cast(0, dtype))

    @ti.func
    def of_team(sm: ti.template(), mine: ti.template(), t):
        """The largest of two numbers >= 0 among a team's threads: of each warp or GROUP of neighbours, then of all."""
        count = ti.static(T // (WARP or GROUP))
        ti.simt.block.sync()
        if ti.static(WARP > 0):
            for k in ti.static(range(2)):
                most = ti.simt.subgroup.reduce_max(ti.bit_cast(mine[k], ti.i32))  # bits are in the same order
                if ti.simt.subgroup.invocation_id() == 0:
                    sm[PEAKS + ti.raw_div(t, WARP) + ti.static(k * count)] = ti.bit_cast(most, ti.f32)
        else:
            at = (PEAKS + t) & KNOWN  # as in `known`
            for k in ti.static(range(2)):
                sm[at + ti.static(k * T)] = mine[k]
            ti.simt.block.sync()
            if t % GROUP == 0:
                for k in ti.static(range(2)):
                    most = mine[k]
                    for e in ti.static(range(1, GROUP)):
                        most = ti.max(most, sm[at + ti.static(k * T + e)])
                    sm[at + ti.static(k * T)] = most
        ti.simt.block.sync()
        largest = ti.Vector.zero(dtype, 2)
        for k in ti.static(range(2)):
            for g in range(count):
                place = g + ti.static(k * count) if ti.static(WARP > 0) else g * GROUP + ti.static(k * T)
                largest[k] = ti.max(largest[k], sm[PEAKS + place])
        return largest

    @ti.func
    def of_any(sm: ti.template(), condition, t):
        """Whether it holds for any of a team's threads."""
        if ti.static(layout.cuda):
            return ti.simt.block.sync_any_nonzero(ti.cast(condition, ti.i32)) != 0
        else:
            return of_team(sm, ti.Vector([ti.cast(condition, dtype), 0]), t)[0] > 0

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
    def last_pass(gs: ti.template(), sm: ti.template(), table: ti.template(), ring, t, at, scale: ti.template(), inside,
                  zero):  # fmt: skip
        """The last pass on the way back. Samples of both signals or, where the target is fixed, of the first frame are
        windowed and added to what waits for them: some are finished then, others wait. A second frame's, for which other sums
        wait, go back to shared memory.

        at: where the frame begins in the gradients' memory.
        """
        i = t
        while i < M:
            here = (i + zero) & KNOWN
            re = [sm[here + ti.static(q * ROW)] for q in ti.static(range(R))]
            im = [sm[here + ti.static(q * ROW + PLANE)] for q in ti.static(range(R))]
            if ti.static(not CHIRPED):
                outer_back(re, im, table, here, 0)
            weights = [table[here + ti.static(q * M)] for q in ti.static(range(USED))]
            places = [place(ring, here + ti.static(q * M)) for q in ti.static(range(USED))]
            add_up(im, sm, here, weights, places, 0, scale[2])
            if ti.static(fixed):
                for q in ti.static(range(USED)):
                    sm[here + ti.static(q * ROW)] = part(re[q], weights[q], scale[3])
            else:
                add_up(re, sm, here, weights, places, N, scale[3])
            done = ti.static([im] if fixed else [im, re])
            if inside:
                write_rows(gs, (at + here) & KNOWN_SAMPLE, here, done)  # as in `first_pass`
            else:
                for s in ti.static(range(SIGNALS)):
                    for q in ti.static(range(-(-min(H, N) // M))):
                        sm[here + ti.static(q * ROW + (1 - s) * PLANE)] = done[s][q]
            i += T

    @ti.func
    def add_up(values: ti.template(), sm: ti.template(), i, weights: ti.template(), places: ti.template(),
               plane: ti.template(), scale: ti.template()):  # fmt: skip
        """Windows a DFT's samples of one frame and adds what waits for them; what is not finished waits for more."""
        for q in ti.static(range(USED)):
            values[q] = part(values[q], weights[q], scale)
            n = i + ti.static(q * M)
            if ti.static(q * M < OVERLAP):
                values[q] += ti.select(n < OVERLAP, sm[places[q] + plane], 0)
            if ti.static((q + 1) * M > H):  # noqa: SIM102  known when the kernel is compiled
                if n >= H and (ti.static((q + 1) * M <= N) or n < N):
                    sm[places[q] + plane] = values[q]

    @ti.func
    def finish(gs: ti.template(), scratch: ti.template(), integers: ti.template(), sm: ti.template(), t, b, start, length,
               whole, inside):  # fmt: skip
        """Writes what the last pass has left in shared memory, and zeros behind the frame."""
        q = t + ti.select(inside, N, 0)
        while q < H:
            values = [framed(sm, ti.static((1 - s) * PLANE), q) for s in ti.static(range(SIGNALS))]
            put(gs, scratch, integers, b, start + q, length, whole, values)
            q += T

    @ti.func
    def second_frame(gs: ti.template(), scratch: ti.template(), integers: ti.template(), sm: ti.template(), ring, t, b,
                     start, length, whole, inside):  # fmt: skip
        """Adds up and writes the second of two frames, which lies windowed in shared memory."""
        q = t
        if ti.static(H <= N) and inside:
            at = b * whole + start
            while q < H:
                # Beyond the last sample this thread's first one again, to which all is added before any is written.
                qs = [ti.select(q + e * T < H, q + e * T, q) for e in ti.static(range(TOGETHER))]
                sums = [of_second(sm, ring, m) for m in ti.static(qs)]
                if ti.static(layout.cuda):
                    write_four(*ti.static([gs[0][0, at + qs[e]] for e in range(TOGETHER)]), *ti.static(sums))
                else:
                    value = sums[0]
                    if ti.static(adds):
                        value += gs[0][0, at + q]
                    gs[0][0, at + q] = value
                q += ti.static(TOGETHER * T)
            q = t + H
        while q < ti.static(max(N, H)):
            value = of_second(sm, ring, q)
            if q < H:
                put(gs, scratch, integers, b, start + q, length, whole, [value])
            else:
                sm[place(ring, q)] = value
            q += T

    @ti.func
    def of_second(sm: ti.template(), ring, q):
        """Sample q of the second frame, with what waits; 0 behind the frame."""
        value = framed(sm, 0, q)
        if ti.static(OVERLAP > 0):
            value += ti.select(q < OVERLAP, sm[place(ring, q)], 0)
        return value

    @ti.func
    def framed(sm: ti.template(), plane: ti.template(), q):
        """Sample q of a windowed frame in shared memory, 0 behind the frame."""
        if ti.static(H <= N):
            return sm[plane + q + ti.raw_div(q, M) * ti.static(ROW - M)]
        else:
            at = ti.min(q, N - 1)
            return ti.select(q < N, sm[plane + at + ti.raw_div(at, M) * ti.static(ROW - M)], 0)

    @ti.func
    def place(ring, q):
        """Where in shared memory the ring's number q lies, behind the frame's beginning."""
        at = ring + q
        return RING + ti.select(at >= N, at - N, at)

    @ti.func
    def further(ring):
        """Where in the ring the next frame begins."""
        at = ring + ti.static(H % N)
        return ti.select(at >= N, at - N, at)

    @ti.func
    def part(value, weight, scale):
        """What came back times the window; and where it is silent, not the other one's rounding."""
        windowed = weight * value
        if ti.static(BY_STAGES):
            windowed *= scale
        return ti.select(scale > 0, windowed, ti.cast(0, dtype))

    @ti.func
    def leave_tail(scratch: ti.template(), sm: ti.template(), ring, t, run):
        """What still waits at the end of a run is its tail."""
        n = t
        while n < OVERLAP:
            at = place(ring, n)
            for s in ti.static(range(SIGNALS)):
                scratch[run + SUMS + ti.static(s * OVERLAP) + n] = sm[at + ti.static(s * N)]
            n += T

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
