"""What the fused engines do by stages where a loss is more than a sum over whole bins, and what they need for it.

measure      q[j]  = |w[k] X[k]| or its square; bands: Σ_k M[j, k] |w[k] X[k]|         or of the squares
compare      S    += s(q, r),  ∂q ← Σ c ∂s/∂q                                          r: the target's quantities
transport    S    += Σ_f ...,  ∂q += c ∂/∂q
spectra      S    += Σ_k s(w[k] (X[k] - Y[k]))
cotangent    G[k]  = w[k] X / |X| · Σ_j M[j, k] ∂q[j]     or 2 w[k]² X · Σ_j M[j, k] ∂q[j];  + c w[k] ∂s
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taichi_spec.bins import complex_parts, parts_of, quantities_of
from taichi_spec.terms import BinTerm, Term


class Stages(NamedTuple):
    """How an engine's quantities are made: what its kernels by stages are compiled for.

    Attributes:
        quantities: those that any term compares.
        banded: whether they are of bands.
        needs_phase: whether a fixed target's spectrum is known, beside its quantities.
        toward_target: whether the direction of x at X = 0 is the target's.
    """

    quantities: tuple[str, ...]
    banded: bool
    needs_phase: bool
    toward_target: bool

    @property
    def kept(self) -> "Stages":
        """As a GPU's engines have a fixed target's quantities: without bands squares are made of magnitudes."""
        return self if self.banded else self._replace(quantities=("magnitude",))


def stages_of(terms: tuple[Term, ...], bands: Any, bin_weights: Any, toward_target: bool) -> Stages | None:
    """The stages of a loss; None where all that it asks for are sums over whole bins."""
    on_bins = all(isinstance(part, BinTerm) for _, part in parts_of(terms))
    if on_bins and bands is None and bin_weights is None and not toward_target:
        return None
    needs_phase = toward_target or bool(complex_parts(terms))
    return Stages(quantities_of(terms), bands is not None, needs_phase, toward_target)


def goal_of(
    target: NDArray[Any],
    bands: NDArray[np.float64] | None,
    bin_weights: NDArray[np.float64] | None,
    stages: Stages | None,
) -> NDArray[Any]:
    """What a fixed target's frames are compared with, one quantity after the other  # (B or 1, F or 1, width)

    Last, where the phase counts, real and imaginary parts of the spectrum. Its weights are taken to be positive, as
    those of the signal are: a weight's sign changes no distance.
    """
    if stages is None:
        return target
    quantities = {"magnitude": np.abs(target), "power": np.abs(target) ** 2}
    goal = [quantities[name] if bands is None else quantities[name] @ bands.T for name in stages.quantities]
    if stages.needs_phase:
        spectrum = target if bin_weights is None else target * np.sign(bin_weights)
        goal += [spectrum.real, spectrum.imag]
    return np.concatenate(goal, axis=-1)


def gains_of(n_bins: int, bin_weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """What bins' amplitudes are multiplied by  # (K,)"""
    return np.ones(n_bins) if bin_weights is None else np.abs(bin_weights)


def rows_of(matrix: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A matrix by its rows, without zeros: where each row's entries begin and then their columns; the entries."""
    rows, columns = np.nonzero(matrix)
    return np.concatenate([np.searchsorted(rows, np.arange(len(matrix) + 1)), columns]), matrix[rows, columns]
