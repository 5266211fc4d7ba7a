"""Spectral convergence: the magnitudes' distance relative to the target's, an item at a time."""

from dataclasses import dataclass
from typing import ClassVar

import taichi as ti

from taichi_spec.terms.base import BinTerm, SumsTerm, check_finite_number
from taichi_spec.terms.magnitude import Magnitude

STEEPEST = 1e30  # keeps ∂value/∂S finite in float32 where a norm is nearly 0
LARGEST = {ti.f32: 1, ti.f64: 8}  # sums count up to this power of 1e38: one that overflowed is infinite


@dataclass(frozen=True)
class TargetEnergy(BinTerm):
    """b², the second sum of `SpectralConvergence`."""

    @ti.func
    def distance(self, a, b, real: ti.template()):
        """b² and its two slopes."""
        return b * b, ti.cast(0, real), 2 * b


@dataclass(frozen=True)
class SpectralConvergence(SumsTerm):
    """The magnitudes' distance relative to the target's magnitudes, an item at a time.

        value   = ‖b − a‖_F / (‖b‖_F + eps)           norms over the bins and frames of one item
                = √S₁ / (√S₂ + eps)                   S₁ = Σ_f Σ_k (a − b)²,   S₂ = Σ_f Σ_k b²
        ∂value/∂S₁ =  1 / (2 √S₁ (√S₂ + eps))         0 where S₁ = 0: the value has a cusp there
        ∂value/∂S₂ = −√S₁ / (2 √S₂ (√S₂ + eps)²)      0 where S₂ = 0: no b to move

    The gradient of a bin needs the item's sums, so the backward pass takes them from the forward pass that came
    before, as two numbers per item, and each bin then adds ∂value/∂S₁ · 2 (a − b) and so on, as a `BinTerm` does.

    The target, in the denominator, is the second signal. Items are never joined: the norm of a whole batch would
    weigh them by their level. The value has no unit, and reduction="mean" divides it by the number of items alone.

    Args:
        eps: added to the target's norm, in the unit of the spectrum, ≥ 0. With a silent target the value is
            ‖a‖ / eps, or 0 for eps = 0.
        weight: what value and gradient are multiplied by.

    Raises:
        TypeError: eps is not a number.
        ValueError: eps is negative.

    Example:
        >>> SpectralConvergence()
        SpectralConvergence(weight=1.0, eps=1e-05)

    Reference:
        Arık, Jun and Diamos, "Fast Spectrogram Inversion using Multi-head Convolutional Neural Networks", 2018.
    """

    eps: float = 1e-5

    parts: ClassVar[tuple[BinTerm, ...]] = (Magnitude(p=2), TargetEnergy())  # S₁ and S₂

    def __post_init__(self) -> None:
        super().__post_init__()
        check_finite_number("eps", self.eps)
        if self.eps < 0:
            raise ValueError(f"eps must be >= 0, got {self.eps!r}")

    def mean_over(self, n_bins: int, n_frames: int) -> int:
        """One: the value is a ratio, not a sum."""
        return 1

    @ti.func
    def combine(self, S, real: ti.template()):
        """The value and ∂value/∂S of an item's sums S = (S₁, S₂)."""
        largest = real(1e38) ** ti.static(LARGEST[real])
        distance, norm = ti.sqrt(ti.min(S[0], largest)), ti.sqrt(ti.min(S[1], largest))
        below = norm + real(self.eps)
        value, slope1, slope2 = ti.cast(0, real), ti.cast(0, real), ti.cast(0, real)
        if below > 0:
            value = distance / below
            if distance > 0:
                slope1 = ti.min(1 / (2 * distance * below), real(STEEPEST))
            if norm > 0:
                slope2 = -ti.min(distance / (2 * norm * below * below), real(STEEPEST))
        return value, ti.Vector([slope1, slope2])
