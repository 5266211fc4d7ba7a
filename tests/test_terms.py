"""The terms, and one of a user's own."""

from dataclasses import dataclass

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import CASES, TOLERANCE, directional, dtypes, error, field, signals

pytestmark = pytest.mark.usefixtures("direct")

STFT = ts.STFT(n_fft=64)

TERMS = [
    ts.Magnitude(p=1),
    ts.Magnitude(p=2, weight=0.3),
    ts.LogMagnitude(),
    ts.LogMagnitude(p=2, eps=0.5),
    ts.LogMagnitude(p=1, eps=0.5, clamp=True),
    ts.Power(p=1),
    ts.Power(p=2),
    ts.Complex(p=1),
    ts.Complex(p=2),
    ts.SpectralConvergence(),
    ts.Transport(),
    ts.Transport(p=2, floor=0.0),
    ts.Transport(p=1, quantity="magnitude", floor=0.3),
]
MIXED = [
    ts.Magnitude(p=1, weight=0.5),
    ts.SpectralConvergence(weight=30.0),
    ts.LogMagnitude(weight=2.0),
    ts.Power(weight=0.1),
    ts.Transport(weight=-200.0),
    ts.Complex(weight=0.2),
    ts.Transport(p=2, quantity="magnitude", weight=100.0),
]
# Every hop, edge, window and kind of length at the sizes where no two bins are equal by construction (an equal
# largest bin has no derivative in Transport) and where a case takes milliseconds.
GRID = [c for c in CASES if 16 <= c.stft.n_fft <= 128 and 8 <= c.stft.win_length and c.stft.n_frames(c.shape[-1]) < 12]


def name(terms):
    return "mixed" if terms is MIXED else str(terms)


def tolerance(dtype, terms):
    """Relative to the whole. In float32 the slope 1 / (a + eps) of a logarithm multiplies the rounding of the
    smallest bins by up to max a / eps."""
    logarithm = any(isinstance(term, ts.LogMagnitude) for term in ts.terms.as_terms(terms))
    return TOLERANCE[dtype] * (100 if logarithm and dtype == np.float32 else 1)


@pytest.mark.parametrize("terms", [*TERMS, MIXED], ids=name)
def test_value_and_gradients_are_the_references(restarted, terms):
    for case in GRID[::9]:
        for dtype in dtypes():
            # With seed 0, a float32 difference of Transport falls on the other side of its kink.
            x, y = signals(1, *case.shape, dtype=dtype)
            value, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", stft=case.stft, terms=terms)
            expected = ts.reference.value_and_grad(x, y, case.stft, ts.terms.as_terms(terms))
            assert value == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype]), str(case)
            assert error(grad_x, expected[1]) < tolerance(dtype, terms), str(case)
            assert error(grad_y, expected[2]) < tolerance(dtype, terms), str(case)


@pytest.mark.parametrize("terms", [ts.LogMagnitude(), ts.Power(p=2), TERMS[:2]], ids=name)
def test_the_fused_engine_serves_every_term_on_bins(restarted, terms):
    for dtype in dtypes():
        x, y = signals(1, 2, 400, dtype=dtype)
        value, grads = ts.value_and_grad(x, y, wrt="both", stft=STFT, terms=terms, engine="fft")
        expected = ts.reference.value_and_grad(x, y, STFT, ts.terms.as_terms(terms))
        assert value == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype])
        for grad, right in zip(grads, expected[1:], strict=True):
            assert error(grad, right) < tolerance(dtype, terms)


def test_a_terms_share_from_the_fused_engine(running_cpu):
    x, y = signals(1, 400)
    options = dict(stft=STFT, engine="fft")
    terms = [ts.Magnitude(p=1, weight=0.5), ts.Magnitude(p=2, weight=2.0)]
    X, Y = field(x), field(y)
    loss = ts.SpectralLoss(X, Y, STFT, terms, engine="fft")
    loss.compute()
    shares = [ts.spectral_loss(x, y, terms=term, **options) for term in terms]
    assert list(loss.values.values()) == pytest.approx(shares, rel=1e-12)
    assert loss.value[None] == pytest.approx(sum(shares), rel=1e-12)


@pytest.mark.parametrize("terms", [*TERMS, MIXED], ids=name)
def test_finite_differences(running_cpu, terms):
    x, y, d = signals(1, 2, 200, count=3)
    options = dict(stft=ts.STFT(n_fft=32, hop_length=7, center=True), terms=terms)
    _, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", **options)
    along_x = directional(lambda t: ts.spectral_loss(x + t * d, y, **options), 1e-5)
    along_y = directional(lambda t: ts.spectral_loss(x, y + t * d, **options), 1e-5)
    assert np.sum(grad_x * d) == pytest.approx(along_x, rel=1e-7)
    assert np.sum(grad_y * d) == pytest.approx(along_y, rel=1e-7)


@pytest.mark.parametrize("terms", [*TERMS, MIXED], ids=name)
def test_a_fixed_target_is_the_signal(restarted, terms):
    x, y = signals(2, 2, 300, dtype=np.float32)
    value, grad = ts.value_and_grad(x, y, stft=STFT, terms=terms)
    fixed_value, fixed_grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=STFT, terms=terms)
    assert fixed_value == pytest.approx(value, rel=1e-6)
    assert error(fixed_grad, grad) < tolerance(np.float32, terms)


@pytest.mark.parametrize("terms", [*TERMS, MIXED], ids=name)
def test_silence(restarted, terms):
    """Silence in either or both signals, a silent frame among loud ones, a silent item in a batch."""
    for dtype in dtypes():
        x, y = signals(3, 3, 400, dtype=dtype)
        x[0], y[1] = 0, 0
        x[2, 100:200] = 0
        for a, b in ((x, y), (y, x), (0 * x, y), (x, 0 * y), (0 * x, 0 * y)):
            value, grads = ts.value_and_grad(a, b, wrt="both", stft=STFT, terms=terms)
            assert np.isfinite(value)
            assert np.isfinite(grads).all()
            expected = ts.reference.value_and_grad(a, b, STFT, ts.terms.as_terms(terms))
            assert value == pytest.approx(expected[0].sum(), rel=10 * TOLERANCE[dtype])
        assert value == 0
        assert not np.any(grads)


@pytest.mark.parametrize("terms", [*TERMS, MIXED], ids=name)
def test_identical_signals(restarted, terms):
    (x,) = signals(4, 2, 300, dtype=np.float32, count=1)
    value, grads = ts.value_and_grad(x, x, wrt="both", stft=STFT, terms=terms)
    assert value == 0
    assert not np.any(grads)


@pytest.mark.parametrize("terms", [MIXED], ids=name)
def test_same_bits_and_blocks(restarted, terms):
    x, y = signals(5, 2, 2000, dtype=np.float32)
    options = dict(wrt="both", n_fft=32, center=True, terms=terms)
    value, grads = ts.value_and_grad(x, y, **options)
    again, again_grads = ts.value_and_grad(x.copy(), y.copy(), **options)
    assert again == value
    assert np.array_equal(again_grads, grads)
    in_blocks, block_grads = ts.value_and_grad(x, y, scratch_bytes=50_000, **options)
    assert in_blocks == pytest.approx(value, rel=1e-5)
    assert error(block_grads, grads) < 1e-5


@pytest.mark.parametrize("backward", ["per_bin", "atomic", "recompute"])
def test_every_way_back_knows_powers(running_cpu, backward):
    x, y = signals(6, 200)
    options = dict(wrt="both", stft=ts.STFT(16), terms=[ts.Power(p=2), ts.Magnitude(weight=2.0)], engine="direct")
    expected = ts.value_and_grad(x, y, **options)
    result = ts.value_and_grad(x, y, backward=backward, **options)
    assert error(result[1], expected[1]) < 1e-12


def test_complex_is_the_waveforms_distance(running_cpu):
    """Parseval: with every bin, √2 for the two halves of an interior one, it is n_fft times the frames' distance."""
    x, y = signals(7, 300)
    both_sides = np.full(STFT.n_bins, np.sqrt(2))
    both_sides[[0, -1]] = 1
    value, grad = ts.value_and_grad(x, y, stft=STFT, terms=ts.Complex(p=2), bin_weights=both_sides)
    covered = np.zeros(300)
    for f in range(STFT.n_frames(300)):
        covered[f * STFT.hop_length : f * STFT.hop_length + 64] += STFT.window_table**2
    assert value == pytest.approx(64 * np.sum(covered * (x - y) ** 2), rel=1e-12)
    assert error(grad, 64 * 2 * covered * (x - y)) < 1e-12


def test_spectral_convergence_is_per_item(running_cpu):
    x, y = signals(8, 2, 300)
    y[1] *= 0.01
    items = ts.spectral_loss(x, y, stft=STFT, terms=ts.SpectralConvergence(), reduction="none")
    alone = [ts.spectral_loss(a, b, stft=STFT, terms=ts.SpectralConvergence()) for a, b in zip(x, y, strict=True)]
    assert items == pytest.approx(alone, rel=1e-14)
    assert items[1] > 50 * items[0]


def test_spectral_convergence_twice_on_a_tape(cpu):
    """The backward pass takes each loss's own sums, scaled by what follows the loss."""
    x, y = signals(9, 300)
    X, Y = field(x), field(y)
    first = ts.SpectralLoss(X, Y, STFT, terms=[ts.SpectralConvergence(), ts.Magnitude(weight=1e-3)])
    second = ts.SpectralLoss(Y, X, STFT, terms=ts.SpectralConvergence(weight=-2.0), value=first.value)
    with ti.ad.Tape(first.value):
        first.compute()
        second.compute()
    value, grad_x, grad_y = ts.reference.value_and_grad(x, y, STFT, first.terms)
    other, other_y, other_x = ts.reference.value_and_grad(y, x, STFT, second.terms)
    assert first.value[None] == pytest.approx(value + other, rel=1e-12)
    assert error(X.grad.to_numpy(), grad_x + other_x) < 1e-12
    assert error(Y.grad.to_numpy(), grad_y + other_y) < 1e-12


@pytest.mark.parametrize("p", [1, 2])
def test_transport_counts_bins(running_cpu, p):
    """Sinusoids on bins, boxcar window: moving one by m bins costs m / n_fft a frame, whatever the levels."""
    s = np.arange(256)
    for m in (1, 5, 20):
        x, y = 3 * np.cos(2 * np.pi * 4 * s / 64), 0.1 * np.sin(2 * np.pi * (4 + m) * s / 64)
        value = ts.spectral_loss(x, y, n_fft=64, hop_length=64, window="boxcar", terms=ts.Transport(p=p))
        assert value == pytest.approx(4 * m / 64, rel=1e-9)


def test_transport_is_blind_to_level(running_cpu):
    x, y = signals(10, 300)
    value, grad = ts.value_and_grad(x, y, stft=STFT, terms=ts.Transport())
    assert ts.spectral_loss(100 * x, y, stft=STFT, terms=ts.Transport()) == pytest.approx(value, rel=1e-12)
    assert abs(grad @ x) < 1e-12 * np.linalg.norm(grad) * np.linalg.norm(x)


def test_values_by_name(restarted):
    x, y = signals(11, 2, 300, dtype=np.float32)
    terms = [ts.Magnitude(p=1, weight=0.5), ts.SpectralConvergence(), ts.LogMagnitude(), ts.Magnitude()]
    X, Y = field(x), field(y)
    for reduction in ("sum", "none"):
        loss = ts.SpectralLoss(X, Y, STFT, terms=terms, reduction=reduction)
        loss.compute()
        assert list(loss.values) == ["magnitude", "spectral_convergence", "log_magnitude", "magnitude_2"]
        assert sum(loss.values.values()) == pytest.approx(loss.value.to_numpy(), rel=1e-5)
        for value, term in zip(loss.values.values(), terms, strict=True):
            expected = ts.reference.value_and_grad(x, y, STFT, (term,))[0]
            assert value == pytest.approx(expected if reduction == "none" else expected.sum(), rel=1e-5)


@pytest.mark.parametrize("n_fft", [16, 64])
@pytest.mark.parametrize("term,same", [
    (ts.LogMagnitude(eps=1), ts.LogMagnitude(eps=1.0)), (ts.SpectralConvergence(eps=0), ts.SpectralConvergence(eps=0.0)),
    (ts.Transport(floor=0, weight=2), ts.Transport(floor=0.0, weight=2.0)),
], ids=str)  # fmt: skip
def test_an_integer_is_a_number_too(running_cpu, term, same, n_fft):
    x, y = signals(4, 300)
    value, grad = ts.value_and_grad(x, y, n_fft=n_fft, terms=term)
    expected, slope = ts.value_and_grad(x, y, n_fft=n_fft, terms=same)
    assert value == expected and repr(term) == repr(same)
    np.testing.assert_array_equal(grad, slope)


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


class OfVectors(ts.BinTerm):
    """φ(a, b) = |a − b| by way of what Taichi takes of vectors only as it makes numbers of them."""

    @ti.func
    def distance(self, a, b, real: ti.template()):
        both = ti.Vector([a - b, b - a])
        slope = 2 * ti.cast(both > 0, real)
        return abs(both).max(), slope[0] - 1, slope[1] - 1


def test_a_users_own_term_may_have_vectors(running_cpu):
    x, y = signals(3, 900)
    options = dict(stft=STFT, engine="fft", wrt="both")
    for terms in (OfVectors(), [ts.Magnitude(weight=0), OfVectors()]):
        value, gradients = ts.value_and_grad(x, y, terms=terms, **options)
        expected, slopes = ts.value_and_grad(x, y, terms=ts.Magnitude(p=1), **options)
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(gradients, slopes, atol=1e-12)


def test_a_new_weight_compiles_nothing(running_cpu):
    from taichi_spec import bins

    x, y = signals(3, 300)
    ts.spectral_loss(x, y, stft=STFT, terms=ts.Magnitude(weight=1.0))
    before = bins.bin_kernels.cache_info().misses
    ts.spectral_loss(x, y, stft=STFT, terms=ts.Magnitude(weight=3.0))
    assert bins.bin_kernels.cache_info().misses == before
