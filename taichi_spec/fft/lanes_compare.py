"""What `lanes` does between the two transforms of a step: packed spectra to sums and, in place, to packed gradients.

A step has two halves, the real and the imaginary part of its transform: frames of two signals or, where the target is
fixed, two frames of one. Z[k] and Z[N - k] hold bin k of both, A and B.

    whole_bins   sums over whole bins, a bin at a time: nothing is kept
    by_stages    everything else, by way of what terms compare, kept in the slot's work memory:

        measure      q[j]  = |w[k] A[k]| or its square; bands: Σ_k M[j, k] |w[k] A[k]|         or of the squares
        compare      S    += s(q, r),  ∂q ← Σ c ∂s/∂q             r: the quantities of the other half, or of the target
        transport    S    += Σ_f ...,  ∂q += c ∂/∂q
        spectra      S    += Σ_k s(w[k] (A[k] - B[k]))            or, of a fixed target, A[k] - its own, and B[k] - its own
        cotangent    G[k]  = w[k] A / |A| · Σ_j M[j, k] ∂q[j]     or 2 w[k]² A · Σ_j M[j, k] ∂q[j];  + c w[k] ∂s

The gradients of the two halves may differ by any factor: Transport's grows as a frame gets quieter. By stages, each is
brought to about 1 before they share a transform, as the frames were.
"""

from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import upload, upload_integers
from taichi_spec.bins import Parts, part_distance
from taichi_spec.fft.stages import Stages, rows_of
from taichi_spec.polar import polar
from taichi_spec.terms import BinTerm, Complex, Transport
from taichi_spec.terms.transport import cost, inverse, share
from taichi_spec.vectors import absolute, negative

VECTOR_BYTES = 32  # with 64, 2^20 samples at n_fft 1024 take 7.3 ms instead of 5.8 even where there is AVX-512
CHUNK = 256  # bins
NOTES = 7  # vectors that say how a step's frames are scaled; the coefficients of the sums follow
# Added to the amplitude of a bin in a frame of about 1: far below rounding, and a slope divided by it stays finite.
TINY = {ti.f32: 1e-15, ti.f64: 1e-30}
ARRAYS = 4  # of a quantity: q, r, ∂q, ∂r
SPARE = 4  # vectors before them, for what is needed lane by lane


def lane_count(dtype) -> int:
    """How many frames ride side by side."""
    return VECTOR_BYTES // (8 if dtype == ti.f64 else 4)


def columns_of_bands(matrix: NDArray[np.float64] | None, dtype: Any) -> tuple[Any, Any]:
    """A bands' matrix M by its columns, without zeros, for kernels: where each bin's begin and then bands; entries."""
    if matrix is None:
        return upload_integers(np.zeros(1)), upload(np.zeros(1), dtype)
    bands, entries = rows_of(matrix.T)
    return upload_integers(np.append(bands, 0)), upload(np.append(entries, 0), dtype)


@ti.func
def powers_of_two(magnitude, real: ti.template()):
    """The power of two that brings a number ≥ 0 to about 1, and its inverse: normal numbers both."""
    Bits, BIAS, MANTISSA = ti.static((ti.i64, 1023, 52) if real == ti.f64 else (ti.i32, 127, 23))
    bits = ti.bit_cast(magnitude, Bits) & (ti.cast(2 * BIAS + 1, Bits) << MANTISSA)
    bits = ti.min(ti.max(bits, ti.cast(1, Bits) << MANTISSA), ti.cast(2 * BIAS - 1, Bits) << MANTISSA)
    return ti.bit_cast((ti.cast(2 * BIAS, Bits) << MANTISSA) - bits, real), ti.bit_cast(bits, real)


def each_lane(function: Any, dtype: Any) -> Any:
    """A `ti.func` (a, b, j) → φ, ∂φ/∂a, ∂φ/∂b, lane by lane: a term may branch, and LLVM joins the lanes again where
    it does not."""
    L = lane_count(dtype)
    lane = ti.types.vector(L, dtype)

    @ti.func
    def distances(a, b, j: ti.template()):
        phi, phi1, phi2 = lane(0), lane(0), lane(0)
        for l in ti.static(range(L)):
            phi[l], phi1[l], phi2[l] = function(a[l], b[l], j)
        return phi, phi1, phi2

    return distances


def packing(dtype: Any, fixed: bool, columns: int, place: Any) -> Any:
    """The `ti.func`s `unpack`, `pack` and `add_shares`, which both ways to compare have in common.

    Args:
        dtype: ti.f32 or ti.f64.
        fixed: whether the two halves are frames of one signal.
        columns: sums over the bins.
        place: `lanes_signals`' function that says which frames a lane has.
    """
    L = lane_count(dtype)

    @ti.func
    def unpack(work: ti.template(), p, m, apart):
        """Twice the spectra A and B of real and imaginary part, from Z[k] and Z[N-k], where Z = A + iB."""
        ar, ai = work[p] + work[m], work[p + 1] - work[m + 1]
        br, bi = work[p + 1] + work[m + 1], work[m] - work[p]
        if ti.static(not fixed):
            br, bi = br * apart + ar * (1 - apart), bi * apart + ai * (1 - apart)
        return ar, ai, br, bi

    @ti.func
    def pack(work: ti.template(), p, m, ar, ai, br, bi):
        """Z[k] and Z[N-k] of the gradients A and B, re and im swapped."""
        work[p], work[p + 1] = ai + br, ar - bi
        work[m], work[m + 1] = br - ai, ar + bi

    @ti.func
    def add_shares(shares: ti.template(), values, column: ti.template(), half, work: ti.template(), notes,
                   seats: ti.template(), run, step, size: ti.template()):  # fmt: skip
        """Add a sum of each lane's frame, if it has that half, to its segment's shares."""
        work[notes] = values
        l = 0 ^ size.zero
        while l < L:
            _, _, now, _ = place(seats, run, step, l, size)
            if half < now:
                at = (run * L + l) * columns + column
                shares[at] = shares[at] + ti.cast(work[notes][l], ti.f64)
            l = (l + 1) ^ size.zero

    return unpack, pack, add_shares


def whole_bins(dtype: Any, parts: Parts, fixed: bool, backward: bool, place: Any) -> Any:
    """The `ti.func` for sums over whole bins of functions of the two magnitudes there.

    Args:
        dtype, fixed, backward, place: as in `packing` and `lanes.lane_kernel`.
        parts: what is summed.
    """
    C = len(parts)
    lane = ti.types.vector(lane_count(dtype), dtype)
    distance = each_lane(part_distance(parts, dtype), dtype)
    unpack, pack, add_shares = packing(dtype, fixed, C, place)

    @ti.func
    def compare(work: ti.template(), base, notes, shares: ti.template(), pairs: ti.template(), goal: ti.template(),
                gains: ti.template(), bands: ti.template(), entries: ti.template(), seats: ti.template(), run, step,
                size: ti.template(), zero):  # fmt: skip
        """For every bin k: the distances of the two spectra, or of each to its goal.

        Adds each lane's distances to its segment's shares of the sums. Bins k and N - k become those of the packed
        gradients, re and im swapped.
        """
        power_a, power_b, sounds_a, sounds_b = work[notes + 2], work[notes + 3], work[notes + 4], work[notes + 5]
        apart = work[notes + 6]
        bins = size.n // 2 + 1
        record = run * size.goal_run + step * size.goal_step
        chunk = 0 ^ zero
        while chunk < (bins + CHUNK - 1) // CHUNK:  # float32 sums over a chunk, float64 sums over the chunks
            values_a = [lane(0) for _ in ti.static(range(C))]
            values_b = [lane(0) for _ in ti.static(range(C))]
            k = chunk * CHUNK
            end_k = ti.min(bins, (chunk + 1) * CHUNK)
            while k < end_k:
                p, m = 2 * (base + pairs[k, 0]), 2 * (base + pairs[k, 1])
                ar, ai, br, bi = unpack(work, p, m, apart)
                a, b = ti.sqrt(ar * ar + ai * ai), ti.sqrt(br * br + bi * bi)
                slope_a, slope_b = lane(0), lane(0)
                at = 2 * (record * bins + k)
                for j in ti.static(range(C)):
                    coefficient = work[(notes + NOTES + j) ^ zero]
                    if ti.static(fixed):
                        phi, phi_a, _ = distance(a * power_a, goal[at], j)
                        values_a[j] += phi
                        slope_a += coefficient * phi_a
                        phi, phi_b, _ = distance(b * power_b, goal[at + 1], j)
                        values_b[j] += phi
                        slope_b += coefficient * phi_b
                    else:
                        phi, phi_a, phi_b = distance(a * power_a, b * power_b, j)
                        values_a[j] += phi
                        slope_a += coefficient * phi_a
                        slope_b += coefficient * phi_b
                if ti.static(backward):
                    # G = slope X / |X|, one-sided: k and N - k take half of it each, a bin that is its own mirror all.
                    weight = ti.select(p == m, ti.cast(1, dtype), ti.cast(0.5, dtype))
                    by_a = slope_a * (sounds_a * weight) / (a + ti.cast(TINY[dtype], dtype))
                    by_b = slope_b * (sounds_b * weight) / (b + ti.cast(TINY[dtype], dtype))
                    pack(work, p, m, ar * by_a, ai * by_a, br * by_b, bi * by_b)
                k = (k + 1) ^ zero
            for j in ti.static(range(C)):
                add_shares(shares, values_a[j], j, 0, work, notes, seats, run, step, size)
                if ti.static(fixed):
                    add_shares(shares, values_b[j], j, 1, work, notes, seats, run, step, size)
            chunk = (chunk + 1) ^ zero

    return compare


def transporting(dtype: Any, fixed: bool, backward: bool) -> Any:
    """The `ti.func` for a `Transport` of the quantities in work memory, as its docstring and `transport_kernels` say.

    Args:
        dtype, fixed, backward: as in `lanes.lane_kernel`.
    """
    L = lane_count(dtype)
    lane = ti.types.vector(L, dtype)

    @ti.func
    def largest(work: ti.template(), q, top_at, size: ti.template(), zero):
        """The largest bin of a quantity; its index, the first if there are several, goes to work memory."""
        top, peak = lane(0), work[q]
        k = 1 ^ zero
        while k < size.rows:
            P = work[(q + k) ^ zero]
            top = ti.select(P > peak, ti.cast(k, dtype), top)  # a number as wide as P: LLVM joins lanes of one width
            peak = ti.max(P, peak)
            k = (k + 1) ^ zero
        work[top_at] = top
        return peak

    @ti.func
    def total(work: ti.template(), q, least, size: ti.template(), zero):
        """ΣP'."""
        result = lane(0)
        k = 0 ^ zero
        while k < size.rows:
            result += ti.max(work[(q + k) ^ zero] - least, 0)
            k = (k + 1) ^ zero
        return result

    @ti.func
    def scales(work: ti.template(), at, total_q, total_r):
        """1 / ΣP', both 0 in lanes in which either is silent or overflows."""
        work[at], work[at + 1] = total_q, total_r
        for l in range(L):
            scale_q, scale_r = inverse(work[at][l], dtype), inverse(work[at + 1][l], dtype)
            audible = ti.cast(scale_q > 0 and scale_r > 0, dtype)
            work[at][l], work[at + 1][l] = audible * scale_q, audible * scale_r
        return work[at], work[at + 1]

    @ti.func
    def move_floor(work: ti.template(), dq, top_at, at, by):
        """∂q += by in the largest bin."""
        work[at] = by
        for l in range(L):
            top = dq + ti.cast(work[top_at][l], ti.i32)
            work[top][l] = work[top][l] + work[at][l]

    @ti.func
    def transport(work: ti.template(), q, spare, term: ti.template(), coefficient, size: ti.template(), zero):
        """Σ_k |Cx − Cy|^p Δ of the quantities at q and q + rows; ∂q += coefficient times its slopes, and so ∂r."""
        r, dq, dr = q + size.rows, q + 2 * size.rows, q + 3 * size.rows
        floor, step = dtype(term.floor), 1 / ti.cast(size.axis, dtype)
        least_q = floor * largest(work, q, spare, size, zero)
        least_r = floor * largest(work, r, spare + 1, size, zero)
        scale_q, scale_r = scales(work, spare + 2, total(work, q, least_q, size, zero),
                                  total(work, r, least_r, size, zero))  # fmt: skip
        value, d, s, mean_q, mean_r = lane(0), lane(0), lane(0), lane(0), lane(0)
        k = (size.rows - 1) ^ zero
        while k >= 0:
            x, y = share(work[(q + k) ^ zero], least_q, scale_q), share(work[(r + k) ^ zero], least_r, scale_r)
            part, psi = cost(d, term.p, dtype)
            value += part
            s += psi
            mean_q += x * s
            mean_r += y * s
            d += y - x  # to subtract, Taichi negates a number
            k = (k - 1) ^ zero
        if ti.static(backward):
            by_q, by_r = coefficient * step * scale_q, negative(coefficient) * step * scale_r
            d, s, sum_q, sum_r = lane(0), lane(0), lane(0), lane(0)
            k = (size.rows - 1) ^ zero
            while k >= 0:
                x, y = share(work[(q + k) ^ zero], least_q, scale_q), share(work[(r + k) ^ zero], least_r, scale_r)
                _, psi = cost(d, term.p, dtype)
                s += psi
                slope = ti.select(x > 0, by_q * (s - mean_q), 0)
                sum_q += slope
                work[(dq + k) ^ zero] = work[(dq + k) ^ zero] + slope
                if ti.static(not fixed):
                    slope = ti.select(y > 0, by_r * (s - mean_r), 0)
                    sum_r += slope
                    work[(dr + k) ^ zero] = work[(dr + k) ^ zero] + slope
                d += y - x  # to subtract, Taichi negates a number
                k = (k - 1) ^ zero
            move_floor(work, dq, spare, spare + 2, -floor * sum_q)
            if ti.static(not fixed):
                move_floor(work, dr, spare + 1, spare + 2, -floor * sum_r)
        return step * value

    return transport


def by_stages(dtype: Any, parts: Parts, fixed: bool, backward: bool, place: Any, stages: Stages) -> Any:
    """The `ti.func` for everything that `whole_bins` does not do; see above.

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
            work[(at + j) ^ zero], work[(at + other + j) ^ zero] = lane(0), lane(0)
            j = (j + 1) ^ zero

    @ti.func
    def to_bands(work: ti.template(), at, other, k, a, b, bands: ti.template(), entries: ti.template(),
                 size: ti.template(), zero):  # fmt: skip
        e, end = bands[k], bands[k + 1]
        while e < end:
            i = (at + bands[size.n // 2 + 2 + e]) ^ zero
            work[i], work[i + other] = work[i] + a * entries[e], work[i + other] + b * entries[e]
            e = (e + 1) ^ zero

    @ti.func
    def from_bands(work: ti.template(), at, other, k, bands: ti.template(), entries: ti.template(),
                   size: ti.template(), zero):  # fmt: skip
        a, b = lane(0), lane(0)
        e, end = bands[k], bands[k + 1]
        while e < end:
            i = (at + bands[size.n // 2 + 2 + e]) ^ zero
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
            ar, ai, br, bi = unpack(work, 2 * (base + pairs[k, 0]), 2 * (base + pairs[k, 1]), apart)
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
                    work[(at + k) ^ zero], work[(at + other + k) ^ zero] = q, r
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
                a, b = work[(at + k) ^ zero], work[(at + other + k) ^ zero]
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
            p, m = 2 * (base + pairs[k, 0]), 2 * (base + pairs[k, 1])
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
                    total += absolute(work[(at + j) ^ zero])
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
                    work[(at + j) ^ zero] = goal[2 * (record * size.width + i * size.rows + j) + half]
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
                q, r = work[(at + k) ^ zero], work[(at + rows + k) ^ zero]
                slope_q, slope_r = lane(0), lane(0)
                for j in ti.static(on_bins[i]):
                    coefficient = work[(notes + NOTES + j) ^ zero]
                    phi, phi_q, phi_r = distance(q, r, j)
                    values[j] += phi
                    slope_q += coefficient * phi_q
                    slope_r += coefficient * phi_r
                if ti.static(backward):
                    work[(at + 2 * rows + k) ^ zero] = slope_q
                    if ti.static(not fixed):
                        work[(at + 3 * rows + k) ^ zero] = slope_r
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
                ar, ai, br, bi = unpack(work, 2 * (base + pairs[k, 0]), 2 * (base + pairs[k, 1]), work[notes + 6])
                to_a, to_b = gains[k] * work[notes + 2], gains[k] * work[notes + 3]
                spectra = ar * to_a, ai * to_a, br * to_b, bi * to_b
                others = counterparts(*spectra, k, goal, record, size)
                for half in ti.static(range(2)):
                    re, im = spectra[2 * half] - others[2 * half], spectra[2 * half + 1] - others[2 * half + 1]
                    for j in ti.static(on_spectra):
                        phi, u, v = parts[j][1].distance(re, im)
                        values[half * C + j] += phi
                        steepness[half] += (
                            absolute(work[(notes + NOTES + j) ^ zero]) * gains[k] * (absolute(u) + absolute(v))
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
