"""The forward pass on every backend: the transform and the value."""

import numpy as np
import pytest

import taichi_spec as ts
from support import CASES, TOLERANCE, dtypes, error, scipys_stft, signals


@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_stft_is_the_references(restarted, case):
    for dtype in dtypes():
        (x,) = signals(0, *case.shape, dtype=dtype, count=1)
        X = ts.stft(x, stft=case.stft)
        assert X.dtype == (np.complex128 if dtype == np.float64 else np.complex64)
        assert X.shape == (*case.shape[:-1], case.stft.n_bins, case.stft.n_frames(case.shape[-1]))
        assert error(X, ts.reference.stft(x, case.stft)) < TOLERANCE[dtype]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("n_fft", [63, 256, 1000])
def test_stft_is_torchs(running_cpu, n_fft, center):
    torch = pytest.importorskip("torch")
    (x,) = signals(1, 5000, count=1)
    window = torch.hann_window(n_fft, dtype=torch.float64)
    expected = torch.stft(torch.from_numpy(x), n_fft, n_fft // 4, window=window, center=center, return_complex=True)
    result = ts.stft(x, n_fft=n_fft, center=center)
    assert result.shape == tuple(expected.shape)
    assert error(result, expected.numpy()) < 1e-12


@pytest.mark.parametrize("n_fft", [16, 63, 1024])
def test_stft_is_scipys(running_cpu, n_fft):
    stft = ts.STFT(n_fft=n_fft, window="hamming")
    (x,) = signals(7, 4000, count=1)
    expected, offset = scipys_stft(x, stft)
    assert error(ts.stft(x[offset:], stft=stft)[:, : expected.shape[1]], expected) < 1e-12


def test_stft_works_in_blocks(restarted, monkeypatch):
    (x,) = signals(2, 3000, dtype=np.float32, count=1)
    whole = ts.stft(x, n_fft=64)
    monkeypatch.setattr("taichi_spec.functional.SCRATCH_BYTES", 10_000)
    assert np.array_equal(ts.stft(x, n_fft=64), whole)


def test_leading_dimensions(running_cpu):
    x, y = signals(3, 2, 3, 500)
    values = ts.spectral_loss(x, y, n_fft=64, reduction="none")
    assert values.shape == (2, 3)
    assert values[1, 2] == pytest.approx(ts.spectral_loss(x[1, 2], y[1, 2], n_fft=64), rel=1e-14)
    assert ts.stft(x, n_fft=64).shape == (2, 3, 33, 28)


def test_reductions(running_cpu):
    x, y = signals(4, 3, 500)
    stft = ts.STFT(n_fft=64)
    items = ts.spectral_loss(x, y, stft=stft, reduction="none")
    assert ts.spectral_loss(x, y, stft=stft) == pytest.approx(items.sum(), rel=1e-14)
    bins = stft.n_bins * stft.n_frames(500)
    assert ts.spectral_loss(x, y, stft=stft, reduction="mean") == pytest.approx(items.mean() / bins, rel=1e-14)


def test_identical_signals_are_at_distance_zero(restarted):
    (x,) = signals(5, 2, 900, dtype=np.float32, count=1)
    value, (grad_x, grad_y) = ts.value_and_grad(x, x, wrt="both", n_fft=128)
    assert value == 0
    assert not grad_x.any()
    assert not grad_y.any()


def test_a_batch_is_its_items(running_cpu):
    x, y = signals(6, 3, 700)
    value, grad = ts.value_and_grad(x, y, n_fft=128, reduction="mean")
    singles = [ts.value_and_grad(a, b, n_fft=128, reduction="mean") for a, b in zip(x, y, strict=True)]
    assert value == pytest.approx(np.mean([v for v, _ in singles]), rel=1e-14)
    assert error(grad, np.stack([g for _, g in singles]) / 3) < 1e-14
    one = ts.value_and_grad(x[:1], y[:1], n_fft=128, reduction="mean")
    assert one[0] == singles[0][0]
    assert np.array_equal(one[1][0], singles[0][1])


def test_axes():
    stft = ts.STFT(n_fft=8, hop_length=2)
    assert np.allclose(stft.frequencies(16_000), [0, 2000, 4000, 6000, 8000])
    assert np.allclose(stft.times(14, 1.0), [4, 6, 8, 10])
    assert np.allclose(ts.STFT(n_fft=8, hop_length=2, center=True).times(6, 1.0), [0, 2, 4, 6])
    assert not stft.window_table.flags.writeable
