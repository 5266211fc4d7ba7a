"""Where runs of frames meet each other and the signal's edges: what is put together when all runs have ended.

A run leaves the tail of its overlap-add in `scratch`, and so it does with gradients at padded positions. By one block of
threads an item's sums become its total; by others tails are added to what the next runs wrote, and what lies at padded
positions to the samples that they mirror.
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.bins import Account, Parts, columns_of, finish_function
from taichi_spec.fft.blocks_layout import Head, Layout, record_of
from taichi_spec.fft.fused import run_sums
from taichi_spec.terms import Term


def seams(layout: Layout, dtype: Any, terms: tuple[Term, ...], wanted: Parts, fixed: bool, gradient: bool, totals: bool,
          edges: str, cut: bool, adds: bool, lengths_at: int) -> SimpleNamespace:  # fmt: skip
    """The functions `settle`, what one of `settling` blocks of 128 threads does; and, for those who walk, `run_at`, `begin`,
    `source`, `put`, and how far `left` of the signal the first frame begins, without the window's zeros.

    Args:
        layout: how frames lie on threads.
        dtype, terms, fixed, gradient, totals, edges, cut, adds: as in `Pass`.
        wanted: which parts are summed.
        lengths_at: where in `integers` the items' own lengths begin.
    """
    SUMS, RECORD = len(wanted), record_of(layout, len(wanted), fixed, gradient)
    finish, add_runs = finish_function(terms, dtype, Account.of(terms)), run_sums(wanted, RECORD, dtype)
    N, H, OVERLAP, TEAMS = layout.n_fft, layout.hop, layout.overlap, layout.teams
    PAD = 0 if edges == "none" else N // 2
    LEFT = PAD - layout.first * layout.threads
    FRAMES = 2 if fixed else 1  # frames per transform
    PIECES = max(1, -(-OVERLAP // 128))  # blocks that share what a run left over
    FOLDS = -(-2 * PAD // 128) if edges == "reflect" else 0  # blocks that share an item's mirrored samples
    SETTLERS = layout.settlers
    HEAD, LENGTHS = Head.of(gradient), lengths_at

    @ti.func
    def source(s, length):
        """The sample that stands at s, which may lie outside the signal; -1 for none."""
        if ti.static(edges == "reflect"):
            s = ti.select(s < 0, -s, s)
            s = ti.select(s >= length and s < length + PAD, 2 * (length - 1) - s, s)
        return ti.select(s < length, s, -1)

    @ti.func
    def outside(p, length):
        """Which of an item's padded positions p is, if it is outside the signal; -1 if none."""
        q = -1
        if ti.static(edges == "reflect"):
            q = ti.select(p < 0, p + PAD, p - length + PAD)
            q = ti.select(q < 2 * PAD, q, -1)
        return q

    @ti.func
    def padded_at(integers: ti.template(), b, q):
        """Where in `scratch` the gradient of x lies at padded position q of item b; that of y is 2 PAD further on."""
        return integers[HEAD.padded] + b * ti.static(4 * PAD) + q

    @ti.func
    def put(gs: ti.template(), scratch: ti.template(), integers: ti.template(), b, p, length, whole,
            values: ti.template()):  # fmt: skip
        """Write gradients at position p of item b; reflected positions outside the signal go to `scratch`."""
        if 0 <= p < length:
            for s in ti.static(range(len(gs))):
                if ti.static(adds):
                    gs[s][b, p] = gs[s][b, p] + values[s]
                else:
                    gs[s][b, p] = values[s]
        else:
            clear(gs, b, p, length, whole)
            q = outside(p, length)
            if q >= 0:
                at = padded_at(integers, b, q)
                for s in ti.static(range(len(gs))):
                    scratch[at + ti.static(2 * PAD * s)] = values[s]

    @ti.func
    def clear(gs: ti.template(), b, p, length, whole):
        """An item that is cut has no gradient from there on to its `whole` length."""
        if ti.static(cut and not adds):  # noqa: SIM102  one is known when the kernel is compiled
            if length <= p < whole:
                for s in ti.static(range(len(gs))):
                    gs[s][b, p] = 0

    @ti.func
    def taken(gs: ti.template(), scratch: ti.template(), integers: ti.template(), b, p, length):
        """What `put` wrote there, of both signals."""
        values = ti.Vector.zero(dtype, 2)
        if 0 <= p < length:
            for s in ti.static(range(len(gs))):
                values[s] = gs[s][b, p]
        else:
            q = outside(p, length)
            if q >= 0:
                at = padded_at(integers, b, q)
                for s in ti.static(range(len(gs))):
                    values[s] = scratch[at + ti.static(2 * PAD * s)]
        return values

    @ti.func
    def length_of(integers: ti.template(), b):
        """Samples of item b."""
        length = integers[HEAD.samples]
        if ti.static(cut):
            length = integers[LENGTHS + 2 * b]
        return length

    @ti.func
    def add_left_over(gx: ti.template(), gy: ti.template(), scratch: ti.template(), integers: ti.template(), run,
                      t):  # fmt: skip
        """What `run` and runs before it left over behind it, by 128 PIECES threads t; zeros where no frame is.

        But for samples that are mirrored: `fold` does all of those.
        """
        runs, whole = integers[HEAD.runs], integers[HEAD.samples]
        b = ti.raw_div(run, runs)
        c = run - b * runs + 1
        length = length_of(integers, b)
        gs = ti.static([gx] if fixed else [gx, gy])
        start = begin(integers, c) * ti.static(FRAMES * H) - LEFT
        count = ti.min((begin(integers, c + 1) - begin(integers, c)) * ti.static(FRAMES * H), OVERLAP)
        if c == runs:
            count = ti.max(whole - start, 0)
        n = t
        while n < count:
            p = start + n
            if 0 <= p < length:
                if not is_mirrored(p, length):
                    values = gradients_behind(gs, scratch, integers, b, c, n, p, length)
                    for s in ti.static(range(len(gs))):
                        gs[s][b, p] = values[s]
            else:
                clear(gs, b, p, length, whole)
            n += ti.static(128 * PIECES)

    @ti.func
    def is_mirrored(s, length):
        """Whether the padding has a mirror image of sample s."""
        if ti.static(FOLDS > 0):
            return 1 <= s <= PAD or length - 1 - PAD <= s < length - 1
        else:
            return False

    @ti.func
    def fold(gx: ti.template(), gy: ti.template(), scratch: ti.template(), integers: ti.template(), b, j):
        """Finishes the j-th of an item's mirrored samples, those at the left edge first, and adds its images' gradients."""
        length = length_of(integers, b)
        gs = ti.static([gx] if fixed else [gx, gy])
        s = j + 1 if j < PAD else length - 1 - 2 * PAD + j
        if j < PAD or (j < ti.static(2 * PAD) and (s < 1 or s > PAD)):  # each sample once
            values = gradients_at(gs, scratch, integers, b, s, length)
            if 1 <= s <= ti.static(min(PAD, LEFT)):  # frames' rows reach so far
                values += gradients_at(gs, scratch, integers, b, -s, length)
            if length - 1 - PAD <= s < length - 1:
                values += gradients_at(gs, scratch, integers, b, 2 * (length - 1) - s, length)
            for k in ti.static(range(len(gs))):
                gs[k][b, s] = values[k]

    @ti.func
    def gradients_at(gs: ti.template(), scratch: ti.template(), integers: ti.template(), b, p, length):
        """All that frames have at position p of item b, mirror images left out."""
        short, longs = integers[HEAD.short], integers[HEAD.longs]
        f = ti.raw_div(p + LEFT, ti.static(FRAMES * H))
        c = ti.raw_div(f, short + 1)
        if f >= longs * (short + 1):
            c = ti.min(ti.raw_div(f - longs, short), integers[HEAD.runs])
        n = p + LEFT - begin(integers, c) * ti.static(FRAMES * H)
        return gradients_behind(gs, scratch, integers, b, c, n, p, length)

    @ti.func
    def gradients_behind(gs: ti.template(), scratch: ti.template(), integers: ti.template(), b, c, n, p, length):
        """The same, n samples behind the beginning of run c: what that run wrote, if it is one, and runs before it left."""
        values = ti.Vector.zero(dtype, 2)
        if c < integers[HEAD.runs] or (adds and 0 <= p < length):
            values = taken(gs, scratch, integers, b, p, length)
        if c > 0 and n < OVERLAP:
            values += left_over(scratch, integers, b * integers[HEAD.runs] + c - 1, c - 1, n)
        return values

    @ti.func
    def begin(integers: ti.template(), c):
        """The transforms of an item before its run c: `Runs.begin`."""
        return c * integers[HEAD.short] + ti.min(c, integers[HEAD.longs])

    @ti.func
    def run_at(integers: ti.template(), turn):
        """The item and the run of it that a team takes in its turn, and whether there is one.

        Where a block has several teams, the long runs of all items come first, and a block has runs of one length: its
        teams stay side by side. One of them may have no run: it walks another one's, lest the block wait for it, but writes
        nothing.
        """
        items, runs, longs = integers[HEAD.items], integers[HEAD.runs], integers[HEAD.longs]
        if ti.static(TEAMS == 1):
            b = ti.raw_div(turn, runs)
            return b, turn - b * runs, True
        else:
            is_long = turn < integers[HEAD.long_turns]
            among = ti.select(is_long, longs, runs - longs)
            k = turn - ti.select(is_long, 0, integers[HEAD.long_turns])
            b = ti.raw_div(k, among)
            c = k - b * among + ti.select(is_long, 0, longs)
            return ti.min(b, items - 1), c, b < items

    @ti.func
    def tail(scratch: ti.template(), run, n):
        """What a run left over n samples behind it, of both signals."""
        at = run * RECORD + n
        return ti.Vector([scratch[at + SUMS], 0 if ti.static(fixed) else scratch[at + ti.static(SUMS + OVERLAP)]])

    @ti.func
    def left_over(scratch: ti.template(), integers: ti.template(), run, c, n):
        """The tails of an item's run c and of runs before it, where they meet n samples behind the run."""
        sums = tail(scratch, run, n)
        behind = begin(integers, c + 1)
        d = 1
        at = n + (behind - begin(integers, c)) * ti.static(FRAMES * H)
        while d <= c and at < OVERLAP:
            sums += tail(scratch, run - d, at)
            d += 1
            at = n + (behind - begin(integers, c + 1 - d)) * ti.static(FRAMES * H)
        return sums

    @ti.func
    def settle(i, gx: ti.template(), gy: ti.template(), integers: ti.template(), scratch: ti.template(),
               account: ti.template(), total: ti.template()):  # fmt: skip
        """What is to be done when all runs have ended."""
        # On CUDA all passes must ask for the same: Taichi takes the first pass's array for the others' too.
        shared = ti.simt.block.SharedArray((ti.static(128 * columns_of(terms)[-1]),), dtype)
        t = i & 127
        b = i >> 7
        items, runs = integers[HEAD.items], integers[HEAD.runs]
        if b < 128:
            while b < items:
                add_runs(scratch, account, shared, b, runs, t)
                if t == 0:
                    item = finish(account, account, account, account, b)
                    if ti.static(totals):
                        total[b] = (total[b] if ti.static(adds) else 0) + item
                b += 128
        elif ti.static(gradient):
            piece, seams = b - 128, items * runs * PIECES
            while piece < seams + items * FOLDS:
                if piece < seams:
                    run = ti.raw_div(piece, PIECES)
                    add_left_over(gx, gy, scratch, integers, run, t + 128 * (piece - run * PIECES))
                elif ti.static(FOLDS > 0):
                    item = ti.raw_div(piece - seams, FOLDS)
                    fold(gx, gy, scratch, integers, item, t + 128 * (piece - seams - item * FOLDS))
                piece += SETTLERS

    return SimpleNamespace(settle=settle, settling=128 + SETTLERS * gradient, run_at=run_at, begin=begin, source=source,
                           put=put, left=LEFT)  # fmt: skip
