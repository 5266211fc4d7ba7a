"""The FFT pass by pass through memory: any n_fft, any backend, one small kernel a pass.

What no fused engine does comes here: on a GPU, frames that are no matter of one block, if their size has a prime factor above
7 (Bluestein). Same interface as `direct.DirectDFT`:

    transform   X[k, f]   = Σ_n v[f, n] e^(−2πi k n / N)
    adjoint     ∂v[f, n]  = Re Σ_{k<K} G[k, f] e^(+2πi k n / N)  =  Re Σ_{k<K} conj(G[k, f]) e^(−2πi k n / N)

so the adjoint is the same forward transform, of conj(G) padded with zeros, of which the real part is kept.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.arrays import new_array, upload, upload_integers
from taichi_spec.fft.butterflies import butterflies
from taichi_spec.fft.plan import Bluestein, Plan, factorise, is_smooth, smooth_size

LARGEST_RADIX = 8


class MemoryDFT:
    """Transforms of a block of frames, O(N log N) each.

    Args:
        n_fft: N.
        dtype: ti.f32 or ti.f64.
        batch, block: items and frames that are transformed at once.
    """

    def __init__(self, n_fft: int, dtype: Any, batch: int, block: int) -> None:
        size = n_fft if is_smooth(n_fft) else smooth_size(2 * n_fft - 1)
        self.plan = Plan(size, factorise(size, LARGEST_RADIX))
        self.chirped = size != n_fft
        self.dtype = dtype
        self.Z = new_array(dtype, (batch, block, size, 2))
        self.twiddles = upload(self.plan.twiddles.ravel(), dtype)  # (2 size − 2,)
        self.positions = upload_integers(self.plan.positions)  # (size,)
        bluestein = Bluestein(n_fft, self.plan)
        self.chirp = upload(bluestein.chirp, dtype) if self.chirped else self.twiddles  # (N, 2)
        self.response = upload(bluestein.response, dtype) if self.chirped else self.twiddles  # (size, 2)
        self.kernels = memory_kernels(dtype, self.chirped)

    @staticmethod
    def numbers_per_frame(n_fft: int) -> int:
        """Scratch that a frame takes here."""
        return 2 * (n_fft if is_smooth(n_fft) else smooth_size(2 * n_fft - 1))

    def transform(self, v: Any, X: Any, count: int) -> None:
        """X ← the spectra of `count` frames v.  # (B, block, N) → (B, block, K, 2)"""
        self.kernels.load_frames(v, self.Z, self.chirp, count)
        self._forward(count)
        self.kernels.store_bins(self.Z, X, self.positions, self.chirp, count)

    def adjoint(self, G: Any, v: Any, count: int) -> None:
        """v ← the adjoint of `transform`, of cotangents G.  # (B, block, K, 2) → (B, block, N)"""
        self.kernels.load_cotangents(G, self.Z, self.chirp, v.shape[2], count)
        self._forward(count)
        self.kernels.store_frames(self.Z, v, self.positions, self.chirp, count)

    def _forward(self, count: int) -> None:
        """Z ← its transform: by the passes themselves, or by a convolution with the chirp (see `Bluestein`)."""
        passes = list(zip(self.plan.radices, self.plan.spans, self.plan.offsets, strict=True))
        for radix, span, offset in passes:
            pass_kernel(self.dtype, radix, False)(self.Z, self.twiddles, span, offset, count)
        if self.chirped:
            self.kernels.convolve(self.Z, self.response, count)
            for radix, span, offset in reversed(passes):
                pass_kernel(self.dtype, radix, True)(self.Z, self.twiddles, span, offset, count)


@cache
def pass_kernel(dtype: Any, radix: int, back: bool) -> Any:
    """One pass, in place: decimation in frequency, or (`back`) its transpose, decimation in time, of the inverse."""
    bf = butterflies(dtype)
    Array = ti.types.ndarray()
    # The inverse is the forward transform of swapped real and imaginary parts, swapped back.
    real, imag = (1, 0) if back else (0, 1)

    @ti.kernel
    def run(Z: Array, twiddles: Array, span: ti.i32, offset: ti.i32, count: ti.i32):
        for b, f, i in ti.ndrange(Z.shape[0], count, Z.shape[2] // radix):
            j = i % span
            first = (i - j) * radix + j
            re = [Z[b, f, first + q * span, real] for q in ti.static(range(radix))]
            im = [Z[b, f, first + q * span, imag] for q in ti.static(range(radix))]
            turns = 2 * (offset + j * (radix - 1))
            if ti.static(back):
                bf.turn(re, im, radix, twiddles, turns)
            bf.dft(re, im, radix, 0, 1)
            if ti.static(not back):
                bf.turn(re, im, radix, twiddles, turns)
            for q in ti.static(range(radix)):
                Z[b, f, first + q * span, real] = re[q]
                Z[b, f, first + q * span, imag] = im[q]

    return run


@cache
def memory_kernels(dtype: Any, chirped: bool) -> SimpleNamespace:
    """The kernels before and after the passes. `chirped`: Bluestein, which leaves its result in natural order."""
    Array = ti.types.ndarray()

    @ti.func
    def turned(re, im, chirp: ti.template(), n):
        """(re + i im) times the chirp's element n, if there is a chirp."""
        u, v = re, im
        if ti.static(chirped):
            u = re * chirp[n, 0] - im * chirp[n, 1]
            v = re * chirp[n, 1] + im * chirp[n, 0]
        return u, v

    @ti.func
    def result(Z: ti.template(), positions: ti.template(), chirp: ti.template(), b, f, k):
        """Element k of the transform."""
        at = k
        if ti.static(not chirped):
            at = positions[k]
        return turned(Z[b, f, at, 0], Z[b, f, at, 1], chirp, k)

    @ti.kernel
    def load_frames(v: Array, Z: Array, chirp: Array, count: ti.i32):
        """Z ← v, and zeros beyond it."""
        for b, f, n in ti.ndrange(Z.shape[0], count, Z.shape[2]):
            re, im = ti.cast(0, dtype), ti.cast(0, dtype)
            if n < v.shape[2]:
                re, im = turned(v[b, f, n], im, chirp, n)
            Z[b, f, n, 0] = re
            Z[b, f, n, 1] = im

    @ti.kernel
    def load_cotangents(G: Array, Z: Array, chirp: Array, n_fft: ti.i32, count: ti.i32):
        """Z ← conj(G), and zeros beyond it."""
        for b, f, k in ti.ndrange(Z.shape[0], count, Z.shape[2]):
            re, im = ti.cast(0, dtype), ti.cast(0, dtype)
            if k < G.shape[2]:
                re, im = turned(G[b, f, k, 0], -G[b, f, k, 1], chirp, k)
            Z[b, f, k, 0] = re
            Z[b, f, k, 1] = im

    @ti.kernel
    def convolve(Z: Array, kernel: Array, count: ti.i32):
        """Z ← Z · kernel, element by element, in the order in which the passes left Z."""
        for b, f, k in ti.ndrange(Z.shape[0], count, Z.shape[2]):
            re, im = Z[b, f, k, 0], Z[b, f, k, 1]
            Z[b, f, k, 0] = re * kernel[k, 0] - im * kernel[k, 1]
            Z[b, f, k, 1] = re * kernel[k, 1] + im * kernel[k, 0]

    @ti.kernel
    def store_bins(Z: Array, X: Array, positions: Array, chirp: Array, count: ti.i32):
        """X ← bins 0 … K − 1 of the transform."""
        for b, f, k in ti.ndrange(X.shape[0], count, X.shape[2]):
            re, im = result(Z, positions, chirp, b, f, k)
            X[b, f, k, 0] = re
            X[b, f, k, 1] = im

    @ti.kernel
    def store_frames(Z: Array, v: Array, positions: Array, chirp: Array, count: ti.i32):
        """v ← the real part of the transform."""
        for b, f, n in ti.ndrange(v.shape[0], count, v.shape[2]):
            re, _ = result(Z, positions, chirp, b, f, n)
            v[b, f, n] = re

    return SimpleNamespace(load_frames=load_frames, load_cotangents=load_cotangents, convolve=convolve,
                           store_bins=store_bins, store_frames=store_frames)  # fmt: skip
