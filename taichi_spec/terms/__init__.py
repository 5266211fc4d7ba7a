"""The distances between two spectra: one file each, value and derivative side by side."""

from taichi_spec.terms.base import BinTerm, SumsTerm, Term, as_terms, names_of, unweighted
from taichi_spec.terms.complex import Complex
from taichi_spec.terms.log_magnitude import LogMagnitude
from taichi_spec.terms.magnitude import Magnitude
from taichi_spec.terms.power import Power
from taichi_spec.terms.spectral_convergence import SpectralConvergence
from taichi_spec.terms.transport import Transport

__all__ = [
    "BinTerm",
    "Complex",
    "LogMagnitude",
    "Magnitude",
    "Power",
    "SpectralConvergence",
    "SumsTerm",
    "Term",
    "Transport",
    "as_terms",
    "names_of",
    "unweighted",
]
