"""The fused pass on a GPU for powers of two: frames as blocks. Other sizes: see `frames`; those too large for both: `matrix`.

A team of threads walks a run of neighbouring frames. Each thread holds `points` values of the frame in registers:
window, transform, distance per bin, transform back, window. Frames overlap-add in registers, and a sample's gradient is
written once, when the run has passed it. Only the tail that a run shares with the next goes through `scratch`.

Here is a team's walk, with what reads samples and writes gradients. The rest of it:

    blocks_layout       how frames lie on threads, and how many teams share out all frames
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

from dataclasses import dataclass, replace
from functools import cache
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import MAX_INDEX, new_array, upload, upload_integers
from taichi_spec.bins import Account, Parts, columns_of
from taichi_spec.fft.blocks_bins import is_light, whole_bins
from taichi_spec.fft.blocks_compare import BandPlaces, band_tables, by_stages
from taichi_spec.fft.blocks_layout import Head, Layout, choose, goal_width, record_of, runs_of, scratch_of
from taichi_spec.fft.blocks_levels import levels
from taichi_spec.fft.blocks_seams import seams
from taichi_spec.fft.blocks_shared import shared_memory
from taichi_spec.fft.blocks_transform import transforms
from taichi_spec.fft.fused import GPUEngine
from taichi_spec.fft.pairs import KNOWN, KNOWN_SAMPLE, MAX_KNOWN, bits_of, cell, hold, power_of_two
from taichi_spec.fft.runs import Runs
from taichi_spec.fft.stages import Stages, gains_of, goal_of, stages_of
from taichi_spec.fft.together import rows_writer
from taichi_spec.framing import annotation, load
from taichi_spec.launch import Launch
from taichi_spec.runtime import arch_name
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

SECTOR = {ti.f32: 8, ti.f64: 4}  # numbers that come from memory together
MARK = 0x7FC0DEAD  # the bits of a number that no signal has


@dataclass(frozen=True)
class Pass:
    """What of a pass over all frames is known when its kernel is compiled.

    Attributes:
        layout: how a frame lies on threads.
        dtype: ti.f32 or ti.f64.
        terms: what the loss is made of, for the functions of the sums.
        parts: what is summed, and in which column.
        before: of which parts a pass of the value alone before has the sums; or nothing.
        gradient: whether to make the gradients too.
        totals: whether to make the terms' values and the loss.
        is_field: whether the signals are fields or ndarrays; the gradients are ndarrays (B, T).
        fixed: whether y is not a signal but magnitudes in a flat array; two frames of x share a transform then.
        edges: "reflect", "constant" or "none".
        stages: how the quantities are made that are summed, or None for whole bins, a bin at a time.
        places: where the bands' matrix lies in `table` and `integers`.
        cut: whether items have lengths of their own.
        adds: whether total and gradients are added to what is there.
    """

    layout: Any
    dtype: Any
    terms: tuple[Term, ...]
    parts: Parts
    before: Parts
    gradient: bool
    totals: bool
    is_field: bool
    fixed: bool
    edges: str
    stages: Stages | None
    places: BandPlaces
    cut: bool
    adds: bool

    @property
    def wanted(self) -> Parts:
        """Those of the parts that this pass sums: by stages all again."""
        return tuple(part for part in self.parts if self.stages is not None or part not in self.before)

    @property
    def one_before(self) -> "Pass":
        """The pass of the value alone before."""
        return replace(self, parts=self.before, before=(), gradient=False, totals=False)


@cache
def fused_kernel(functions_of: Any, last: Pass) -> Any:
    """A pass as a kernel, and in it the one before, if there are sums to be known first.

    functions_of: what makes the functions of a pass, such as `one_pass` below.
    """
    layout, dtype, fixed = last.layout, last.dtype, last.fixed
    passes = [functions_of(each) for each in ([last.one_before] if last.before else []) + [last]]
    BLOCK, BLOCKS = layout.block, layout.most_blocks
    Values = ti.types.ndarray(dtype=dtype, ndim=1)
    Matrix = ti.types.ndarray(dtype=dtype, ndim=2)
    Integers = ti.types.ndarray(dtype=ti.i32, ndim=1)
    Signal = annotation(last.is_field)

    @ti.kernel
    def fused(x: Signal, y: Values if fixed else Signal, gx: Matrix, gy: Matrix, table: Values, integers: Integers,
              scratch: Values, account: Matrix, total: Values):  # fmt: skip
        """Sums and totals, and gradients. scratch: see `scratch_of`.

        Each argument costs 2 µs a call, 4 where the processor's caches are cold: hence tables, and sizes among integers.
        """
        # The bounds of all loops are constants: others take a launch to find out.
        for one in ti.static(passes):
            # Every run of frames, by one team.
            ti.loop_config(block_dim=BLOCK)
            for i in range(BLOCKS * BLOCK):
                if i < one.threads(integers):
                    one.walk(i, x, y, gx, gy, table, integers, scratch, account)
            # The sums and the total of each item, by one block; by others, what runs left over is added to what the next
            # ones wrote, and what lies at padded positions to the samples that they mirror.
            ti.loop_config(block_dim=128)
            for i in range(ti.static(one.settling * 128)):
                one.settle(i, gx, gy, integers, scratch, account, total)

    return fused


def one_pass(this: Pass) -> SimpleNamespace:
    """The functions of one pass.

    threads: how many walk; walk: what a thread of a team does; settle: what one of `settling` blocks of 128 threads does
    then.
    """
    layout: Layout = this.layout
    dtype, terms, parts, wanted = this.dtype, this.terms, this.parts, this.wanted
    gradient, is_field, fixed, edges, stages = this.gradient, this.is_field, this.fixed, this.edges, this.stages
    places, cut, adds, BY_STAGES = this.places, this.cut, this.adds, stages is not None
    C, SUMS = len(parts), len(wanted)
    RECORD = record_of(layout, SUMS, fixed, gradient)
    COEFFICIENTS = Account.of(terms).coefficients
    N, H, R, T = layout.n_fft, layout.hop, layout.points, layout.threads
    BLOCK, CELLS, OVERLAP = layout.block, layout.cells, layout.overlap
    pad, LAST = layout.pad, len(layout.radices) - 2  # the pass before the last exchange
    FIRST, ROWS, SPAN = layout.first, layout.rows, layout.span
    FRAMES = 2 if fixed else 1  # frames per transform
    KEEP, STRAY = (layout.waiting, layout.stray) if gradient else (0, 0)
    SHIFT = H // T  # how many rows further on the next frame lies, and one more for some threads if it strays
    # A transform takes so many rows of a signal, of which the next one has so many too; whether a thread keeps those.
    HELD, SHARED_ROWS = ROWS + SHIFT * (FRAMES - 1), ROWS - SHIFT
    SLIDES = not layout.cuda and not BY_STAGES and layout.waiting > 0 and layout.stray == 0
    # Entries of the table that a thread asks for before it puts any into shared memory, as LLVM still inlines them.
    AT_ONCE = (2 if N <= 1024 else 1) if gradient or fixed else max(1, min(8, -(-layout.resident // BLOCK)))
    LATER = H if fixed else 0  # how much later the frame in the imaginary part begins
    EMIT = min(ROWS, -(-H // T))  # rows of which some are finished with their frame
    TWO_ROWS = [(m, min(m + 1, ROWS - 1)) for m in range(0, ROWS, 2)]
    NEAR = SECTOR[dtype]
    # Numbers that a thread asks for in time: of samples; of both rows of a goal, and of the second one's end, but for stray
    # frames, whose program would be too long.
    ASKED = 1 if not fixed else 4 - (STRAY > 0)
    # The last of a goal's numbers of which a thread may ask for one in time.
    WIDTH = goal_width(layout.room.rows if layout.room else 0, N // 2 + 1, stages)
    CUDA = layout.cuda
    write_rows = rows_writer(dtype, adds, T, min(H, SPAN))
    LOG_T = T.bit_length() - 1
    HEAD, LENGTHS = Head.of(gradient), places.end
    Bits = bits_of(dtype)
    ENTRIES, WINDOW = layout.entries, layout.offsets[-1]
    shared = shared_memory(layout, dtype, AT_ONCE)
    ARRAY, fill, sync, uniform, constants = shared.array, shared.fill, shared.sync, shared.uniform, shared.constants
    store, fetch, store_one, fetch_one = shared.store, shared.fetch, shared.store_one, shared.fetch_one
    balance = levels(layout, dtype, fixed, shared)
    of_frames = transforms(layout, dtype, shared)
    transform, seconds = of_frames.transform, of_frames.seconds
    of_bins = whole_bins(layout, dtype, parts, wanted, fixed, gradient, shared, of_frames.mirror_of)
    spectral, rows = of_bins.spectral, of_bins.rows
    ends = seams(layout, dtype, terms, wanted, fixed, gradient, this.totals, edges, cut, adds, LENGTHS)
    run_at, begin, source, put, LEFT = ends.run_at, ends.begin, ends.source, ends.put, ends.left
    HALVES = layout.by_halves
    # Whether the window leaves enough of 168 registers on CUDA: where a thread has its bins' mirrors, does little with them,
    # and two frames of a signal have no edges.
    ROOM = layout.mirrored and gradient and is_light(parts) and (not fixed or edges == "none")

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
            samples = [ti.cast(0, dtype) for _ in ti.static(range(SLIDES * HELD * (3 - FRAMES)))]
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
                            if ti.static(not SLIDES):
                                ahead[0] = touch_signals(x, x, b, t, start, length)
                        else:
                            load_frames(re, im, samples, held, x, y, table, kept, sm, team, role, b, f, frames, start,
                                        length, whole, inside, live, integers)  # fmt: skip
                            if ti.static(not SLIDES):
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
    def write_frames(re: ti.template(), im: ti.template(), gx: ti.template(), gy: ti.template(), table: ti.template(),
                     kept: ti.template(), wait: ti.template(), scale: ti.template(), sm: ti.template(), team: ti.template(),
                     t: ti.template(), scratch: ti.template(), integers: ti.template(), b: ti.template(),
                     start: ti.template(), length: ti.template(), whole: ti.template(), inside: ti.template(),
                     exists: ti.template(), zero: ti.template()):  # fmt: skip
        """Windows what came back and emits it. re and im: the gradients of y's frame and of x's, exchanged."""
        if ti.static(BY_STAGES):
            for m in ti.static(range(FIRST, FIRST + ROWS)):
                im[m] *= scale[2]
                re[m] *= scale[3]
        # The gradient at a silent frame is 0, not the other one's rounding.
        if scale[2] == 0:
            for m in ti.static(range(FIRST, FIRST + ROWS)):
                im[m] = 0
        if scale[3] == 0:
            for m in ti.static(range(FIRST, FIRST + ROWS)):
                re[m] = 0
        writes = inside and exists
        values = ti.static(list(zip(layout.windowed(re), layout.windowed(im))))
        windowed = ti.static(weighted(values, window(kept, sm, table, t)))
        gs = ti.static([gx] if fixed else [gx, gy])
        role = t
        if ti.static(fixed):
            second = [windowed[0][m] for m in ti.static(range(ROWS))]
            if ti.static(STRAY > 0):  # the second frame is not where the first one is
                role = role_at(H, t, zero)
                # In cells that no other thread still reads: this one's of the last exchange.
                first = ti.static(2 if HALVES else 1) * team
                cells = ti.static([hold(first + pad(one, LAST)) for one in (t, role)])
                if ti.static(HALVES):
                    for m in ti.static(range(ROWS)):
                        store_one(sm, cells[0] + ti.static(pad(T * m, LAST)), second[m])
                    sync()
                    for m in ti.static(range(ROWS)):
                        second[m] = fetch_one(sm, cells[1] + ti.static(pad(T * m, LAST)))
                else:
                    for m, n in ti.static(TWO_ROWS):
                        store(sm, cells[0] + ti.static(pad(T * m, LAST)), second[m], second[n])
                    sync()
                    for m, n in ti.static(TWO_ROWS):
                        second[m], second[n] = fetch(sm, cells[1] + ti.static(pad(T * m, LAST)))
            # Zeros if there is no second frame, which then was silent.
            first_sums = ti.static(add_waiting(windowed[1:], wait))
            emit(first_sums, gs, wait, t, b, start, whole, writes)
            second_sums = ti.static(add_waiting([second], wait))
            emit(second_sums, gs, wait, role, b, start + H, whole, writes)
            if not inside and exists:
                emit_at_edges(ti.static(first_sums + second_sums), gs, scratch, integers, t, role, b, start, length,
                              whole)  # fmt: skip
        else:
            sums = ti.static(add_waiting(windowed[::-1], wait))
            emit(sums, gs, wait, t, b, start, whole, writes)
            if not inside and exists:
                emit_at_edges(sums, gs, scratch, integers, t, role, b, start, length, whole)
        if ti.static(H > SPAN):  # noqa: SIM102  one is known when the kernel is compiled
            if exists:
                emit_between(gs, scratch, integers, t, b, start, length, whole)

    @ti.func
    def role_at(start, t: ti.template(), zero: ti.template()):
        """Which of a frame's points a thread takes: those of thread `role`, if its rows begin at sample `start`.

        A thread has the same samples in all frames, those at s = t mod T: what waits for the next frame stays with it.
        """
        role = t
        if ti.static(STRAY > 0):
            role = (((t - start) & ti.static(T - 1)) + zero) & KNOWN  # as in `known`
        return role

    @ti.func
    def leave_tail(scratch: ti.template(), wait: ti.template(), role, run: ti.template(),
                   exists: ti.template(), integers: ti.template()):  # fmt: skip
        """What still waits at the end of a run is its tail. role: in the next frame, if there were one."""
        again = integers[HEAD.zero]  # as in load_frames
        first = (role + again) & KNOWN  # as in `known`
        for m in range(KEEP + again):
            n = first + T * m
            if n < OVERLAP and exists:
                at = run * RECORD + n
                scratch[at + SUMS] = wait[0]
                if ti.static(not fixed):
                    scratch[at + ti.static(SUMS + OVERLAP)] = wait[KEEP]
            gone = wait[0]  # goes last: LLVM would make code for each iteration if a register ran dry
            for k in ti.static(range(len(wait) - 1)):
                wait[k] = wait[k + 1]
            wait[ti.static(len(wait) - 1)] = gone

    @ti.func
    def add_team(values: ti.template(), scratch: ti.template(), first: ti.template(), sm: ti.template(),
                 team: ti.template(), t: ti.template(), writes: ti.template(), integers: ti.template()):  # fmt: skip
        """scratch[first + j] ← the sum of a team's j-th values, its threads always added in the same order."""
        mine = ti.static(1 if CUDA else 2) * team + t
        sync()
        for j in ti.static(range(SUMS)):
            store_one(sm, mine + ti.static(T * j), values[j])
        again = integers[HEAD.zero]  # as in load_frames
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
    def load_frames(re: ti.template(), im: ti.template(), samples: ti.template(), held: ti.template(),
                    x: ti.template(), other: ti.template(), table: ti.template(), kept: ti.template(),
                    sm: ti.template(), team: ti.template(), t: ti.template(), b: ti.template(), f: ti.template(),
                    frames: ti.template(), start: ti.template(), length: ti.template(), whole: ti.template(),
                    inside: ti.template(), live: ti.template(), integers: ti.template()):  # fmt: skip
        """The windowed frame and `other`'s into registers; at the edges one after the other, in a loop."""
        row = 0 if ti.static(is_field) else b * whole  # where item b begins in the memory of an ndarray
        for m in ti.static([m for m in range(R) if not FIRST <= m < FIRST + ROWS]):
            re[m], im[m] = ti.cast(0, dtype), ti.cast(0, dtype)
        if inside:
            at = (row + start + t) & KNOWN_SAMPLE
            weights = ti.static(window(kept, sm, table, t))
            if ti.static(SLIDES):
                signals = ti.static([x] if fixed else [x, other])
                if not held:
                    take_all(samples, signals, b, at, integers)
                held = True
                for m in ti.static(range(ROWS)):
                    re[FIRST + m] = ti.static(weights)[m] * samples[m]
                    im[FIRST + m] = ti.static(weights)[m] * samples[HELD - ROWS + m if fixed else HELD + m]
                slide(samples, signals, b, at, start, length)
            else:
                taken = ti.static(
                    [
                        (cell(x, is_field, b, at + T * m), cell(other, is_field, b, at + (T * m + LATER)))
                        for m in range(ROWS)
                    ]
                )
                for m in ti.static(range(ROWS)):
                    re[FIRST + m] = ti.static(weights)[m] * ti.static(taken)[m][0]
                    im[FIRST + m] = ti.static(weights)[m] * ti.static(taken)[m][1]
        else:
            held = False
            again = integers[HEAD.zero]
            for m in range(ROWS + again):  # + 0 keeps LLVM from unrolling it
                n = t + again + T * m
                first, second = ti.cast(0, dtype), ti.cast(0, dtype)
                at = source(start + n, length)
                if live and at >= 0:
                    first = ti.static([cell(x, is_field, b, row + at)])[0]
                if ti.static(fixed):
                    at = source(start + H + n, length)
                if f + (FRAMES - 1) < frames and at >= 0:
                    second = ti.static([cell(other, is_field, b, row + at)])[0]
                place = m + FIRST
                pair = ti.static(constants(sm, table, t + again + T * (place >> 1), WINDOW, ENTRIES))
                w = ti.select(place & 1, ti.static(pair)[1], ti.static(pair)[0])
                for k in ti.static(range(FIRST, FIRST + ROWS - 1)):  # after the last one each is in its place
                    re[k], im[k] = re[k + 1], im[k + 1]
                re[FIRST + ROWS - 1], im[FIRST + ROWS - 1] = w * first, w * second

    @ti.func
    def take_all(samples: ti.template(), signals: ti.template(), b: ti.template(), at: ti.template(),
                 integers: ti.template()):  # fmt: skip
        """All samples of a transform, from `at` on."""
        for m in range(HELD + integers[HEAD.zero]):  # + 0, as in load_frames
            taken = ti.static([cell(signal, is_field, b, at + T * m) for signal in signals])
            for s in ti.static(range(len(signals))):
                for k in ti.static(range(s * HELD, (s + 1) * HELD - 1)):
                    samples[k] = samples[k + 1]
                samples[(s + 1) * HELD - 1] = ti.static(taken)[s]

    @ti.func
    def slide(samples: ti.template(), signals: ti.template(), b: ti.template(), at: ti.template(), start: ti.template(),
              length: ti.template()):  # fmt: skip
        """From a transform's samples to the next one's: most stay, and the others are asked for in time.

        Where Taichi runs on Vulkan, a read takes four instructions more, see `kept_window`, and registers are to be had.
        If the next transform is not inside the signal, it takes none of these.
        """
        beyond = start + ti.static(SPAN + (2 * FRAMES - 1) * H) > length
        further = at + ti.select(beyond, 0, ti.static(FRAMES * H))
        for s in ti.static(range(len(signals))):
            taken = ti.static([cell(signals[s], is_field, b, further + T * m) for m in range(SHARED_ROWS, HELD)])
            for m in ti.static(range(SHARED_ROWS)):
                samples[s * HELD + m] = samples[s * HELD + m + SHIFT * FRAMES]
            for m in ti.static(range(SHARED_ROWS, HELD)):
                samples[s * HELD + m] = ti.static(taken)[m - SHARED_ROWS]

    @ti.func
    def touch_signals(x: ti.template(), other: ti.template(), b: ti.template(), t: ti.template(), start: ti.template(),
                      length: ti.template()):  # fmt: skip
        """Asks for the samples that the next transform has and this one has not, so that they are near by then.

        Each thread reads one of NEAR, half of them of `other`: enough at hop n_fft / 4.
        """
        at = (
            start + ti.static(max(SPAN + (FRAMES - 1) * H, FRAMES * H)) + (t & ti.static(T // (3 - FRAMES) - 1)) * NEAR
        )
        at = ti.min(at, start + ti.static(SPAN + (2 * FRAMES - 1) * H - 1))
        at = ti.max(ti.min(at, length - 1), 0)
        value = ti.cast(0, dtype)
        if ti.static(fixed):
            value = load(x, b, at)
        else:
            if t < ti.static(T // 2):
                value = load(x, b, at)
            else:
                value = load(other, b, at)
        return ti.bit_cast(value, Bits)

    def window(kept, sm, table, t):
        """The window at points t + T m of its rows: what is kept of it, or else the table's."""
        if kept:
            return kept
        pairs = {m: [hold(w) for w in constants(sm, table, t, WINDOW + T * m, WINDOW + T * (m + 1))]
                 for m in range(FIRST // 2, (FIRST + ROWS + 1) // 2)}  # fmt: skip
        return [pairs[m // 2][m % 2] for m in range(FIRST, FIRST + ROWS)]

    def kept_window(sm, table, t):
        """The window, if it stays in registers from frame to frame, or nothing.

        Where Taichi runs on Vulkan, each number that is read from memory is compared with the array's end: that takes
        four instructions. On CUDA few kernels have registers left.
        """
        return [] if STRAY or (CUDA and not ROOM) else window([], sm, table, t)

    def weighted(done, weights):
        """Both parts of a frame times the window."""
        return [[hold(value[part] * w) for value, w in zip(done, weights)] for part in (0, 1)]

    def add_waiting(channels, wait):
        """The frame and what earlier frames left there."""
        sums = [list(values) for values in channels]
        for s, values in enumerate(sums):
            for m in range(KEEP):
                values[m] = hold(values[m] + wait[m + s * KEEP])
        return sums

    @ti.func
    def emit(sums: ti.template(), gs: ti.template(), wait: ti.template(), t, b: ti.template(), start,
             whole: ti.template(), writes: ti.template()):  # fmt: skip
        """Of a frame's sums, one list per signal, let wait what is not finished; write the rest, if it is in the signal."""
        count = ti.static(len(gs))
        for s in ti.static(range(count)):
            for m in ti.static(range(KEEP)):
                wait[m + s * KEEP] = sums[s][m + SHIFT]
                if ti.static(STRAY > 0):
                    further = ti.cast(0, dtype)
                    if ti.static(m + SHIFT + 1 < ROWS):
                        further = sums[s][m + SHIFT + 1]
                    wait[m + s * KEEP] = ti.select(t < STRAY, further, sums[s][m + SHIFT])
        if writes:
            at = (b * whole + start + t) & KNOWN_SAMPLE  # as in load_frames
            write_rows(gs, at, t, sums)

    @ti.func
    def emit_at_edges(lists: ti.template(), gs: ti.template(), scratch: ti.template(), integers: ti.template(),
                      t: ti.template(), role: ti.template(), b: ti.template(), start: ti.template(),
                      length: ti.template(), whole: ti.template()):  # fmt: skip
        """Write what is finished wherever it is. lists: the sums of both signals; or of x, of two frames.

        t and role: which points a thread has, of the first frame and of the second.
        """
        left = [ti.cast(0, dtype) for _ in ti.static(range(2 * EMIT))]
        for e in ti.static(range(2)):
            for m in ti.static(range(EMIT)):
                left[e * EMIT + m] = lists[e][m]
        again = integers[HEAD.zero]  # as in load_frames
        for m in range(EMIT * FRAMES + again):
            n, base = t + again + T * m, start
            if ti.static(fixed):  # noqa: SIM102  one is known when the kernel is compiled
                if m >= EMIT:
                    n, base = role + T * (m - EMIT), start + H
            if n < H:
                put(gs, scratch, integers, b, base + n, length, whole, [left[0], left[EMIT]])
            gone = left[0]  # as in leave_tail
            for k in ti.static(range(2 * EMIT - 1)):
                left[k] = left[k + 1]
            left[2 * EMIT - 1] = gone

    @ti.func
    def emit_between(gs: ti.template(), scratch: ti.template(), integers: ti.template(), t: ti.template(),
                     b: ti.template(), start: ti.template(), length: ti.template(), whole: ti.template()):  # fmt: skip
        """Zeros for samples in no window, from a frame's last row to the next frame."""
        nothing = [ti.cast(0, dtype), ti.cast(0, dtype)]
        for frame in ti.static(range(FRAMES)):
            n = SPAN + t
            while n < H:
                put(gs, scratch, integers, b, start + frame * H + n, length, whole, nothing)
                n += T

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
