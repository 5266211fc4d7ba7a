"""Silence, constants, extreme amplitudes, one-sample hops, long signals: no NaN, no Inf the reference has not."""

import itertools

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import dtypes, error, signals
from taichi_spec.framing import framing, touched

T = 300
STFTS = [ts.STFT(n_fft=32), ts.STFT(n_fft=32, hop_length=1, center=True), ts.STFT(n_fft=7, hop_length=9)]


def contents(dtype):
    noise = np.random.default_rng(0).standard_normal(T)
    click = np.zeros(T)
    click[T // 2] = 1
    half = np.where(np.arange(T) < T // 2, 0, noise)
    signals = dict(silence=np.zeros(T), constant=np.ones(T), noise=noise, tiny=1e-20 * noise, huge=1e18 * noise,
                   click=click, half=half)  # fmt: skip
    return {name: values.astype(dtype) for name, values in signals.items()}


@pytest.mark.parametrize("engine", ["direct", "fft"])
@pytest.mark.parametrize("stft", STFTS, ids=str)
def test_no_nan_and_right(restarted, stft, engine):
    for dtype in dtypes():
        made = contents(dtype)
        pairs = list(itertools.product(made, made))
        x, y = (np.stack([made[pair[side]] for pair in pairs]) for side in range(2))
        options = dict(stft=stft, engine=engine, reduction="none")
        values, (grads_x, grads_y) = ts.value_and_grad(x, y, wrt="both", **options)
        expected, expected_x, expected_y = ts.reference.value_and_grad(x, y, stft)
        for i, pair in enumerate(pairs):
            assert np.isfinite(grads_x[i]).all(), pair
            assert np.isfinite(grads_y[i]).all(), pair
            assert not np.isnan(values[i]), pair
            assert np.isfinite(values[i]) or expected[i] > np.finfo(dtype).max, pair
            # A bin that is zero but for rounding has a direction that is rounding: bounded, not compared.
            if "constant" not in pair and "half" not in pair and pair[0] != pair[1]:
                loose = 1e-9 if dtype == np.float64 else 1e-4
                assert error(grads_x[i], expected_x[i]) < loose or not expected_x[i].any(), pair
                assert error(grads_y[i], expected_y[i]) < loose or not expected_y[i].any(), pair


def test_silence_has_a_zero_gradient_and_pulls_the_other(restarted):
    x = np.zeros(T, dtype=np.float32)
    (y,) = signals(1, T, dtype=np.float32, count=1)
    value, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", n_fft=32)
    assert value > 0
    assert not grad_x.any()
    assert error(grad_y, ts.reference.value_and_grad(x, y, ts.STFT(n_fft=32))[2]) < 1e-5


@pytest.mark.parametrize("p", [1, 2])
def test_silence_against_silence(restarted, p):
    x = np.zeros(T, dtype=np.float32)
    value, (grad_x, grad_y) = ts.value_and_grad(x, x.copy(), wrt="both", n_fft=32, terms=ts.Magnitude(p=p))
    assert value == 0
    assert not grad_x.any()
    assert not grad_y.any()


def test_samples_that_no_frame_reads_have_no_gradient(restarted):
    x, y = signals(2, 100, dtype=np.float32)
    _, grad = ts.value_and_grad(x, y, n_fft=16, hop_length=40)
    read = np.zeros(100, dtype=bool)
    for f in range(3):
        read[40 * f : 40 * f + 16] = True
    assert not grad[~read].any()
    assert grad[read].any()


def test_float32_sums_over_many_frames(running_cpu):
    """A long signal's total keeps its accuracy: frames are summed before they are added."""
    x, y = signals(3, 100_000, dtype=np.float32)
    expected = ts.reference.value_and_grad(x, y, ts.STFT(16, 1))[0]
    assert ts.spectral_loss(x, y, n_fft=16, hop_length=1) == pytest.approx(expected, rel=1e-5)


def test_touched_covers_what_a_block_reads():
    for stft, n_samples in itertools.product(
        [ts.STFT(8, 3), ts.STFT(9, 2, center=True), ts.STFT(8, 11, center=True), ts.STFT(8, 2, center=True,
         pad_mode="constant")], range(9, 30)):  # fmt: skip
        index, present = ts.reference.sources(n_samples, stft)
        for first in range(len(index)):
            for count in range(1, len(index) - first + 1):
                block = slice(first, first + count)
                read = index[block][present[block]]
                if read.size:
                    low, high = touched(stft, n_samples, first, count)
                    assert low <= read.min()
                    assert read.max() < high


def test_positions_do_not_overflow_at_the_longest_signal(running_cpu):
    """The index arithmetic of 2^30 samples, reflected, without the signal."""
    n_samples, stft = 2**30, ts.STFT(1024, 1, center=True)
    fr = framing(stft, n_samples)
    result = ti.field(ti.i32, shape=(4, 2))
    _positions(fr, n_samples, result)
    last = n_samples - 1
    assert result.to_numpy().tolist() == [[last + 512, 0], [last - 1, last + 1 + 512], [0, last - 511], [512, 0]]


@ti.kernel
def _positions(fr: ts.framing.Framing, n_samples: ti.i32, result: ti.template()):
    last = n_samples - 1
    result[0, 0] = fr.position(last, 0)
    result[1, 0] = fr.sample(fr.n_frames - 1, 512)  # one past the end: mirrored
    result[1, 1] = fr.position(last - 1, 2)
    result[2, 0] = fr.position(0, 2) + 1  # sample 0 has no image after the signal
    result[2, 1] = fr.first(fr.position(last, 0))
    result[3, 0] = fr.position(0, 0)
