"""Where |X| is exactly 0: no gradient by default, the target's direction on request."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import TOLERANCE, dtypes, error, field, signals

pytestmark = pytest.mark.usefixtures("direct")

STFT = ts.STFT(n_fft=64)
TERMS = (ts.Magnitude(p=1), ts.LogMagnitude(eps=0.1), ts.SpectralConvergence(), ts.Power())


def silent_in_part(dtype):
    x, y = signals(0, 2, 300, dtype=dtype)
    x[0], y[1, :150] = 0, 0
    x[1, 100:220] = 0
    return x, y


@pytest.mark.parametrize("fixed", [False, True])
def test_the_targets_direction(restarted, fixed):
    for dtype in dtypes():
        x, y = silent_in_part(dtype)
        target = ts.Target.from_signal(y) if fixed else y
        options = dict(stft=STFT, terms=TERMS, zero_phase="target")
        value, grads = ts.value_and_grad(x, target, wrt="x" if fixed else "both", **options)
        expected = ts.reference.value_and_grad(x, y, STFT, TERMS, zero_phase="target")
        assert value == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype])
        for grad, wanted in zip([grads] if fixed else grads, expected[1:], strict=False):
            assert error(grad, wanted) < 10 * TOLERANCE[dtype]
        assert np.abs(expected[1][0]).max() > 0


def test_it_is_an_element_of_the_generalised_gradient(running_cpu):
    """At silence the loss falls along −g as fast as it can: L(−t g) = L(0) − t |g|² for a small t and p = 1."""
    (y,) = signals(1, 64, count=1)
    options = dict(stft=ts.STFT(64, window="boxcar"), terms=ts.Magnitude(p=1))
    x = np.zeros(64)
    start, g = ts.value_and_grad(x, y, zero_phase="target", **options)
    assert not ts.value_and_grad(x, y, **options)[1].any()
    t = 1e-3
    assert (start - ts.spectral_loss(-t * g, y, **options)) / t == pytest.approx(g @ g, rel=1e-9)


@pytest.mark.parametrize("zero_phase", [None, "target"])
def test_an_all_zero_signal_reaches_a_target(restarted, zero_phase):
    s = np.arange(512)
    y = (np.sin(2 * np.pi * 0.05 * s) + 0.3 * np.sin(2 * np.pi * 0.17 * s)).astype(np.float32)
    x = field(np.zeros(512, dtype=np.float32))
    loss = ts.SpectralLoss(x, ts.Target.from_signal(y), ts.STFT(64), zero_phase=zero_phase)
    adam = ts.optim.Adam([x], lr=0.03)
    values = []
    for _ in range(100 if zero_phase else 3):
        with ti.ad.Tape(loss.value):
            loss.compute()
        values.append(loss.value[None])
        adam.step()
    if zero_phase is None:
        assert not x.to_numpy().any()
    else:
        assert values[-1] < 1e-3 * values[0]
