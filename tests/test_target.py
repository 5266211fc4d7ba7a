"""Fixed targets: analysed once, and the same as a target signal."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import error, field, signals

STFT = ts.STFT(n_fft=64, center=True)


def test_from_signal_is_the_signal(restarted):
    x, y = signals(0, 3, 500, dtype=np.float32)
    value, grad = ts.value_and_grad(x, y, stft=STFT)
    fixed_value, fixed_grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=STFT)
    assert fixed_value == pytest.approx(value, rel=1e-6)
    assert error(fixed_grad, grad) < 1e-6


def test_one_target_signal_for_a_batch(cpu):
    x, y = signals(1, 3, 500)
    value, grad = ts.value_and_grad(x, ts.Target.from_signal(y[0]), stft=STFT)
    expected = ts.reference.value_and_grad(x, np.broadcast_to(y[0], y.shape), STFT)
    assert value == pytest.approx(expected[0].sum(), rel=1e-12)
    assert error(grad, expected[1]) < 1e-12


@pytest.mark.parametrize("which", ["(K,)", "(K, F)", "(B, K, F)"])
def test_from_magnitudes(restarted, which):
    x, _ = signals(2, 3, 500, dtype=np.float32)
    bins, frames = STFT.n_bins, STFT.n_frames(500)
    shape = {"(K,)": (bins,), "(K, F)": (bins, frames), "(B, K, F)": (3, bins, frames)}[which]
    magnitudes = np.random.default_rng(3).uniform(0, 5, shape).astype(np.float32)
    full = magnitudes[:, None] if which == "(K,)" else magnitudes
    expected = ts.reference.value_and_grad(x, None, STFT, magnitudes=full)
    value, grad = ts.value_and_grad(x, ts.Target.from_magnitudes(magnitudes), stft=STFT)
    assert value == pytest.approx(expected[0].sum(), rel=1e-5)
    assert error(grad, expected[1]) < 1e-5


def test_it_is_analysed_once(cpu, monkeypatch):
    x, y = signals(4, 500)
    X = field(x)
    loss = ts.SpectralLoss(X, ts.Target.from_signal(y), STFT)
    monkeypatch.setattr("taichi_spec.staged.BlockTransform.magnitudes", None)
    for _ in range(2):
        with ti.ad.Tape(loss.value):
            loss.compute()
    expected = ts.reference.value_and_grad(x, y, STFT)
    assert loss.value[None] == pytest.approx(expected[0], rel=1e-12)
    assert error(X.grad.to_numpy(), expected[1]) < 1e-12


def test_a_target_keeps_its_own_copy(cpu):
    x, y = signals(5, 500)
    target = ts.Target.from_signal(y)
    before = ts.spectral_loss(x, target, stft=STFT)
    y[:] = 0
    assert ts.spectral_loss(x, target, stft=STFT) == before
