"""The demos as their users run them, in a short form, and what they are fed: recordings and bad input."""

import importlib
import os
import re
import runpy
import subprocess
import sys
import wave
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import taichi as ti
from PIL import Image
from scipy.io import wavfile

import taichi_spec as ts
from support import directional
from taichi_spec import reference

DEMOS = Path(__file__).parents[1] / "demos"
EVERY_DEMO = sorted(path.stem for path in DEMOS.glob("*.py") if path.stem != "common")
OF_RECORDINGS = ["match_spectrum", "last_bin_bug", "fm_synth", "additive"]
NO_DISPLAY = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
MISSING_ARCH = "cuda" if sys.platform == "darwin" else "metal"


def run_demo(name, *arguments):
    command = [sys.executable, str(DEMOS / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, env=NO_DISPLAY, capture_output=True, text=True, timeout=300)


@pytest.fixture
def demo(monkeypatch):
    """Imports a demo, or what they share, by name."""
    monkeypatch.syspath_prepend(str(DEMOS))
    return importlib.import_module


@pytest.fixture
def run_short(demo, cpu, monkeypatch, capsys):
    """Runs a demo in this process, with some of its constants replaced, such as how many pictures it draws."""

    def run(name, *arguments, **constants):
        module = demo(name)
        for constant, value in constants.items():
            monkeypatch.setattr(module, constant, value)
        module.main([*map(str, arguments), "--arch", "cpu"])
        return capsys.readouterr().out

    yield run
    plt.close("all")


def tone(n_samples=2000, sample_rate=8000, frequency=1000.0):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(n_samples) / sample_rate)


def write_24_bit(path, sample_rate, samples):
    """(T,) or (T, channels), |samples| < 1."""
    integers = np.round(samples * 2**23).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(3)
        file.setframerate(sample_rate)
        file.writeframes(integers.reshape(-1, 1).view(np.uint8)[:, :3].tobytes())


# The demos run ------------------------------------------------


def test_match_spectrum(run_short, tmp_path):
    out = tmp_path / "new" / "folder"
    printed = run_short("match_spectrum", "--steps", 20, "--out", out, GIF_FRAMES=14, GIF_LAST_FRAMES=2)
    assert sorted(f.name for f in out.iterdir()) == [
        "match_spectrum.gif", "match_spectrum.png", "result.wav", "target.wav"]  # fmt: skip
    figures = re.fullmatch(
        r"20 steps on cpu: loss (\S+) -> (\S+), spectral convergence (\S+) -> (\S+) dB, (\S+) ms per step",
        printed.splitlines()[-1],
    )
    first, last, convergence_first, convergence_last, milliseconds = map(float, figures.groups())
    assert 0 < last < 0.2 * first
    assert convergence_last < convergence_first - 6
    assert milliseconds > 0
    with Image.open(out / "match_spectrum.gif") as gif:
        assert 10 < gif.n_frames <= 15  # of the iterations 0 … 20, sparser toward the end
    with Image.open(out / "match_spectrum.png") as png:
        png.verify()
    losses = []
    for name in ("target", "result"):
        rate, samples = wavfile.read(out / f"{name}.wav")
        assert rate == 16_000 and samples.shape == (16_000,) and samples.dtype == np.float32
        losses.append(samples)
    value, _, _ = reference.value_and_grad(losses[1], losses[0], ts.STFT(n_fft=512, hop_length=128))
    np.testing.assert_allclose(value, last, rtol=1e-3)  # the figures belong to the files


def test_match_spectrum_of_a_recording(tmp_path):
    channels = np.stack([tone(60_000, 44_100), np.zeros(60_000)], axis=1)
    write_24_bit(tmp_path / "tone.wav", 44_100, channels)
    paths = "--out", tmp_path / "out", "--wav", tmp_path / "tone.wav"
    result = run_demo("match_spectrum", "--steps", 1, "--arch", "cpu", *paths, "--show")
    assert result.returncode == 0, result.stderr
    assert "there is no display" in result.stdout
    line = next(line for line in result.stdout.splitlines() if line.startswith("target: "))
    assert line == "target: tone.wav: 44100 Hz, 2 channels, int32, 1.36 s; mixed down to mono; resampled to 16000 Hz"


# last_bin_bug takes its recording as match_spectrum does, and takes longest.
@pytest.mark.parametrize("name", [name for name in OF_RECORDINGS if name != "last_bin_bug"])
def test_a_constant_is_a_recording(run_short, direct, tmp_path, name):
    """It has no variance, but a level."""
    path = tmp_path / "constant.wav"
    wavfile.write(path, 8000, np.full(600, 0.3))
    fewer = {"GIF_LAST_FRAMES": 1} if name == "match_spectrum" else {}
    printed = run_short(name, "--steps", 1, "--out", tmp_path, "--wav", path, **fewer)
    assert (tmp_path / f"{name}.png").exists()
    assert "nan" not in printed


def test_last_bin_bug(run_short, tmp_path):
    printed = run_short("last_bin_bug", "--steps", 20, "--out", tmp_path)
    with Image.open(tmp_path / "last_bin_bug.png") as png:
        png.verify()
    lines = printed.splitlines()
    gradients = [re.search(r"cosine (\S+), norm ratio (\S+), relative error (\S+)", line) for line in lines]
    right, last_bin = ([float(x) for x in found.groups()] for found in gradients if found)
    assert abs(right[0] - 1) < 1e-9 and abs(right[1] - 1) < 1e-5 and right[2] < 1e-7
    assert last_bin[0] < 0.3 and last_bin[1] < 0.3 and last_bin[2] > 0.9
    losses = [re.search(r"loss (\S+) -> (\S+) \(step size", line) for line in lines]
    (start, right_end), (same_start, last_bin_end) = ([float(x) for x in found.groups()] for found in losses if found)
    assert start == same_start
    assert right_end < 0.1 * start and 0.9 * start < last_bin_end < start
    ratio = float(re.search(r"final loss is (\S+) times the right one's", lines[-1])[1])
    assert ratio == pytest.approx(last_bin_end / right_end, rel=1e-2)


def test_the_exhibit_is_the_seeds_bug_and_nothing_else(demo, cpu):
    """The last bin's share of the gradient, to rounding; and the right gradient by finite differences, per sample."""
    bug = demo("last_bin_bug")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 700))
    last = bug.gradient(x, y, "last bin")
    right = bug.gradient(x, y, "right")

    X, Y = reference.stft(x, bug.STFT), reference.stft(y, bug.STFT)
    G = 2 * (np.abs(X) - np.abs(Y)) * reference.direction(X)
    G[:-1] = 0
    expected = reference.adjoint(G, len(x), bug.STFT)
    np.testing.assert_allclose(last, expected, rtol=0, atol=1e-12 * np.abs(expected).max())

    differences = bug.finite_differences(x, y, h=1e-5)
    np.testing.assert_allclose(right, differences, rtol=0, atol=1e-8 * np.abs(differences).max())
    assert bug.compare(right, differences).cosine == pytest.approx(1, abs=1e-12)
    assert bug.compare(last, differences).cosine < 0.3


def test_vibrating_string(run_short, tmp_path):
    printed = run_short("vibrating_string", "--steps", 3, "--seconds", 0.2, "--out", tmp_path, GIF_FRAMES=2)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "after.wav", "before.wav", "target.wav", "vibrating_string.gif", "vibrating_string.png"]  # fmt: skip
    start, found, true, off = re.search(r"pitch \(Hz\) +(\S+) +(\S+) +(\S+) +off by (\S+) cents", printed).groups()
    assert abs(float(found) - float(true)) < abs(float(start) - float(true))
    assert float(off) == pytest.approx(1200 * np.log2(float(found) / float(true)), abs=0.2)
    rate, samples = wavfile.read(tmp_path / "target.wav")
    assert rate == 44_100 and len(samples) >= 0.2 * 44_100 and 0.1 < np.abs(samples).max() < 1
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 2**18))[: 2**11]  # the lowest 344 Hz
    assert np.argmax(spectrum) * rate / 2**18 == pytest.approx(float(true), rel=2e-3)


def differentiate(string, loss):
    with ti.ad.Tape(loss.value):
        string.run()
        loss.compute()
    return string.samples.to_numpy(), np.array([field.grad[0] for field in string.logarithms])


@pytest.fixture
def string(demo, cpu):
    """A string of some segments, off the target, and its loss."""
    module = demo("vibrating_string")
    string = module.String(0.05)
    goal = ts.Target.from_signal(string.sound(module.TRUE))
    string.parameters = module.TRUE * np.array([1.02, 1.5, 0.5, 2.0])
    return string, ts.SpectralLoss(string.samples, goal, stft=ts.STFT(n_fft=512), reduction="mean", engine="direct")


def test_a_simulation_is_differentiated_across_its_segments(string):
    string, loss = string
    assert string.simulation.n_segments == 9
    _, gradient = differentiate(string, loss)
    here = string.parameters

    def value(i, h):
        string.parameters = here * np.exp(h * (np.arange(4) == i))
        string.run()
        loss.compute()
        return loss.value[None]

    # A step as long as the loss allows: of float32's time steps a value has rounding that a short one would drown in.
    for i, h in enumerate((3e-3, 1e-2, 0.1, 0.1)):
        assert directional(lambda h, i=i: value(i, h), h) == pytest.approx(gradient[i], rel=1e-2)


def test_a_gpus_time_steps_are_the_cpus(demo, string, monkeypatch):
    common, module = demo("common"), demo("vibrating_string")
    string, loss = string
    samples, gradient = differentiate(string, loss)
    step = module.step_of(string.simulation.u, string.coefficients)
    string.simulation.rows = 4
    string.simulation.advance = common._parallel_kernel(step, (module.FIRST + 1, module.LAST), 4)
    same_samples, same_gradient = differentiate(string, loss)
    np.testing.assert_allclose(same_samples, samples, rtol=0, atol=1e-4)  # rounded differently
    np.testing.assert_allclose(same_gradient, gradient, rtol=2e-3)


def test_a_string_that_is_not_found_is_a_failure(demo, monkeypatch, capsys):
    module = demo("vibrating_string")
    module.check(module.TRUE * np.array([1.001, 1.04, 0.96, 1.04]))
    for factors, message in (
        ([1.003, 1, 1, 1], "+2.59 cents off"),
        ([1, 1, 0.94, 1], "the damping is off by -6.00 %"),
    ):
        with pytest.raises(SystemExit) as failed:
            module.check(module.TRUE * np.array(factors))
        assert failed.value.code == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0]


def test_draw_in_sound(run_short, tmp_path):
    gradient = np.zeros((40, 80, 4), np.uint8)
    gradient[..., :3] = np.linspace(0, 255, 80)[None, :, None]
    gradient[:20, :, 3] = 255  # the lower half is transparent, which is black
    Image.fromarray(gradient).save(tmp_path / "picture.png")
    out = tmp_path / "out"
    paths = "--out", out, "--image", tmp_path / "picture.png"
    printed = run_short("draw_in_sound", "--steps", 30, *paths, GIF_FRAMES=2)
    assert sorted(f.name for f in out.iterdir()) == ["draw_in_sound.gif", "draw_in_sound.png", "drawing.wav"]
    before, after = re.search(r"correlation .*: (\S+) -> (\S+)", printed.splitlines()[-1]).groups()
    assert abs(float(before)) < 0.1 and float(after) > 0.6
    rate, samples = wavfile.read(out / "drawing.wav")
    assert rate == 16_000 and len(samples) == 512 + 496 * 128  # 4 s, as wide as two heights
    upper, lower = (
        np.abs(reference.stft(samples, ts.STFT(n_fft=512)))[half] for half in (slice(136, 240), slice(16, 120))
    )
    assert np.sum(lower**2) < 0.05 * np.sum(upper**2)
    assert np.sum(upper[:, :200] ** 2) < 0.05 * np.sum(upper[:, -200:] ** 2)


def test_tuned_drum(run_short, tmp_path):
    printed = run_short("tuned_drum", "--steps", 3, "--out", tmp_path, GIF_FRAMES=2)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "after.wav", "before.wav", "target.wav", "tuned_drum.gif", "tuned_drum.png"]  # fmt: skip
    lowest, *ratios = map(float, re.search(r"target +(.*)", printed)[1].split())
    np.testing.assert_allclose(np.array(ratios)[[1, 3, 6]], (2, 3, 4), rtol=0.03)  # what Raman found
    rate, samples = wavfile.read(tmp_path / "target.wav")
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 2**17))
    assert np.argmax(spectrum) * rate / 2**17 == pytest.approx(lowest, rel=5e-3)  # the simulation has these modes


def test_a_bare_drum_has_the_modes_of_the_books(demo):
    """Zeros of Bessel functions, J₀, J₁ twice, J₂ twice, and J₀ again, on a coarse grid."""
    module = demo("tuned_drum")
    ratios = module.modes(np.array([0, 0, 0.3, 1])) / module.BARE_PITCH
    np.testing.assert_allclose(ratios[:6], np.array([2.405, 3.832, 3.832, 5.136, 5.136, 5.520]) / 2.405, rtol=0.02)


def test_a_drum_that_is_not_found_is_a_failure(demo, capsys):
    module = demo("tuned_drum")
    module.check(module.TRUE + np.array([0.001, 0, 0, 0.001]))
    for off, message in (([0.3, 0, 0, 0], "cents off, and 5 are allowed"), ([0, 0, 0.0, 1.5], "cents off")):
        with pytest.raises(SystemExit) as failed:
            module.check(module.TRUE + np.array(off))
        assert failed.value.code == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0]


# One parameter at a time, by central differences: is the synthesizer's gradient the loss's?


def assert_gradient(field, gradient, index, h, value, rel):
    middle = field[index]
    values = []
    for sign in (1, -1):
        field[index] = middle + sign * h
        values.append(value())
    field[index] = middle
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(gradient[index], rel=rel)


def once(function, key):
    """The function, called once for all arguments of one key."""
    results = {}

    def call(*arguments):
        if key(*arguments) not in results:
            results[key(*arguments)] = function(*arguments)
        return results[key(*arguments)]

    return call


def test_find_the_pitch(demo, run_short, tmp_path, monkeypatch):
    module = demo("find_the_pitch")
    losses = module.losses()
    magnitudes = losses["magnitudes, L1"]  # in the place of those that take longer
    quick = {name: options if name == "transport" else magnitudes for name, options in losses.items()}
    # The same options give the same again, and each loss is compiled anew.
    loss = once(module.Oscillators.loss, key=lambda oscillators, _, options: (oscillators, id(options)))
    follow = once(module.follow, key=lambda loss, *_: loss)
    monkeypatch.setattr(module.Oscillators, "loss", loss)
    constants = dict(losses=lambda: quick, follow=follow, AXIS=np.linspace(-27, 27, 37), GIF_FRAMES=2)
    out = run_short("find_the_pitch", "--steps", 40, "--out", tmp_path, **constants)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "after.wav", "before.wav", "find_the_pitch.gif", "find_the_pitch.png", "target.wav"]  # fmt: skip
    shares, medians = {}, {}
    for name in ("magnitudes, L1", "transport"):
        share, _, median, _ = re.search(rf"{name} +(\d+) % +(\d+) / 8 +(\S+) +(\S+)", out).groups()
        shares[name], medians[name] = float(share), float(median)
    assert shares["transport"] == 100 and 30 < shares["magnitudes, L1"] < 70
    assert medians["transport"] < 20 and medians["magnitudes, L1"] > 500
    found, true = re.search(r"found with transport \(Hz\): (.*); true: (\S+)", out).groups()
    np.testing.assert_allclose([float(f) for f in found.split(",")], float(true), rtol=0.1)
    rate, samples = wavfile.read(tmp_path / "target.wav")
    spectrum = np.abs(np.fft.rfft(samples[: module.N_SAMPLES] * np.hanning(module.N_SAMPLES), 2**17))
    assert np.argmax(spectrum) * rate / 2**17 == pytest.approx(float(true), rel=5e-3)


def test_oscillators_are_differentiated(demo, cpu):
    module = demo("find_the_pitch")
    oscillators = module.Oscillators(np.array([5.0, -9.0]), module.random_phases(2, seed=0), 240.0)
    loss = oscillators.loss(np.sin(0.1 * np.arange(module.N_SAMPLES, dtype=np.float32)), {"terms": ts.Power(p=2)})
    _, slopes = oscillators.differentiate(loss)

    def value():
        return oscillators.differentiate(loss)[0].sum(dtype=np.float64)

    for b in range(2):
        assert_gradient(oscillators.logarithms, slopes, b, 1e-4, value, rel=2e-2)  # float32 phases


def test_fm_synth(tmp_path):
    result = run_demo("fm_synth", "--steps", 3, "--arch", "cpu", "--out", tmp_path, "--show")
    assert result.returncode == 0, result.stderr
    assert "there is no display" in result.stdout
    assert sorted(f.name for f in tmp_path.iterdir()) == ["after.wav", "before.wav", "fm_synth.png", "target.wav"]
    for name in ("carrier \\(Hz\\)", "ratio", "index", "attack", "decay", "fade", "level"):
        _, found, true, off = map(
            float, re.search(rf"{name}.*? +(\S+) +(\S+) +(\S+) +off by (\S+) %", result.stdout).groups()
        )
        assert off == pytest.approx(100 * (found / true - 1), abs=0.2)
    rate, samples = wavfile.read(tmp_path / "target.wav")
    assert rate == 16_000 and not samples[:512].any() and 0.1 < np.abs(samples).max() < 1


def test_fm_voices_are_differentiated(demo, cpu):
    module = demo("fm_synth")
    rng = np.random.default_rng(0)
    voices = module.Voices(module.draw_settings(rng, module.STARTS, 2), 2048, 16_000)
    goal = ts.Target.from_signal(0.1 * rng.standard_normal(2048).astype(np.float32))
    options = dict(stft=ts.STFT(n_fft=512), terms=ts.Power(p=2), reduction="none", engine="direct")
    loss = ts.SpectralLoss(voices.samples, goal, **options)
    voices.differentiate(loss)
    gradient = voices.scaled.grad.to_numpy()

    def value():
        voices.run()
        loss.compute()
        return float(loss.value[1])

    for i in range(len(module.NAMES)):
        assert_gradient(voices.scaled, gradient, (1, i), 5e-4 if i < 2 else 5e-3, value, rel=1e-2)


def test_fm_settings_that_are_not_found_are_a_failure(demo, capsys):
    module = demo("fm_synth")
    true = module.TARGETS.mean(axis=1)
    module.check(1.01 * true, true)
    with pytest.raises(SystemExit) as failed:
        module.check(true * np.where(np.array(module.NAMES) == "fade", 0.9, 1), true)
    assert failed.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "the fade is off by -10.00 %" in lines[0]


def test_additive(run_short, tmp_path):
    printed = run_short("additive", "--steps", 6, "--out", tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["additive.png", "after.wav", "before.wav", "target.wav"]
    before, after = map(float, re.search(r"spectral convergence (\S+) -> (\S+) dB", printed).groups())
    assert after < before - 3
    spectra = []
    for name in ("after", "target"):
        rate, samples = wavfile.read(tmp_path / f"{name}.wav")
        assert rate == 16_000 and samples.shape == (32_000,)
        spectra.append(np.abs(reference.stft(samples.astype(np.float64), ts.STFT(n_fft=512, hop_length=128))))
    convergence = 20 * np.log10(np.linalg.norm(spectra[1] - spectra[0]) / np.linalg.norm(spectra[1]))
    assert convergence == pytest.approx(after, abs=0.06)  # the figures belong to the files


def test_a_voice_is_differentiated(demo, cpu):
    module = demo("additive")
    rng = np.random.default_rng(0)
    voice = module.Voice(np.log(rng.uniform(180, 220, 8)), 16 * module.HOP, 16_000, seed=0)
    voice.log_levels.from_numpy(rng.standard_normal(voice.log_levels.shape).astype(np.float32))
    voice.log_gains.from_numpy(rng.standard_normal(voice.log_gains.shape).astype(np.float32))
    goal = ts.Target.from_signal(rng.standard_normal(16 * module.HOP).astype(np.float32))
    loss = ts.SpectralLoss(voice.samples, goal, stft=ts.STFT(n_fft=512), terms=ts.Power(p=2), engine="direct")
    with ti.ad.Tape(loss.value):
        voice.run()
        loss.compute()

    def value():
        voice.run()
        loss.compute()
        return loss.value[None]

    gradients = [field.grad.to_numpy() for field in (voice.knots, voice.log_levels, voice.log_gains)]
    for field, gradient, h in zip((voice.knots, voice.log_levels, voice.log_gains), gradients, (1e-4, 1e-1, 1e-1)):
        largest = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
        assert_gradient(field, gradient, largest if field is not voice.knots else int(largest[0]), h, value, rel=3e-2)


def test_the_pitch_of_a_voice_is_estimated(demo):
    """Within a semitone at every hop of the voice, vibrato and all."""
    module = demo("additive")
    for seed in range(3):
        sound, truth = module.synthesize_voice(seed)
        pitch = np.exp(module.estimate_pitch(sound.samples, sound.sample_rate))
        at = np.minimum(np.arange(len(pitch)) * module.HOP, len(truth.pitch) - 1)
        cents = 1200 * np.abs(np.log2(pitch / truth.pitch[at]))
        assert cents.max() < 100 and np.median(cents) < 8
        rate, depth = module.vibrato(truth.pitch[at])
        assert rate == pytest.approx(truth.rate, abs=0.02) and depth == pytest.approx(truth.depth, rel=0.02)


def test_a_voice_that_is_not_found_is_a_failure(demo, capsys):
    module = demo("additive")
    truth = module.Truth(np.ones(9), 5.0, 40.0, np.ones((9, 64)), 0.1, 0.01)
    good = module.Recovered((np.ones(99), np.ones(99)), (5.0, 40.0), 1.0, 0.01)
    module.check(truth, good, -30.0)
    for recovered, convergence, message in (
        (good._replace(cents=(np.ones(99), np.full(99, 3.0))), -30.0, "the pitch is off by 3.00 cents"),
        (good._replace(vibrato=(5.0, 50.0)), -30.0, "the vibrato's depth is off by 25.00 %"),
        (good, -20.0, "the spectral convergence is -20.0 dB"),
    ):
        with pytest.raises(SystemExit) as failed:
            module.check(truth, recovered, convergence)
        assert failed.value.code == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0]


BAD_IMAGES = {
    "empty file": (lambda path: path.write_bytes(b""), "not an image that can be read"),
    "text": (lambda path: path.write_text("this is no picture at all"), "not an image that can be read"),
    "half a file": (lambda path: path.write_bytes((DEMOS / "last_bin_bug.png").read_bytes()[:9000]), "not an image"),
    "one brightness": (lambda path: Image.new("RGB", (30, 30), "red").save(path), "is of one brightness"),
    "transparent": (lambda path: Image.new("RGBA", (30, 30), (255, 255, 255, 0)).save(path), "is of one brightness"),
    "folder": (lambda path: path.mkdir(), "Is a directory"),
    "nothing": (lambda path: None, "No such file or directory"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images(demo, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    write, message = BAD_IMAGES[case]
    write(tmp_path / "bad.png")
    before = list(tmp_path.iterdir())
    line = refusal(demo("draw_in_sound"), ["--image", "bad.png"], capsys)
    assert "bad.png" in line and message in line
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize("seconds", ["0", "-1", "0.1", "1e9", "nan", "long"])
def test_bad_seconds(demo, tmp_path, monkeypatch, capsys, seconds):
    monkeypatch.chdir(tmp_path)
    line = refusal(demo("vibrating_string"), ["--seconds", seconds], capsys)
    assert f"--seconds: must be a number from 0.2 to 10, got '{seconds}'" in line
    assert not any(tmp_path.iterdir())


# Recordings ---------------------------------------------------


@pytest.mark.parametrize("stereo", [False, True])
@pytest.mark.parametrize("kind", ["uint8", "int16", "24 bits", "int32", "float32", "float64"])
def test_every_format_has_the_same_samples(demo, tmp_path, kind, stereo):
    common, path, samples = demo("common"), tmp_path / "tone.wav", tone()
    data = np.stack([samples, 0.5 * samples], axis=1) if stereo else samples
    if kind == "24 bits":
        write_24_bit(path, 8000, data)
    elif kind.startswith("float"):
        wavfile.write(path, 8000, data.astype(kind))
    elif kind == "uint8":
        wavfile.write(path, 8000, np.round(128 + 128 * data).astype(kind))
    else:
        wavfile.write(path, 8000, np.round(data * -float(np.iinfo(kind).min)).astype(kind))
    sound, report = common.load_recording(path, most=2000, least=1)
    half_a_step = {"uint8": 2**-8, "int16": 2**-16, "24 bits": 2**-24, "int32": 2**-32, "float32": 2**-25}
    expected = data.mean(axis=1) if stereo else data
    np.testing.assert_allclose(sound.samples, expected, rtol=0, atol=half_a_step.get(kind, 1e-16))
    assert sound.sample_rate == 8000
    assert ("2 channels" in report and "mixed down" in report) == stereo
    assert "resampled" not in report and "cut" not in report


@pytest.mark.parametrize("rate, expected", [(8000, 8000), (16_000, 16_000), (22_050, 16_000), (48_000, 16_000)])
def test_rates(demo, tmp_path, rate, expected):
    common, path = demo("common"), tmp_path / "tone.wav"
    wavfile.write(path, rate, tone(rate, rate).astype(np.float32))
    sound, report = common.load_recording(path, most=10**6, least=1)
    assert sound.sample_rate == expected and len(sound.samples) == expected
    assert ("resampled" in report) == (rate != expected)
    inner = slice(200, -200)  # away from the resampling filter's edges
    np.testing.assert_allclose(sound.samples[inner], tone(expected, expected)[inner], atol=1e-3)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_long_recording_is_cut_to_its_loudest_part(demo, tmp_path, rate):
    common, path = demo("common"), tmp_path / "long.wav"
    samples = np.full(5 * rate, 1e-3, dtype=np.float32)
    samples[3 * rate : 4 * rate] = tone(rate, rate)
    wavfile.write(path, rate, samples)
    sound, report = common.load_recording(path, most=16_000, least=1)
    assert len(sound.samples) == 16_000
    assert "cut to the loudest 1.00 s, from 3.00 s on" in report
    assert np.std(sound.samples) > 0.3


def test_a_target_is_made_of_whole_frames(demo, tmp_path):
    """A sample that no frame holds would stay what it was at the start: noise."""
    common, path, stft = demo("common"), tmp_path / "tone.wav", ts.STFT(n_fft=512, hop_length=128)
    wavfile.write(path, 8000, tone(1500).astype(np.float32))
    assert len(common.make_target(path, stft, 2000).samples) == 512 + 7 * 128


# Bad input ----------------------------------------------------

BAD_ARGUMENTS = {
    "no steps": (["--steps", "0"], "--steps: must be an integer >= 1, got '0'"),
    "negative steps": (["--steps", "-3"], "--steps: must be an integer >= 1, got '-3'"),
    "half a step": (["--steps", "1.5"], "--steps: must be an integer >= 1, got '1.5'"),
    "negative seed": (["--seed", "-1"], "--seed: must be an integer >= 0, got '-1'"),
    "unknown backend": (["--arch", "tpu"], "invalid choice: 'tpu'"),
}
MISSING_RECORDINGS = {
    "missing file": (["--wav", "missing.wav"], "missing.wav: No such file or directory"),
    "folder": (["--wav", "."], "Is a directory"),
}
BAD_RECORDINGS = {
    "empty file": (lambda path: path.write_bytes(b""), "not a WAV file"),
    "text": (lambda path: path.write_text("this is no sound at all"), "not a WAV file"),
    "half a header": (lambda path: (good(path), path.write_bytes(path.read_bytes()[:30])), "WAV file"),
    "unknown format": (lambda path: patch(path, 20, b"\x07\x00"), "MULAW"),
    "no samples": (lambda path: wavfile.write(path, 8000, np.zeros(0, np.int16)), "holds no samples"),
    "silence": (lambda path: wavfile.write(path, 8000, np.zeros(9000, np.int16)), "is silent"),
    "silent frames": (lambda path: wavfile.write(path, 8000, np.repeat([0.0, 1.0], [640, 1])), "is silent"),
    "NaN": (lambda path: wavfile.write(path, 8000, np.full(9000, np.nan, np.float32)), "holds NaN or Inf"),
    "too short": (lambda path: wavfile.write(path, 8000, tone(100)), "100 samples at 8000 Hz, and at least"),
    "rate 0": (lambda path: wavfile.write(path, 0, tone()), "a sample rate of 0 Hz"),
    "rate 2e9": (lambda path: patch(path, 24, b"\xff\xff\xff\x7f"), "WAV file"),
}


def good(path):
    wavfile.write(path, 8000, np.round(3e4 * tone()).astype(np.int16))


def patch(path, offset, new):
    good(path)
    data = bytearray(path.read_bytes())
    data[offset : offset + len(new)] = new
    path.write_bytes(data)


def refusal(module, arguments, capsys):
    """The one line on stderr of a demo that is refused."""
    with pytest.raises(SystemExit) as refused:
        module.main(arguments)
    assert refused.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    "name, case",
    [(name, case) for name in EVERY_DEMO for case in BAD_ARGUMENTS]
    + [(name, case) for name in OF_RECORDINGS for case in MISSING_RECORDINGS],
)
def test_bad_arguments(demo, tmp_path, monkeypatch, capsys, name, case):
    monkeypatch.chdir(tmp_path)
    arguments, message = {**BAD_ARGUMENTS, **MISSING_RECORDINGS}[case]
    assert message in refusal(demo(name), arguments, capsys)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", OF_RECORDINGS)
@pytest.mark.parametrize("case", BAD_RECORDINGS)
def test_bad_recordings(demo, tmp_path, monkeypatch, capsys, name, case):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.wav"
    write, message = BAD_RECORDINGS[case]
    write(path)
    line = refusal(demo(name), ["--wav", "bad.wav"], capsys)
    assert "bad.wav" in line and message in line
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", EVERY_DEMO)
def test_a_missing_backend(demo, tmp_path, monkeypatch, capfd, name):
    """Of the script itself, which a test of its functions does not run."""
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--arch", MISSING_ARCH, "--out", str(tmp_path / "new")])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(DEMOS / f"{name}.py"), run_name="__main__")
    assert refused.value.code == 2
    err = capfd.readouterr().err
    assert err.splitlines()[-1].startswith(f"{name}: error: arch='{MISSING_ARCH}' is not available")
    assert "Traceback" not in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", EVERY_DEMO)
def test_an_impossible_folder(demo, cpu, tmp_path, capsys, name):
    file = tmp_path / "file"
    file.write_text("")
    for folder, message in ((file, "cannot be written (File exists)"), (file / "new", "(Not a directory)")):
        line = refusal(demo(name), ["--arch", "cpu", "--out", str(folder)], capsys)
        assert f"--out {folder}: cannot be written" in line and message in line
    assert list(tmp_path.iterdir()) == [file]


def test_files_are_written_together_or_not_at_all(demo, tmp_path, capsys):
    common = demo("common")
    with pytest.raises(SystemExit), common.all_or_nothing(tmp_path) as folder:
        (folder / "first").write_text("whole")
        raise OSError(28, "No space left on device")
    assert not any(tmp_path.iterdir())
    assert "No space left on device" in capsys.readouterr().err
    with common.all_or_nothing(tmp_path) as folder:
        (folder / "first").write_text("whole")
        assert not (tmp_path / "first").exists()
    assert [f.name for f in tmp_path.iterdir()] == ["first"]
