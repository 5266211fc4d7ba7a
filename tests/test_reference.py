"""The oracle itself: against SciPy, PyTorch, the explicit DFT matrix and finite differences."""

import numpy as np
import pytest
import scipy.signal

import taichi_spec as ts
from support import CASES, error, scipys_stft, signals


def test_transform_is_the_formula():
    stft = ts.STFT(n_fft=15, hop_length=4, window="hamming")
    (x,) = signals(0, 64, count=1)
    n, k = np.arange(15), np.arange(8)
    dft = np.exp(-2j * np.pi * np.outer(k, n) / 15)  # (K, N)
    expected = np.stack([dft @ (stft.window_table * x[4 * f : 4 * f + 15]) for f in range(stft.n_frames(64))], axis=1)
    assert error(ts.reference.stft(x, stft), expected) < 1e-14


@pytest.mark.parametrize("n_fft", [16, 63, 1024])
def test_transform_is_scipys(n_fft):
    stft = ts.STFT(n_fft=n_fft, window="blackman")
    (x,) = signals(1, 4000, count=1)
    expected, offset = scipys_stft(x, stft)
    assert error(ts.reference.stft(x[offset:], stft)[:, : expected.shape[1]], expected) < 1e-12


@pytest.mark.parametrize("case", CASES[::3], ids=str)
def test_transform_is_torchs(case):
    torch = pytest.importorskip("torch")
    s = case.stft
    x = signals(2, *case.shape, count=1)[0]
    window = np.zeros(s.n_fft)
    window[:] = s.window_table  # with its padding and normalisation, so that torch has nothing to add
    expected = torch.stft(
        torch.from_numpy(x), s.n_fft, s.hop_length, window=torch.from_numpy(window), center=s.center,
        pad_mode=s.pad_mode, return_complex=True,
    ).numpy()  # fmt: skip
    result = ts.reference.stft(x, s)
    assert result.shape == expected.shape
    assert error(result, expected) < 1e-12


@pytest.mark.parametrize("n_fft,win_length", [(16, 9), (16, 10), (15, 8), (15, 9)])
def test_a_shorter_window_sits_where_torch_puts_it(n_fft, win_length):
    torch = pytest.importorskip("torch")
    (x,) = signals(6, 200, count=1)
    window = torch.from_numpy(scipy.signal.get_window("blackman", win_length))
    expected = torch.stft(torch.from_numpy(x), n_fft, 5, win_length, window, center=False, return_complex=True).numpy()
    assert error(ts.reference.stft(x, ts.STFT(n_fft, 5, win_length, "blackman")), expected) < 1e-12


@pytest.mark.parametrize("win_length", [1, 2, 9, 1024])
def test_the_default_window_is_scipys(win_length):
    expected = scipy.signal.get_window("hann", win_length)
    first = (1024 - win_length) // 2
    table = ts.STFT(1024, win_length=win_length).window_table
    assert np.abs(table[first : first + win_length] - expected).max() <= 2.0**-52
    assert not table[:first].any() and not table[first + win_length :].any()


def test_adjoint_dot():
    for case in CASES[::7]:
        (x,) = signals(3, *case.shape, count=1)
        X = ts.reference.stft(x, case.stft)
        re, im = signals(4, *X.shape)
        G = re + 1j * im
        left = np.sum((X.conj() * G).real)
        right = np.sum(x * ts.reference.adjoint(G, x.shape[-1], case.stft))
        assert abs(left - right) <= 1e-13 * np.linalg.norm(X) * np.linalg.norm(G), str(case)


@pytest.mark.parametrize("p", [1, 2])
def test_gradient_is_the_difference_quotient(p):
    x, y, d = signals(5, 400, count=3)
    stft, terms = ts.STFT(n_fft=32, center=True), (ts.Magnitude(p=p, weight=0.7),)
    _, grad_x, grad_y = ts.reference.value_and_grad(x, y, stft, terms)

    def value(a, b):
        return ts.reference.value_and_grad(a, b, stft, terms)[0]

    h = 1e-6
    assert (value(x + h * d, y) - value(x - h * d, y)) / (2 * h) == pytest.approx(grad_x @ d, rel=1e-7)
    assert (value(x, y + h * d) - value(x, y - h * d)) / (2 * h) == pytest.approx(grad_y @ d, rel=1e-7)


def test_frame_counts_are_torchs_and_librosas():
    assert ts.STFT(1024, 256, center=True).n_frames(16_000) == 63
    assert ts.STFT(1024, 256).n_frames(16_000) == 59
