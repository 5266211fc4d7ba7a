"""Which engine computes a loss, ready for signals of one shape and one target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taichi_spec.arrays import upload
from taichi_spec.checks import check_choice
from taichi_spec.direct import DirectDFT
from taichi_spec.fft import blocks, frames, matrix
from taichi_spec.fft.fused import FusedEngine
from taichi_spec.fft.lanes import LanesEngine
from taichi_spec.fft.memory import MemoryDFT
from taichi_spec.resolutions import Items, Resolution, array_of, check_resolutions
from taichi_spec.runtime import arch_name, bounds_checked
from taichi_spec.several import sum_of
from taichi_spec.staged import BlockTransform, StagedEngine, spectra_held
from taichi_spec.stft import STFT, check_integer
from taichi_spec.strategies import WAYS_BACK, check_per_bin
from taichi_spec.target import FixedTarget, Target
from taichi_spec.terms import BinTerm, Complex, Magnitude, Term, as_terms

ENGINES = ("auto", "direct", "fft")
REDUCTIONS = ("sum", "mean", "none")
SCRATCH_BYTES = 2**28
DIRECT_BELOW = 32  # up to here the direct DFT is as fast as an FFT through memory


@dataclass(frozen=True)
class Options:
    """What a user chooses about a loss of one resolution, checked.

    terms, reduction, engine, backward, scratch_bytes, zero_phase: as in `SpectralLoss`.
    resolution, items: the transform and the batch, with their weights.
    """

    resolution: Resolution
    items: Items
    terms: tuple[Term, ...]
    reduction: str
    engine: str
    backward: str
    scratch_bytes: int
    zero_phase: str | None

    @staticmethod
    def check(
        stft: Any = None,
        terms: Any = Magnitude(),
        reduction: Any = "sum",
        engine: Any = "auto",
        backward: Any = "accumulate",
        scratch_bytes: Any = SCRATCH_BYTES,
        bands: Any = None,
        bin_weights: Any = None,
        stft_weights: Any = None,
        item_weights: Any = None,
        lengths: Any = None,
        zero_phase: Any = None,
    ) -> tuple[Options, ...]:
        """The options of each resolution, or an error that names the first wrong one."""
        resolutions = check_resolutions(stft, bands, bin_weights, stft_weights)
        if engine == "fft" and backward != "accumulate":
            raise ValueError(f"backward must be 'accumulate' with engine='fft', got {backward!r}; use engine='direct'")
        if zero_phase is not None:
            check_choice("zero_phase", zero_phase, ("target",))
        shared = dict(
            items=Items.check(item_weights, lengths),
            terms=as_terms(terms),
            reduction=check_choice("reduction", reduction, REDUCTIONS),
            engine=check_choice("engine", engine, ENGINES),
            backward=check_choice("backward", backward, tuple(WAYS_BACK)),
            scratch_bytes=check_integer("scratch_bytes", scratch_bytes, 1),
            zero_phase=zero_phase,
        )
        every = tuple(Options(resolution=resolution, **shared) for resolution in resolutions)
        for options in every:
            options._check_together()
        return every

    def _check_together(self) -> None:
        """That the choices do not exclude each other."""
        if self.backward != "accumulate" and not self.is_plain:
            raise ValueError(
                f"backward must be 'accumulate' unless all terms are BinTerm on whole, unweighted bins and items, "
                f"got {self.backward!r}"
            )
        if self.resolution.bands is None:
            return
        least = self.resolution.bands.array.min()
        for term in self.terms:
            if isinstance(term, Complex):
                raise ValueError(f"terms must be defined on magnitudes or powers to have bands, got {term!r}")
            if least < 0 and not term.takes_negative:
                raise ValueError(f"bands must not be negative for {term!r}, got {least} in it")

    @property
    def stft(self) -> STFT:
        """The transform."""
        return self.resolution.stft

    @property
    def is_plain(self) -> bool:
        """Whether all that is asked for are sums of what a `BinTerm` says, for any way back to do."""
        whole = self.resolution.bands is None and self.resolution.bin_weights is None and self.items == Items()
        return whole and self.zero_phase is None and all(isinstance(term, BinTerm) for term in self.terms)

    @property
    def needs_phase(self) -> bool:
        """Whether the target's magnitudes are not enough."""
        return self.zero_phase is not None or any(isinstance(term, Complex) for term in self.terms)

    @property
    def dft(self) -> Any:
        """What transforms a frame; the plan's other ways back need the direct one."""
        if self.engine == "auto" and self.backward != "accumulate":
            return DirectDFT
        return choose_dft(self.engine, self.stft.n_fft)

    def term_weights(self, batch: int, n_samples: int) -> NDArray[np.float64]:
        """What each term's value of each item is multiplied by in the loss  # (B, terms)

        "mean" divides by the number of items, and each term by what its value is a sum of: bins and frames.
        """
        weights = np.array([term.weight for term in self.terms]) * self.resolution.weight
        table = np.outer(np.ones(batch) if self.items.weights is None else self.items.weights, weights)
        if self.reduction == "mean":
            frames = [self.stft.n_frames(length) for length in self.items.lengths or (n_samples,) * batch]
            counts = [[term.mean_over(self.resolution.n_values, f) for term in self.terms] for f in frames]
            table /= batch * np.array(counts)
        return table


def make_engine(
    options: tuple[Options, ...],
    dtype: Any,
    is_field: bool,
    batch: int,
    n_samples: int,
    target: Target | None,
    as_arrays: bool = False,
) -> Any:
    """The engine for signals of shape (batch, n_samples), `target` analysed if it is fixed.

    is_field: whether they are fields; as_arrays: and whether kernels take arrays for them, see `fields`.

    Raises:
        ValueError: the signals or the target do not fit the transform, or the scratch is too large.
    """
    for each in options:
        each.items.check_fit(each.stft, batch, n_samples)
        if target is not None:
            target.check(each.stft, batch, n_samples)
            if target.kind == "magnitudes" and each.needs_phase:
                raise ValueError(f"target must be a signal for zero_phase='target' or Complex, got {target!r}")
    engines = [_make_one(each, dtype, is_field, batch, n_samples, target, as_arrays) for each in options]
    return engines[0] if len(engines) == 1 else sum_of(engines, dtype, batch)


def _make_one(
    options: Options,
    dtype: Any,
    is_field: bool,
    batch: int,
    n_samples: int,
    target: Target | None,
    as_arrays: bool,
) -> StagedEngine | FusedEngine:
    """The engine of one resolution."""
    stft, resolution = options.stft, options.resolution
    if options.backward == "per_bin":
        check_per_bin(batch, stft.n_frames(n_samples), stft.n_fft, dtype, options.scratch_bytes)
    analysed = None if target is None else _analyse(target, options, dtype, batch)
    weights = options.term_weights(batch, n_samples)
    if options.dft is MemoryDFT:
        engine = _fused_engine(options, dtype, is_field and not as_arrays, batch, n_samples, analysed)
        if engine is not None:
            return engine
    bands = array_of(resolution.bands)
    fixed = None if analysed is None else FixedTarget(analysed, bands, dtype)
    held = spectra_held(options.terms)
    transform = _transform(options, dtype, is_field, batch, n_samples, held, options.items.lengths)
    toward_target = options.zero_phase == "target"
    return StagedEngine(transform, options.terms, weights, bands, fixed, toward_target, WAYS_BACK[options.backward])


def _fused_engine(
    options: Options, dtype: Any, is_field: bool, batch: int, n_samples: int, analysed: NDArray[Any] | None
) -> FusedEngine | None:
    """The engine that does all that is asked for in one pass, or None where there is none on this device."""
    stft, resolution = options.stft, options.resolution
    terms, bands, bin_weights = options.terms, array_of(resolution.bands), array_of(resolution.bin_weights)
    toward_target = options.zero_phase == "target"
    sizes = stft, dtype, batch, n_samples, terms, analysed
    signals = stft, dtype, is_field, batch, n_samples, terms, options.term_weights(batch, n_samples), analysed
    ways = bands, bin_weights, toward_target
    lengths = options.items.lengths
    if arch_name() == "cpu":
        return LanesEngine(*signals, *ways, lengths)
    if arch_name() == "cuda" and bounds_checked():
        return None  # the checks do not compile there
    if blocks.supports(*sizes, *ways):
        return blocks.BlocksEngine(*signals, *ways, lengths)
    if frames.supports(*sizes, *ways):
        return frames.FramesEngine(*signals, *ways, lengths)
    if matrix.supports(*sizes, *ways):
        return matrix.MatrixEngine(*signals, *ways, lengths, options.scratch_bytes)
    return None


def choose_dft(engine: str, n_fft: int) -> Any:
    """The class that transforms frames of n_fft samples."""
    if engine == "direct" or (engine == "auto" and n_fft < DIRECT_BELOW):
        return DirectDFT
    return MemoryDFT


def _transform(
    options: Options, dtype: Any, is_field: bool, batch: int, n_samples: int, held: int, lengths: Any
) -> BlockTransform:
    return BlockTransform(options.stft, dtype, is_field, batch, n_samples, held, options.scratch_bytes, options.dft,
                          lengths, array_of(options.resolution.bin_weights))  # fmt: skip


def _analyse(target: Target, options: Options, dtype: Any, batch: int) -> NDArray[Any]:
    """The target's weighted magnitudes or, where its phase is needed, its spectrum  # (B or 1, F or 1, K)"""
    if target.kind == "magnitudes":
        weights = array_of(options.resolution.bin_weights)
        return target.magnitudes() if weights is None else target.magnitudes() * np.abs(weights)
    signal = np.atleast_2d(target.array)
    if options.items.lengths:  # the same signal may end at another sample for each item
        signal = np.broadcast_to(signal, (batch, signal.shape[1]))
    rows, n_samples = signal.shape
    transform = _transform(options, dtype, False, rows, n_samples, 1, options.items.lengths)
    if options.needs_phase:
        return np.ascontiguousarray(np.swapaxes(transform.spectrum(upload(signal, dtype)), 1, 2))
    magnitudes: NDArray[Any] = transform.magnitudes(upload(signal, dtype)).to_numpy()
    return magnitudes
