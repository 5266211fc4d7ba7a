"""Under `ti.init(debug=True)` Taichi checks each index against its array's shape: nothing is out of bounds."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import error, signals

STFTS = [ts.STFT(64, 16, center=True), ts.STFT(60, 25), ts.STFT(22, 30, center=True, pad_mode="constant")]


@pytest.fixture
def checked(arch, gpu_engines):
    """The backend with debug=True; whatever comes next starts it as it was."""
    if arch not in ("cpu", "cuda"):
        pytest.skip(f"Taichi checks no bounds on {arch}")
    ts.init(arch=arch, debug=True, log_level=ti.ERROR)
    yield
    ti.reset()


@pytest.mark.parametrize("stft", STFTS, ids=str)
def test_indices_are_within_bounds(checked, stft):
    """Several items, and segments and blocks that no frame is left for."""
    x, y = signals(0, 3, 700, dtype=np.float32)
    expected = ts.reference.value_and_grad(x, y, stft)
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
    assert value == pytest.approx(expected[0].sum(), rel=1e-5)
    assert error(grads[0], expected[1]) < 1e-5 and error(grads[1], expected[2]) < 1e-5


@pytest.mark.parametrize("stft", STFTS, ids=str)
def test_indices_of_short_items_are_within_bounds(checked, stft):
    (x, y), lengths = signals(0, 3, 700, dtype=np.float32), (700, 300, 64)
    _, grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=stft, lengths=lengths)
    for item, length in enumerate(lengths):
        right = ts.reference.value_and_grad(x[item, :length], y[item, :length], stft)[1]
        assert error(grad[item, :length], right) < 1e-5
