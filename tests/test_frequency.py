"""Transport knows where the pitch is: DGen's frequency tables, and the direction from anywhere."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import field

DGEN_RATE = 2000  # Hz


def learn(starts, targets, stft, steps, lr, n_samples=128):
    """Frequencies in Hz where Adam ends from `starts`, through sines of one batch to sines of `targets`."""
    n = np.arange(n_samples)
    wanted = np.sin(2 * np.pi * np.asarray(targets, dtype=np.float64)[:, None] / DGEN_RATE * n)
    frequency, x = field(np.asarray(starts, dtype=np.float64)), field(np.zeros_like(wanted))
    radians = field(2 * np.pi / DGEN_RATE * n, needs_grad=False)  # a literal would be float32

    @ti.kernel
    def synthesize():
        for b, s in x:
            x[b, s] = ti.sin(frequency[b] * radians[s])

    loss = ts.SpectralLoss(x, ts.Target.from_signal(wanted), stft, [ts.Transport(), ts.Magnitude(weight=1e-6)])
    adam = ts.optim.Adam([frequency], lr=lr, betas=(0.9, 0.99))
    for step in range(steps):
        with ti.ad.Tape(loss.value):
            synthesize()
            loss.compute()
        adam.lr = lr * 0.5 * (1 + np.cos(np.pi * step / steps))
        adam.step()
    return frequency.to_numpy()


def test_dgens_frequency_learning(running_cpu):
    starts, targets = [180, 100, 220, 280, 500, 250], [200, 200, 200, 200, 200, 150]
    assert learn(starts, targets, ts.STFT(64), steps=400, lr=4.0) == pytest.approx(targets, abs=1)


def test_dgens_long_way_down(running_cpu):
    assert learn([777], [300], ts.STFT(64), steps=2000, lr=2.0) == pytest.approx([300], abs=1)


def test_dgens_several_windows(running_cpu):
    stfts = [ts.STFT(n_fft) for n_fft in (32, 64, 128)]
    assert learn([550], [440], stfts, steps=400, lr=3.0) == pytest.approx([440], abs=1)


def signs(terms, snr=None):
    """The share of pairs of frequencies at which the gradient points from one to the other."""
    rng = np.random.default_rng(0)
    n, pairs = np.arange(4096), 40
    f = np.exp(rng.uniform(np.log(60), np.log(6500), (2, pairs, 1)))  # Hz
    phase = 2 * np.pi * f / 16_000 * n + rng.uniform(0, 2 * np.pi, (2, pairs, 1))
    x, y = np.sin(phase) + (0 if snr is None else rng.normal(0, np.sqrt(0.5 / 10 ** (snr / 10)), phase.shape))
    _, grad = ts.value_and_grad(x, y, n_fft=2048, terms=terms)
    slope = np.sum(grad * np.cos(phase[0]) * 2 * np.pi * n / 16_000, axis=1)
    return np.mean(np.sign(slope) == np.sign(f[0] - f[1])[:, 0])


@pytest.mark.parametrize("terms,snr,least,most", [
    (ts.Transport(), None, 0.99, 1),
    (ts.Transport(), 0, 0.99, 1),
    (ts.Transport(floor=0.0), 0, 0.3, 0.8),
    (ts.Magnitude(p=1), None, 0.3, 0.8),
], ids=str)  # fmt: skip
def test_direction(running_cpu, terms, snr, least, most):
    assert least <= signs(terms, snr) <= most
