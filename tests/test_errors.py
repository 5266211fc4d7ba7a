"""Bad input: a clear error that names the parameter and its value, before any kernel runs and nothing changed."""

import os

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import field
from taichi_spec import runtime

GOOD = np.ones(2048)


def refused(error, *words):
    """A context that expects `error` with every word in its message."""
    return pytest.raises(error, match="".join(f"(?=[\\s\\S]*{word})" for word in words))


@pytest.mark.parametrize(
    "arguments,error,words",
    [
        (dict(n_fft=1), ValueError, ("n_fft", "1")),
        (dict(n_fft=512.0), TypeError, ("n_fft", "512.0")),
        (dict(n_fft=True), TypeError, ("n_fft", "True")),
        (dict(n_fft="64"), TypeError, ("n_fft", "'64'")),
        (dict(hop_length=0), ValueError, ("hop_length", "0")),
        (dict(hop_length=-3), ValueError, ("hop_length", "-3")),
        (dict(hop_length=2.5), TypeError, ("hop_length", "2.5")),
        (dict(win_length=0), ValueError, ("win_length", "0")),
        (dict(n_fft=64, win_length=65), ValueError, ("win_length", "64", "65")),
        (dict(window="hamm1ng"), ValueError, ("window", "hamm1ng")),
        (dict(window=("kaiser",)), ValueError, ("window", "kaiser")),
        (dict(n_fft=4, window=[1.0, 2.0]), ValueError, ("window", "win_length = 4", "2")),
        (dict(n_fft=2, window=[[1.0], [2.0]]), ValueError, ("window", r"\(2, 1\)")),
        (dict(n_fft=2, window=[1.0, np.nan]), ValueError, ("window", "finite")),
        (dict(n_fft=2, window=[1j, 1.0]), TypeError, ("window", "1j")),
        (dict(n_fft=2, window=None), TypeError, ("window", "None")),
        (dict(n_fft=2, window=[0.0, 0.0], normalized="window"), ValueError, ("window", "zeros")),
        (dict(pad_mode="wrap"), ValueError, ("pad_mode", "wrap")),
        (dict(center=1), TypeError, ("center", "1")),
        (dict(normalized=True), ValueError, ("normalized", "True")),
        (dict(pad_end=1), TypeError, ("pad_end", "1")),
        (dict(pad_end=True, center=True), ValueError, ("pad_end", "center", "True")),
    ],
    ids=str,
)
def test_stft(arguments, error, words):
    with refused(error, *words):
        ts.STFT(**arguments)


@pytest.mark.parametrize(
    "stft,n_samples,error,words",
    [
        (ts.STFT(64), 0, ValueError, ("n_samples", "0")),
        (ts.STFT(64), 63, ValueError, ("n_samples", "64", "63")),
        (ts.STFT(64, center=True), 32, ValueError, ("n_samples", "32", "reflected")),
        (ts.STFT(64), 100.0, TypeError, ("n_samples", "100.0")),
        (ts.STFT(64), 2**30 + 1, ValueError, ("n_samples", str(2**30 + 1))),
    ],
    ids=str,
)
def test_signal_length(stft, n_samples, error, words):
    with refused(error, *words):
        stft.n_frames(n_samples)


def test_sample_rate():
    for rate, error in ((0, ValueError), (-1, ValueError), (np.nan, ValueError), ("fast", TypeError)):
        with refused(error, "sample_rate", str(rate)):
            ts.STFT().frequencies(rate)


@pytest.mark.parametrize(
    "x,y,options,error,words",
    [
        (np.ones(2048, dtype=int), GOOD, {}, TypeError, ("x", "int64")),
        (np.ones(2048, dtype=complex), GOOD, {}, TypeError, ("x", "complex128")),
        (np.ones(2048, dtype=np.float16), GOOD, {}, TypeError, ("x", "float16")),
        (GOOD, GOOD.astype(np.float32), {}, ValueError, ("y", "float64", "float32")),
        (GOOD, GOOD[:-1], {}, ValueError, ("y", "2048", "2047")),
        (np.float64(1), GOOD, {}, ValueError, ("x", "dimension")),
        (np.ones(0), np.ones(0), {}, ValueError, ("x", "empty", r"\(0,\)")),
        (np.ones(100), np.ones(100), {}, ValueError, ("n_samples", "1024", "100")),
        (np.where(np.arange(2048) == 7, np.nan, 1), GOOD, {}, ValueError, ("x", "nan", "7")),
        (GOOD, np.where(np.arange(2048) == 7, np.inf, 1), {}, ValueError, ("y", "inf", "7")),
        (GOOD, GOOD, dict(n_fft=0), ValueError, ("n_fft", "0")),
        (GOOD, GOOD, dict(stft=1024), TypeError, ("stft", "int")),
        (GOOD, GOOD, dict(stft=ts.STFT(), n_fft=64), TypeError, ("stft", "n_fft")),
        (GOOD, GOOD, dict(nfft=64), TypeError, ("nfft",)),
        (GOOD, GOOD, dict(terms=[]), ValueError, ("terms", r"\[\]")),
        (GOOD, GOOD, dict(terms="l1"), TypeError, ("terms", "l1")),
        (GOOD, GOOD, dict(reduction="avg"), ValueError, ("reduction", "avg")),
        (GOOD, GOOD, dict(engine="fast"), ValueError, ("engine", "fast")),
        (GOOD, GOOD, dict(backward="magic"), ValueError, ("backward", "magic")),
        (GOOD, GOOD, dict(engine="fft", backward="atomic"), ValueError, ("backward", "atomic", "fft")),
        (GOOD, GOOD, dict(wrt="z"), ValueError, ("wrt", "z")),
        (GOOD, GOOD, dict(scratch_bytes=0), ValueError, ("scratch_bytes", "0")),
        (GOOD, GOOD, dict(scratch_bytes=1e6), TypeError, ("scratch_bytes",)),
        (GOOD, GOOD, dict(backward="per_bin", scratch_bytes=10**6), ValueError,
         ("per_bin", str(5 * 1024 * 513 * 8), "1000000")),
        (GOOD, ts.Target.from_signal(GOOD[:-1]), {}, ValueError, ("target", "2048", "2047")),
        (GOOD, ts.Target.from_magnitudes(np.ones(100)), {}, ValueError, ("target", "513", "100")),
        (GOOD, ts.Target.from_magnitudes(np.ones((513, 4))), {}, ValueError, ("target", "513, 5", "513, 4")),
        (GOOD, ts.Target.from_signal(GOOD), dict(wrt="both"), ValueError, ("wrt", "both")),
        (GOOD, GOOD, dict(stft=[]), ValueError, ("stft", r"\[\]")),
        (GOOD, GOOD, dict(stft=[ts.STFT(), 512]), TypeError, ("stft", "int")),
        (GOOD, GOOD, dict(stft=[ts.STFT(), ts.STFT(4096)]), ValueError, ("n_samples", "4096", "2048")),
        (GOOD, GOOD, dict(bands=np.ones((3, 512))), ValueError, ("bands", "n_bands, 513", "3, 512")),
        (GOOD, GOOD, dict(bands=np.ones((0, 513))), ValueError, ("bands", "0, 513")),
        (GOOD, GOOD, dict(bands="mel"), TypeError, ("bands", "<U3")),
        (GOOD, GOOD, dict(bands=np.full((3, 513), np.nan)), ValueError, ("bands", "nan")),
        (GOOD, GOOD, dict(bands=np.ones((3, 513)), terms=ts.Complex()), ValueError, ("bands", "Complex")),
        (GOOD, GOOD, dict(bands=-np.ones((3, 513)), terms=ts.Transport()), ValueError, ("bands", "Transport", "-1")),
        (GOOD, GOOD, dict(stft=[ts.STFT()] * 2, bands=[None]), ValueError, ("bands", "2", "1")),
        (GOOD, GOOD, dict(bin_weights=np.ones(512)), ValueError, ("bin_weights", "513", "512")),
        (GOOD, GOOD, dict(stft=[ts.STFT()], stft_weights=[1.0, 2.0]), ValueError, ("stft_weights", "1", "2")),
        (GOOD, GOOD, dict(stft=[ts.STFT()], stft_weights=["1"]), TypeError, ("stft_weights", "'1'")),
        (GOOD, GOOD, dict(stft=[ts.STFT()], stft_weights=[np.inf]), ValueError, ("stft_weights", "inf")),
        (GOOD, GOOD, dict(item_weights=[1.0, 2.0]), ValueError, ("item_weights", "1", "2")),
        (GOOD, GOOD, dict(item_weights=[np.nan]), ValueError, ("item_weights", "nan")),
        (GOOD, GOOD, dict(lengths=2048), TypeError, ("lengths", "2048")),
        (GOOD, GOOD, dict(lengths=[2048.0]), TypeError, ("lengths", "2048.0")),
        (GOOD, GOOD, dict(lengths=[0]), ValueError, ("lengths", "0")),
        (GOOD, GOOD, dict(lengths=[2049]), ValueError, ("lengths", "2048", "2049")),
        (GOOD, GOOD, dict(lengths=[1000]), ValueError, ("lengths", "1024", "1000")),
        (GOOD, GOOD, dict(lengths=[2048, 2048]), ValueError, ("lengths", "1", "2")),
        (GOOD, GOOD, dict(zero_phase="y"), ValueError, ("zero_phase", "y")),
        (GOOD, GOOD, dict(backward="recompute", terms=ts.Transport()), ValueError, ("backward", "recompute")),
        (GOOD, GOOD, dict(backward="atomic", bin_weights=np.ones(513)), ValueError, ("backward", "atomic")),
        (GOOD, ts.Target.from_magnitudes(np.ones(513)), dict(zero_phase="target"), ValueError, ("target", "phase")),
        (GOOD, ts.Target.from_magnitudes(np.ones(513)), dict(terms=ts.Complex()), ValueError, ("target", "Complex")),
    ],
)  # fmt: skip
def test_numpy(cpu, x, y, options, error, words):
    with refused(error, *words):
        ts.value_and_grad(x, y, **options)


def test_nan_may_pass_if_asked(cpu):
    assert np.isnan(ts.spectral_loss(np.full(2048, np.nan), GOOD, check_finite=False))


@pytest.mark.parametrize(
    "array,error,words",
    [
        (np.ones(5, dtype=int), TypeError, ("array", "int64")),
        (-np.ones(5), ValueError, ("array", "negative", "-1")),
        (np.full(5, np.nan), ValueError, ("array", "nan")),
        (np.ones((1, 1, 1, 1)), ValueError, ("array", r"\(1, 1, 1, 1\)")),
    ],
    ids=str,
)
def test_magnitudes(array, error, words):
    with refused(error, *words):
        ts.Target.from_magnitudes(array)


def test_target_signal():
    with refused(ValueError, "array", r"\(2, 2, 2\)"):
        ts.Target.from_signal(np.ones((2, 2, 2)))


@pytest.mark.parametrize("term,arguments,error,words", [
    *((term, dict(p=3), ValueError, ("p", "3"))
      for term in (ts.Magnitude, ts.LogMagnitude, ts.Power, ts.Complex, ts.Transport)),
    (ts.Magnitude, dict(p=True), ValueError, ("p", "True")),
    (ts.Magnitude, dict(weight="1"), TypeError, ("weight", "1")),
    (ts.Magnitude, dict(weight=np.inf), ValueError, ("weight", "inf")),
    (ts.LogMagnitude, dict(eps=0), ValueError, ("eps", "0")),
    (ts.LogMagnitude, dict(eps="small"), TypeError, ("eps", "small")),
    (ts.LogMagnitude, dict(clamp=1), TypeError, ("clamp", "1")),
    (ts.SpectralConvergence, dict(eps=-1e-9), ValueError, ("eps", "-1e-09")),
    (ts.Transport, dict(floor=1.0), ValueError, ("floor", "1.0")),
    (ts.Transport, dict(floor=-0.1), ValueError, ("floor", "-0.1")),
    (ts.Transport, dict(floor=None), TypeError, ("floor", "None")),
    (ts.Transport, dict(quantity="energy"), ValueError, ("quantity", "energy")),
], ids=str)  # fmt: skip
def test_terms(term, arguments, error, words):
    with refused(error, *words):
        term(**arguments)


@pytest.mark.parametrize("arguments,error,words", [
    (dict(n_mels=0), ValueError, ("n_mels", "0")),
    (dict(n_fft=512.0), TypeError, ("n_fft", "512.0")),
    (dict(sample_rate=-1), ValueError, ("sample_rate", "-1")),
    (dict(fmin=-1), ValueError, ("fmin", "-1")),
    (dict(fmin=5000, fmax=4000), ValueError, ("fmin", "5000", "4000")),
    (dict(fmax=8001), ValueError, ("fmax", "8000", "8001")),
    (dict(fmax="high"), TypeError, ("fmax", "high")),
    (dict(norm="area"), ValueError, ("norm", "area")),
], ids=str)  # fmt: skip
def test_mel_filterbank(arguments, error, words):
    with refused(error, *words):
        ts.mel_filterbank(**{**dict(n_mels=40, n_fft=512, sample_rate=16_000), **arguments})


def test_a_weighting():
    for frequencies, error in ((-1.0, ValueError), ([np.nan], ValueError), ("1k", TypeError)):
        with refused(error, "frequencies"):
            ts.a_weighting(frequencies)


def test_values_before_the_first_compute(cpu):
    x = field(np.ones(2048))
    with refused(RuntimeError, "values", "compute"):
        ts.SpectralLoss(x, x).values  # noqa: B018


def test_fields(cpu):
    x, y = field(np.ones(2048)), field(np.ones(2048))
    for bad, error, words in (
        (np.ones(2048), TypeError, ("x", "ndarray")),
        (ti.ndarray(ti.f32, 2048), TypeError, ("x", "Ndarray")),
        (None, TypeError, ("x", "None")),
        (ti.field(ti.i32, 2048), TypeError, ("x", "i32")),
        (ti.field(ti.f16, 2048), TypeError, ("x", "f16")),
        (ti.Vector.field(2, ti.f32, 2048), TypeError, ("x", "MatrixField")),
        (ti.field(ti.f32, (2, 2, 2048)), ValueError, ("x", r"\(2, 2, 2048\)")),
        (ti.field(ti.f64, 2048, offset=5), ValueError, ("x", "offset", "5")),
        (ti.field(ti.f64, 100), ValueError, ("n_samples", "1024", "100")),
    ):
        with refused(error, *words):
            ts.SpectralLoss(bad, bad if bad is not None and words[0] == "n_samples" else y)
    for bad, error, words in (
        (np.ones(2048), TypeError, ("target", "ndarray")),
        (ti.field(ti.f64, 2047), ValueError, ("target", "2048", "2047")),
        (ti.field(ti.f32, 2048), ValueError, ("target", "f64", "f32")),
        (ts.Target.from_signal(np.ones(7)), ValueError, ("target", "2048", "7")),
    ):
        with refused(error, *words):
            ts.SpectralLoss(x, bad)
    for bad, error, words in (
        (1.0, TypeError, ("value", "float")),
        (ti.field(ti.i32, ()), TypeError, ("value", "i32")),
        (ti.field(ti.f64, 3), ValueError, ("value", r"\(3,\)")),
    ):
        with refused(error, *words):
            ts.SpectralLoss(x, y, value=bad)
    with refused(ValueError, "value", "none"):
        ts.SpectralLoss(x, y, value=ti.field(ti.f64, ()), reduction="none")


def test_a_field_without_gradient_in_a_tape(cpu):
    x, y = field(np.ones(2048), needs_grad=False), field(np.ones(2048), needs_grad=False)
    loss = ts.SpectralLoss(x, y)
    loss.compute()  # no gradient is asked for
    with refused(ValueError, "x", "needs_grad"), ti.ad.Tape(loss.value):
        loss.compute()
    value = ti.field(ti.f64, ())
    loss = ts.SpectralLoss(field(np.ones(2048)), y, value=value)
    total = ti.field(ti.f64, (), needs_grad=True)
    with refused(ValueError, "value", "needs_grad"), ti.ad.Tape(total):
        loss.compute()
    assert value[None] == 0


def test_before_init():
    ti.reset()
    for call in (
        lambda: ts.value_and_grad(GOOD, GOOD),
        lambda: ts.spectral_loss(GOOD, GOOD),
        lambda: ts.stft(GOOD),
        lambda: ts.SpectralLoss(None, None),
        lambda: ts.optim.Adam([None]),
    ):
        with refused(RuntimeError, "init"):
            call()


def test_after_reset(cpu):
    x = field(np.ones(2048))
    loss, adam = ts.SpectralLoss(x, x), ts.optim.Adam([x])
    ti.reset()
    for call in (loss.compute, adam.step):
        with refused(RuntimeError, "init"):
            call()
    ts.init(arch="cpu")
    for call in (loss.compute, adam.step, adam.zero_grad):
        with refused(RuntimeError, "reset"):
            call()
    assert ts.spectral_loss(GOOD, GOOD) == pytest.approx(0, abs=1e-20)


def test_arch_that_is_not_there(monkeypatch):
    ti.reset()
    with refused(ValueError, "arch", "gpu"):
        ts.init(arch="gpu")
    monkeypatch.setattr(runtime, "_is_available", lambda name: name == "cpu")
    for name in ("cuda", "vulkan", "metal"):
        with refused(RuntimeError, name, "not available"):
            ts.init(arch=name)
    assert ts.init() == "cpu"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind threads to cores")
def test_threads_on_cores_of_their_own(monkeypatch):
    ti.reset()
    others, cores = runtime.thread_ids(), os.sched_getaffinity(0)
    ts.init(arch="cpu", bind_threads=True, log_level=ti.ERROR)
    places = [os.sched_getaffinity(thread) for thread in sorted(runtime.thread_ids() - others)]
    assert len(places) >= len(cores) and all(len(place) == 1 for place in places)
    for first in range(len(places) - len(cores) + 1):  # whichever they are that run kernels
        assert set().union(*places[first : first + len(cores)]) == cores
    assert os.sched_getaffinity(0) == cores  # the caller's thread stays where it was
    monkeypatch.delattr(os, "sched_setaffinity")
    token = runtime.runtime_token()
    with refused(RuntimeError, "bind_threads", "Linux"):
        ts.init(arch="cpu", bind_threads=True)
    assert runtime.runtime_token() is token  # what was running runs on
    ti.reset()


def test_an_environment_variable_does_not_change_the_arch(monkeypatch):
    if not runtime._is_available("vulkan"):
        pytest.skip("needs a second backend")
    monkeypatch.setenv("TI_ARCH", "vulkan")
    with refused(RuntimeError, "TI_ARCH"):
        ts.init(arch="cpu")


def test_float64_where_there_is_none(cpu, monkeypatch):
    monkeypatch.setattr(runtime, "has_float64", lambda: False)
    x = field(np.ones(2048))
    with refused(ValueError, "x", "float64"):
        ts.SpectralLoss(x, x)
    with refused(ValueError, "x", "float64"):
        ts.spectral_loss(GOOD, GOOD)


def test_adam(cpu):
    x, plain = field(np.ones(4)), field(np.ones(4), needs_grad=False)
    for arguments, error, words in (
        (dict(fields=x), TypeError, ("fields", "ScalarField")),
        (dict(fields=[]), ValueError, ("fields", r"\[\]")),
        (dict(fields=[1.0]), TypeError, (r"fields\[0\]", "float")),
        (dict(fields=[x, plain]), ValueError, (r"fields\[1\]", "needs_grad")),
        (dict(fields=[x], lr=0), ValueError, ("lr", "0")),
        (dict(fields=[x], lr="fast"), TypeError, ("lr", "fast")),
        (dict(fields=[x], betas=(0.9, 1.0)), ValueError, ("betas", "1.0")),
        (dict(fields=[x], betas=0.9), TypeError, ("betas", "0.9")),
        (dict(fields=[x], eps=-1), ValueError, ("eps", "-1")),
    ):
        with refused(error, *words):
            ts.optim.Adam(**arguments)
