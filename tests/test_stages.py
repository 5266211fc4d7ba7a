"""The fused engines, the CPU's and the GPU's, on what is more than a sum over whole bins.

A set of terms is a kernel that takes seconds to compile, for each dtype: most tests share one of two sets.
"""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import (
    TOLERANCE,
    assert_items_agree,
    check_equal_frames,
    check_silence,
    directional,
    dtypes,
    error,
    field,
    large,
    signals,
    skip_large_in_software,
)
from taichi_spec import functional, runtime
from taichi_spec.engines import Options, make_engine
from taichi_spec.fft import matrix, matrix_layout, matrix_stages
from taichi_spec.fft.blocks import BlocksEngine
from taichi_spec.fft.lanes import LanesEngine
from taichi_spec.fft.matrix import MatrixEngine
from taichi_spec.several import FusedSum

STFTS = [ts.STFT(64), ts.STFT(64, 15, center=True), ts.STFT(128, 200, 100, center=True, pad_mode="constant")]
PITCH = [ts.Transport(weight=100.0), ts.LogMagnitude(eps=0.1)]
MIXED = [
    ts.Magnitude(p=1, weight=0.5),
    ts.SpectralConvergence(weight=30.0),
    ts.Power(weight=0.1),
    ts.Transport(weight=-200.0, floor=0.1),
    ts.Transport(p=2, quantity="magnitude", floor=0.0, weight=100.0),
]
PHASE = [ts.Complex(p=1), ts.Magnitude(p=1), ts.Complex(p=2, weight=0.2), ts.Power(weight=0.1)]


@pytest.fixture(autouse=True)
def frames_lie(request, gpu_engines, restarted, monkeypatch):
    """On a GPU in registers, where that is possible, or in what a parameter says: each engine takes what others leave."""
    skip_large_in_software(request, restarted)
    where = getattr(request, "param", "")
    if where and restarted == "cpu":
        pytest.skip("cpu has one engine for all sizes")
    for before in {"": (), "in_shared_memory": ("blocks",), "in_memory": ("blocks", "frames")}[where]:
        monkeypatch.setattr(f"taichi_spec.fft.{before}.supports", lambda *sizes: False)
    monkeypatch.setattr(matrix_layout, "GRID", 32)  # so few blocks that each has several lines, or frames
    monkeypatch.setattr(matrix_layout, "FRAMES_AT_WORK", 16)
    if runtime.in_software(restarted):  # which takes its time for each thread that waits
        monkeypatch.setattr(matrix_stages, "THREADS", 64)
        monkeypatch.setattr(matrix_stages, "GROUP", 4)
    in_teams = MatrixEngine if where == "in_memory" else BlocksEngine
    monkeypatch.setattr(is_fused, "kind", LanesEngine if restarted == "cpu" else in_teams, raising=False)
    functional._recent.clear()  # engines of other tests


both_teams = pytest.mark.parametrize("frames_lie", ["", "in_shared_memory"], indirect=True)
every_engine = pytest.mark.parametrize("frames_lie", ["", "in_shared_memory", "in_memory"], indirect=True)


def is_fused(engine=None):
    """Whether the most recent call, or this engine's, is done by the engines under test."""
    engine = engine or next(reversed(functional._recent.values())).engine
    every = engine.engines if isinstance(engine, FusedSum) else [engine]
    return all(isinstance(each, is_fused.kind) for each in every)


def float64_or_skip():
    """For what float32 is too coarse for."""
    if np.float64 not in dtypes():
        pytest.skip("finite differences need float64, which this backend does not have")


def skip_on_the_cpu():
    """For sizes that others stand for there: it has one piece of code to compare the bins of all of them."""
    if runtime.arch_name() == "cpu":
        pytest.skip("cpu compares the bins of all sizes alike")


def bands(n_bins, n_bands=9):
    """A matrix with gaps, overlaps and a band without bins."""
    rng = np.random.default_rng(0)
    matrix = rng.uniform(0.1, 1, (n_bands, n_bins)) * (rng.uniform(0, 1, (n_bands, n_bins)) < 0.3)
    matrix[3] = 0
    return matrix


def bin_weights(n_bins):
    return np.random.default_rng(1).uniform(-1, 2, n_bins)


def check(x, y, stft, terms, item_weights=None, **options):
    """Value and both gradients against the reference."""
    weights = np.ones(len(x)) if item_weights is None else np.array(item_weights)
    result = ts.value_and_grad(x, y, wrt="both", stft=stft, terms=terms, item_weights=item_weights,
                               reduction="none", **options)  # fmt: skip
    assert is_fused()
    expected = ts.reference.value_and_grad(x, y, stft, tuple(terms), **options)
    assert_items_agree(result, expected, weights, TOLERANCE[x.dtype.type], TOLERANCE[x.dtype.type])


@both_teams
@pytest.mark.parametrize("stft", STFTS, ids=str)
def test_pitch_and_level(stft):
    for dtype in dtypes():
        # With seed 1, a float32 difference of Transport falls on the other side of its kink.
        x, y = signals(15, 3, 700, dtype=dtype)
        check(x, y, stft, PITCH, item_weights=[1.0, -2.0, 0.5])


def test_weighted_bins_of_a_mixture():
    stft, dtype = STFTS[1], dtypes()[0]
    x, y = signals(2, 3, 700, dtype=dtype)
    y[1] *= dtype(1e-3)
    check(x, y, stft, MIXED, item_weights=[1.0, -2.0, 0.5], bin_weights=bin_weights(stft.n_bins))


@pytest.mark.parametrize("stft", STFTS[1:], ids=str)
def test_bands(stft):
    for dtype in dtypes():
        x, y = signals(3, 3, 700, dtype=dtype)
        options = dict(bands=bands(stft.n_bins))
        check(x, y, stft, PITCH, **options)
        check(x, y, stft, PITCH, bin_weights=bin_weights(stft.n_bins), **options)


@pytest.mark.parametrize("n_fft", [64, 67])
def test_bands_of_a_mixture(n_fft):
    """One of the sizes by Bluestein's way."""
    if n_fft == 64:
        skip_on_the_cpu()
    stft = ts.STFT(n_fft, 20)
    x, y = signals(4, 3, 300, dtype=dtypes()[0])
    x[2], y[0] = 0, 0
    check(x, y, stft, MIXED, bands=bands(stft.n_bins), bin_weights=bin_weights(stft.n_bins))


@every_engine
@pytest.mark.parametrize("stft", STFTS[1:], ids=str)
def test_terms_on_spectra(stft):
    for dtype in dtypes():
        x, y = signals(16, 3, 700, dtype=dtype)
        y[1] *= dtype(1e-3)
        check(x, y, stft, PHASE, bin_weights=bin_weights(stft.n_bins), item_weights=[1.0, -2.0, 0.5])


@pytest.mark.parametrize("n_fft,banded", [(90, True), (75, False), (74, False)])
def test_sizes_that_are_no_power_of_two(n_fft, banded):
    """An odd one too, which has no bin at half the sample rate; and an even one by Bluestein's way."""
    if n_fft != 75:
        skip_on_the_cpu()
    stft, terms = (ts.STFT(n_fft, 30), PITCH) if banded else (ts.STFT(n_fft, 20, center=True), PHASE)
    x, y = signals(21, 2, 400, dtype=np.float32)
    check(
        x, y, stft, terms, **(dict(bands=bands(stft.n_bins)) if banded else dict(bin_weights=bin_weights(stft.n_bins)))
    )


@pytest.mark.parametrize("terms", [PHASE, [ts.Magnitude(p=1), ts.LogMagnitude(eps=0.1)]], ids=["phase", "magnitude"])
def test_what_moves_silence(terms):
    """Complex does, and so does the target's direction on request: of x alone, and where X is 0, nowhere else."""
    dtype = dtypes()[0]
    x, y = signals(17, 4, 400, dtype=dtype)
    x[0], y[1] = 0, 0
    x[2, 100:300], y[2, 200:350] = 0, 0
    x[3], y[3] = 0, 0
    options = dict(bin_weights=bin_weights(33), zero_phase="target")
    check(x, y, STFTS[0], terms, **options)
    value, grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=STFTS[0], terms=terms, **options)
    assert is_fused()
    expected = ts.reference.value_and_grad(x, y, STFTS[0], tuple(terms), **options)
    assert value == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype])
    assert error(grad, expected[1]) < TOLERANCE[dtype]
    assert np.abs(expected[1][0]).max() > 0
    check(x, y, STFTS[0], PHASE)


@every_engine
def test_the_targets_direction_of_bands():
    x, y = signals(18, 2, 400, dtype=dtypes()[0])
    x[0] = 0
    check(x, y, STFTS[0], [ts.Magnitude(p=1), ts.LogMagnitude(eps=0.1)], bands=bands(33), zero_phase="target")


LENGTHS = (400, 123, 64, 8_000, 251, 4_000)
SMOOTH = [ts.Transport(p=2, weight=100.0), ts.LogMagnitude(eps=0.1)]  # no kink that float32 falls on another side of


CUT = [*STFTS[:2], ts.STFT(64, 15, pad_end=True), ts.STFT(64, 100, center=True)]


@pytest.mark.parametrize(
    "frames_lie,stft,terms,scratch_bytes",
    [
        ("", CUT[0], [ts.Magnitude()], 2**28),
        ("", CUT[1], [ts.Magnitude()], 2**28),
        pytest.param("", CUT[2], SMOOTH, 2**28, marks=large),
        ("", CUT[3], PHASE, 2**28),
        pytest.param("in_memory", CUT[2], SMOOTH, 2**17, marks=large),  # in several chunks
        ("in_memory", CUT[3], PHASE, 2**17),
    ],
    indirect=["frames_lie"],
)
def test_items_are_cut_to_their_lengths(stft, terms, scratch_bytes):
    """Short items have segments without frames, and whatever lies in memory and beyond an item does not count."""
    dtype = dtypes()[0]
    x, y = signals(19, len(LENGTHS), max(LENGTHS), dtype=dtype)
    for item, length in enumerate(LENGTHS):
        x[item, length:], y[item, length:] = np.nan, np.nan
    options = dict(stft=stft, terms=terms, lengths=LENGTHS, reduction="none", check_finite=False,
                   scratch_bytes=scratch_bytes)  # fmt: skip
    values, grads = ts.value_and_grad(x, y, wrt="both", **options)
    assert is_fused()
    evaluation = next(reversed(functional._recent.values()))
    engine = evaluation.engine
    kept = {**vars(engine), **(vars(engine.stages) if isinstance(engine, MatrixEngine) else {})}
    left_over = [kept[name] for name in ("scratch", "halo", "edge", "work", "bins", "cells") if name in kept]
    assert left_over
    if isinstance(engine, MatrixEngine):
        assert sum(np.prod(array.shape) for array in left_over) * np.dtype(dtype).itemsize <= scratch_bytes
    for used in (*left_over, evaluation.grad_x, evaluation.grad_y):
        used.fill(np.nan)
    again, again_grads = ts.value_and_grad(x, y, wrt="both", **options)
    assert np.array_equal(again, values)
    assert np.array_equal(again_grads, grads)
    target = ts.Target.from_signal(y, check_finite=False)
    fixed, fixed_grad = ts.value_and_grad(x, target, **options)
    assert is_fused()
    for item, length in enumerate(LENGTHS):
        expected = ts.reference.value_and_grad(x[item, :length], y[item, :length], stft, tuple(terms))
        assert values[item] == pytest.approx(expected[0], rel=TOLERANCE[dtype])
        assert fixed[item] == pytest.approx(expected[0], rel=TOLERANCE[dtype])
        for grad, wanted in zip((*grads, fixed_grad), (*expected[1:], expected[1]), strict=True):
            assert error(grad[item, :length], wanted) < TOLERANCE[dtype], item
            assert not grad[item, length:].any()


def test_several_resolutions_add_up_at_edges_and_ends():
    """Of reflected edges, items cut short, samples that no frame reaches, and frames that end beyond the signal."""
    dtype, lengths = dtypes()[0], (400, 123, 251)
    x, y = signals(20, 3, 400, dtype=dtype)
    terms, stfts = [ts.Magnitude(), ts.SpectralConvergence()], CUT[:0:-1]
    values, grads = ts.value_and_grad(x, y, wrt="both", stft=stfts, terms=terms, lengths=lengths, reduction="none")
    assert is_fused()
    for item, length in enumerate(lengths):
        cut = x[item, :length], y[item, :length]
        every = [ts.reference.value_and_grad(*cut, stft, tuple(terms)) for stft in stfts]
        value, *expected = (sum(parts) for parts in zip(*every, strict=True))
        assert values[item] == pytest.approx(value, rel=TOLERANCE[dtype])
        for grad, wanted in zip(grads, expected, strict=True):
            assert error(grad[item, :length], wanted) < TOLERANCE[dtype]
            assert not grad[item, length:].any()


@every_engine
@pytest.mark.parametrize("banded", [False, True])
def test_finite_differences(banded):
    float64_or_skip()
    x, y, d = signals(5, 2, 300, count=3)
    stft = STFTS[1]
    options = dict(stft=stft, terms=PITCH, bands=bands(stft.n_bins) if banded else None,
                   bin_weights=bin_weights(stft.n_bins), item_weights=[2.0, -1.0])  # fmt: skip
    _, (grad_x, grad_y) = ts.value_and_grad(x, y, wrt="both", **options)
    along_x = directional(lambda t: ts.spectral_loss(x + t * d, y, **options), 1e-5)
    along_y = directional(lambda t: ts.spectral_loss(x, y + t * d, **options), 1e-5)
    assert is_fused()
    assert np.sum(grad_x * d) == pytest.approx(along_x, rel=1e-7)
    assert np.sum(grad_y * d) == pytest.approx(along_y, rel=1e-7)


@every_engine
@pytest.mark.parametrize("kind", ["signal", "(K,)", "(B, K, F)"])
def test_fixed_target(kind):
    """An odd number of frames, too: the last step of a segment has one instead of two."""
    stft, dtype = STFTS[1], dtypes()[0]
    x, y = signals(6, 3, 500, dtype=dtype)
    magnitudes = np.abs(ts.reference.stft(y, stft))
    magnitudes = magnitudes[0, :, 3] if kind == "(K,)" else magnitudes
    full = magnitudes[:, None] if kind == "(K,)" else magnitudes
    target = ts.Target.from_signal(y) if kind == "signal" else ts.Target.from_magnitudes(magnitudes)
    options = dict(bands=bands(stft.n_bins), bin_weights=bin_weights(stft.n_bins))
    values, grad = ts.value_and_grad(x, target, stft=stft, terms=MIXED, reduction="none", **options)
    assert is_fused()
    expected = ts.reference.value_and_grad(x, None, stft, tuple(MIXED), magnitudes=full, **options)
    assert values == pytest.approx(expected[0], rel=TOLERANCE[dtype])
    assert error(grad, expected[1]) < TOLERANCE[dtype]


@every_engine
def test_silence():
    check_silence(check, STFTS[0], PITCH, seed=7)


@both_teams
@pytest.mark.parametrize("level", [1e-6, 1e-3, 1e5])
def test_one_signal_is_quieter_by_far(level):
    """Transport's gradient is the steeper the quieter the signal: neither spoils the other in their one transform."""
    for dtype in dtypes():
        x, y = signals(8, 2, 400, dtype=dtype)
        check(x, y * dtype(level), STFTS[1], PITCH[:1])


def test_equal_frames_are_at_distance_zero():
    for dtype in dtypes():
        x, y = signals(9, 2, 400, dtype=dtype)
        y[0] = x[0]
        for options in (dict(terms=PITCH), dict(terms=PITCH, bands=bands(STFTS[1].n_bins)), dict(terms=PHASE)):
            values, grads = ts.value_and_grad(x, y, wrt="both", stft=STFTS[1], reduction="none", **options)
            assert is_fused()
            assert values[0] == 0 < values[1]
            assert not grads[0][0].any() and not grads[1][0].any()
            assert grads[0][1].any() and grads[1][1].any()


@every_engine
def test_equal_frames_among_others():
    check_equal_frames(STFTS[1], MIXED, bin_weights=bin_weights(STFTS[1].n_bins))
    assert is_fused()


@both_teams
def test_the_first_of_equal_largest_bins_moves_the_floor():
    """Half an impulse half a frame after a whole one: the even bins are 1.5 and the odd ones 0.5, exactly."""
    stft = ts.STFT(64, 64, window="boxcar")
    dtype = dtypes()[0]
    x = np.zeros((1, 64 * 5), dtype)
    x[:, ::64], x[:, 32::64] = 1, 0.5
    magnitudes = np.random.default_rng(10).uniform(0, 1, 33).astype(dtype)
    value, grad = ts.value_and_grad(x, ts.Target.from_magnitudes(magnitudes), stft=stft, terms=PITCH)
    assert is_fused()
    expected = ts.reference.value_and_grad(x, None, stft, tuple(PITCH), magnitudes=magnitudes[:, None])
    assert value == pytest.approx(expected[0], rel=TOLERANCE[dtype])
    assert error(grad, expected[1]) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    "frames_lie",
    ["", pytest.param("in_shared_memory", marks=large), pytest.param("in_memory", marks=large)],
    indirect=True,
)
def test_same_bits(restarted):
    """Long enough for several segments of several runs; or runs, of a device in software."""
    x, y = signals(11, 3, 4000 if runtime.in_software(restarted) else 20_000, dtype=np.float32)
    options = dict(wrt="both", stft=STFTS[0], terms=PITCH, bands=bands(33), reduction="none")
    values, grads = ts.value_and_grad(x, y, **options)
    assert is_fused()
    for _ in range(3):
        again, again_grads = ts.value_and_grad(x.copy(), y.copy(), **options)
        assert np.array_equal(again, values)
        assert np.array_equal(again_grads, grads)


@pytest.mark.parametrize("frames_lie", ["in_memory"], indirect=True)
def test_a_second_engine_of_the_same_sizes_compiles_nothing():
    """Nor does one of other weights and another length."""
    options = [Options.check(STFTS[0], PITCH, bin_weights=bin_weights(33) + shift) for shift in (0, 1)]
    kernels = (
        matrix.column_kernels,
        matrix.row_kernels,
        matrix.stages_kernel,
        matrix.gather_kernel,
        matrix.sums_kernels,
    )
    misses = []
    for some, length in ((options[0], 400), (options[0], 400), (options[1], 900)):
        x, y, grad_x, grad_y = (ti.ndarray(ti.f32, (2, length)) for _ in range(4))
        engine = make_engine(some, ti.f32, False, 2, length, None)
        engine.value_and_grad(x, y, ti.ndarray(ti.f32, 2), grad_x, grad_y)
        assert is_fused(engine)
        misses.append([kernel.cache_info().misses for kernel in kernels])
    assert misses[0] == misses[1] == misses[2]


def test_several_resolutions_of_fields_on_a_tape():
    dtype = dtypes()[0]
    x, y = signals(12, 1, 400, dtype=dtype)
    X, Y = field(x[0]), field(y[0])
    every = [bands(stft.n_bins) for stft in STFTS[:2]]
    loss = ts.SpectralLoss(X, Y, STFTS[:2], PITCH, bands=every, stft_weights=[1.0, -2.0])
    with ti.ad.Tape(loss.value):
        loss.compute()
    assert is_fused(loss._engine)
    expected = np.zeros(3, dtype=object)
    for stft, weight, filters in zip(STFTS[:2], (1, -2), every, strict=True):
        parts = ts.reference.value_and_grad(x[0], y[0], stft, tuple(PITCH), bands=filters)
        expected += np.array([weight * part for part in parts], dtype=object)
    assert loss.value[None] == pytest.approx(expected[0], rel=TOLERANCE[dtype])
    assert error(X.grad.to_numpy(), expected[1]) < TOLERANCE[dtype]
    assert error(Y.grad.to_numpy(), expected[2]) < TOLERANCE[dtype]
