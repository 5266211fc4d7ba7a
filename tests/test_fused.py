"""The fused engines on terms that are functions of sums, weighted items, and the published sets of them.

A set of terms is a kernel that takes seconds to compile, for each dtype: most tests share one set, auraloss's.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import (
    TOLERANCE,
    assert_items_agree,
    check_equal_frames,
    check_silence,
    directional,
    dtypes,
    error,
    field,
    signals,
)
from taichi_spec import functional
from taichi_spec.fft.fused import FusedEngine
from taichi_spec.logarithm import log_ratio

AURALOSS = ts.presets.auraloss_multi_resolution()["terms"]
STFTS = [ts.STFT(64), ts.STFT(64, 15, center=True), ts.STFT(128, 200, 100, center=True, pad_mode="constant"),
         ts.STFT(256, 64, pad_end=True)]  # fmt: skip


@pytest.fixture(autouse=True)
def cpu_engine(running_cpu):
    functional._recent.clear()  # engines of other tests


def is_fused():
    """Whether the most recent call was done by a fused engine."""
    return isinstance(next(reversed(functional._recent.values())).engine, FusedEngine)


def tolerance(dtype, terms=AURALOSS):
    """In float32 a logarithm's slope multiplies the rounding of the smallest bins, as in test_terms."""
    logarithm = any(isinstance(term, ts.LogMagnitude) for term in terms)
    return TOLERANCE[dtype] * (100 if logarithm and dtype == np.float32 else 1)


def check(x, y, stft, terms, item_weights=None, **options):
    """Value and both gradients against the reference."""
    weights = np.ones(len(x)) if item_weights is None else np.array(item_weights)
    result = ts.value_and_grad(x, y, wrt="both", stft=stft, terms=terms, item_weights=item_weights,
                               reduction="none", **options)  # fmt: skip
    assert is_fused()
    expected = ts.reference.value_and_grad(x, y, stft, tuple(terms))
    assert_items_agree(result, expected, weights, TOLERANCE[x.dtype.type], tolerance(x.dtype.type, terms))


@pytest.mark.parametrize("stft", STFTS, ids=str)
def test_auralosss_terms(stft):
    for dtype in dtypes():
        x, y = signals(1, 3, 700, dtype=dtype)
        y[1] *= 1e-3
        check(x, y, stft, AURALOSS, item_weights=[1.0, -2.0, 0.5])


MIXED = [
    ts.Magnitude(p=1, weight=0.5),
    ts.SpectralConvergence(weight=30.0),
    ts.Power(weight=0.1),
    ts.LogMagnitude(p=2, eps=0.5, weight=2.0),
    ts.SpectralConvergence(eps=3.0, weight=-7.0),
]


def test_sums_beside_powers_and_one_another():
    x, y = signals(2, 5, 300)
    x[1] = 0
    y[2] = 0
    x[3], y[3] = 0, 0
    check(x, y, STFTS[1], MIXED, item_weights=[1.0, 2.0, 3.0, 4.0, -5.0])


def test_finite_differences():
    x, y, d = signals(3, 2, 300, count=3)
    options = dict(stft=STFTS[1], terms=MIXED, item_weights=[2.0, -1.0])
    _, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", **options)
    along_x = directional(lambda t: ts.spectral_loss(x + t * d, y, **options), 1e-5)
    along_y = directional(lambda t: ts.spectral_loss(x, y + t * d, **options), 1e-5)
    assert is_fused()
    assert np.sum(grad_x * d) == pytest.approx(along_x, rel=1e-7)
    assert np.sum(grad_y * d) == pytest.approx(along_y, rel=1e-7)


def test_what_a_mean_is_over():
    """A ratio is divided by the number of items alone, a sum over bins by that of bins and frames as well."""
    x, y = signals(4, 2, 400)
    options = dict(wrt="both", stft=STFTS[0], item_weights=[1.0, 3.0])
    value, grads = ts.value_and_grad(x, y, terms=MIXED, reduction="mean", **options)
    assert is_fused()
    parts = [ts.value_and_grad(x, y, terms=term, engine="direct", **options) for term in MIXED]
    bins = STFTS[0].n_bins * STFTS[0].n_frames(400)
    counts = [2 * (1 if isinstance(term, ts.SpectralConvergence) else bins) for term in MIXED]
    assert value == pytest.approx(sum(part[0] / n for part, n in zip(parts, counts, strict=True)), rel=1e-12)
    for i in range(2):
        expected = sum(part[1][i] / n for part, n in zip(parts, counts, strict=True))
        assert error(grads[i], expected) < 1e-12


@pytest.mark.parametrize("kind", ["signal", "(K,)", "(B, K, F)"])
def test_fixed_target(kind):
    stft = STFTS[1]
    x, y = signals(5, 3, 500)
    magnitudes = np.abs(ts.reference.stft(y, stft))
    magnitudes = magnitudes[0, :, 3] if kind == "(K,)" else magnitudes
    target = ts.Target.from_signal(y) if kind == "signal" else ts.Target.from_magnitudes(magnitudes)
    values, grad = ts.value_and_grad(x, target, stft=stft, terms=AURALOSS, reduction="none")
    assert is_fused()
    full = magnitudes[:, None] if kind == "(K,)" else magnitudes
    expected = ts.reference.value_and_grad(x, None, stft, tuple(AURALOSS), magnitudes=full)
    assert values == pytest.approx(expected[0], rel=1e-12)
    assert error(grad, expected[1]) < 1e-12


def test_silence():
    check_silence(check, STFTS[0], AURALOSS, seed=6)


def test_equal_signals_are_at_distance_zero():
    """Not even rounding: spectral convergence, or the sign of a logarithm's difference, would make it large."""
    for dtype in dtypes():
        x, y = signals(7, 2, 400, dtype=dtype)
        y[0] = x[0]
        values, grads = ts.value_and_grad(x, y, wrt="both", stft=STFTS[1], terms=AURALOSS, reduction="none")
        assert values[0] == 0 < values[1]
        assert not grads[0][0].any() and not grads[1][0].any()
        assert grads[0][1].any() and grads[1][1].any()


def test_equal_frames_among_others():
    check_equal_frames(STFTS[1], AURALOSS)
    assert is_fused()


def test_same_bits():
    """Long enough for several segments of several runs."""
    x, y = signals(8, 3, 20_000, dtype=np.float32)
    options = dict(wrt="both", stft=STFTS[0], terms=AURALOSS, reduction="none")
    values, grads = ts.value_and_grad(x, y, **options)
    for _ in range(3):
        again, again_grads = ts.value_and_grad(x.copy(), y.copy(), **options)
        assert np.array_equal(again, values)
        assert np.array_equal(again_grads, grads)
    assert error(values, ts.reference.value_and_grad(x, y, STFTS[0], tuple(AURALOSS))[0]) < 1e-6


def published(x, y, preset):
    """A preset's value and gradients by the reference."""
    weights = preset.get("stft_weights", np.ones(len(preset["stft"])))
    total = np.zeros(3, dtype=object)
    for stft, weight in zip(preset["stft"], weights, strict=True):
        for term in preset["terms"]:
            count = term.mean_over(stft.n_bins, stft.n_frames(x.shape[-1])) * len(x)
            parts = ts.reference.value_and_grad(x, y, stft, (term,))
            total += np.array([weight / count * part for part in (parts[0].sum(), *parts[1:])], dtype=object)
    return total


@pytest.mark.parametrize("preset,dtype", [
    (ts.presets.auraloss_multi_resolution, np.float64),
    (ts.presets.auraloss_multi_resolution, np.float32),
    (ts.presets.ddsp_multi_scale, np.float64),
])  # fmt: skip
def test_presets(preset, dtype):
    x, y = signals(3, 2, 4567, dtype=dtype)
    value, grads = ts.value_and_grad(x, y, wrt="both", **preset())
    assert is_fused()
    expected = published(x, y, preset())
    assert value == pytest.approx(expected[0], rel=1e-12 if dtype == np.float64 else 1e-6)
    assert error(grads[0], expected[1]) < 100 * TOLERANCE[dtype]  # some of many bins are nearly 0, and steep
    assert error(grads[1], expected[2]) < 100 * TOLERANCE[dtype]


def test_a_preset_on_a_tape():
    """Twice on one tape: each loss keeps its own gradients; `values` are each term's share."""
    preset = ts.presets.auraloss_multi_resolution()
    x, y = signals(10, 1, 3000)
    X, Y = field(x[0]), field(y[0])
    other = {**preset, "stft_weights": [0.1, -2.0, 3.0]}
    first = ts.SpectralLoss(X, Y, **preset)
    second = ts.SpectralLoss(X, Y, **other, value=first.value)
    with ti.ad.Tape(first.value):
        first.compute()
        second.compute()
    expected = published(x, y, preset) + published(x, y, other)
    assert first.value[None] == pytest.approx(expected[0], rel=1e-12)
    assert error(X.grad.to_numpy(), expected[1][0]) < 1e-10  # as above
    assert error(Y.grad.to_numpy(), expected[2][0]) < 1e-10
    for loss, chosen in ((first, preset), (second, other)):
        for name, term in zip(("spectral_convergence", "log_magnitude"), AURALOSS, strict=True):
            alone = published(x, y, {**chosen, "terms": [term]})[0]
            assert loss.values[name] == pytest.approx(alone, rel=1e-12)


@dataclass(frozen=True)
class Product(ts.BinTerm):
    """a b."""

    @ti.func
    def distance(self, a, b, real: ti.template()):
        return a * b, b, a


@dataclass(frozen=True)
class Energy(ts.BinTerm):
    """a², or b²."""

    of_target: bool = False

    @ti.func
    def distance(self, a, b, real: ti.template()):
        r = b if ti.static(self.of_target) else a
        return r * r, ti.cast(0 if ti.static(self.of_target) else 2, real) * a, \
            ti.cast(2 if ti.static(self.of_target) else 0, real) * b  # fmt: skip


@dataclass(frozen=True)
class Dissimilarity(ts.SumsTerm):
    """1 − Σ a b / √(Σ a² Σ b²), a user's own function of sums."""

    parts: ClassVar = (Product(), Energy(), Energy(of_target=True))

    @ti.func
    def combine(self, S, real: ti.template()):
        norm = ti.sqrt(S[1] * S[2])
        similarity = S[0] / norm
        return 1 - similarity, ti.Vector([-1 / norm, similarity / (2 * S[1]), similarity / (2 * S[2])])


def test_a_users_own_function_of_sums():
    x, y, d = signals(11, 2, 300, count=3)
    options = dict(stft=STFTS[0], terms=[Dissimilarity(weight=3.0)])
    value, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", **options)
    assert is_fused()
    a, b = (np.abs(ts.reference.stft(v, STFTS[0])) for v in (x, y))
    cosine = np.sum(a * b, axis=(1, 2)) / np.sqrt(np.sum(a**2, axis=(1, 2)) * np.sum(b**2, axis=(1, 2)))
    assert value == pytest.approx(3 * np.sum(1 - cosine), rel=1e-11)
    along_x = directional(lambda t: ts.spectral_loss(x + t * d, y, **options), 1e-4)
    along_y = directional(lambda t: ts.spectral_loss(x, y + t * d, **options), 1e-4)
    assert np.sum(grad_x * d) == pytest.approx(along_x, rel=1e-7)
    assert np.sum(grad_y * d) == pytest.approx(along_y, rel=1e-7)


@pytest.mark.parametrize("dtype,bound", [(np.float32, 3e-7), (np.float64, 1e-15)])
def test_the_difference_of_logarithms(dtype, bound):
    real = ti.f64 if dtype == np.float64 else ti.f32
    Array = ti.types.ndarray()

    @ti.kernel
    def differences(u: Array, v: Array, out: Array):
        for i in out:
            out[i] = log_ratio(u[i], v[i], real)

    rng = np.random.default_rng(0)
    far = 10.0 ** rng.uniform(-37, 37, (2, 20_000))
    near = far[0] * (1 + 10.0 ** rng.uniform(-16, 0, 20_000))
    u, v = np.concatenate([far, [near, far[0]], [far[0], near]], axis=1).astype(dtype)
    out = np.zeros_like(u)
    differences(u, v, out)
    wide = np.longdouble
    exact = np.log1p(np.maximum((u.astype(wide) - v) / v, -0.9))  # where that is near 0, and else
    exact = np.where(np.abs(exact) < 1, exact, np.log(u.astype(wide)) - np.log(v.astype(wide)))
    assert np.array_equal(np.sign(out), (u > v) * 1.0 - (u < v))
    assert np.max(np.abs(out - exact) / np.where(exact == 0, 1, np.abs(exact))) < bound
    # An amplitude that overflowed is finite here.
    extremes = np.array([np.inf, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype=dtype)
    u, v = (grid.ravel().copy() for grid in np.meshgrid(extremes, extremes))
    out = np.zeros_like(u)
    differences(u, v, out)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("first", ["whole bins", "stages"])
def test_resolutions_of_both_kinds(running_cpu, first):
    """One that compares whole bins and one that goes by stages are launched together, and compiled alike."""
    x, y = signals(9, 900)
    stfts, weights = [ts.STFT(64), ts.STFT(100, 30)], [None, np.linspace(0, 1, 51)]
    if first == "stages":
        stfts.reverse()
        weights.reverse()
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stfts, bin_weights=weights)
    parts = [ts.reference.value_and_grad(x, y, stft, bin_weights=gains) for stft, gains in zip(stfts, weights)]
    expected, *slopes = [sum(part) for part in zip(*parts)]
    assert value == pytest.approx(float(np.sum(expected)), rel=1e-12)
    assert error(grads[0], slopes[0]) < 1e-12 and error(grads[1], slopes[1]) < 1e-12
