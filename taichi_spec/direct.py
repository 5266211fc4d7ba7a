"""The DFT by its definition, and its adjoint: slow, exact for any n_fft, the second oracle beside `reference`.

    transform   X[k, f]   = Σ_n v[f, n] e^(−2πi k n / N)                 v: windowed frames, from `framing.cut`
    adjoint     ∂v[f, n]  = Re Σ_{k<K} G[k, f] e^(+2πi k n / N)          G: from `bins.cotangent`

The adjoint of a real-linear map into the complex numbers, for the inner product Re⟨X, G⟩: each v[f, n] enters
X[k, f] with the factor e^(−iθ), so it receives Re(conj(e^(−iθ)) G) = Re(G e^(+iθ)). One-sided bins are not
doubled, since the loss does not count them twice.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti

from taichi_spec.arrays import upload


@ti.func
def turn(i, k, N):
    """(i + k) mod N for 0 ≤ i, k < N: steps k n mod N along n with no product that could overflow."""
    i += k
    if i >= N:
        i -= N
    return i


@cache
def direct_kernels(dtype: Any) -> SimpleNamespace:
    """The kernels `transform` and `adjoint`."""
    Array = ti.types.ndarray()

    @ti.kernel
    def transform(v: Array, X: Array, roots: Array, count: ti.i32):
        """X[b, f, k] = Σ_n v[b, f, n] e^(−2πi k n / N).  # (B, block, N) → (B, block, K, 2)"""
        N = v.shape[2]
        for b, f, k in ti.ndrange(v.shape[0], count, X.shape[2]):
            re, im = ti.cast(0, dtype), ti.cast(0, dtype)
            i = 0
            for n in range(N):
                re += v[b, f, n] * roots[i, 0]
                im -= v[b, f, n] * roots[i, 1]
                i = turn(i, k, N)
            X[b, f, k, 0] = re
            X[b, f, k, 1] = im

    @ti.kernel
    def adjoint(G: Array, v: Array, roots: Array, count: ti.i32):
        """v[b, f, n] = Re Σ_{k<K} G[b, f, k] e^(+2πi k n / N).  # (B, block, K, 2) → (B, block, N)"""
        N = v.shape[2]
        for b, f, n in ti.ndrange(v.shape[0], count, N):
            total = ti.cast(0, dtype)
            i = 0
            for k in range(G.shape[2]):
                total += G[b, f, k, 0] * roots[i, 0] - G[b, f, k, 1] * roots[i, 1]
                i = turn(i, n, N)
            v[b, f, n] = total

    return SimpleNamespace(transform=transform, adjoint=adjoint)


class DirectDFT:
    """Transforms of a block of frames, O(N²) each.

    Args:
        n_fft: N.
        dtype: ti.f32 or ti.f64.
        batch, block: items and frames that are transformed at once.
    """

    def __init__(self, n_fft: int, dtype: Any, batch: int, block: int) -> None:
        angle = 2 * np.pi * np.arange(n_fft) / n_fft
        self.roots = upload(np.stack([np.cos(angle), np.sin(angle)], axis=1), dtype)  # (N, 2)
        self.kernels = direct_kernels(dtype)

    @staticmethod
    def numbers_per_frame(n_fft: int) -> int:
        """Scratch that a frame takes here."""
        return 0

    def transform(self, v: Any, X: Any, count: int) -> None:
        """X ← the spectra of `count` frames v.  # (B, block, N) → (B, block, K, 2)"""
        self.kernels.transform(v, X, self.roots, count)

    def adjoint(self, G: Any, v: Any, count: int) -> None:
        """v ← the adjoint of `transform`, of cotangents G.  # (B, block, K, 2) → (B, block, N)"""
        self.kernels.adjoint(G, v, self.roots, count)
