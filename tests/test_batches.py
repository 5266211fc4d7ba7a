"""Batches: lengths and weights of items, and what a mean is over."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import error, field, signals

pytestmark = pytest.mark.usefixtures("direct")

TERMS = (ts.Magnitude(), ts.LogMagnitude(eps=0.1), ts.SpectralConvergence(weight=5.0), ts.Transport(), ts.Complex())
LENGTHS = (400, 123, 64, 251)
STFTS = [ts.STFT(64), ts.STFT(64, 10, center=True), ts.STFT(31, 40, center=True, pad_mode="constant"),
         ts.STFT(64, 15, pad_end=True)]  # fmt: skip


def padded(seed, dtype=np.float64, rubbish=1e3):
    """A batch whose items are followed by something loud that must not matter."""
    x, y = signals(seed, len(LENGTHS), max(LENGTHS), dtype=dtype)
    for b, length in enumerate(LENGTHS):
        x[b, length:], y[b, length:] = rubbish, -2 * rubbish
    return x, y


@pytest.mark.parametrize("stft", STFTS, ids=str)
@pytest.mark.parametrize("fixed", [False, True])
def test_items_are_cut_to_their_lengths(restarted, stft, fixed):
    x, y = padded(0, np.float32)
    target = ts.Target.from_signal(y) if fixed else y
    options = dict(stft=stft, terms=TERMS, reduction="none", lengths=LENGTHS)
    values, grads = ts.value_and_grad(x, target, wrt="x" if fixed else "both", **options)
    blocks, _ = ts.value_and_grad(x, target, scratch_bytes=20_000, **options)
    assert blocks == pytest.approx(values, rel=1e-5)
    for b, length in enumerate(LENGTHS):
        expected = ts.reference.value_and_grad(x[b, :length], y[b, :length], stft, TERMS)
        assert values[b] == pytest.approx(expected[0], rel=1e-5)
        for grad, wanted in zip([grads] if fixed else grads, expected[1:], strict=False):
            assert error(grad[b, :length], wanted) < 1e-4  # the logarithm's small bins
            assert not grad[b, length:].any()


@pytest.mark.parametrize("stft", STFTS, ids=str)
def test_nan_beyond_an_item_does_not_count(running_cpu, stft):
    x, y = padded(6)
    options = dict(wrt="both", stft=stft, terms=TERMS, lengths=LENGTHS, zero_phase="target")
    value, grads = ts.value_and_grad(x, y, **options)
    nan = [np.where(np.arange(400) < np.array(LENGTHS)[:, None], v, np.nan) for v in (x, y)]
    nan_value, nan_grads = ts.value_and_grad(*nan, check_finite=False, **options)
    assert nan_value == value
    assert np.array_equal(nan_grads, grads)


def test_one_target_ends_with_each_item(running_cpu):
    x, y = padded(1)
    stft = STFTS[1]
    values = ts.spectral_loss(x, ts.Target.from_signal(y[0]), stft=stft, terms=TERMS, reduction="none",
                              lengths=LENGTHS)  # fmt: skip
    for b, length in enumerate(LENGTHS):
        expected = ts.reference.value_and_grad(x[b, :length], y[0, :length], stft, TERMS)
        assert values[b] == pytest.approx(expected[0], rel=1e-12)


def test_target_magnitudes_beyond_an_item_do_not_count(running_cpu):
    x, _ = padded(2)
    stft = STFTS[0]
    magnitudes = np.random.default_rng(3).uniform(0, 5, (stft.n_bins, stft.n_frames(400)))
    terms = TERMS[:-1]
    values = ts.spectral_loss(x, ts.Target.from_magnitudes(magnitudes), stft=stft, terms=terms, reduction="none",
                              lengths=LENGTHS)  # fmt: skip
    for b, length in enumerate(LENGTHS):
        own = magnitudes[:, : stft.n_frames(length)]
        assert values[b] == pytest.approx(ts.reference.value_and_grad(x[b, :length], None, stft, terms, own)[0])


@pytest.mark.parametrize("bands", [None, np.random.default_rng(0).uniform(0, 1, (5, 33))], ids=["bins", "bands"])
def test_what_a_mean_is_over(running_cpu, bands):
    """Items; for sums over bins also the bins or bands and the item's own frames; for Transport the frames alone."""
    x, y = padded(4)
    stft = STFTS[0]
    terms = TERMS if bands is None else TERMS[:-1]
    item_weights = np.array([1.0, 2.0, 0.0, -3.0])
    options = dict(stft=stft, lengths=LENGTHS, item_weights=item_weights, bands=bands)
    value, grad = ts.value_and_grad(x, y, terms=terms, reduction="mean", **options)
    expected, gradient = 0.0, np.zeros_like(x)
    for b, length in enumerate(LENGTHS):
        frames = stft.n_frames(length)
        for term in terms:
            counts = {ts.SpectralConvergence: 1, ts.Transport: frames}
            count = counts.get(type(term), frames * (33 if bands is None else 5))
            part = ts.reference.value_and_grad(x[b, :length], y[b, :length], stft, (term,), bands=bands)
            scale = item_weights[b] / count / len(LENGTHS)
            expected += scale * part[0]
            gradient[b, :length] += scale * part[1]
    assert value == pytest.approx(expected, rel=1e-12)
    assert error(grad, gradient) < 1e-12


def test_fields_and_a_silent_item(restarted):
    x, y = padded(5, np.float32)
    x[1], y[2] = 0, 0
    X, Y = field(x), field(y)
    weights = [1.0, 0.5, 2.0, 1.0]
    loss = ts.SpectralLoss(X, Y, STFTS[0], TERMS, lengths=LENGTHS, item_weights=weights)
    with ti.ad.Tape(loss.value):
        loss.compute()
    expected = 0.0
    for b, length in enumerate(LENGTHS):
        part = ts.reference.value_and_grad(x[b, :length], y[b, :length], STFTS[0], TERMS)
        expected += weights[b] * part[0]
        assert error(X.grad.to_numpy()[b, :length], weights[b] * part[1]) < 1e-4 or not part[1].any()
        assert not X.grad.to_numpy()[b, length:].any()
    assert loss.value[None] == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(X.grad.to_numpy()).all()
    assert np.isfinite(Y.grad.to_numpy()).all()
