"""What `frames` does between signals and shared memory: windowed frames in and, its adjoint, windowed frames summed and out.

    begin_frame    v[f, n] = w[n] x[start(f) + n], and the first pass of its transform
    last_pass      ∂x[s]   = Σ_f w[s − start(f)] ∂v[f, s − start(f)], after the last pass of the way back

A sample's sum waits in a ring in shared memory, and is written once, when the run has passed it.
"""

from types import SimpleNamespace

import taichi as ti

from taichi_spec.fft.blocks_layout import Head
from taichi_spec.fft.blocks_pass import Pass
from taichi_spec.fft.frames_levels import levels
from taichi_spec.fft.lines import small_dft
from taichi_spec.fft.pairs import KNOWN, KNOWN_SAMPLE, bits_of, cell, push, size
from taichi_spec.fft.together import four_writer, rows_writer
from taichi_spec.framing import load


def windows(this: Pass, ends: SimpleNamespace, rings: int) -> SimpleNamespace:
    """The functions `begin_frame`, and for gradients `clear`, `last_pass`, `finish`, `second_frame`, `further`, `leave_tail`.

    Args:
        this: the pass.
        ends: functions of `seams`.
        rings: how many signals' sums have room in shared memory.
    """
    layout, dtype, gradient, is_field, fixed = this.layout, this.dtype, this.gradient, this.is_field, this.fixed
    adds, BY_STAGES = this.adds, this.stages is not None
    SUMS, HEAD, Bits = len(this.wanted), Head.of(gradient), bits_of(dtype)
    N, H, T, OVERLAP = layout.n_fft, layout.hop, layout.threads, layout.overlap
    FRAMES = 2 if fixed else 1  # frames per transform
    SIGNALS = 1 if fixed else 2  # with gradients
    LATER = (FRAMES - 1) * H  # how much later a second frame begins
    TOGETHER = 4 if layout.cuda else 1  # samples of a second frame that are written at once: see `four_writer`
    R, M, ROW, PLANE = layout.plan.radices[0], layout.plan.spans[0], layout.row, layout.plane  # R rows of M elements
    RINGS, RING = rings, 2 * PLANE  # where in shared memory they begin
    USED, CHIRPED = layout.used, layout.chirped
    outer, outer_back = (small_dft(layout.plan, dtype, USED * M, way) for way in (False, True))
    to_levels = levels(layout, dtype, fixed, RING + rings * N)
    source, put = ends.source, ends.put
    write_rows, write_four = rows_writer(dtype, adds, M, min(H, N)), four_writer(dtype, adds)

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
    def windowed(x: ti.template(), table: ti.template(), b, s, n, live, length):
        """Sample s of item b, 0 if there is none, times the window's n."""
        at = source(s, length)
        return ti.select(live and at >= 0, table[n] * load(x, b, ti.max(at, 0)), ti.cast(0, dtype))

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
                write_rows(gs, (at + here) & KNOWN_SAMPLE, here, done)  # as in `take`
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
    def part(value, weight, scale):
        """What came back times the window; and where it is silent, not the other one's rounding."""
        windowed = weight * value
        if ti.static(BY_STAGES):
            windowed *= scale
        return ti.select(scale > 0, windowed, ti.cast(0, dtype))

    @ti.func
    def clear(sm: ti.template(), t):
        """Nothing waits where a run begins."""
        n = t
        while n < RINGS * N:
            sm[RING + n] = 0
            n += T

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
    def leave_tail(scratch: ti.template(), sm: ti.template(), ring, t, run):
        """What still waits at the end of a run is its tail."""
        n = t
        while n < OVERLAP:
            at = place(ring, n)
            for s in ti.static(range(SIGNALS)):
                scratch[run + SUMS + ti.static(s * OVERLAP) + n] = sm[at + ti.static(s * N)]
            n += T

    return SimpleNamespace(begin_frame=begin_frame, clear=clear, last_pass=last_pass, finish=finish,
                           second_frame=second_frame, further=further, leave_tail=leave_tail)  # fmt: skip
