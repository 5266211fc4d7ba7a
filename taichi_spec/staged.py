"""The loss by stages, a block of frames at a time: cut, transform, measure, compare, and back.

    forward     v = cut(x)        X = transform(v)      A = measure(X)      S  += compare(A, R)
    backward    ∂A = slopes       G = cotangent(∂A)     ∂v = adjoint(G)     ∂x += fold(∂v)

Each stage is a kernel through memory; only a block's frames are there at once, however long the signal.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taichi_spec.arrays import MAX_ELEMENTS, itemsize, new_array, upload
from taichi_spec.bins import (
    Account,
    bin_kernels,
    bin_parts,
    columns_of,
    complex_kernel,
    complex_parts,
    finish_kernel,
    magnitude_kernel,
    quantities_of,
    scale_kernel,
    transport_parts,
)
from taichi_spec.framing import framing, framing_kernels, item_sizes, touched
from taichi_spec.measure import BandTables, cotangent_kernel, measure_kernel
from taichi_spec.stft import STFT
from taichi_spec.target import FixedTarget
from taichi_spec.terms import Term, unweighted
from taichi_spec.terms.base import QUANTITIES
from taichi_spec.terms.transport import transport_kernels


class BlockTransform:
    """The STFT of signals of one shape and its adjoint, a block of frames at a time.

    Args:
        stft: the transform.
        dtype: ti.f32 or ti.f64, of the signals.
        is_field: whether signals are fields or ndarrays.
        batch, n_samples: B and T.
        n_spectra: how many spectra of a block the caller holds, or what takes as much memory.
        scratch_bytes: the most scratch memory that a block may take, spectra included.
        DFT: what transforms the frames, `direct.DirectDFT` or `fft.memory.MemoryDFT`.
        lengths: samples of each item, T by default; nothing beyond is read.
        bin_weights: what each bin of the spectra is multiplied by  # (K,)
    """

    def __init__(self, stft: STFT, dtype: Any, is_field: bool, batch: int, n_samples: int,
                 n_spectra: int, scratch_bytes: int, DFT: Any, lengths: tuple[int, ...] | None = None,
                 bin_weights: NDArray[np.float64] | None = None) -> None:  # fmt: skip
        self.stft, self.dtype, self.is_field, self.batch = stft, dtype, is_field, batch
        self.n_samples, self.n_frames = n_samples, stft.n_frames(n_samples)
        self.lengths = lengths or (n_samples,) * batch
        self.framing = framing(stft, n_samples)
        self.items = item_sizes(stft, self.lengths)  # (B, 2)
        self.kernels = framing_kernels(is_field, dtype)
        self.window = upload(stft.window_table, dtype)  # (N,)
        self.bin_weights = None if bin_weights is None else upload(bin_weights, dtype)  # (K,)
        N, K = stft.n_fft, stft.n_bins
        numbers = batch * (N + n_spectra * 2 * K + DFT.numbers_per_frame(N))  # for a frame of each item
        most = min(scratch_bytes // itemsize(dtype), MAX_ELEMENTS) // numbers
        self.block = min(self.n_frames, max(1, most))
        self.v = new_array(dtype, (batch, self.block, N))
        self.dft = DFT(N, dtype, batch, self.block)

    def new_spectrum(self) -> Any:
        """Memory for a block's spectra  # (B, block, K, 2)"""
        return new_array(self.dtype, (self.batch, self.block, self.stft.n_bins, 2))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(first frame, number of frames) of each block."""
        for first in range(0, self.n_frames, self.block):
            yield first, min(self.block, self.n_frames - first)

    def forward(self, x: Any, X: Any, first: int, count: int) -> None:
        """X ← the weighted spectra of a block of frames of x."""
        self.kernels.cut(x, self.window, self.v, self.framing, self.items, first, count)
        self.dft.transform(self.v, X, count)
        self._weigh(X, count)

    def backward(self, G: Any, grad: Any, first: int, count: int) -> None:
        """grad += the adjoint of `forward`, of a block's cotangents G, which are overwritten."""
        self._weigh(G, count)  # a real diagonal matrix is its own adjoint
        self.dft.adjoint(G, self.v, count)
        ranges = [touched(self.stft, length, first, count) for length in set(self.lengths)]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        self.kernels.fold(self.v, self.window, grad, self.framing, self.items, first, count, low, high)

    def _weigh(self, X: Any, count: int) -> None:
        if self.bin_weights is not None:
            scale_kernel()(X, self.bin_weights, count)

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
        X, out = self.new_spectrum(), new_array(self.dtype, shape)
        for first, count in self.blocks():
            self.forward(x, X, first, count)
            magnitude_kernel(self.dtype)(X, out, first, count)
        return out


class Quantity:
    """The magnitudes or the powers of a block, of bins or bands, with their slopes, and the terms that compare them.

    Args:
        name: "magnitude" or "power".
        terms: all terms of the loss, unweighted; those of another quantity are passed over.
        shape: (B, block, J).
        n_fft: N, for the step of the frequency axis.
        bands: the bands' tables.
        fixed: the target's  # (B or 1, F or 1, J); None if the target is a signal.
    """

    def __init__(self, name: str, terms: tuple[Term, ...], dtype: Any, shape: tuple[int, ...], n_fft: int,
                 bands: BandTables, fixed: Any) -> None:  # fmt: skip
        self.parts = bin_parts(terms, name)
        self.transports = transport_parts(terms, name)
        self.bands, self.fixed = bands, fixed
        self.step = 1 / (2 * shape[2]) if bands.banded else 1 / n_fft
        self.measure_kernel = measure_kernel(dtype, bands.banded, name)
        self.kernels = bin_kernels(self.parts, dtype, fixed is not None)
        self.transport_kernels = {
            column: transport_kernels(dtype, term.p, fixed is not None) for column, term in self.transports
        }
        self.A, self.dA = new_array(dtype, shape), new_array(dtype, shape)
        self.R = new_array(dtype, shape) if fixed is None else fixed
        self.dR = new_array(dtype, shape) if fixed is None else self.dA  # not written where the target is fixed

    def measure(self, X: Any, Y: Any, count: int) -> None:
        """A and R ← the quantities of a block's spectra; Y is not read where the target is fixed."""
        self.measure_kernel(X, self.bands.matrix, self.bands.bins, self.A, count)
        if self.fixed is None:
            self.measure_kernel(Y, self.bands.matrix, self.bands.bins, self.R, count)

    def compare(self, partial: Any, sums: Any, items: Any, first: int, count: int) -> None:
        """sums += those of a block."""
        if self.parts:
            self.kernels.compare(self.A, self.R, partial, sums, items, first, count)
        for column, term in self.transports:
            kernel = self.transport_kernels[column].value
            kernel(self.A, self.R, partial, sums, column, term.floor, self.step, items, first, count)

    def slopes(self, coefficients: Any, upstream: Any, items: Any, first: int, count: int) -> None:
        """dA and dR ← the slopes of a block."""
        factors = (self.dA, self.dR, coefficients, upstream)
        self.kernels.slopes(self.A, self.R, *factors, items, first, count)
        for column, term in self.transports:
            kernel = self.transport_kernels[column].slopes
            kernel(self.A, self.R, *factors, column, term.floor, self.step, items, first, count)


class AddingEngine(ABC):
    """An engine whose backward adds to the gradients that there are.

    Args:
        dtype: ti.f32 or ti.f64, of the signals.
        batch: B.
    """

    def __init__(self, dtype: Any, batch: int) -> None:
        self.ones = upload(np.ones(batch), dtype)  # (B,)

    @abstractmethod
    def forward(self, x: Any, y: Any, total: Any, keep: bool) -> None:
        """total[b] ← L[b]; y is None where the target is fixed. `keep`: a backward follows."""

    @abstractmethod
    def backward(self, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
        """grad_x += upstream[b] ∂L/∂x, and grad_y likewise; either may be None. Comes after `forward` of the same."""

    def value_and_grad(self, x: Any, y: Any, total: Any, grad_x: Any, grad_y: Any) -> None:
        """total as in `forward`, and the gradients of Σ_b total[b], which replace what is in grad_x and grad_y."""
        self.forward(x, y, total, keep=True)
        for grad in (grad_x, grad_y):
            if grad is not None:
                grad.fill(0)
        self.backward(x, y, grad_x, grad_y, self.ones)


class StagedEngine(AddingEngine):
    """Loss and gradients, stage by stage.

    Of the spectra nothing is kept between forward and backward: the backward pass transforms each block again, so
    that scratch memory is bounded however long the signal. What is kept is a few numbers an item: the coefficients
    of its sums.

    Args:
        transform: for these signals, with room for `spectra_held` spectra.
        terms: what is summed.
        weights: of each term and item  # (B, terms)
        bands: the bands' matrix (n_bands, K), or None.
        fixed: the target, analysed, or None if it is a signal.
        toward_target: whether the direction of x at X = 0 is the target's.
        way_back: the backward pass, one of `strategies.WAYS_BACK`.
    """

    def __init__(self, transform: BlockTransform, terms: tuple[Term, ...], weights: NDArray[np.float64],
                 bands: NDArray[np.float64] | None, fixed: FixedTarget | None, toward_target: bool,
                 way_back: Any) -> None:  # fmt: skip
        super().__init__(transform.dtype, transform.batch)
        self.transform, self.terms, self.fixed, self.way_back = transform, unweighted(terms), fixed, way_back
        dtype, B = transform.dtype, transform.batch
        self.bands = BandTables(bands, dtype)
        n_bins = transform.stft.n_bins if bands is None else len(bands)
        self.quantities = {
            name: Quantity(name, self.terms, dtype, (B, transform.block, n_bins), transform.stft.n_fft, self.bands,
                           fixed and getattr(fixed, name))
            for name in quantities_of(self.terms)
        }  # fmt: skip
        self.complex_parts = complex_parts(self.terms)
        is_fixed = fixed is not None
        self.compare_spectra = complex_kernel(self.complex_parts, dtype, is_fixed)
        kinds = (dtype, self.bands.banded, tuple(self.quantities), self.complex_parts, is_fixed, toward_target)
        self.cotangent = cotangent_kernel(*kinds)
        self.finish = finish_kernel(self.terms, dtype, Account())
        self.X = transform.new_spectrum()
        self.Y = transform.new_spectrum() if fixed is None else fixed.spectrum
        n_sums = columns_of(terms)[-1]
        self.partial = new_array(dtype, (B, transform.block, n_sums))
        self.sums, self.coefficients = new_array(dtype, (B, n_sums)), new_array(dtype, (B, n_sums))
        self.weights = upload(weights, dtype)  # (B, terms)
        self.values = new_array(dtype, (B, len(terms)))
        self.unused = new_array(dtype, (1, 1, 1))  # in the place of a quantity that no term compares
        self.bin_scratch: Any = None  # (B, F, N, K), made by strategies.per_bin at its first call

    def forward(self, x: Any, y: Any, total: Any, keep: bool) -> None:
        """total[b] ← Σ_t weight · value_t; y is None where the target is fixed. `keep` changes nothing here."""
        items = self.transform.items
        self.sums.fill(0)
        for first, count in self.transform.blocks():
            self._spectra(x, y, first, count)
            for quantity in self.quantities.values():
                quantity.compare(self.partial, self.sums, items, first, count)
            if self.complex_parts:
                self.compare_spectra(self.X, self.Y, self.partial, self.sums, items, first, count)
        self.finish(self.sums, self.weights, self.coefficients, self.values, total)

    def backward(self, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
        """grad_x += upstream[b] ∂L/∂x, and grad_y likewise; either may be None. Comes after `forward` of the same."""
        self.way_back(self, x, y, grad_x, grad_y, upstream)

    def shares(self) -> NDArray[Any]:
        """Each term's share of the last forward pass, weights included  # (B, terms)"""
        shares: NDArray[Any] = self.values.to_numpy()
        return shares

    def cotangents(self, x: Any, y: Any, upstream: Any) -> Iterator[tuple[int, int]]:
        """For each block, once self.X and self.Y hold the cotangents G of its frames."""
        items = self.transform.items
        for first, count in self.transform.blocks():
            self._spectra(x, y, first, count)
            slopes = []
            for name in QUANTITIES:
                quantity = self.quantities.get(name)
                if quantity:
                    quantity.slopes(self.coefficients, upstream, items, first, count)
                slopes += [quantity.dA, quantity.dR] if quantity else [self.unused, self.unused]
            self.cotangent(self.X, self.Y, *slopes, self.bands.matrix, self.bands.bands, self.coefficients, upstream,
                           items, first, count)  # fmt: skip
            yield first, count

    def _spectra(self, x: Any, y: Any, first: int, count: int) -> None:
        self.transform.forward(x, self.X, first, count)
        if y is not None:
            self.transform.forward(y, self.Y, first, count)
        for quantity in self.quantities.values():
            quantity.measure(self.X, self.Y, count)


def spectra_held(terms: tuple[Term, ...]) -> int:
    """How many spectra's memory a `StagedEngine` takes: two, and four arrays of half that size for each quantity."""
    return 2 + 2 * len(quantities_of(terms))


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
