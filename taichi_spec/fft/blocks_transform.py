"""The transform of a frame that a team's threads hold in registers.

It is Stockham's: every pass holds points t, t + T, t + 2T, ... of the frame (of T threads this one is t), does its small
DFTs in registers, and scatters the results through shared memory so that the last pass leaves bin t + T m in register m. At
n_fft 1024 the passes are such that a thread has its bins' mirrors itself: three barriers and an eighth of what goes through
shared memory less. Where that is scarce, real parts go through it before imaginary parts.

These functions run while Taichi traces the kernel: they take and return Python lists of Taichi values, one a register.
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.blocks_layout import Layout
from taichi_spec.fft.butterflies import fused_dft
from taichi_spec.fft.pairs import hold, known


def transforms(layout: Layout, dtype: Any, shared: SimpleNamespace) -> SimpleNamespace:
    """The functions of a layout: `transform`; and, where a thread has its bins' mirrors, `seconds` and `mirror_of`.

    Args:
        layout: how the points lie on threads.
        dtype: ti.f32 or ti.f64.
        shared: functions of `shared_memory`.
    """
    R, T = layout.points, layout.threads
    RADICES, STRIDES, OFFSETS = layout.radices, layout.strides, layout.offsets
    HALVES, MIRRORED, pad = layout.by_halves, layout.mirrored, layout.pad
    sync, nothing, constants = shared.sync, shared.nothing, shared.constants
    store, fetch_from, store_one, fetch_one = shared.store, shared.fetch_from, shared.store_one, shared.fetch_one

    def transform(re, im, sm, team, t, second, table, zero):
        """The DFT of a frame: points t + T m in, bins t + T m out.

        A pass does n DFTs of r points; the b-th takes registers b, b + n, ... and is number t + T b of its pass, or else
        what `numbers` says.
        """
        values = list(zip(re, im))
        for p, r in enumerate(RADICES):
            n, stride = R // r, STRIDES[p]
            starts, dfts = numbers(t, second, p)
            lows = [start & (stride - 1) if stride < T else start for start in starts]  # the numbers modulo stride
            entries = [known(low + zero if stride < T else low) for low in lows]
            done = []
            for b, (i, away) in enumerate(dfts):
                turned = layout.halved(p) and 2 * b >= n  # number j > stride / 2
                entry = known(stride - away - starts[i] + zero) if turned else entries[i]
                pairs = twiddles(sm, table, entry, p, 0 if turned else away % stride) if p else None
                done.append(fused_dft(values[b::n], pairs, dtype, turned))
            if p + 1 == len(RADICES):
                return [done[m % n][m // n] for m in range(R)]
            first = 2 * team if HALVES else team
            bases = [known(first + pad(hold((start - low) * r + low), p)) for start, low in zip(starts, lows)]
            cells, results = [], [value for bins in done for value in bins]
            for i, away in dfts:
                group = away // stride * stride * r + away % stride
                cells += [(bases[i], pad(group + k * stride, p)) for k in range(r)]
            starts, _ = numbers(t, second, p + 1)
            bases, c = [known(first + nothing(t, p) + pad(start, p)) for start in starts], len(starts)
            own = [(bases[m % c], pad(m // c * c * T, p)) for m in range(R)]
            values = exchanged(sm, results, cells, own, t, p)

    def exchanged(sm, values, cells, own, t, p):
        """What is found in cells `own`, (base, away), when all threads have put their values into theirs."""
        if not HALVES:
            sync()  # until all threads have read the exchange before this one
            for value, (base, away) in zip(values, cells):
                store(sm, base + away, *value)
            sync()
            return [fetch_from(sm, base, away) for base, away in own]
        halves = []
        for part in (0, 1):
            sync()
            for value, (base, away) in zip(values, cells):
                store_one(sm, base + away, value[part])
            sync()
            again = part * nothing(t, p)  # another one for each part
            halves.append([hold(fetch_one(sm, base + again + away)) for base, away in own])
        return list(zip(*halves))

    def numbers(t, second, p):
        """This thread's DFTs in pass p: some numbers, and for each DFT from which of them it is how far away."""
        if second and p in (0, len(RADICES) - 1):
            return [t, second[p > 0]], [(0, 0), (1, 0)]
        return [t], [(0, T * b) for b in range(R // RADICES[p])]

    def seconds(t, way):
        """Of a thread that has its bins' mirrors: the numbers of its second DFTs in the first pass and in the last.

        Of samples it does t and t + T, which lie side by side. Of bins number j has j + 2 T q for all q, and their mirrors
        N - j - 2 T q are those of number 2 T - j: a thread does t and 2 T - t. Numbers 0 and T have their own mirrors, and
        thread 0 does both.
        """
        if not MIRRORED:
            return None
        beside, across = hold(t + T), hold(mirror_of(t))
        return hold(ti.select(way == 0, beside, across)), hold(ti.select(way == 0, across, beside))

    def mirror_of(t):
        return ti.select(t == 0, T, 2 * T - t)

    def twiddles(sm, table, j, p, away):
        """A function from a radix's entry to its twiddle."""
        count, own = layout.turns(p), min(layout.turns(p), T + 1)  # of the table; of all threads
        return lambda e: constants(sm, table, j, OFFSETS[p] + away + e * count, OFFSETS[p] + away + e * count + own)

    return SimpleNamespace(transform=transform, seconds=seconds, mirror_of=mirror_of)
