"""Which engine computes a loss, ready for signals of one shape and one target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from taichi_spec.arrays import upload
from taichi_spec.checks import check_choice
from taichi_spec.direct import DirectDFT
from taichi_spec.fft import blocks
from taichi_spec.fft.fused import FusedEngine
from taichi_spec.fft.lanes import LanesEngine
from taichi_spec.fft.memory import MemoryDFT
from taichi_spec.runtime import arch_name
from taichi_spec.staged import BlockTransform, StagedEngine
from taichi_spec.stft import STFT, check_integer
from taichi_spec.strategies import WAYS_BACK, check_per_bin
from taichi_spec.target import Target
from taichi_spec.terms import BinTerm, Term, as_terms

ENGINES = ("auto", "direct", "fft")
REDUCTIONS = ("sum", "mean", "none")
DIRECT_BELOW = 32  # up to here the direct DFT is as fast as an FFT through memory


@dataclass(frozen=True)
class Options:
    """What a user chooses about a loss, checked.

    stft, terms, reduction, engine, backward, scratch_bytes: as in `SpectralLoss`.
    """

    stft: STFT
    terms: tuple[BinTerm, ...]
    reduction: str
    engine: str
    backward: str
    scratch_bytes: int

    @staticmethod
    def check(
        stft: STFT | None, terms: Any, reduction: Any, engine: Any, backward: Any, scratch_bytes: Any
    ) -> Options:
        """The options, or an error that names the first wrong one."""
        if stft is not None and not isinstance(stft, STFT):
            raise TypeError(f"stft must be a taichi_spec.STFT, got {type(stft).__name__}")
        if engine == "fft" and backward != "accumulate":
            raise ValueError(f"backward must be 'accumulate' with engine='fft', got {backward!r}; use engine='direct'")
        return Options(
            stft=stft or STFT(),
            terms=_bin_terms(as_terms(terms)),
            reduction=check_choice("reduction", reduction, REDUCTIONS),
            engine=check_choice("engine", engine, ENGINES),
            backward=check_choice("backward", backward, tuple(WAYS_BACK)),
            scratch_bytes=check_integer("scratch_bytes", scratch_bytes, 1),
        )

    @property
    def dft(self) -> Any:
        """What transforms a frame; the plan's other ways back need the direct one."""
        if self.engine == "auto" and self.backward != "accumulate":
            return DirectDFT
        return choose_dft(self.engine, self.stft.n_fft)

    def scale(self, batch: int, n_samples: int) -> float:
        """What the sum over bins and frames is multiplied by: "mean" is over bins, frames and items."""
        if self.reduction == "mean":
            return 1.0 / (batch * self.stft.n_bins * self.stft.n_frames(n_samples))
        return 1.0


def _bin_terms(terms: tuple[Term, ...]) -> tuple[BinTerm, ...]:
    bin_terms = tuple(term for term in terms if isinstance(term, BinTerm))
    if len(bin_terms) != len(terms):
        raise TypeError(f"terms must be sums over bins (BinTerm), got {terms!r}")
    return bin_terms


def make_engine(
    options: Options, dtype: Any, is_field: bool, batch: int, n_samples: int, target: Target | None
) -> StagedEngine | FusedEngine:
    """The engine for signals of shape (batch, n_samples), `target` analysed if it is fixed.

    Raises:
        ValueError: the signals or the target do not fit the transform, or the scratch is too large.
    """
    n_frames = options.stft.n_frames(n_samples)
    if options.backward == "per_bin":
        check_per_bin(batch, n_frames, options.stft.n_fft, dtype, options.scratch_bytes)
    fixed = None
    if target is not None:
        target.check(options.stft, batch, n_samples)
        fixed = _analyse(target, options, dtype)
    if options.dft is MemoryDFT and arch_name() == "cpu":
        return LanesEngine(options.stft, dtype, is_field, batch, n_samples, options.terms, fixed)
    if options.dft is MemoryDFT and blocks.supports(options.stft, dtype, batch, n_samples, fixed):
        return blocks.BlocksEngine(options.stft, dtype, is_field, batch, n_samples, options.terms, fixed)
    transform = BlockTransform(options.stft, dtype, is_field, batch, n_samples, 2, options.scratch_bytes, options.dft)
    return StagedEngine(transform, options.terms, fixed, WAYS_BACK[options.backward])


def choose_dft(engine: str, n_fft: int) -> Any:
    """The class that transforms frames of n_fft samples."""
    if engine == "direct" or (engine == "auto" and n_fft < DIRECT_BELOW):
        return DirectDFT
    return MemoryDFT


def _analyse(target: Target, options: Options, dtype: Any) -> Any:
    """The target's magnitudes as an ndarray  # (B or 1, F or 1, K)"""
    if target.kind == "magnitudes":
        return upload(target.magnitudes(), dtype)
    signal = np.atleast_2d(target.array)
    batch, n_samples = signal.shape
    transform = BlockTransform(options.stft, dtype, False, batch, n_samples, 1, options.scratch_bytes, options.dft)
    return transform.magnitudes(upload(signal, dtype))
