"""The distance of the complex spectra, |X − Y|^p: the term that knows the phase."""

from dataclasses import dataclass

import taichi as ti

from taichi_spec.polar import polar
from taichi_spec.terms.base import Term, check_p


@dataclass(frozen=True)
class Complex(Term):
    """The distance of the complex spectra.

        φ(D) = |D|^p,   D = X − Y
        p = 2:  G = 2 D         p = 1:  G = D / |D|, 0 at D = 0
        for x; −G for y

    The magnitudes' cusp at X = 0 is not there: this term moves silence. By Parseval's theorem, p = 2 with every bin
    (one-sided bins doubled, ``bin_weights`` = 1, √2, …, √2, 1 for an even n_fft) is n_fft times the windowed frames'
    squared distance. It is defined on bins, so not with `bands`.

    Args:
        p: the power, 1 or 2.
        weight: what value and gradient are multiplied by.

    Raises:
        ValueError: p is neither 1 nor 2.

    Example:
        >>> Complex()
        Complex(weight=1.0, p=2)

    Reference:
        The complex spectrogram's distance, as in Défossez et al., "High Fidelity Neural Audio Compression", 2022.
    """

    p: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_p(self.p)

    @ti.func
    def distance(self, re, im):
        """|D|^p and G for D = re + i im, of two numbers or two vectors of them."""
        value, u, v = re * re + im * im, 2 * re, 2 * im
        if ti.static(self.p == 1):
            value, u, v = polar(re, im)
        return value, u, v
