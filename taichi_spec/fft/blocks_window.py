"""What `blocks` does between signals and registers: windowed frames in and, its adjoint, windowed frames summed and out.

    load     v[f, n] = w[n] x[start(f) + n]
    write    ∂x[s]   = Σ_f w[s − start(f)] ∂v[f, s − start(f)]

Frames add up in registers: a sample's sum waits there, and is written once, when the run has passed it.
"""

from types import SimpleNamespace

import taichi as ti

from taichi_spec.fft.blocks_bins import is_light
from taichi_spec.fft.blocks_layout import Head, Layout, record_of
from taichi_spec.fft.blocks_pass import Pass
from taichi_spec.fft.pairs import KNOWN, KNOWN_SAMPLE, bits_of, cell, hold
from taichi_spec.fft.together import rows_writer
from taichi_spec.framing import load

SECTOR = {ti.f32: 8, ti.f64: 4}  # numbers that come from memory together


def windows(this: Pass, shared: SimpleNamespace, ends: SimpleNamespace) -> SimpleNamespace:
    """The functions `load_frames`, with `touch_signals` for the next one's samples and `kept_window` for the window; and
    `write_frames`, with `leave_tail` at a run's end. `role_at` is for both.

    Args:
        this: the pass.
        shared, ends: functions of `shared_memory` and of `seams`.

    keep: how many sums of a signal wait in a thread's registers for the next frame. held: how many samples of a signal
    do; 0 where they are read again.
    """
    layout: Layout = this.layout
    dtype, gradient, is_field, fixed, edges = this.dtype, this.gradient, this.is_field, this.fixed, this.edges
    BY_STAGES, CUDA, HALVES = this.stages is not None, layout.cuda, layout.by_halves
    SUMS, HEAD, Bits = len(this.wanted), Head.of(gradient), bits_of(dtype)
    RECORD = record_of(layout, SUMS, fixed, gradient)
    H, R, T, OVERLAP = layout.hop, layout.points, layout.threads, layout.overlap
    pad, LAST = layout.pad, len(layout.radices) - 2  # the pass before the last exchange
    FIRST, ROWS, SPAN = layout.first, layout.rows, layout.span
    FRAMES = 2 if fixed else 1  # frames per transform
    LATER = H if fixed else 0  # how much later the frame in the imaginary part begins
    KEEP, STRAY = (layout.waiting, layout.stray) if gradient else (0, 0)
    SHIFT = H // T  # how many rows further on the next frame lies, and one more for some threads if it strays
    # A transform takes so many rows of a signal, of which the next one has so many too; whether a thread keeps those.
    HELD, SHARED_ROWS = ROWS + SHIFT * (FRAMES - 1), ROWS - SHIFT
    SLIDES = not CUDA and not BY_STAGES and layout.waiting > 0 and layout.stray == 0
    NEAR = SECTOR[dtype]
    EMIT = min(ROWS, -(-H // T))  # rows of which some are finished with their frame
    TWO_ROWS = [(m, min(m + 1, ROWS - 1)) for m in range(0, ROWS, 2)]
    # Whether the window leaves enough of 168 registers on CUDA: where a thread has its bins' mirrors, does little with them,
    # and two frames of a signal have no edges.
    ROOM = layout.mirrored and gradient and is_light(this.parts) and (not fixed or edges == "none")
    ENTRIES, WINDOW = layout.entries, layout.offsets[-1]
    sync, constants = shared.sync, shared.constants
    store, fetch, store_one, fetch_one = shared.store, shared.fetch, shared.store_one, shared.fetch_one
    source, put, write_rows = ends.source, ends.put, rows_writer(dtype, this.adds, T, min(H, SPAN))

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

    return SimpleNamespace(load_frames=load_frames, touch_signals=touch_signals, kept_window=kept_window, role_at=role_at,
                           write_frames=write_frames, leave_tail=leave_tail, keep=KEEP, held=SLIDES * HELD)  # fmt: skip
