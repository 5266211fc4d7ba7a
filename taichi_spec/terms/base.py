"""What the engines ask of a term."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T", bound="Term")


@dataclass(frozen=True)
class Term:
    """A distance between two spectra.

    Args:
        weight: what its value and gradient are multiplied by; any finite number.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.weight, bool) or not isinstance(self.weight, int | float):
            raise TypeError(f"weight must be a finite number, got {self.weight!r}")
        if not math.isfinite(self.weight):
            raise ValueError(f"weight must be a finite number, got {self.weight!r}")


@dataclass(frozen=True)
class BinTerm(Term):
    """A term that is a sum over bins and frames of a function of the two magnitudes there.

    A subclass gives one `ti.func`, which every engine inlines:

        distance(self, a, b, real) -> value, ∂value/∂a, ∂value/∂b      a = |X[k, f]| ≥ 0, b = |Y[k, f]| ≥ 0

    It is called with numbers of the signal's dtype, which is `real`, annotated `ti.template()`. A constant that is
    not an integer is written `real(0.1)` or `real(self.eps)`: a bare Python float takes Taichi's `default_fp`, which
    rounds it to float32 in a float64 loss.
    """

    def distance(self, a: Any, b: Any, real: Any) -> Any:
        """value, ∂value/∂a, ∂value/∂b; a `ti.func` in every subclass."""
        raise TypeError(f"{type(self).__name__} must define distance(self, a, b, real) as a ti.func")


def as_terms(terms: Term | Iterable[Term]) -> tuple[Term, ...]:
    """One term or several, as a tuple."""
    listed = (terms,) if isinstance(terms, Term) else terms
    if not isinstance(listed, list | tuple) or not all(isinstance(term, Term) for term in listed):
        raise TypeError(f"terms must be a term or a list of terms, got {terms!r}")
    if not listed:
        raise ValueError("terms must not be empty, got []")
    return tuple(listed)


def unweighted(terms: tuple[T, ...]) -> tuple[T, ...]:
    """The terms with weight 1. Kernels are compiled for these and take the weights as numbers."""
    return tuple(replace(term, weight=1.0) for term in terms)
