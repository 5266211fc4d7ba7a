"""The demos as their users run them, in a short form, and what they are fed: recordings and bad input."""

import importlib
import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

import taichi_spec as ts
from taichi_spec import reference

DEMOS = Path(__file__).parents[1] / "demos"
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


def test_match_spectrum(tmp_path):
    out = tmp_path / "new" / "folder"
    result = run_demo("match_spectrum", "--steps", 20, "--arch", "cpu", "--out", out, "--show")
    assert result.returncode == 0, result.stderr
    assert "there is no display" in result.stdout
    assert sorted(f.name for f in out.iterdir()) == [
        "match_spectrum.gif", "match_spectrum.png", "result.wav", "target.wav"]  # fmt: skip
    figures = re.fullmatch(
        r"20 steps on cpu: loss (\S+) -> (\S+), spectral convergence (\S+) -> (\S+) dB, (\S+) ms per step",
        result.stdout.splitlines()[-1],
    )
    first, last, convergence_first, convergence_last, milliseconds = map(float, figures.groups())
    assert 0 < last < 0.2 * first
    assert convergence_last < convergence_first - 6
    assert milliseconds > 0
    with Image.open(out / "match_spectrum.gif") as gif:
        assert 10 < gif.n_frames <= 21  # iterations 0 … 20, sparser toward the end
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
    result = run_demo(
        "match_spectrum", "--steps", 1, "--arch", "cpu", "--out", tmp_path / "out", "--wav", tmp_path / "tone.wav"
    )
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("target: "))
    assert line == "target: tone.wav: 44100 Hz, 2 channels, int32, 1.36 s; mixed down to mono; resampled to 16000 Hz"


@pytest.mark.parametrize("name", ["match_spectrum", "last_bin_bug"])
def test_a_constant_is_a_recording(demo, cpu, tmp_path, capsys, name):
    """It has no variance, but a level."""
    wavfile.write(tmp_path / "constant.wav", 8000, np.full(600, 0.3))
    demo(name).main(["--steps", "1", "--arch", "cpu", "--out", str(tmp_path), "--wav", str(tmp_path / "constant.wav")])
    assert (tmp_path / f"{name}.png").exists()
    assert "nan" not in capsys.readouterr().out


def test_last_bin_bug(tmp_path):
    result = run_demo("last_bin_bug", "--steps", 20, "--arch", "cpu", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "last_bin_bug.png") as png:
        png.verify()
    lines = result.stdout.splitlines()
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


@pytest.mark.parametrize("name", ["match_spectrum", "last_bin_bug"])
@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(demo, tmp_path, monkeypatch, capsys, name, case):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD_ARGUMENTS[case]
    assert message in refusal(demo(name), arguments, capsys)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["match_spectrum", "last_bin_bug"])
@pytest.mark.parametrize("case", BAD_RECORDINGS)
def test_bad_recordings(demo, tmp_path, monkeypatch, capsys, name, case):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.wav"
    write, message = BAD_RECORDINGS[case]
    write(path)
    line = refusal(demo(name), ["--wav", "bad.wav"], capsys)
    assert "bad.wav" in line and message in line
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["match_spectrum", "last_bin_bug"])
def test_a_missing_backend(tmp_path, name):
    result = run_demo(name, "--arch", MISSING_ARCH, "--out", tmp_path / "new")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"{name}: error: arch='{MISSING_ARCH}' is not available")
    assert "Traceback" not in result.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["match_spectrum", "last_bin_bug"])
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
