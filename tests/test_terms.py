"""The terms, and one of a user's own."""

from dataclasses import dataclass

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import dtypes, error, signals

STFT = ts.STFT(n_fft=64)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("backward", ["accumulate", "recompute"])
def test_magnitude(restarted, p, backward):
    for dtype in dtypes():
        x, y = signals(0, 300, dtype=dtype)
        terms = ts.Magnitude(p=p, weight=0.3)
        value, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", stft=STFT, terms=terms, backward=backward)
        expected = ts.reference.value_and_grad(x, y, STFT, (terms,))
        tolerance = 1e-12 if dtype == np.float64 else 1e-5
        assert value == pytest.approx(expected[0], rel=tolerance)
        assert error(grad_x, expected[1]) < tolerance
        assert error(grad_y, expected[2]) < tolerance


def test_terms_add_up(running_cpu):
    x, y = signals(1, 300)
    terms = [ts.Magnitude(p=1, weight=2.0), ts.Magnitude(p=2, weight=-0.5)]
    value, grad = ts.value_and_grad(x, y, stft=STFT, terms=terms)
    expected = ts.reference.value_and_grad(x, y, STFT, tuple(terms))
    assert value == pytest.approx(expected[0], rel=1e-12)
    assert error(grad, expected[1]) < 1e-12


@dataclass(frozen=True)
class Cauchy(ts.BinTerm):
    """φ(a, b) = (a − b)² / (width + b), a user's own term."""

    width: float = 2.0

    @ti.func
    def distance(self, a, b, real: ti.template()):
        d, s = a - b, real(self.width) + b
        return d * d / s, 2 * d / s, -2 * d / s - d * d / (s * s)


def test_a_users_own_term(running_cpu):
    x, y, d = signals(2, 300, count=3)
    options = dict(stft=STFT, terms=[Cauchy(width=0.3), ts.Magnitude()])
    _, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", **options)
    h = 1e-5
    along_x = (ts.spectral_loss(x + h * d, y, **options) - ts.spectral_loss(x - h * d, y, **options)) / (2 * h)
    along_y = (ts.spectral_loss(x, y + h * d, **options) - ts.spectral_loss(x, y - h * d, **options)) / (2 * h)
    assert grad_x @ d == pytest.approx(along_x, rel=1e-7)
    assert grad_y @ d == pytest.approx(along_y, rel=1e-7)


def test_a_new_weight_compiles_nothing(running_cpu):
    from taichi_spec import bins

    x, y = signals(3, 300)
    ts.spectral_loss(x, y, stft=STFT, terms=ts.Magnitude(weight=1.0))
    before = bins.bin_kernels.cache_info().misses
    ts.spectral_loss(x, y, stft=STFT, terms=ts.Magnitude(weight=3.0))
    assert bins.bin_kernels.cache_info().misses == before
