"""What the engines ask of a term."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import taichi as ti

from taichi_spec.vectors import absolute, sign

T = TypeVar("T", bound="Term")

QUANTITIES = ("magnitude", "power")


@dataclass(frozen=True)
class Term:
    """A distance between two spectra.

    Args:
        weight: what its value and gradient are multiplied by; any finite number.
    """

    weight: float = 1.0

    takes_negative: ClassVar[bool] = True  # whether it is defined where `bands` with negative entries lead

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and field.type in (float, "float"):  # Taichi makes no real number of an integer
                object.__setattr__(self, field.name, float(value))
        check_finite_number("weight", self.weight)

    @property
    def name(self) -> str:
        """The class's name as it is written in `SpectralLoss.values`: LogMagnitude is "log_magnitude"."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def mean_over(self, n_bins: int, n_frames: int) -> int:
        """How many numbers the value of an item is a sum of, by which reduction="mean" divides."""
        return n_bins * n_frames


@dataclass(frozen=True)
class BinTerm(Term):
    """A term that is a sum over bins and frames of a function of the two magnitudes there.

    A subclass gives one `ti.func`, which every engine inlines:

        distance(self, a, b, real) -> value, ∂value/∂a, ∂value/∂b      a = |X[k, f]| ≥ 0, b = |Y[k, f]| ≥ 0

    It is called with numbers of the signal's dtype, which is `real`, annotated `ti.template()`. A constant that is
    not an integer is written `real(0.1)` or `real(self.eps)`: a bare Python float takes Taichi's `default_fp`, which
    rounds it to float32 in a float64 loss.

    On the CPU, `ti.log` and its like are a call of the C library for each number; `taichi_spec.logarithm.log_ratio` is
    not.

    With the class attribute ``quantity = "power"``, a and b are |X|² and |Y|². With `bands`, they are the bands'
    magnitudes or powers, and negative only where the bands' matrix is; ``takes_negative = False`` refuses that.
    """

    quantity: ClassVar[str] = "magnitude"

    def distance(self, a: Any, b: Any, real: Any) -> Any:
        """value, ∂value/∂a, ∂value/∂b; a `ti.func` in every subclass."""
        raise TypeError(f"{type(self).__name__} must define distance(self, a, b, real) as a ti.func")


@dataclass(frozen=True)
class SumsTerm(Term):
    """A term whose value is a function of a few sums over the bins and frames of an item.

    A subclass lists what is summed, and gives one `ti.func`:

        parts                                                S_j = Σ_f Σ_k of the distance of parts[j]
        combine(self, S, real) -> value, ∂value/∂S           of the vector S of an item's sums

    and every engine adds ∂value/∂S_j times the slopes of parts[j] in each bin, as it does for a `BinTerm`. Silence
    makes a sum 0: what combine returns must be finite there.
    """

    parts: ClassVar[tuple[BinTerm, ...]] = ()

    def combine(self, S: Any, real: Any) -> Any:
        """value, ∂value/∂S; a `ti.func` in every subclass."""
        raise TypeError(f"{type(self).__name__} must define combine(self, S, real) as a ti.func")


@ti.func
def distance_power(d, p: ti.template(), real: ti.template()):
    """|d|^p and its slope, for p = 1 or 2: |d| and sign(d), which is 0 at 0; or d² and 2 d."""
    value, slope = d * d, 2 * d
    if ti.static(p == 1):
        value, slope = absolute(d), sign(d, real)
    return value, slope


def check_p(p: Any) -> None:
    """That p is 1 or 2."""
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")


def check_finite_number(name: str, value: Any) -> None:
    """That `value` is a finite int or float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a finite number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")


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


def names_of(terms: tuple[Term, ...]) -> tuple[str, ...]:
    """The terms' names, a class's second one with _2, its third with _3."""
    seen: Counter[str] = Counter()
    names = []
    for term in terms:
        seen[term.name] += 1
        names.append(term.name if seen[term.name] == 1 else f"{term.name}_{seen[term.name]}")
    return tuple(names)
