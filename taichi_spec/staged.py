"""The loss by stages, a block of frames at a time: cut, transform, compare, and back.

    forward     v = cut(x)        X = transform(v)      L    += compare(X, Y)
    backward    G = cotangent     ∂v = adjoint(G)       ∂x   += fold(∂v)

Each stage is a kernel through memory; only a block's frames are there at once, however long the signal.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import taichi as ti

from taichi_spec.arrays import MAX_ELEMENTS, itemsize, upload
from taichi_spec.bins import bin_kernels, magnitude_kernel
from taichi_spec.framing import framing, framing_kernels, touched
from taichi_spec.stft import STFT
from taichi_spec.terms import BinTerm, unweighted


class BlockTransform:
    """The STFT of signals of one shape and its adjoint, a block of frames at a time.

    Args:
        stft: the transform.
        dtype: ti.f32 or ti.f64, of the signals.
        is_field: whether signals are fields or ndarrays.
        batch, n_samples: B and T.
        n_spectra: how many spectra of a block the caller holds.
        scratch_bytes: the most scratch memory that a block may take, spectra included.
        DFT: what transforms the frames, `direct.DirectDFT` or `fft.memory.MemoryDFT`.
    """

    def __init__(self, stft: STFT, dtype: Any, is_field: bool, batch: int, n_samples: int,
                 n_spectra: int, scratch_bytes: int, DFT: Any) -> None:  # fmt: skip
        self.stft, self.dtype, self.is_field, self.batch = stft, dtype, is_field, batch
        self.n_samples, self.n_frames = n_samples, stft.n_frames(n_samples)
        self.framing = framing(stft, n_samples)
        self.kernels = framing_kernels(is_field, dtype)
        self.window = upload(stft.window_table, dtype)  # (N,)
        N, K = stft.n_fft, stft.n_bins
        numbers = batch * (N + n_spectra * 2 * K + DFT.numbers_per_frame(N))  # for a frame of each item
        most = min(scratch_bytes // itemsize(dtype), MAX_ELEMENTS) // numbers
        self.block = min(self.n_frames, max(1, most))
        self.v = ti.ndarray(dtype, (batch, self.block, N))
        self.dft = DFT(N, dtype, batch, self.block)

    def new_spectrum(self) -> Any:
        """Memory for a block's spectra  # (B, block, K, 2)"""
        return ti.ndarray(self.dtype, (self.batch, self.block, self.stft.n_bins, 2))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(first frame, number of frames) of each block."""
        for first in range(0, self.n_frames, self.block):
            yield first, min(self.block, self.n_frames - first)

    def forward(self, x: Any, X: Any, first: int, count: int) -> None:
        """X ← the spectra of a block of frames of x."""
        self.kernels.cut(x, self.window, self.v, self.framing, first, count)
        self.dft.transform(self.v, X, count)

    def backward(self, G: Any, grad: Any, first: int, count: int) -> None:
        """grad += the adjoint of `forward`, of a block's cotangents G."""
        low, high = touched(self.stft, self.n_samples, first, count)
        self.dft.adjoint(G, self.v, count)
        self.kernels.fold(self.v, self.window, grad, self.framing, first, count, low, high)

    def spectrum(self, x: Any) -> np.ndarray:
        """X of every frame, as a complex NumPy array (B, K, F)."""
        X = self.new_spectrum()
        parts = []
        for first, count in self.blocks():
            self.forward(x, X, first, count)
            parts.append(X.to_numpy()[:, :count])
        pairs = np.concatenate(parts, axis=1)  # (B, F, K, 2)
        return np.swapaxes(pairs[..., 0] + 1j * pairs[..., 1], 1, 2)

    def magnitudes(self, x: Any) -> Any:
        """|X| of every frame, as an ndarray (B, F, K)."""
        shape = (self.batch, self.n_frames, self.stft.n_bins)
        if math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"target must have fewer than 2**31 bins in all, got {shape}; use a longer hop_length")
        X, out = self.new_spectrum(), ti.ndarray(self.dtype, shape)
        for first, count in self.blocks():
            self.forward(x, X, first, count)
            magnitude_kernel(self.dtype)(X, out, first, count)
        return out


class StagedEngine:
    """Loss and gradients, stage by stage.

    Nothing is kept between forward and backward: the backward pass transforms each block again, so that scratch
    memory is bounded however long the signal.

    Args:
        transform: for these signals, with room for two spectra.
        terms: what is summed over the bins.
        fixed: the target's magnitudes (B or 1, F or 1, K), or None if the target is a signal.
        way_back: the backward pass, one of `strategies.WAYS_BACK`.
    """

    def __init__(self, transform: BlockTransform, terms: tuple[BinTerm, ...], fixed: Any, way_back: Any) -> None:
        self.transform, self.terms, self.fixed, self.way_back = transform, terms, fixed, way_back
        dtype = transform.dtype
        self.kernels = bin_kernels(unweighted(terms), dtype, fixed is not None)
        self.weights = upload(np.array([term.weight for term in terms]), dtype)  # (terms,)
        self.X = transform.new_spectrum()
        self.Y = transform.new_spectrum() if fixed is None else fixed
        self.partial = ti.ndarray(dtype, (transform.batch, transform.block))
        self.ones = upload(np.ones(transform.batch), dtype)  # (B,)
        self.bin_scratch: Any = None  # (B, F, N, K), made by strategies.per_bin at its first call

    def forward(self, x: Any, y: Any, total: Any, keep: bool) -> None:
        """total[b] ← Σ_f Σ_k φ(|X|, |Y|); y is None where the target is fixed. `keep` changes nothing here."""
        total.fill(0)
        for first, count in self.transform.blocks():
            self._spectra(x, y, first, count)
            self.kernels.compare(self.X, self.Y, self.weights, self.partial, total, first, count)

    def backward(self, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
        """grad_x += upstream[b] ∂L/∂x, and grad_y likewise; either may be None."""
        self.way_back(self, x, y, grad_x, grad_y, upstream)

    def value_and_grad(self, x: Any, y: Any, total: Any, grad_x: Any, grad_y: Any) -> None:
        """total as in `forward`, and the gradients of Σ_b total[b], which replace what is in grad_x and grad_y."""
        self.forward(x, y, total, keep=True)
        for grad in (grad_x, grad_y):
            if grad is not None:
                grad.fill(0)
        self.backward(x, y, grad_x, grad_y, self.ones)

    def cotangents(self, x: Any, y: Any, upstream: Any) -> Iterator[tuple[int, int]]:
        """For each block, once self.X and self.Y hold the cotangents G of its frames."""
        for first, count in self.transform.blocks():
            self._spectra(x, y, first, count)
            self.kernels.cotangent(self.X, self.Y, self.weights, upstream, first, count)
            yield first, count

    def _spectra(self, x: Any, y: Any, first: int, count: int) -> None:
        self.transform.forward(x, self.X, first, count)
        if y is not None:
            self.transform.forward(y, self.Y, first, count)


def accumulate(engine: StagedEngine, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
    """The default way back (the plan's option A): each frame's samples, summed over all bins, then a gather.

        scratch  v[f, n] = Re Σ_{k<K} G[k, f] e^(+2πi k n / N)      (block, N): one write, after the sum over bins
        gather   ∂x[s]  += Σ_f w[n] v[f, n],  n = s − f H + pad     every frame that contains s

    The spectra are computed once per bin and frame, before, not once per sample and bin as the plan sketches.
    """
    for first, count in engine.cotangents(x, y, upstream):
        for G, grad in ((engine.X, grad_x), (engine.Y, grad_y)):
            if grad is not None:
                engine.transform.backward(G, grad, first, count)
