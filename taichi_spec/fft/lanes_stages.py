"""What `lanes` does between the two transforms of a step where a loss is more than a sum over whole bins: see `lanes_compare`.

What terms compare is kept in the slot's work memory:

    measure      q[j]  = |w[k] A[k]| or its square; bands: Σ_k M[j, k] |w[k] A[k]|         or of the squares
    compare      S    += s(q, r),  ∂q ← Σ c ∂s/∂q             r: the quantities of the other half, or of the target
    transport    S    += Σ_f ...,  ∂q += c ∂/∂q               lanes_transport
    spectra      S    += Σ_k s(w[k] (A[k] - B[k]))            or, of a fixed target, A[k] - its own, and B[k] - its own
    cotangent    G[k]  = w[k] A / |A| · Σ_j M[j, k] ∂q[j]     or 2 w[k]² A · Σ_j M[j, k] ∂q[j];  + c w[k] ∂s

The gradients of the two halves may differ by any factor: Transport's grows as a frame gets quieter. So each is brought to
about 1 before they share a transform, as the frames were.
"""

from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import upload, upload_integers
from taichi_spec.bins import Parts
from taichi_spec.fft.lanes_compare import CHUNK, TINY, each_lane, packing, powers_of_two
from taichi_spec.fft.lanes_layout import ARRAYS, NOTES, PLACES, SPARE, lane_count
from taichi_spec.fft.lanes_transport import transporting
from taichi_spec.fft.stages import Stages, rows_of
from taichi_spec.polar import polar
from taichi_spec.terms import BinTerm, Complex, Transport
from taichi_spec.vectors import absolute


def columns_of_bands(matrix: NDArray[np.float64] | None, dtype: Any) -> tuple[Any, Any]:
    """A bands' matrix M by its columns, without zeros, for kernels: where each bin's begin and then bands; entries."""
    if matrix is None:
        return upload_integers(np.zeros(1)), upload(np.zeros(1), dtype)
    bands, entries = rows_of(matrix.T)
    return upload_integers(np.append(bands, 0)), upload(np.append(entries, 0), dtype)


def by_stages(dtype: Any, parts: Parts, fixed: bool, backward: bool, place: Any, stages: Stages) -> Any:
    """The `ti.func` for everything that `whole_bins` does not do.

    Quantities of a half and what they are compared with lie in work memory, ARRAYS of `rows` vectors: q, r, ∂q, ∂r.
    With a fixed target there are two such blocks for each quantity, one for each half, and no ∂r.

    Args:
        dtype, fixed, backward, place: as in `packing` and `lanes.lane_kernel`.
        parts: what is summed.
        stages: how quantities are made.
    """
    C, Q, halves = len(parts), len(stages.quantities), 2 if fixed else 1
    L = lane_count(dtype)
    lane = ti.types.vector(L, dtype)
    names, banded, toward_target = stages.quantities, stages.banded, stages.toward_target
    # Which parts are sums over the bins of each quantity, which are transport of it, and which are on spectra.
    on_bins, transports = (
        [
            [j for j, (_, part) in enumerate(parts) if isinstance(part, kind) and part.quantity == name]
            for name in names
        ]
        for kind in (BinTerm, Transport)
    )
    on_spectra = [j for j, (_, part) in enumerate(parts) if isinstance(part, Complex)]
    second = ARRAYS if fixed else 1  # arrays from the first half's to the second half's

    @ti.func
    def part_of(a, b, j: ti.template()):
        return parts[j][1].distance(a, b, dtype)

    distance = each_lane(part_of, dtype)
    unpack, pack, add_shares = packing(dtype, fixed, C, place)
    transport = transporting(dtype, fixed, backward)

    @ti.func
    def block(i: ti.template(), half, notes, size: ti.template()):
        """Where quantity i of a half is in work memory."""
        return notes + size.scratch + SPARE + (i * halves + half) * ARRAYS * size.rows

    # ---- bins to bands, A[j] = Σ_k M[j, k] |X[k]|, and back, Σ_j M[j, k] ∂A[j] --------------------------------------
    # M by its columns: the bands of bin k and their entries are bands[bins + 1 + e] and entries[e] for
    # bands[k] ≤ e < bands[k + 1].

    @ti.func
    def clear(work: ti.template(), at, other, size: ti.template(), zero):
        j = 0 ^ zero
        while j < size.rows:
            work[(at + j) & PLACES], work[(at + other + j) & PLACES] = lane(0), lane(0)
            j = (j + 1) ^ zero

    @ti.func
    def to_bands(work: ti.template(), at, other, k, a, b, bands: ti.template(), entries: ti.template(),
                 size: ti.template(), zero):  # fmt: skip
        e, end = bands[k], bands[k + 1]
        while e < end:
            i = (at + bands[size.n // 2 + 2 + e]) & PLACES
            work[i], work[i + other] = work[i] + a * entries[e], work[i + other] + b * entries[e]
            e = (e + 1) ^ zero

    @ti.func
    def from_bands(work: ti.template(), at, other, k, bands: ti.template(), entries: ti.template(),
                   size: ti.template(), zero):  # fmt: skip
        a, b = lane(0), lane(0)
        e, end = bands[k], bands[k + 1]
        while e < end:
            i = (at + bands[size.n // 2 + 2 + e]) & PLACES
            a += work[i] * entries[e]
            b += work[i + other] * entries[e]
            e = (e + 1) ^ zero
        return a, b

    # ---- spectra to quantities, and back to spectra ----------------------------------------------------------------

    @ti.func
    def measure(work: ti.template(), base, notes, pairs: ti.template(), gains: ti.template(), bands: ti.template(),
                entries: ti.template(), size: ti.template(), zero):  # fmt: skip
        """The quantities of both halves, of bins or bands."""
        power_a, power_b, apart = work[notes + 2], work[notes + 3], work[notes + 6]
        other = second * size.rows
        if ti.static(banded):
            for i in ti.static(range(Q)):
                clear(work, block(i, 0, notes, size), other, size, zero)
        k = 0 ^ zero
        while k <= size.n // 2:
            p, m = (base + pairs[k, 0]) & PLACES, (base + pairs[k, 1]) & PLACES
            ar, ai, br, bi = unpack(work, p, m, apart)
            a = ti.sqrt(ar * ar + ai * ai) * (power_a * gains[k])
            b = ti.sqrt(br * br + bi * bi) * (power_b * gains[k])
            for i in ti.static(range(Q)):
                at = block(i, 0, notes, size)
                q, r = a, b
                if ti.static(names[i] == "power"):
                    q, r = a * a, b * b
                if ti.static(banded):
                    to_bands(work, at, other, k, q, r, bands, entries, size, zero)
                else:
                    work[(at + k) & PLACES], work[(at + other + k) & PLACES] = q, r
            k = (k + 1) ^ zero

    @ti.func
    def slopes_of_bin(work: ti.template(), notes, k, bands: ti.template(), entries: ti.template(),
                      size: ti.template(), zero):  # fmt: skip
        """∂L/∂|w A| and ∂L/∂|w A|² of both halves in bin k."""
        slopes = [lane(0) for _ in ti.static(range(4))]
        other = second * size.rows
        for i in ti.static(range(Q)):
            at = block(i, 0, notes, size) + 2 * size.rows
            a, b = lane(0), lane(0)
            if ti.static(banded):
                a, b = from_bands(work, at, other, k, bands, entries, size, zero)
            else:
                a, b = work[(at + k) & PLACES], work[(at + other + k) & PLACES]
            slopes[2 * int(names[i] == "power")] += a
            slopes[2 * int(names[i] == "power") + 1] += b
        return slopes[0], slopes[1], slopes[2], slopes[3]

    @ti.func
    def counterparts(ar, ai, br, bi, k, goal: ti.template(), record, size: ti.template()):
        """What the spectra of both halves are compared with: one another, or what the target has for each."""
        if ti.static(fixed):
            at = 2 * (record * size.width + Q * size.rows + k)
            imag = at + 2 * (size.n // 2 + 1)
            br, bi, ar, ai = goal[at], goal[imag], goal[at + 1], goal[imag + 1]
        return br, bi, ar, ai

    @ti.func
    def by_phase(half: ti.template(), re, im, other_re, other_im, slope, work: ti.template(), notes):
        """What terms on spectra add to a half's G / w; and the counterpart's direction where that of 0 is asked for."""
        G_re, G_im = lane(0), lane(0)
        if ti.static(toward_target and (fixed or half == 0)):
            _, u, v = polar(other_re, other_im)
            slope_at_0 = ti.select(re == 0, ti.select(im == 0, slope, 0), 0)
            G_re, G_im = slope_at_0 * u, slope_at_0 * v
        for j in ti.static(on_spectra):
            _, u, v = parts[j][1].distance(re - other_re, im - other_im)
            coefficient = work[notes + NOTES + j]
            G_re, G_im = G_re + coefficient * u, G_im + coefficient * v
        return G_re, G_im

    @ti.func
    def cotangent(work: ti.template(), base, notes, pairs: ti.template(), goal: ti.template(), record,
                  gains: ti.template(), bands: ti.template(), entries: ti.template(), size: ti.template(),
                  zero):  # fmt: skip
        """Bins k and N - k become those of the packed gradients: half of G each, or all where both are one bin."""
        power_a, power_b, apart = work[notes + 2], work[notes + 3], work[notes + 6]
        heard_a, heard_b = ti.select(power_a > 0, lane(1), 0), ti.select(power_b > 0, lane(1), 0)
        tiny = ti.cast(TINY[dtype], dtype)
        k = 0 ^ zero
        while k <= size.n // 2:
            p, m = (base + pairs[k, 0]) & PLACES, (base + pairs[k, 1]) & PLACES
            ar, ai, br, bi = unpack(work, p, m, apart)
            to_a, to_b = gains[k] * power_a, gains[k] * power_b
            slope_a, slope_b, of_power_a, of_power_b = slopes_of_bin(work, notes, k, bands, entries, size, zero)
            by_a = slope_a * heard_a / (ti.sqrt(ar * ar + ai * ai) + tiny) + 2 * to_a * of_power_a
            by_b = slope_b * heard_b / (ti.sqrt(br * br + bi * bi) + tiny) + 2 * to_b * of_power_b
            G_re, G_im, H_re, H_im = ar * by_a, ai * by_a, br * by_b, bi * by_b
            if ti.static(toward_target or on_spectra):
                ar, ai, br, bi = ar * to_a, ai * to_a, br * to_b, bi * to_b
                of_a_re, of_a_im, of_b_re, of_b_im = counterparts(ar, ai, br, bi, k, goal, record, size)
                more_re, more_im = by_phase(0, ar, ai, of_a_re, of_a_im, slope_a, work, notes)
                G_re, G_im = G_re + more_re, G_im + more_im
                more_re, more_im = by_phase(1, br, bi, of_b_re, of_b_im, slope_b, work, notes)
                H_re, H_im = H_re + more_re, H_im + more_im
            weight = gains[k] * ti.select(p == m, ti.cast(1, dtype), ti.cast(0.5, dtype))
            down_a, down_b = work[notes] * weight, work[notes + 1] * weight
            pack(work, p, m, G_re * down_a, G_im * down_a, H_re * down_b, H_im * down_b)
            k = (k + 1) ^ zero

    @ti.func
    def levels(work: ti.template(), notes, seats: ti.template(), run, step, size: ti.template(), zero):
        """Find what brings each half's gradient to about 1: from Σ |∂q|, of powers Σ |∂q| times an amplitude, and Σ |∂s|.

        Leaves the power of two that divides it in the first notes, and the one that `overlap` multiplies by in the
        place of the 1 or, where nothing moves the frame, 0.
        """
        for half in ti.static(range(2)):
            level = lane(0)
            if ti.static(on_spectra):
                level = work[notes + size.scratch + half]
            for i in ti.static(range(Q)):
                at = block(i, 0, notes, size) + (2 + half * second) * size.rows
                total = lane(0)
                j = 0 ^ zero
                while j < size.rows:
                    total += absolute(work[(at + j) & PLACES])
                    j = (j + 1) ^ zero
                level += total * (work[notes + 2 + half] if ti.static(names[i] == "power") else lane(1))
            work[notes + half] = level
            for l in range(L):
                level_l, moves = work[notes + half][l], work[notes + 4 + half][l]
                if ti.static(on_spectra or (toward_target and (fixed or half == 0))):  # silence, too
                    _, _, now, _ = place(seats, run, step, l, size)
                    moves = ti.cast(level_l > 0 and half < now + 2 - halves, dtype)
                down, up = powers_of_two(level_l, dtype)
                work[notes + half][l], work[notes + 4 + half][l] = moves * down, moves * up

    # ---- quantities to sums and slopes -----------------------------------------------------------------------------

    @ti.func
    def recall(work: ti.template(), goal: ti.template(), record, notes, size: ti.template(), zero):
        """The target's quantities, to where those of a second signal would be."""
        for i in ti.static(range(Q)):
            for half in ti.static(range(halves)):
                at = block(i, half, notes, size) + size.rows
                j = 0 ^ zero
                while j < size.rows:
                    work[(at + j) & PLACES] = goal[2 * (record * size.width + i * size.rows + j) + half]
                    j = (j + 1) ^ zero

    @ti.func
    def compare_bins(i: ti.template(), half, work: ti.template(), notes, shares: ti.template(), seats: ti.template(),
                     run, step, size: ti.template(), zero):  # fmt: skip
        """Add the distances of quantity i to the shares; ∂q and ∂r ← their slopes."""
        at, rows = block(i, half, notes, size), size.rows
        for chunk in range((rows + CHUNK - 1) // CHUNK):
            values = [lane(0) for _ in ti.static(range(C))]
            k = (chunk * CHUNK) ^ zero
            end = ti.min(rows, (chunk + 1) * CHUNK)
            while k < end:
                q, r = work[(at + k) & PLACES], work[(at + rows + k) & PLACES]
                slope_q, slope_r = lane(0), lane(0)
                for j in ti.static(on_bins[i]):
                    coefficient = work[(notes + NOTES + j) & PLACES]
                    phi, phi_q, phi_r = distance(q, r, j)
                    values[j] += phi
                    slope_q += coefficient * phi_q
                    slope_r += coefficient * phi_r
                if ti.static(backward):
                    work[(at + 2 * rows + k) & PLACES] = slope_q
                    if ti.static(not fixed):
                        work[(at + 3 * rows + k) & PLACES] = slope_r
                k = (k + 1) ^ zero
            for j in ti.static(on_bins[i]):
                add_shares(shares, values[j], j, half, work, notes, seats, run, step, size)

    @ti.func
    def compare_spectra(work: ti.template(), base, notes, shares: ti.template(), pairs: ti.template(),
                        goal: ti.template(), record, gains: ti.template(), seats: ti.template(), run, step,
                        size: ti.template(), zero):  # fmt: skip
        """Add the distances of the spectra to the shares; Σ |c ∂s| of each half goes to the spare vectors."""
        bins = size.n // 2 + 1
        steepness = [lane(0) for _ in ti.static(range(2))]
        for chunk in range((bins + CHUNK - 1) // CHUNK):
            values = [lane(0) for _ in ti.static(range(2 * C))]
            k = (chunk * CHUNK) ^ zero
            end = ti.min(bins, (chunk + 1) * CHUNK)
            while k < end:
                p, m = (base + pairs[k, 0]) & PLACES, (base + pairs[k, 1]) & PLACES
                ar, ai, br, bi = unpack(work, p, m, work[notes + 6])
                to_a, to_b = gains[k] * work[notes + 2], gains[k] * work[notes + 3]
                spectra = ar * to_a, ai * to_a, br * to_b, bi * to_b
                others = counterparts(*spectra, k, goal, record, size)
                for half in ti.static(range(2)):
                    re, im = spectra[2 * half] - others[2 * half], spectra[2 * half + 1] - others[2 * half + 1]
                    for j in ti.static(on_spectra):
                        phi, u, v = parts[j][1].distance(re, im)
                        values[half * C + j] += phi
                        steepness[half] += (
                            absolute(work[(notes + NOTES + j) & PLACES]) * gains[k] * (absolute(u) + absolute(v))
                        )
                k = (k + 1) ^ zero
            for half in ti.static(range(halves)):
                for j in ti.static(on_spectra):
                    add_shares(shares, values[half * C + j], j, half, work, notes, seats, run, step, size)
        for half in ti.static(range(2)):
            work[notes + size.scratch + half] = steepness[half]

    @ti.func
    def compare_quantities(half, work: ti.template(), notes, shares: ti.template(), seats: ti.template(), run, step,
                           size: ti.template(), zero):  # fmt: skip
        """The sums of a half, and its slopes."""
        for i in ti.static(range(Q)):
            compare_bins(i, half, work, notes, shares, seats, run, step, size, zero)
            for j in ti.static(transports[i]):
                value = transport(work, block(i, half, notes, size), notes + size.scratch, parts[j][1],
                                  work[notes + NOTES + j], size, zero)  # fmt: skip
                add_shares(shares, value, j, half, work, notes, seats, run, step, size)

    @ti.func
    def compare(work: ti.template(), base, notes, shares: ti.template(), pairs: ti.template(), goal: ti.template(),
                gains: ti.template(), bands: ti.template(), entries: ti.template(), seats: ti.template(), run, step,
                size: ti.template(), zero):  # fmt: skip
        """Each lane's distances to its segment's shares of the sums; spectra become gradients, re and im swapped."""
        record = run * size.goal_run + step * size.goal_step
        measure(work, base, notes, pairs, gains, bands, entries, size, zero)
        if ti.static(fixed):
            recall(work, goal, record, notes, size, zero)
        for half in range(halves):
            compare_quantities(half, work, notes, shares, seats, run, step, size, zero)
        if ti.static(on_spectra):
            compare_spectra(work, base, notes, shares, pairs, goal, record, gains, seats, run, step, size, zero)
        if ti.static(backward):
            levels(work, notes, seats, run, step, size, zero)
            cotangent(work, base, notes, pairs, goal, record, gains, bands, entries, size, zero)

    return compare
