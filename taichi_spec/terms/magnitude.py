"""The distance of the magnitudes, |a − b|^p."""

from dataclasses import dataclass

import taichi as ti

from taichi_spec.terms.base import BinTerm, check_p, distance_power


@dataclass(frozen=True)
class Magnitude(BinTerm):
    """The distance of the magnitudes.

        φ(a, b) = |a − b|^p
        p = 2:  ∂φ/∂a = 2 (a − b),      ∂φ/∂b = −∂φ/∂a      (no ½ in the value)
        p = 1:  ∂φ/∂a = sign(a − b),    ∂φ/∂b = −∂φ/∂a      (0 where a = b)

    At |X| = 0 the direction of X is not defined, and the gradient of x through that bin is 0, never NaN.

    Args:
        p: the power, 1 or 2.
        weight: what value and gradient are multiplied by.

    Raises:
        ValueError: p is neither 1 nor 2.

    Example:
        >>> Magnitude(p=2, weight=0.5)
        Magnitude(weight=0.5, p=2)

    Reference:
        p = 2: DGen's spectral loss. p = 1: Engel et al., "DDSP", ICLR 2020.
    """

    p: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_p(self.p)

    @ti.func
    def distance(self, a, b, real: ti.template()):
        """|a − b|^p and its two slopes."""
        value, slope = distance_power(a - b, self.p, real)
        return value, slope, -slope
