"""What the tests share: random signals, errors relative to the whole, the grid of configurations."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.signal
import taichi as ti

import taichi_spec as ts
from taichi_spec import runtime

# Relative to the norm of the whole result. float64: a sum of N terms loses about √N ulp, and 1e-12 leaves a factor
# of 100 over N = 1024; float32 likewise, where a frame whose bin is nearly zero loses a little more.
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}

# Of parameters whose kernels take a device in software ten seconds to compile, and whose likes are tested there too.
large = pytest.mark.large


def skip_large_in_software(request, arch):
    """For fixtures of tests of which some are marked `large`."""
    if request.node.get_closest_marker("large") and runtime.in_software(arch):
        pytest.skip("large kernels are for GPUs, not for devices in software")


def signals(seed, *shape, dtype=np.float64, count=2):
    """`count` random signals of one shape."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(dtype)


def error(result, expected):
    """‖result − expected‖ / ‖expected‖, in float64."""
    result, expected = np.asarray(result, dtype=np.complex128), np.asarray(expected, dtype=np.complex128)
    difference, norm = np.linalg.norm(result - expected), np.linalg.norm(expected)
    return difference / norm if norm else difference


def directional(value, h):
    """The derivative of value(t) at t = 0 by a central difference of the fourth order."""
    return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)


def dtypes():
    """The dtypes that the running backend is tested with: float64 wherever it computes on the CPU or on CUDA."""
    return [np.float32] if runtime.arch_name() in ("vulkan", "metal") else [np.float64, np.float32]


def scipys_stft(x, stft):
    """The slices of `scipy.signal.ShortTimeFFT` that lie inside the signal, and where the first of them starts."""
    short = scipy.signal.ShortTimeFFT(stft.window_table, stft.hop_length, fs=1.0, mfft=stft.n_fft, phase_shift=None)
    slices = short.stft(x, p0=0, p1=short.p_max(len(x)))
    starts = np.arange(slices.shape[1]) * stft.hop_length - stft.n_fft // 2
    inside = (starts >= 0) & (starts + stft.n_fft <= len(x))
    return slices[:, inside], starts[inside][0]


def assert_items_agree(result, expected, weights, tolerance, gradients_tolerance):
    """Values and gradients of the items of a batch are the reference's times the items' weights."""
    (values, grads), (right_values, *right_grads) = result, expected
    assert values == pytest.approx(weights * right_values, rel=tolerance, abs=1e-30)
    for grad, right in zip(grads, right_grads, strict=True):
        assert np.isfinite(grad).all()
        for item, weight in enumerate(weights):
            assert error(grad[item], weight * right[item]) < gradients_tolerance, item


def check_silence(check, stft, terms, seed):
    """Silence in either or both signals, a silent stretch, a silent item in a batch, and a batch of extremes.

    check: compares value and gradients of two signals with the reference's.
    """
    for dtype in dtypes():
        x, y = signals(seed, 3, 400, dtype=dtype)
        x[0], y[1] = 0, 0
        x[2, 100:300] = 0
        for a, b in ((x, y), (y, x), (0 * x, y), (x, 0 * y), (0 * x, 0 * y)):
            check(a, b, stft, terms)
        for scale_x in (1e-20, 1e-12, 1e18):
            for scale_y in (0, 1e-20, 1, 1e18):
                scales = dtype(scale_x), dtype(scale_y)
                value, grads = ts.value_and_grad(x * scales[0], y * scales[1], wrt="both", stft=stft, terms=terms)
                assert np.isfinite(value) and np.isfinite(grads).all(), scales


def check_equal_frames(stft, terms, scale=1, **options):
    """Frames that are equal among others, and an item that is: there the norm of y, which `SpectralConvergence` divides by,
    still has its slope, and nothing else has. scale: of the signals' lengths."""
    for dtype in dtypes():
        x, y = signals(21, 3, 700 * scale, dtype=dtype)
        y[1, : 300 * scale], y[2] = x[1, : 300 * scale], x[2]
        _, (_, grad) = ts.value_and_grad(x, y, wrt="both", stft=stft, terms=terms, **options)
        expected = ts.reference.value_and_grad(x, y, stft, tuple(terms), **options)[2]
        assert error(grad, expected) < TOLERANCE[dtype]
        assert error(grad[1, : 200 * scale], expected[1, : 200 * scale]) < 10 * TOLERANCE[dtype]


def field(values, needs_grad=True):
    """A field with these values."""
    array = np.asarray(values)
    made = ti.field(ti.f64 if array.dtype == np.float64 else ti.f32, shape=array.shape, needs_grad=needs_grad)
    made.from_numpy(array)
    return made


@dataclass(frozen=True)
class Case:
    """One configuration of the grid."""

    stft: ts.STFT
    shape: tuple[int, ...]

    def __str__(self):
        s = self.stft
        window = s.window if isinstance(s.window, str) else "array" if isinstance(s.window[0], float) else s.window[0]
        edges = s.pad_mode if s.center else "none"
        return f"{s.n_fft}-hop{s.hop_length}-win{s.win_length}-{window}-{edges}-{'x'.join(map(str, self.shape))}"


SIZES = (2, 3, 7, 16, 63, 64, 97, 128, 1000, 1024)


def grid(sizes=SIZES):
    """Every n_fft with hops 1, below, equal to and above it and every edge; lengths that end exactly at, one before
    and one after a frame (two of the three), windows, window lengths and batches take turns."""
    choices = itertools.product(sizes, ("one", "below", "equal", "above"), ("none", "reflect", "constant"), range(2))
    for i, (n_fft, hops, edge, which) in enumerate(choices):
        extra = ((-1, 0), (0, 1), (1, -1))[i // 2 % 3][which]
        hop = {"one": 1, "below": max(1, n_fft // 3), "equal": n_fft, "above": n_fft + n_fft // 2 + 1}[hops]
        win_length = (n_fft, max(1, n_fft // 2 + 1), n_fft, max(1, n_fft - 1))[i % 4]
        array = tuple(np.random.default_rng(i).uniform(0.1, 1, win_length))
        window = ("hann", "hamming", "blackman", "boxcar", ("kaiser", 8.6), array)[i % 6]
        stft = ts.STFT(n_fft, hop, win_length, window, edge != "none", edge if edge != "none" else "reflect",
                       (None, "window", None, "frame_length")[i // 7 % 4])  # fmt: skip
        least = {"none": n_fft, "reflect": stft.pad + 1, "constant": 1}[edge]
        n_samples = max(n_fft + 3 * hop + extra - 2 * stft.pad, least)
        if stft.n_frames(n_samples) > 200:
            continue  # reflected large frames at hop 1: the direct DFT takes too long, smaller ones are there
        shape = ((n_samples,), (n_samples,), (2, n_samples), (1, n_samples), (3, n_samples))[i % 5]
        yield Case(stft, shape)


CASES = list(grid())
assert len(set(map(str, CASES))) >= 200
