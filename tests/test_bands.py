"""Bands, the mel filterbank, and weights of bins."""

import numpy as np
import pytest

import taichi_spec as ts
from support import TOLERANCE, directional, dtypes, error, signals

pytestmark = pytest.mark.usefixtures("direct")

STFT = ts.STFT(n_fft=64, center=True)

TERMS = [
    ts.Magnitude(p=1),
    ts.Magnitude(p=2),
    ts.LogMagnitude(eps=0.1),
    ts.Power(p=2, weight=0.1),
    ts.SpectralConvergence(),
    ts.Transport(),
    ts.Transport(p=2, quantity="magnitude"),
]


def bands(n_bins=STFT.n_bins):
    """A matrix with gaps, overlaps and a band without bins."""
    rng = np.random.default_rng(0)
    matrix = rng.uniform(0.1, 1, (9, n_bins)) * (rng.uniform(0, 1, (9, n_bins)) < 0.3)
    matrix[3] = 0
    return matrix


def weights(n_bins=STFT.n_bins):
    return np.random.default_rng(1).uniform(-1, 2, n_bins)


# (n_mels, n_fft, sample_rate, fmin, fmax, norm, htk): the sum of librosa.filters.mel's matrix (librosa 0.11, float64),
# its rows of zeros, and some of its entries
LIBROSA = {
    (8, 64, 16000, 0.0, None, "slaney", False): (0.03174587472886772, 0, {
        (0, 1): 0.0022256356296583507, (3, 5): 0.001174791920995253, (4, 10): 0.0005734202265643103,
        (5, 15): 0.000219888040179238, (6, 18): 0.0004971128822631157, (7, 20): 0.00030047258942470266,
        (7, 28): 0.00021427547709397686}),
    (5, 32, 44100, 0.0, None, "slaney", False): (0.0031630313408959614, 0, {
        (0, 1): 6.080926640787853e-05, (2, 3): 0.0002496615158485158, (3, 5): 0.0001838395932780013,
        (4, 5): 2.895583192187943e-05, (4, 9): 0.00010683960373422438, (4, 13): 4.57884016003819e-05}),
    (8, 64, 8000, 300.0, 3000.0, None, True): (18.97632306837161, 0, {
        (0, 3): 0.47933201405768944, (2, 6): 0.5379952469240055, (3, 10): 0.42361426449752654,
        (5, 11): 0.019904594168990413, (6, 14): 0.1543654908558223, (7, 17): 0.13508501427213007,
        (7, 23): 0.24969910543139187}),
    (128, 512, 44100, 0.0, None, "slaney", False): (1.4757026970160894, 11, {
        (1, 1): 0.007156152027507348, (72, 42): 0.003949157289824147, (93, 84): 0.003710918246870237,
        (106, 124): 0.0009306145905190882, (115, 165): 0.0005578086918580758, (122, 205): 8.718889743029465e-05,
        (127, 252): 0.0007270526409686674}),
    (80, 1024, 22050, 0.0, 8000.0, "slaney", True): (3.7147254836308923, 0, {
        (0, 1): 0.043323903761157204, (33, 62): 0.011165562617419368, (49, 123): 0.006714389963244554,
        (60, 181): 0.003407454202710405, (68, 241): 0.0024443308118510887, (74, 305): 0.003494567553804614,
        (79, 369): 0.000775701704376972}),
    (7, 63, 16000, 50.0, 7000.0, None, False): (22.424918260031763, 0, {
        (0, 1): 0.5751874430801063, (2, 5): 0.7074130793347813, (4, 7): 0.21891290670918637,
        (5, 10): 0.19659042665615095, (5, 17): 0.36205751264760955, (6, 18): 0.8086960375445768,
        (6, 25): 0.30353646825964936}),
}  # fmt: skip


@pytest.mark.parametrize("arguments", LIBROSA, ids=str)
def test_mel_filterbank_is_librosas(arguments):
    matrix = ts.mel_filterbank(*arguments)
    total, empty, entries = LIBROSA[arguments]
    assert matrix.shape == (arguments[0], arguments[1] // 2 + 1)
    assert matrix.sum() == pytest.approx(total, rel=1e-13)
    assert np.sum(matrix.max(axis=1) == 0) == empty
    for (m, k), entry in entries.items():
        assert matrix[m, k] == pytest.approx(entry, rel=1e-11), (m, k)


@pytest.mark.parametrize("terms", [*TERMS, TERMS], ids=lambda t: "mixed" if t is TERMS else str(t))
def test_value_and_gradients_are_the_references(restarted, terms):
    for dtype in dtypes():
        x, y = signals(0, 2, 300, dtype=dtype)
        options = dict(bands=bands(), bin_weights=weights())
        value, grads = ts.value_and_grad(x, y, wrt="both", stft=STFT, terms=terms, **options)
        expected = ts.reference.value_and_grad(x, y, STFT, ts.terms.as_terms(terms), **options)
        assert value == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype])
        assert error(grads[0], expected[1]) < TOLERANCE[dtype]
        assert error(grads[1], expected[2]) < TOLERANCE[dtype]


@pytest.mark.parametrize("terms", [*TERMS, TERMS], ids=lambda t: "mixed" if t is TERMS else str(t))
def test_finite_differences(running_cpu, terms):
    x, y, d = signals(1, 300, count=3)
    options = dict(stft=STFT, terms=terms, bands=bands(), bin_weights=weights())
    _, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", **options)
    along_x = directional(lambda t: ts.spectral_loss(x + t * d, y, **options), 1e-5)
    along_y = directional(lambda t: ts.spectral_loss(x, y + t * d, **options), 1e-5)
    assert grad_x @ d == pytest.approx(along_x, rel=1e-7)
    assert grad_y @ d == pytest.approx(along_y, rel=1e-7)


def test_more_mels_than_bins_and_silence(restarted):
    """auraloss's NaN: 128 mels on 512 bins at 44.1 kHz, 11 of them without a bin."""
    x, y = signals(2, 2, 1500, dtype=np.float32)
    y[0] = 0
    mel = ts.mel_filterbank(128, 512, 44_100)
    for a, b in ((x, y), (y, x), (0 * x, y), (0 * x, 0 * y)):
        value, grads = ts.value_and_grad(a, b, wrt="both", n_fft=512, terms=TERMS, bands=mel)
        assert np.isfinite(value)
        assert np.isfinite(grads).all()
    assert value == 0


@pytest.mark.parametrize("kind", ["signal", "(K,)", "(B, K, F)"])
def test_fixed_targets(restarted, kind):
    x, y = signals(3, 2, 300, dtype=np.float32)
    magnitudes = np.abs(ts.reference.stft(y, STFT)).astype(np.float32)
    magnitudes = magnitudes[0, :, :1] if kind == "(K,)" else magnitudes
    target = {
        "signal": lambda: ts.Target.from_signal(y),
        "(K,)": lambda: ts.Target.from_magnitudes(magnitudes[:, 0]),
        "(B, K, F)": lambda: ts.Target.from_magnitudes(magnitudes),
    }[kind]()
    options = dict(bands=bands(), bin_weights=weights())
    value, grad = ts.value_and_grad(x, target, stft=STFT, terms=TERMS, **options)
    expected = ts.reference.value_and_grad(x, None, STFT, tuple(TERMS), magnitudes=magnitudes, **options)
    assert value == pytest.approx(expected[0].sum(), rel=1e-5)
    assert error(grad, expected[1]) < 1e-5


def test_negative_bands_where_they_mean_something(running_cpu):
    x, y = signals(4, 300)
    slope = np.eye(STFT.n_bins)[1:] - np.eye(STFT.n_bins)[:-1]
    terms = (ts.Magnitude(p=1), ts.Power())
    value, grad = ts.value_and_grad(x, y, stft=STFT, terms=terms, bands=slope)
    expected = ts.reference.value_and_grad(x, y, STFT, terms, bands=slope)
    assert value == pytest.approx(expected[0], rel=1e-12)
    assert error(grad, expected[1]) < 1e-12


def test_a_weighting_is_the_standards_table():
    """IEC 61672-1, table 3, in dB rounded to 0.1."""
    table = {31.5: -39.4, 63: -26.2, 125: -16.1, 250: -8.6, 500: -3.2, 1000: 0.0, 2000: 1.2, 4000: 1.0, 8000: -1.1,
             16_000: -6.6}  # fmt: skip
    exact = 1000 * 10 ** (np.round(10 * np.log10(np.array([*table]) / 1000)) / 10)  # the nominal ones are rounded
    assert 20 * np.log10(ts.a_weighting(exact)) == pytest.approx([*table.values()], abs=0.051)
    assert ts.a_weighting(0) == 0
    assert ts.a_weighting(1000) == 1


def test_bin_weights_are_a_filter(running_cpu):
    """Weighting each bin of a boxcar frame by A(f) is filtering the frame with that response, circularly."""
    x, y = signals(5, 64)
    stft = ts.STFT(64, window="boxcar")
    a = ts.a_weighting(stft.frequencies(16_000))
    filtered = [np.fft.irfft(a * np.fft.rfft(v), n=64) for v in (x, y)]
    terms = [ts.LogMagnitude(), ts.Complex()]
    value = ts.spectral_loss(x, y, stft=stft, terms=terms, bin_weights=a)
    assert value == pytest.approx(ts.spectral_loss(*filtered, stft=stft, terms=terms), rel=1e-10)
