"""The distances between two spectra: one file each, value and derivative side by side."""

from taichi_spec.terms.base import BinTerm, Term, as_terms, unweighted
from taichi_spec.terms.magnitude import Magnitude

__all__ = ["BinTerm", "Magnitude", "Term", "as_terms", "unweighted"]
