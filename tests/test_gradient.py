"""The backward pass, proved: against the reference, by the dot test, by finite differences, and by planted bugs."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import CASES, TOLERANCE, directional, dtypes, error, signals
from taichi_spec import runtime
from taichi_spec.arrays import upload
from taichi_spec.direct import DirectDFT
from taichi_spec.fft.memory import MemoryDFT
from taichi_spec.framing import IMAGES, Framing, framing
from taichi_spec.staged import BlockTransform

WAYS_BACK = ("accumulate", "per_bin", "atomic", "recompute")


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("engine", ["direct", "fft"])
def test_value_and_gradients_are_the_references(restarted, case, engine):
    if engine == "direct" and case.stft.n_fft >= 1000 and runtime.in_software(restarted):
        pytest.skip("large frames by the direct DFT are for GPUs, not for devices in software")
    for dtype in dtypes():
        x, y = signals(0, *case.shape, dtype=dtype)
        value, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", stft=case.stft, engine=engine)
        expected = ts.reference.value_and_grad(x, y, case.stft)
        assert value == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype])
        assert error(grad_x, expected[1]) < TOLERANCE[dtype]
        assert error(grad_y, expected[2]) < TOLERANCE[dtype]


SMALL = [case for case in CASES if case.stft.n_fft <= 64 and case.stft.n_frames(case.shape[-1]) <= 12]


@pytest.mark.parametrize("case", SMALL[::5], ids=str)
@pytest.mark.parametrize("backward", WAYS_BACK[1:])
def test_every_way_back_is_the_same(restarted, case, backward):
    for dtype in dtypes():
        x, y = signals(1, *case.shape, dtype=dtype)
        options = dict(wrt="both", stft=case.stft, terms=ts.Magnitude(weight=-2.5), engine="direct")
        expected = ts.value_and_grad(x, y, **options)
        result = ts.value_and_grad(x, y, backward=backward, **options)
        assert result[0] == expected[0]
        assert error(result[1][0], expected[1][0]) < TOLERANCE[dtype]
        assert error(result[1][1], expected[1][1]) < TOLERANCE[dtype]


@pytest.mark.parametrize("backward", WAYS_BACK)
def test_fixed_magnitudes(restarted, backward):
    for dtype in dtypes():
        x, y = signals(2, 2, 300, dtype=dtype)
        stft = ts.STFT(n_fft=32, center=True)
        magnitudes = np.abs(ts.reference.stft(y, stft)).astype(dtype)
        _, expected, _ = ts.reference.value_and_grad(x, None, stft, magnitudes=magnitudes)
        _, grad = ts.value_and_grad(x, ts.Target.from_magnitudes(magnitudes), stft=stft, backward=backward)
        assert error(grad, expected) < TOLERANCE[dtype]


def dot_test(stft, shape, dtype, dft):
    """⟨A x, G⟩ − ⟨x, Aᵀ G⟩, relative to the norms, for the kernels of transform and adjoint."""
    (x,) = signals(3, *shape, dtype=dtype, count=1)
    kind = ti.f64 if dtype == np.float64 else ti.f32
    transform = BlockTransform(stft, kind, False, *shape, 1, 2**28, dft)
    X, grad = transform.new_spectrum(), upload(np.zeros(shape), kind)
    transform.forward(upload(x, kind), X, 0, transform.n_frames)
    G = np.random.default_rng(4).standard_normal(X.shape).astype(dtype)
    transform.backward(upload(G, kind), grad, 0, transform.n_frames)
    spectrum = X.to_numpy().astype(np.float64)
    left, right = np.sum(spectrum * G), np.sum(x * grad.to_numpy().astype(np.float64))
    return abs(left - right) / (np.linalg.norm(spectrum) * np.linalg.norm(G))


@pytest.mark.parametrize("dft", [DirectDFT, MemoryDFT])
def test_dot(restarted, dft):
    for case in CASES[::3]:
        for dtype in dtypes():
            shape = case.shape if len(case.shape) == 2 else (1, *case.shape)
            assert dot_test(case.stft, shape, dtype, dft) < (1e-13 if dtype == np.float64 else 1e-6), str(case)


@pytest.mark.parametrize("engine,backward", [("fft", "accumulate"), *(("direct", way) for way in WAYS_BACK)])
@pytest.mark.parametrize("upstream", [1.0, -2.5, 0.0])
def test_finite_differences(running_cpu, engine, backward, upstream):
    x, y, d = signals(5, 300, count=3)
    options = dict(stft=ts.STFT(n_fft=32, hop_length=7, center=True), terms=ts.Magnitude(weight=upstream))
    _, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", engine=engine, backward=backward, **options)
    along_x = directional(lambda t: ts.spectral_loss(x + t * d, y, **options), 1e-4)
    along_y = directional(lambda t: ts.spectral_loss(x, y + t * d, **options), 1e-4)
    assert grad_x @ d == pytest.approx(along_x, rel=1e-7, abs=0)
    assert grad_y @ d == pytest.approx(along_y, rel=1e-7, abs=0)


@pytest.mark.parametrize("n_fft,n_samples,hop", [(64, 256, 1), (64, 256, 4), (64, 256, 16), (128, 256, 16),
                                                 (256, 256, 1), (64, 1024, 16)])  # fmt: skip
@pytest.mark.parametrize("window", ["boxcar", "hann"])
def test_dgens_gradient_magnitudes(running_cpu, n_fft, n_samples, hop, window):
    """Analytic over numeric derivative by the amplitude of a sine: 1 ± 1e-6 (DGen asks for ± 0.02)."""
    sine = np.sin(2 * np.pi * 200 / 2000 * np.arange(n_samples))
    options = dict(n_fft=n_fft, hop_length=hop, window=window)
    _, grad = ts.value_and_grad(0.75 * sine, 0.5 * sine, **options)
    numeric = directional(lambda t: ts.spectral_loss((0.75 + t) * sine, 0.5 * sine, **options), 1e-3)
    assert grad @ sine / numeric == pytest.approx(1, abs=1e-6)


def test_blocks_change_nothing_but_rounding(restarted):
    x, y = signals(6, 2, 3000, dtype=np.float32)
    options = dict(wrt="both", n_fft=64, center=True)
    value, grads = ts.value_and_grad(x, y, **options)
    in_blocks, block_grads = ts.value_and_grad(x, y, scratch_bytes=20_000, **options)
    assert in_blocks == pytest.approx(value, rel=1e-6)
    for grad, block_grad in zip(grads, block_grads, strict=True):
        assert error(block_grad, grad) < 1e-6


def test_recompute_at_the_mirrored_position_is_the_seeds_failure(running_cpu):
    """Recomputation is exact; with the sample at n = N − 1 − n instead, the gradient is "incorrect, lower"."""
    x, y = signals(7, 400)
    stft = ts.STFT(n_fft=32, window="boxcar")
    _, right, _ = ts.reference.value_and_grad(x, y, stft)
    X, Y = ts.reference.stft(x, stft), ts.reference.stft(y, stft)
    G = 2 * (np.abs(X) - np.abs(Y)) * ts.reference.direction(X)
    u = np.fft.ifft(G, n=32, axis=0).real * 32  # (N, F), one-sided: Σ_{k<K}
    wrong = np.zeros(400)
    for f in range(u.shape[1]):
        wrong[f * 8 : f * 8 + 32] += u[::-1, f]
    assert abs(wrong @ right) < 0.3 * np.linalg.norm(right) ** 2
    assert np.linalg.norm(wrong) < np.linalg.norm(right)
    _, recomputed = ts.value_and_grad(x, y, stft=stft, backward="recompute")
    assert error(recomputed, right) < 1e-12


def test_framing_is_its_own_adjoint(running_cpu):
    """`position` finds exactly the elements that `sample` reads, edges included."""
    for case in CASES[::5]:
        n_samples, stft = case.shape[-1], case.stft
        index, present = ts.reference.sources(n_samples, stft)
        table, count = ti.ndarray(ti.i32, index.shape), ti.ndarray(ti.i32, n_samples)
        count.fill(0)
        _read(table, count, framing(stft, n_samples))
        assert np.array_equal(table.to_numpy(), np.where(present, index, -1)), str(case)
        assert np.array_equal(count.to_numpy(), np.bincount(index[present], minlength=n_samples)), str(case)


@ti.kernel
def _read(table: ti.types.ndarray(), count: ti.types.ndarray(), fr: Framing):
    for f, n in ti.ndrange(fr.n_frames, fr.n_fft):
        table[f, n] = fr.sample(f, n)
    for s in range(fr.n_samples):
        for image in range(IMAGES):
            q = fr.position(s, image)
            if q >= 0:
                for f in range(fr.first(q), fr.last(q) + 1):
                    if fr.sample(f, q - f * fr.hop) == s:
                        count[s] += 1
