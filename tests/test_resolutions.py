"""Several STFTs in one loss, and the published sets of them."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import error, field, signals

pytestmark = pytest.mark.usefixtures("direct")

STFTS = [ts.STFT(64, center=True), ts.STFT(100, 30), ts.STFT(27, 40)]
BANDS = [np.random.default_rng(0).uniform(0, 1, (6, 33)), None, np.random.default_rng(1).uniform(0, 1, (20, 14))]
WEIGHTS = [None, np.linspace(0, 1, 51), None]
SHARES = [0.5, 2.0, -1.0]
TERMS = (ts.Magnitude(p=1), ts.SpectralConvergence(weight=5.0), ts.Transport())


def expected(x, y):
    parts = [
        ts.reference.value_and_grad(x, y, stft, TERMS, bands=matrix, bin_weights=weights)
        for stft, matrix, weights in zip(STFTS, BANDS, WEIGHTS, strict=True)
    ]
    return [sum(share * part[i] for share, part in zip(SHARES, parts, strict=True)) for i in range(3)]


def test_the_sum_of_its_resolutions(cpu):
    x, y = signals(0, 2, 400)
    options = dict(stft=STFTS, terms=TERMS, bands=BANDS, bin_weights=WEIGHTS, stft_weights=SHARES)
    values, grads = ts.value_and_grad(x, y, wrt="both", reduction="none", **options)
    wanted = expected(x, y)
    assert values == pytest.approx(wanted[0], rel=1e-12)
    assert error(grads[0], wanted[1]) < 1e-12
    assert error(grads[1], wanted[2]) < 1e-12
    assert ts.spectral_loss(x, y, **options) == pytest.approx(values.sum(), rel=1e-12)


def test_on_a_tape_with_values(restarted):
    x, y = signals(1, 400, dtype=np.float32)
    X, Y = field(x), field(y)
    loss = ts.SpectralLoss(X, Y, STFTS, TERMS, bands=BANDS, bin_weights=WEIGHTS, stft_weights=SHARES)
    with ti.ad.Tape(loss.value):
        loss.compute()
    wanted = expected(x, y)
    assert loss.stft == tuple(STFTS)
    assert loss.value[None] == pytest.approx(wanted[0], rel=1e-5)
    assert sum(loss.values.values()) == pytest.approx(wanted[0], rel=1e-5)
    assert error(X.grad.to_numpy(), wanted[1]) < 1e-5
    assert error(Y.grad.to_numpy(), wanted[2]) < 1e-5


def test_a_fixed_target_is_analysed_at_each(restarted):
    x, y = signals(2, 400, dtype=np.float32)
    options = dict(stft=STFTS, terms=TERMS, bands=BANDS)
    value, grad = ts.value_and_grad(x, y, **options)
    fixed_value, fixed_grad = ts.value_and_grad(x, ts.Target.from_signal(y), **options)
    assert fixed_value == pytest.approx(value, rel=1e-6)
    assert error(fixed_grad, grad) < 1e-5


def magnitudes(x, n_fft, hop, win_length, pad):
    """|X| with a Hann window in the middle of each frame, of a signal padded by np.pad's arguments."""
    window = np.zeros(n_fft)
    start = (n_fft - win_length) // 2
    window[start : start + win_length] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    padded = np.pad(x, **pad)
    frames = [padded[f : f + n_fft] for f in range(0, len(padded) - n_fft + 1, hop)]
    return np.abs(np.fft.rfft(np.array(frames) * window, axis=1))  # (F, K)


def auraloss(x, y):
    """auraloss 0.4: `MultiResolutionSTFTLoss().forward`."""
    total = 0.0
    for n_fft, hop, win_length in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)):
        pad = dict(pad_width=n_fft // 2, mode="reflect")
        a, b = (np.sqrt(np.maximum(magnitudes(v, n_fft, hop, win_length, pad) ** 2, 1e-8)) for v in (x, y))
        convergence = np.linalg.norm(b - a) / np.linalg.norm(b)
        total += (convergence + np.mean(np.abs(np.log(a) - np.log(b)))) / 3
    return total


def ddsp(x, y):
    """DDSP: `SpectralLoss(mag_weight=1, logmag_weight=1)`; tf.signal.stft with pad_end."""
    total = 0.0
    for n_fft in (2048, 1024, 512, 256, 128, 64):
        hop = n_fft // 4
        last = (int(np.ceil(len(x) / hop)) - 1) * hop + n_fft
        a, b = (magnitudes(v, n_fft, hop, n_fft, dict(pad_width=(0, last - len(x)))) for v in (x, y))
        floor = lambda m: np.where(m <= 1e-5, 1e-5, m)  # noqa: E731
        total += np.mean(np.abs(a - b)) + np.mean(np.abs(np.log(floor(a)) - np.log(floor(b))))
    return total


def descript(x, y, sample_rate):
    """descript-audiotools: `MelSpectrogramLoss` with the codec's configuration (pow 1, mag_weight 0)."""
    total = 0.0
    for i, n_fft in enumerate((32, 64, 128, 256, 512, 1024, 2048)):
        mel = ts.mel_filterbank(5 * 2**i, n_fft, sample_rate)  # librosa's, proved in test_bands
        pad = dict(pad_width=n_fft // 2, mode="reflect")
        a, b = (np.maximum(magnitudes(v, n_fft, n_fft // 4, n_fft, pad) @ mel.T, 1e-5) for v in (x, y))
        total += np.mean(np.abs(np.log10(a) - np.log10(b)))
    return total


def recordings(seed):
    """Two signals with a loud, a quiet and a silent part; the length is no multiple of any hop."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 4567)) * np.repeat([1.0, 0.01, 0.0], [2000, 1000, 1567])
    return x, y


@pytest.mark.parametrize("preset,published", [
    (ts.presets.auraloss_multi_resolution(), auraloss),
    (ts.presets.ddsp_multi_scale(), ddsp),
    (ts.presets.descript_mel(16_000), lambda x, y: descript(x, y, 16_000)),
], ids=["auraloss", "ddsp", "descript"])  # fmt: skip
def test_presets_are_the_published_losses(running_cpu, preset, published):
    # auraloss floors the magnitudes of its convergence at 1e-4, too, which changes the norms where bins are silent
    tolerance = 1e-9 if published is auraloss else 1e-12
    for x, y in (recordings(3), signals(4, 4567)):
        assert ts.spectral_loss(x, y, **preset) == pytest.approx(published(x, y), rel=tolerance)


def test_auralosss_own_figure(running_cpu):
    """auraloss 0.4.0 in float64, run once on these two signals."""
    x, y = np.random.default_rng(0).standard_normal((2, 2, 16_000))[:, 0]
    value = ts.spectral_loss(x, y, **ts.presets.auraloss_multi_resolution())
    assert value == pytest.approx(1.3559733744637636, rel=1e-13)


def test_pad_end(restarted):
    """A frame starts at every multiple of the hop, and reads zeros beyond the end."""
    x, y = signals(5, 2, 100, dtype=np.float32)
    for n_fft, hop in ((32, 8), (32, 50), (128, 30)):
        stft = ts.STFT(n_fft, hop, pad_end=True)
        assert stft.n_frames(100) == -(-100 // hop)
        value, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
        wanted = ts.reference.value_and_grad(x, y, stft)
        longer = [np.pad(v, ((0, 0), (0, n_fft))) for v in (x, y)]
        whole = ts.STFT(n_fft, hop)
        frames = np.abs(ts.reference.stft(longer[0], whole))[..., : stft.n_frames(100)]
        assert error(np.abs(ts.reference.stft(x, stft)), frames) < 1e-12
        assert value == pytest.approx(wanted[0].sum(), rel=1e-5)
        assert error(grads[0], wanted[1]) < 1e-5
        assert error(grads[1], wanted[2]) < 1e-5


def test_same_bits(restarted):
    x, y = signals(6, 2, 400, dtype=np.float32)
    options = dict(wrt="both", stft=STFTS, terms=TERMS, bands=BANDS)
    value, grads = ts.value_and_grad(x, y, **options)
    for _ in range(2):
        again, again_grads = ts.value_and_grad(x.copy(), y.copy(), **options)
        assert again == value
        assert np.array_equal(again_grads, grads)
