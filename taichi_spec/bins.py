"""What happens in a bin: the distance of two magnitudes, its sum, and its cotangent.

forward     L      = Σ_f Σ_k φ(|X|, |Y|)
backward    G[k,f] = ∂L · φ₁(|X|, |Y|) · X / |X|,   and for y: ∂L · φ₂(|X|, |Y|) · Y / |Y|
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.terms import BinTerm

CHUNK = 128


@ti.func
def polar(re, im):
    """|z| and z / |z|, both 0 at z = 0; scaled, so that |z|² neither underflows nor overflows."""
    largest = ti.max(abs(re), abs(im))
    r, u, v = largest, largest, largest
    if largest > 0:
        u, v = re / largest, im / largest
        norm = ti.sqrt(u * u + v * v)
        r, u, v = largest * norm, u / norm, v / norm
    return r, u, v


def distance_of(terms: tuple[BinTerm, ...], dtype: Any) -> Any:
    """A `ti.func` (a, b, weights) → φ, ∂φ/∂a, ∂φ/∂b: the weighted sum of the terms."""

    @ti.func
    def distance(a, b, weights: ti.template()):
        phi, phi1, phi2 = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
        for i in ti.static(range(len(terms))):
            value, slope1, slope2 = terms[i].distance(a, b, dtype)
            phi += weights[i] * value
            phi1 += weights[i] * slope1
            phi2 += weights[i] * slope2
        return phi, phi1, phi2

    return distance


@cache
def bin_kernels(terms: tuple[BinTerm, ...], dtype: Any, fixed: bool) -> SimpleNamespace:
    """The kernels `compare` (value) and `cotangent` (derivative).

    With `fixed`, Y is an array of magnitudes (B or 1, F or 1, K), analysed before; otherwise it is the block's
    spectrum, as X is: (B, block, K, 2).
    """
    Array = ti.types.ndarray()
    distance = distance_of(terms, dtype)

    @ti.func
    def target(Y: ti.template(), b, f, k, first):
        """|Y| and Y / |Y| of frame first + f."""
        r, u, v = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
        if ti.static(fixed):
            r = Y[ti.min(b, Y.shape[0] - 1), ti.min(first + f, Y.shape[1] - 1), k]
        else:
            r, u, v = polar(Y[b, f, k, 0], Y[b, f, k, 1])
        return r, u, v

    @ti.kernel
    def compare(X: Array, Y: Array, weights: Array, partial: Array, total: Array, first: ti.i32, count: ti.i32):
        """total[b] += Σ_f Σ_k φ(|X|, |Y|) over a block of frames: bins in order, then frames in order."""
        for b, f in ti.ndrange(X.shape[0], count):
            frame = ti.cast(0, dtype)
            for chunk in range((X.shape[2] + CHUNK - 1) // CHUNK):  # a sum of sums rounds less than one long one
                part = ti.cast(0, dtype)
                for k in range(chunk * CHUNK, ti.min((chunk + 1) * CHUNK, X.shape[2])):
                    a, _, _ = polar(X[b, f, k, 0], X[b, f, k, 1])
                    r, _, _ = target(Y, b, f, k, first)
                    phi, _, _ = distance(a, r, weights)
                    part += phi
                frame += part
            partial[b, f] = frame
        for b in range(X.shape[0]):
            block = ti.cast(0, dtype)
            for f in range(count):
                block += partial[b, f]
            total[b] = total[b] + block

    @ti.kernel
    def cotangent(X: Array, Y: Array, weights: Array, upstream: Array, first: ti.i32, count: ti.i32):
        """X ← G of x and, unless the target is fixed, Y ← G of y, in place."""
        for b, f, k in ti.ndrange(X.shape[0], count, X.shape[2]):
            a, u, v = polar(X[b, f, k, 0], X[b, f, k, 1])
            r, p, q = target(Y, b, f, k, first)
            _, phi1, phi2 = distance(a, r, weights)
            X[b, f, k, 0] = upstream[b] * phi1 * u
            X[b, f, k, 1] = upstream[b] * phi1 * v
            if ti.static(not fixed):
                Y[b, f, k, 0] = upstream[b] * phi2 * p
                Y[b, f, k, 1] = upstream[b] * phi2 * q

    return SimpleNamespace(compare=compare, cotangent=cotangent)


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
