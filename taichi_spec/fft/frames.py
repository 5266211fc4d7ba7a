"""The fused pass on a GPU for frames of products of 2, 3, 5 and 7 that fit a block's shared memory.

A team of threads, a block, walks a run of neighbouring frames, as in `blocks`, which takes the powers of two; but a frame lies
in shared memory, not in registers, as its radices do not share it out evenly. It is windowed, transformed, compared,
transformed back and windowed again in place. Beside it lies a ring of sums that wait for the frames that follow. What runs
leave each other, and what is done when all have ended, is that of `blocks_seams`; `frames_compare` is what comes between the
transforms where a loss is more than a sum over whole bins.

What limits the pass on an H200 at n_fft 1000: shared memory is busy in 80 % of all cycles, in a quarter of them as accesses
of a warp meet in a bank. Hence twiddles that lie side by side for neighbouring threads, few passes, and as the last radix one
that is odd or twice odd.
"""

from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import itemsize
from taichi_spec.bins import Account, Parts, columns_of
from taichi_spec.fft import blocks_layout
from taichi_spec.fft.blocks import BlocksEngine, in_range
from taichi_spec.fft.blocks_compare import BandPlaces, Room
from taichi_spec.fft.blocks_layout import LAUNCHED, Head, goal_width, record_of
from taichi_spec.fft.blocks_seams import seams
from taichi_spec.fft.frames_compare import by_stages
from taichi_spec.fft.lines import line_table, line_transform, plan_of
from taichi_spec.fft.pairs import bits_of, forces_of, measures_of, pair_comparer, power_of_two
from taichi_spec.fft.plan import Plan, is_smooth
from taichi_spec.fft.runs import LEAST, Runs
from taichi_spec.fft.stages import Stages, stages_of
from taichi_spec.fft.together import four_writer
from taichi_spec.framing import load
from taichi_spec.runtime import arch_name, cuda_multiprocessors, in_software, shared_bytes
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

# Points of a frame that a thread has, at most, unless its team would have more threads than that. On Vulkan a multiprocessor
# has shared memory for few teams.
POINTS, LARGEST = {"cuda": 16, "vulkan": 8}, {"cuda": 128, "vulkan": 256}
# How many CUDA starts for each multiprocessor, at least and at most. By the registers they need 16 or 20 are at work at once,
# and of 80 none waits long for the last ones.
FEW_WARPS, MANY_WARPS = 16, 80
AT_ONCE = 4  # numbers that a thread asks memory for before it waits for the first
GROUP = 8  # threads whose peaks one of them compares
MOST_SUMS = 16  # of which a thread keeps its share
POSITIONS = 2 * len(Head._fields)  # where in the table of integers the bins' places begin


@dataclass(frozen=True)
class Line:
    """How a frame lies in shared memory, and the sizes that `blocks_seams` and `blocks_layout` ask for.

    The real parts, the imaginary parts, and the ring: of both signals or, where the target is fixed, of two frames of one.
    """

    n_fft: int
    hop: int
    threads: int  # of a team
    cuda: bool
    least_blocks: int  # that have work, as far as there is some
    most_blocks: int  # that are launched
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

    @cached_property
    def plan(self) -> Plan:
        """How a frame is transformed."""
        return plan_of(self.n_fft)

    @property
    def numbers(self) -> int:
        """Numbers of a block in shared memory: the frame, the ring, what its threads compare, and the stages' cells."""
        return 4 * self.n_fft + 2 * self.threads + (2 * self.room.cells if self.room else 0)

    def table(self, window: NDArray[Any]) -> NDArray[Any]:
        """All constants of a frame: the window, then the twiddles."""
        return np.concatenate([window, line_table(self.plan)])


def choose(stft: STFT, dtype: Any, arch: str, stages: Stages | None, rows: int) -> Any:
    """The `Line` for a product of 2, 3, 5 and 7, or None where a block has too little shared memory for it.

    rows: how many numbers a quantity has, where there are stages.
    """
    if not is_smooth(stft.n_fft) or arch not in ("cuda", "vulkan") or (dtype == ti.f64 and arch == "vulkan"):
        return None
    threads = 32
    while threads * POINTS[arch] < stft.n_fft and threads < LARGEST[arch]:
        threads *= 2
    least = most = blocks_layout.GRID
    if arch == "cuda" and cuda_multiprocessors()[0]:
        least, most = (cuda_multiprocessors()[0] * warps * 32 // threads for warps in (FEW_WARPS, MANY_WARPS))
    elif not in_software(arch):
        most = LAUNCHED // threads
    room = None if stages is None else Room.of(stages, stft.n_bins, rows, threads, 8)
    line = Line(stft.n_fft, stft.hop_length, threads, arch == "cuda", least, most, room)
    return line if itemsize(dtype) * line.numbers <= shared_bytes(arch) else None


def teams_at_work(line: Line, transforms: int) -> int:
    """How many teams share so many transforms: as many as leave each a run of some length, within bounds."""
    return min(max(transforms // LEAST, line.least_blocks), line.most_blocks)


def runs_of(line: Line, stft: STFT, batch: int, n_samples: int, fixed: bool) -> Runs:
    """How the frames of signals (B, T) are shared out among teams."""
    pack = 1 + fixed  # frames that share a transform
    transforms = -(-stft.n_frames(n_samples) // pack)
    overlap = -(-line.overlap // (stft.hop_length * pack))
    return Runs.of(transforms, batch, teams_at_work(line, batch * transforms), overlap, 1)


def one_pass(
    layout: Any,
    dtype: Any,
    terms: tuple[Term, ...],
    parts: Parts,
    before: Parts,
    gradient: bool,
    totals: bool,
    is_field: bool,
    fixed: bool,
    edges: str,
    stages: Stages | None,
    places: BandPlaces,
    cut: bool,
    adds: bool,
) -> SimpleNamespace:
    """The functions of one pass. Arguments and what is returned: as `blocks.one_pass`'s."""
    BY_STAGES = stages is not None
    wanted = tuple(part for part in parts if BY_STAGES or part not in before)  # as in `blocks`
    C, SUMS = len(parts), len(wanted)
    N, H, T, OVERLAP, SHARED = layout.n_fft, layout.hop, layout.threads, layout.overlap, layout.numbers
    FRAMES = 2 if fixed else 1  # frames per transform
    SIGNALS = 1 if fixed else 2  # with gradients
    TOGETHER = 4 // SIGNALS if layout.cuda else 1  # samples whose gradients are written at once: see `four_writer`
    RING, PEAKS = 2 * N, 4 * N  # where in shared memory they begin
    AROUND = 2 * N if fixed else N  # numbers of a ring
    DONE = FRAMES * H  # samples that a transform finishes
    SPAN = max(N, H) + DONE - H  # from its first sample to its last one
    RECORD, COEFFICIENTS = record_of(layout, SUMS, fixed, gradient), Account.of(terms).coefficients
    HEAD, LENGTHS, Bits = Head.of(gradient), places.end, bits_of(dtype)
    measures, powers = measures_of(parts, fixed, dtype, tuple(map(parts.index, wanted))), power_of_two(dtype)
    forward, backward = (line_transform(layout.plan, dtype, N, way, T) for way in (False, True))
    compare_pair = pair_comparer(dtype, SUMS, N, fixed, gradient)
    ends = seams(layout, dtype, terms, wanted, fixed, gradient, totals, edges, cut, adds, LENGTHS)
    run_at, begin, source, put, LEFT = ends.run_at, ends.begin, ends.source, ends.put, ends.left
    write_four = four_writer(dtype, adds)
    CELLS = 4 * N + 2 * T  # where those of the stages begin, of which each has a number in either half
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

        tools = SimpleNamespace(store=store, fetch=fetch, sync=ti.simt.block.sync, power_of_two=powers)
        compare_stages = by_stages(N, POSITIONS, dtype, parts, fixed, gradient, stages, layout.room, places, tools)

    @ti.func
    def threads(integers: ti.template()):
        """How many threads have a run at all."""
        return integers[HEAD.at_work] * T

    @ti.func
    def walk(i, x: ti.template(), y: ti.template(), gx: ti.template(), gy: ti.template(), table: ti.template(),
             integers: ti.template(), scratch: ti.template(), account: ti.template()):  # fmt: skip
        """Thread i's share of all runs of frames that its team takes."""
        sm = ti.simt.block.SharedArray((SHARED,), dtype)
        thread, turn = i % T, i // T
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
                clear(sm, thread)
            while f < end:
                # Read anew for each frame and each way: what no frame changes LLVM would compute before and keep.
                t = thread + integers[HEAD.zero]
                start = f * H - LEFT
                inside = f + FRAMES <= frames and start >= 0 and start + SPAN <= length
                scale = [ti.cast(0, dtype) for _ in ti.static(range(5))]
                if ti.static(fixed):
                    load_frame(scale, sm, x, x, table, t, b, f, frames, start, length, inside)
                else:
                    load_frame(scale, sm, x, y, table, t, b, f, frames, start, length, inside)
                forward(sm, table, 0, t)
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
                if ti.static(gradient):
                    t = thread + integers[HEAD.zero]
                    backward(sm, table, 0, t)
                    finish(gs, scratch, integers, sm, table, ring, t, b, start, length, whole, scale, inside)
                    if ti.static(OVERLAP > 0):
                        keep(sm, table, ring, t, scale)
                    ring += ti.static(DONE % AROUND)
                    ring = ti.select(ring >= AROUND, ring - AROUND, ring)
                ti.simt.block.sync()
                f += FRAMES
            run = turn * RECORD
            if ti.static(gradient and OVERLAP > 0):
                leave_tail(scratch, sm, ring, thread, run)
            add_team(found, scratch, sm, thread, run)
            turn += integers[HEAD.at_work]

    @ti.func
    def clear(sm: ti.template(), t):
        """Nothing waits where a run begins."""
        n = t
        while n < 2 * N:
            sm[RING + n] = 0
            n += T

    @ti.func
    def load_frame(scale: ti.template(), sm: ti.template(), x: ti.template(), other: ti.template(), table: ti.template(),
                   t, b, f, frames, start, length, inside):  # fmt: skip
        """The windowed frame and `other`'s to shared memory, each brought to a peak near 1 where they differ much or are
        extreme. scale ← what `two_bins` takes.

        A silent half has no spectrum at all, and of two equal ones one is dropped: see `blocks_levels`.
        """
        mine = ti.Vector.zero(dtype, 2)
        n = t
        if inside:
            while n < N:
                # Beyond the last element the last one again, which changes nothing.
                ns = [ti.min(n + e * T, N - 1) for e in ti.static(range(AT_ONCE))]
                first = [load(x, b, start + m) for m in ti.static(ns)]
                second = [load(other, b, start + ti.static(DONE - H) + m) for m in ti.static(ns)]
                weights = [table[m] for m in ti.static(ns)]
                for e in ti.static(range(AT_ONCE)):
                    u, v = weights[e] * first[e], weights[e] * second[e]
                    sm[ns[e]], sm[ns[e] + N] = u, v
                    mine[0], mine[1] = ti.max(mine[0], abs(u)), ti.max(mine[1], abs(v))
                n += ti.static(T * AT_ONCE)
        while n < N:
            u = windowed(x, table, b, start + n, n, f < frames, length)
            v = windowed(other, table, b, start + ti.static(DONE - H) + n, n, f + FRAMES <= frames, length)
            sm[n], sm[n + N] = u, v
            mine[0], mine[1] = ti.max(mine[0], abs(u)), ti.max(mine[1], abs(v))
            n += T
        peaks = of_team(sm, mine, t)
        equal = 0
        if ti.static(not fixed):  # noqa: SIM102  known when the kernel is compiled
            if peaks[0] == peaks[1]:
                equal = ti.cast(of_team(sm, ti.Vector([differ(sm, t), ti.cast(0, dtype)]), t)[0] == 0, ti.i32)
        half, none = ti.cast(0.5, dtype), ti.cast(0, dtype)
        on_x, on_y = ti.select(peaks[0] > 0, half, none), ti.select(peaks[1] > 0, half, none)
        scale[0], scale[1], scale[2], scale[3], scale[4] = on_x, on_y, on_x, on_y, ti.cast(equal, dtype)
        low, high = ti.min(peaks[0], peaks[1]), ti.max(peaks[0], peaks[1])
        if low * ti.cast(16, dtype) < high or high > 1e9 or low < 1e-9 or equal == 1:
            up_x, down_x = powers(peaks[0])
            up_y, down_y = powers(peaks[1])
            scale[0], scale[1] = on_x * up_x, on_y * up_y
            n = t
            while n < N:
                sm[n] = sm[n] * down_x
                sm[n + N] = sm[n + N] * ti.select(equal == 1, none, down_y)
                n += T

    @ti.func
    def windowed(x: ti.template(), table: ti.template(), b, s, n, live, length):
        """Sample s of item b, 0 if there is none, times the window's n."""
        at = source(s, length)
        return ti.select(live and at >= 0, table[n] * load(x, b, ti.max(at, 0)), ti.cast(0, dtype))

    @ti.func
    def differ(sm: ti.template(), t):
        """1 where any of this thread's elements has other bits in one half than in the other, else 0."""
        found = ti.cast(0, Bits)
        n = t
        while n < N:
            found = found | (ti.bit_cast(sm[n], Bits) ^ ti.bit_cast(sm[n + N], Bits))
            n += T
        return ti.cast(found != 0, dtype)

    @ti.func
    def of_team(sm: ti.template(), mine: ti.template(), t):
        """The largest of two numbers among a team's threads: of each GROUP of neighbours, then of all groups."""
        ti.simt.block.sync()
        for k in ti.static(range(2)):
            sm[PEAKS + t + ti.static(k * T)] = mine[k]
        ti.simt.block.sync()
        if t % GROUP == 0:
            for k in ti.static(range(2)):
                most = mine[k]
                for e in ti.static(range(1, GROUP)):
                    most = ti.max(most, sm[PEAKS + t + ti.static(k * T + e)])
                sm[PEAKS + t + ti.static(k * T)] = most
        ti.simt.block.sync()
        largest = ti.Vector.zero(dtype, 2)
        for k in ti.static(range(2)):
            for g in range(T // GROUP):
                largest[k] = ti.max(largest[k], sm[PEAKS + g * GROUP + ti.static(k * T)])
        return largest

    @ti.func
    def compare(found: ti.template(), sm: ti.template(), integers: ti.template(), t, goals: ti.template(),
                scale: ti.template(), second: ti.template()):  # fmt: skip
        """Adds this thread's distances; its bins become the gradients', real and imaginary parts exchanged."""
        k = t
        while k <= N // 2:
            at = integers[POSITIONS + k]
            other = integers[POSITIONS + ti.select(k == 0, 0, N - k)]
            z, m = ti.static([sm[at], sm[at + N]]), ti.static([sm[other], sm[other + N]])
            compare_pair(found, sm, at, other, z, m, k, goals, scale, second)
            k += T

    @ti.func
    def finish(gs: ti.template(), scratch: ti.template(), integers: ti.template(), sm: ti.template(),
               table: ti.template(), ring, t, b, start, length, whole, scale: ti.template(), inside):  # fmt: skip
        """Writes what no later frame adds to."""
        q = t
        if inside:
            while q < DONE:
                # Beyond the last sample this thread's first one again, to which all is added before any is written.
                qs = [ti.select(q + e * T < DONE, q + e * T, q) for e in ti.static(range(TOGETHER))]
                sums = [finished(sm, table, ring, m, scale) for m in ti.static(qs)]
                at = b * whole + start
                each = ti.static([(s, e) for e in range(TOGETHER) for s in range(SIGNALS)])
                if ti.static(layout.cuda):
                    write_four(*ti.static([gs[s][0, at + qs[e]] for s, e in each]),
                               *ti.static([sums[e][s] for s, e in each]))  # fmt: skip
                else:
                    for s, e in ti.static(each):
                        value = sums[e][s]
                        if ti.static(adds):
                            value += gs[s][0, at + qs[e]]
                        gs[s][0, at + qs[e]] = value
                q += ti.static(TOGETHER * T)
        while q < DONE:
            sums = finished(sm, table, ring, q, scale)
            put(gs, scratch, integers, b, start + q, length, whole, sums)
            q += T

    @ti.func
    def finished(sm: ti.template(), table: ti.template(), ring, q, scale: ti.template()):
        """Sample q of what came back, with what waits."""
        sums = added(sm, table, q, scale)
        if ti.static(OVERLAP > 0):
            at = place(ring, q)
            for s in ti.static(range(SIGNALS)):
                sums[s] += ti.select(q < OVERLAP, sm[at + ti.static(s * N)], 0)
        return sums

    @ti.func
    def keep(sm: ti.template(), table: ti.template(), ring, t, scale: ti.template()):
        """Lets wait what later frames add to."""
        q = t + DONE
        while q < SPAN:
            sums = added(sm, table, q, scale)
            at = place(ring, q)
            for s in ti.static(range(SIGNALS)):
                sm[at + ti.static(s * N)] = sums[s] + ti.select(q < OVERLAP, sm[at + ti.static(s * N)], 0)
            q += T

    @ti.func
    def place(ring, q):
        """Where in shared memory the ring's number q lies, behind the frame's beginning."""
        at = ring + q
        return RING + ti.select(at >= AROUND, at - AROUND, at)

    @ti.func
    def added(sm: ti.template(), table: ti.template(), q, scale: ti.template()):
        """Sample q of what came back, times the window: of both signals or, where the target is fixed, of both frames."""
        sums = ti.Vector([framed(sm, table, N, q, scale[2]), framed(sm, table, 0, q - ti.static(DONE - H), scale[3])])
        if ti.static(fixed):
            sums[0] += sums[1]
        return sums

    @ti.func
    def framed(sm: ti.template(), table: ti.template(), plane: ti.template(), n, scale):
        """Element n of a frame times the window: 0 outside; and where it is silent, not the other one's rounding."""
        at = n
        if ti.static(SPAN > N):
            at = ti.max(ti.min(n, N - 1), 0)
        value = table[at] * sm[at + plane]
        if ti.static(BY_STAGES):
            value *= scale
        return ti.select(at == n and scale > 0, value, ti.cast(0, dtype))

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
            sm[PEAKS + t] = found[j]
            ti.simt.block.sync()
            if t == 0:
                total = ti.cast(0, dtype)
                for e in range(T):
                    total += sm[PEAKS + e]
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
        positions: NDArray[np.int64] = self.layout.plan.positions
        return positions
