"""What happens in a bin: the distances of the two spectra there, their sums, and their slopes.

Terms compare quantities: magnitudes |X|, powers |X|² (of bins, or of bands: `measure`), or the spectra themselves.

forward     S[b, j] = Σ_f Σ_k s_j(A, R)                        j: one column a `BinTerm`, `Complex` or `Transport`,
            value_t = g_t(S)                                   several for a `SumsTerm`, where g is not S itself
            total   = Σ_t weight[b, t] · value_t
backward    c[b, j] = weight[b, t] · ∂g_t/∂S[b, j]             found by the forward pass: `finish_function`
            ∂A      = upstream[b] Σ_j c[b, j] ∂s_j/∂A          `slopes`
"""

from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import taichi as ti

from taichi_spec.framing import counterpart
from taichi_spec.polar import polar
from taichi_spec.terms import BinTerm, Complex, SumsTerm, Term, Transport
from taichi_spec.terms.base import QUANTITIES

CHUNK = 128

Parts = tuple[tuple[int, Any], ...]  # (column, what is summed there)


def part_distance(parts: Parts, dtype: Any) -> Any:
    """A `ti.func` (a, b, j) → φ, ∂φ/∂a, ∂φ/∂b of the magnitudes a and b: what parts[j] sums, j known to Taichi."""

    @ti.func
    def distance(a, b, j: ti.template()):
        value, slope1, slope2 = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
        if ti.static(parts[j][1].quantity == "power"):
            # The maximum keeps squares apart from their difference: fused into it, those of equal numbers would differ.
            square1, square2 = ti.max(a * a, ti.cast(0, dtype)), ti.max(b * b, ti.cast(0, dtype))
            value, slope1, slope2 = parts[j][1].distance(square1, square2, dtype)
            slope1, slope2 = slope1 * 2 * a, slope2 * 2 * b
        else:
            value, slope1, slope2 = parts[j][1].distance(a, b, dtype)
        return value, slope1, slope2

    return distance


def distance_of(terms: tuple[BinTerm, ...], dtype: Any) -> Any:
    """A `ti.func` (a, b, weights) → φ, ∂φ/∂a, ∂φ/∂b of the magnitudes a and b: the weighted sum of the terms."""
    part = part_distance(tuple(enumerate(terms)), dtype)

    @ti.func
    def distance(a, b, weights: ti.template()):
        phi, phi1, phi2 = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
        for i in ti.static(range(len(terms))):
            value, slope1, slope2 = part(a, b, i)
            phi += weights[i] * value
            phi1 += weights[i] * slope1
            phi2 += weights[i] * slope2
        return phi, phi1, phi2

    return distance


def columns_of(terms: tuple[Term, ...]) -> tuple[int, ...]:
    """The first column of each term's sums, and the number of columns."""
    sizes = [len(term.parts) if isinstance(term, SumsTerm) else 1 for term in terms]
    return (0, *(int(i) for i in np.cumsum(sizes)))


def parts_of(terms: tuple[Term, ...], kind: type = Term) -> Parts:
    """What terms of a kind sum, and in which column."""
    parts: list[tuple[int, Any]] = []
    for term, first in zip(terms, columns_of(terms), strict=False):
        if isinstance(term, kind):
            parts += enumerate(term.parts if isinstance(term, SumsTerm) else (term,), first)
    return tuple(parts)


def bin_parts(terms: tuple[Term, ...], quantity: str) -> Parts:
    """What is summed over the bins' magnitudes, or powers."""
    return tuple(
        (column, part) for column, part in parts_of(terms) if isinstance(part, BinTerm) and part.quantity == quantity
    )


def transport_parts(terms: tuple[Term, ...], quantity: str) -> Parts:
    """Each `Transport` of a quantity."""
    return tuple(
        (column, part) for column, part in parts_of(terms) if isinstance(part, Transport) and part.quantity == quantity
    )


def quantities_of(terms: tuple[Term, ...]) -> tuple[str, ...]:
    """The quantities that any of the terms compares."""
    return tuple(name for name in QUANTITIES if bin_parts(terms, name) or transport_parts(terms, name))


def complex_parts(terms: tuple[Term, ...]) -> Parts:
    """What is summed over the spectra."""
    return parts_of(terms, Complex)


@cache
def bin_kernels(parts: Parts, dtype: Any, fixed: bool) -> SimpleNamespace:
    """The kernels `compare` (sums) and `slopes` of magnitudes or powers A and R  # (B, block, J)"""
    Array = ti.types.ndarray()
    P = len(parts)

    @ti.func
    def values(A: ti.template(), R: ti.template(), b, f, k, first):
        i, j = counterpart(R, b, f, first, fixed)
        result = ti.Vector.zero(dtype, P)
        for c in ti.static(range(P)):
            result[c], _, _ = parts[c][1].distance(A[b, f, k], R[i, j, k], dtype)
        return result

    @ti.kernel
    def slopes(A: Array, R: Array, dA: Array, dR: Array, coefficients: Array, upstream: Array, items: Array,
               first: ti.i32, count: ti.i32):  # fmt: skip
        """dA ← upstream · Σ_c coefficient · ∂s_c/∂A, and dR likewise unless R is fixed; 0 in frames beyond an item."""
        for b, f, k in ti.ndrange(A.shape[0], count, A.shape[2]):
            slope1, slope2 = ti.cast(0, dtype), ti.cast(0, dtype)
            if first + f < items[b, 1]:
                i, j = counterpart(R, b, f, first, fixed)
                for c in ti.static(range(P)):
                    _, part1, part2 = parts[c][1].distance(A[b, f, k], R[i, j, k], dtype)
                    slope1 += coefficients[b, parts[c][0]] * part1
                    slope2 += coefficients[b, parts[c][0]] * part2
            dA[b, f, k] = upstream[b] * slope1
            if ti.static(not fixed):
                dR[b, f, k] = upstream[b] * slope2

    return SimpleNamespace(compare=summation(values, parts, dtype), slopes=slopes)


@cache
def complex_kernel(parts: Parts, dtype: Any, fixed: bool) -> Any:
    """The kernel that sums the distances of spectra X and Y  # (B, block, K, 2)"""
    P = len(parts)

    @ti.func
    def values(X: ti.template(), Y: ti.template(), b, f, k, first):
        i, j = counterpart(Y, b, f, first, fixed)
        result = ti.Vector.zero(dtype, P)
        for c in ti.static(range(P)):
            re, im = X[b, f, k, 0] - Y[i, j, k, 0], X[b, f, k, 1] - Y[i, j, k, 1]
            result[c], _, _ = parts[c][1].distance(re, im)
        return result

    return summation(values, parts, dtype)


def summation(values: Any, parts: Parts, dtype: Any) -> Any:
    """The kernel sums[b, column] += Σ_f Σ_k values(A, R, b, f, k, first) over a block: bins in order, then frames."""
    Array = ti.types.ndarray()
    P = len(parts)

    @ti.kernel
    def compare(A: Array, R: Array, partial: Array, sums: Array, items: Array, first: ti.i32, count: ti.i32):
        for b, f in ti.ndrange(A.shape[0], count):
            frame = ti.Vector.zero(dtype, P)
            if first + f < items[b, 1]:
                for chunk in range((A.shape[2] + CHUNK - 1) // CHUNK):  # a sum of sums rounds less than one long one
                    part = ti.Vector.zero(dtype, P)
                    for k in range(chunk * CHUNK, ti.min((chunk + 1) * CHUNK, A.shape[2])):
                        part += values(A, R, b, f, k, first)
                    frame += part
            for c in ti.static(range(P)):
                partial[b, f, c] = frame[c]
        for b in range(A.shape[0]):
            block = ti.Vector.zero(dtype, P)
            for f in range(count):
                for c in ti.static(range(P)):
                    block[c] += partial[b, f, c]
            for c in ti.static(range(P)):
                sums[b, parts[c][0]] = sums[b, parts[c][0]] + block[c]

    return compare


class Account(NamedTuple):
    """The column where each of an item's numbers begin, which may lie in arrays of their own or in one."""

    sums: int = 0
    weights: int = 0
    coefficients: int = 0
    values: int = 0

    @staticmethod
    def of(terms: tuple[Term, ...]) -> "Account":
        """All in one array  # (B, columns)"""
        sums = columns_of(terms)[-1]
        return Account(0, sums, sums + len(terms), 2 * sums + len(terms))


@cache
def finish_function(terms: tuple[Term, ...], dtype: Any, at: Account) -> Any:
    """The `ti.func` from the sums of item b to its values and the coefficients of the backward pass; it returns the total."""
    columns = columns_of(terms)

    @ti.func
    def finish(sums: ti.template(), weights: ti.template(), coefficients: ti.template(), values: ti.template(), b):
        """values[b, t] ← weight · g_t(S),  coefficients[b, j] ← weight · ∂g_t/∂S_j,  → Σ_t values[b, t]."""
        item = ti.cast(0, dtype)
        for t in ti.static(range(len(terms))):
            weight, value = weights[b, at.weights + t], ti.cast(0, dtype)
            if ti.static(isinstance(terms[t], SumsTerm)):
                S = ti.Vector([sums[b, at.sums + j] for j in ti.static(range(columns[t], columns[t + 1]))])
                combined, slopes = terms[t].combine(S, dtype)
                value = weight * combined
                for j in ti.static(range(columns[t], columns[t + 1])):
                    coefficients[b, at.coefficients + j] = weight * slopes[j - columns[t]]
            else:
                value = weight * sums[b, at.sums + columns[t]]
                coefficients[b, at.coefficients + columns[t]] = weight
            values[b, at.values + t] = value
            item += value
        return item

    return finish


@cache
def finish_kernel(terms: tuple[Term, ...], dtype: Any, at: Account) -> Any:
    """The same as a kernel of its own, for all items."""
    Array = ti.types.ndarray()
    finish = finish_function(terms, dtype, at)

    @ti.kernel
    def finish_all(sums: Array, weights: Array, coefficients: Array, values: Array, total: Array):
        for b in range(sums.shape[0]):
            total[b] = finish(sums, weights, coefficients, values, b)

    return finish_all


@cache
def magnitude_kernel(dtype: Any) -> Any:
    """The kernel that writes a block's magnitudes to where they are kept."""
    Array = ti.types.ndarray()

    @ti.kernel
    def magnitudes(X: Array, out: Array, first: ti.i32, count: ti.i32):
        """out[b, first + f, k] = |X[b, f, k]|."""
        for b, f, k in ti.ndrange(X.shape[0], count, X.shape[2]):
            r, _, _ = polar(X[b, f, k, 0], X[b, f, k, 1])
            out[b, first + f, k] = r

    return magnitudes


@cache
def scale_kernel() -> Any:
    """The kernel that multiplies each bin of a block's spectra by its weight."""
    Array = ti.types.ndarray()

    @ti.kernel
    def scale(X: Array, weights: Array, count: ti.i32):
        """X[b, f, k] ← weights[k] X[b, f, k]."""
        for b, f, k, part in ti.ndrange(X.shape[0], count, X.shape[2], 2):
            X[b, f, k, part] = weights[k] * X[b, f, k, part]

    return scale
