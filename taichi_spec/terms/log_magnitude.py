"""The distance of the magnitudes' logarithms."""

from dataclasses import dataclass
from typing import ClassVar

import taichi as ti

from taichi_spec.logarithm import log_ratio
from taichi_spec.terms.base import BinTerm, check_finite_number, check_p, distance_power

LEAST = 1e-36  # a normal float32 number, whose inverse is one too


@dataclass(frozen=True)
class LogMagnitude(BinTerm):
    """The distance of the magnitudes' natural logarithms.

        φ(a, b) = |d|^p,   d = ln(a + eps) − ln(b + eps)
        ∂φ/∂a   =  ψ(d) / (a + eps),   ∂φ/∂b = −ψ(d) / (b + eps)        ψ(d) = sign(d) for p = 1, 2 d for p = 2

    With clamp, max(a, eps) stands in the place of a + eps, as in other libraries, and there is no gradient where
    a < eps: a start below the floor never moves. Without, the gradient is at most 1/eps (times 2 d).

    Args:
        p: the power, 1 or 2.
        eps: the floor, an amplitude in the unit of the spectrum, ≥ 1e-36 (auraloss's 1e-8 is a power: an amplitude
            of 1e-4). Smaller is steeper at silence.
        clamp: whether the floor is a maximum instead of a sum.
        weight: what value and gradient are multiplied by; 1 / ln 10 makes it a decadic logarithm for p = 1.

    Raises:
        TypeError: eps is not a number, or clamp not a bool.
        ValueError: p is neither 1 nor 2, or eps is below 1e-36.

    Example:
        >>> LogMagnitude(p=1, eps=1e-4, clamp=True)
        LogMagnitude(weight=1.0, p=1, eps=0.0001, clamp=True)

    Reference:
        Yamamoto, Song and Kim, "Parallel WaveGAN", ICASSP 2020 (p = 1).
    """

    p: int = 1
    eps: float = 1e-5
    clamp: bool = False

    takes_negative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_p(self.p)
        check_finite_number("eps", self.eps)
        if self.eps < LEAST:
            raise ValueError(f"eps must be at least {LEAST}, got {self.eps!r}")
        if not isinstance(self.clamp, bool):
            raise TypeError(f"clamp must be True or False, got {self.clamp!r}")

    @ti.func
    def distance(self, a, b, real: ti.template()):
        """|ln(a + eps) − ln(b + eps)|^p and its two slopes."""
        eps = real(self.eps)
        u, v = a + eps, b + eps
        inside_a, inside_b = ti.cast(1, real), ti.cast(1, real)
        if ti.static(self.clamp):
            u, v = ti.max(a, eps), ti.max(b, eps)
            inside_a, inside_b = ti.cast(a >= eps, real), ti.cast(b >= eps, real)
        value, slope = distance_power(log_ratio(u, v, real), self.p, real)
        return value, inside_a * slope / u, -inside_b * slope / v
