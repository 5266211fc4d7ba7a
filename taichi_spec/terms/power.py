"""The distance of the powers, |a² − b²|^p."""

from dataclasses import dataclass
from typing import ClassVar

import taichi as ti

from taichi_spec.terms.base import BinTerm, check_p, distance_power


@dataclass(frozen=True)
class Power(BinTerm):
    """The distance of the powers P = a² and R = b².

        φ(P, R) = |P − R|^p
        p = 2:  ∂φ/∂P = 2 (P − R),      ∂φ/∂R = −∂φ/∂P
        p = 1:  ∂φ/∂P = sign(P − R),    ∂φ/∂R = −∂φ/∂P      (0 where P = R)

    and ∂φ/∂X = 2 X ∂φ/∂P, which is smooth at X = 0. `bands` sum powers, not magnitudes, for this term.

    Args:
        p: the power, 1 or 2.
        weight: what value and gradient are multiplied by.

    Raises:
        ValueError: p is neither 1 nor 2.

    Example:
        >>> Power(p=1)
        Power(weight=1.0, p=1)

    Reference:
        The spectral distance of power spectrograms, as in torchaudio's `Spectrogram(power=2)`.
    """

    p: int = 2

    quantity: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_p(self.p)

    @ti.func
    def distance(self, a, b, real: ti.template()):
        """|P − R|^p and its two slopes; a and b are powers here."""
        value, slope = distance_power(a - b, self.p, real)
        return value, slope, -slope
