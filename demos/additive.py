"""Sings what it hears: 64 harmonics and filtered noise are fitted to a recording, as in DDSP.

    python demos/additive.py
    python demos/additive.py --wav recording.wav

    x(t) = Σ_h level_h(t) sin(2π h ∫ pitch) + Σ_b gain_b(t) noise_b(t)

Every 8 ms there are 64 levels and the gains of 24 bands of noise, 24,000 numbers for two seconds, and the pitch is a
spline. A classical estimate, YIN along a path without jumps, says where the pitch is about; the gradient of a
multi-resolution loss then finds all levels and gains from a buzz, and moves the pitch to where all harmonics meet the
recording's. By default the recording is a synthesized voice with vibrato and breath, of which everything is known.
"""

import time
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import taichi as ti
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import common
import taichi_spec as ts
from common import Signal, Sound

SHOWN = ts.STFT(n_fft=512, hop_length=128)  # in the figure, and for what is reported
LOSS_SIZES = (256, 1024, 2048)  # n_fft
SECONDS = 2.0
HOP = 128  # samples from one set of levels to the next
KNOT = 4  # hops from one knot of the pitch to the next
MARGIN = 1024  # samples of silence on both sides, so that windows see the ends as well
HARMONICS, BANDS = 64, 24
GROUP = 8  # of either that a thread adds up
LOWEST, HIGHEST = 60.0, 800.0  # Hz, of the pitch
PER_OCTAVE = 60  # pitches of the estimate
STEPS = 300
BREATH = 0.03  # RMS of the breath, of that of the harmonics
CONVERGENCE = -25.0  # dB, what is asked for

Float = ti.f32


# The voice ----------------------------------------------------


class Voice:
    """pitch, levels, gains, in logarithms → phases and amplitudes at every hop → samples."""

    def __init__(self, knots: Signal, n_samples: int, sample_rate: int, seed: int) -> None:
        points = n_samples // HOP + 1
        self.knots = ti.field(Float, shape=len(knots), needs_grad=True)  # ln of the pitch in Hz
        self.log_levels = ti.field(Float, shape=(len(knots), HARMONICS), needs_grad=True)
        self.log_gains = ti.field(Float, shape=(points, BANDS), needs_grad=True)
        self.pitch = ti.field(Float, shape=points, needs_grad=True)  # in cycles per sample
        self.cycles = ti.field(Float, shape=points, needs_grad=True)  # the fundamental's phase, 0 … 1
        self.levels = ti.field(Float, shape=(points, HARMONICS), needs_grad=True)
        self.gains = ti.field(Float, shape=(points, BANDS), needs_grad=True)
        self.tones = ti.field(Float, shape=(HARMONICS // GROUP, n_samples), needs_grad=True)
        self.breaths = ti.field(Float, shape=(BANDS // GROUP, n_samples), needs_grad=True)
        self.samples = ti.field(Float, shape=n_samples, needs_grad=True)
        self.basis = ti.field(Float, shape=(KNOT, 4))
        self.noise = ti.field(Float, shape=(BANDS, n_samples))
        self.sample_rate = sample_rate
        self.knots.from_numpy(knots.astype(np.float32))
        self.basis.from_numpy(spline_basis().astype(np.float32))
        self.noise.from_numpy(noise_bands(n_samples, seed).astype(np.float32))

    def run(self) -> None:
        """Sings."""
        bend(self.knots, self.basis, self.pitch, 1 / self.sample_rate)
        turn(self.pitch, self.cycles)
        swell(self.log_levels, self.basis, self.pitch, self.levels)
        open_up(self.log_gains, self.gains)
        sing(self.pitch, self.cycles, self.levels, self.tones)
        breathe(self.gains, self.noise, self.breaths)
        mix(self.tones, self.breaths, self.samples)

    @property
    def hertz(self) -> Signal:
        """The pitch at every hop  # (points,)"""
        return self.sample_rate * self.pitch.to_numpy().astype(np.float64)


@ti.kernel
def bend(knots: ti.template(), basis: ti.template(), pitch: ti.template(), seconds: ti.f32):
    """The pitch follows a cubic spline."""
    for m in pitch:
        logarithm = ti.cast(0, Float)
        for i in ti.static(range(4)):
            logarithm += basis[m % KNOT, i] * knots[m // KNOT + i]
        pitch[m] = ti.exp(logarithm) * seconds


@ti.kernel
def turn(pitch: ti.template(), cycles: ti.template()):
    """The phase is the pitch's integral; whole cycles are dropped on the way, for the sake of float32."""
    ti.loop_config(serialize=True)
    for _ in range(1):  # Taichi's autodiff turns inner loops around, but not the outermost
        for m in range(cycles.shape[0] - 1):
            cycles[m + 1] = (
                cycles[m]
                + 0.5 * HOP * (pitch[m] + pitch[m + 1])
                - ti.floor(cycles[m] + 0.5 * HOP * (pitch[m] + pitch[m + 1]))
            )


@ti.kernel
def swell(log_levels: ti.template(), basis: ti.template(), pitch: ti.template(), levels: ti.template()):
    """Levels follow splines as well: faster ones would sound like noise. Below half the sample rate they fade out."""
    for m, h in levels:
        logarithm = ti.cast(0, Float)
        for i in ti.static(range(4)):
            logarithm += basis[m % KNOT, i] * log_levels[m // KNOT + i, h]
        levels[m, h] = ti.exp(logarithm) * ti.min(1, ti.max(0, 25 - 50 * (h + 1) * pitch[m]))


@ti.kernel
def open_up(log_gains: ti.template(), gains: ti.template()):
    """The bands' gains."""
    for m, b in gains:
        gains[m, b] = ti.exp(log_gains[m, b])


@ti.kernel
def sing(pitch: ti.template(), cycles: ti.template(), levels: ti.template(), parts: ti.template()):
    """Harmonics, GROUP in a part: between two hops the pitch and the levels change linearly."""
    for i, m in ti.ndrange(HARMONICS // GROUP, cycles.shape[0] - 1):
        for j in range(HOP):
            way = ti.cast(j, Float) / HOP
            phase = cycles[m] + j * (pitch[m] + 0.5 * way * (pitch[m + 1] - pitch[m]))
            tone = ti.cast(0, Float)
            for k in ti.static(range(GROUP)):
                h = GROUP * i + k
                turns = (h + 1) * phase
                level = levels[m, h] + way * (levels[m + 1, h] - levels[m, h])
                tone += level * ti.sin(ti.static(2 * np.pi) * (turns - ti.floor(turns)))
            parts[i, m * HOP + j] = tone


@ti.kernel
def breathe(gains: ti.template(), noise: ti.template(), parts: ti.template()):
    """Bands of noise, GROUP in a part: between two hops the gains change linearly."""
    for i, m in ti.ndrange(BANDS // GROUP, gains.shape[0] - 1):
        for j in range(HOP):
            way = ti.cast(j, Float) / HOP
            breath = ti.cast(0, Float)
            for k in ti.static(range(GROUP)):
                b = GROUP * i + k
                breath += noise[b, m * HOP + j] * (gains[m, b] + way * (gains[m + 1, b] - gains[m, b]))
            parts[i, m * HOP + j] = breath


@ti.kernel
def mix(tones: ti.template(), breaths: ti.template(), samples: ti.template()):
    """The sum of all parts."""
    for s in samples:
        total = ti.cast(0, Float)
        for i in ti.static(range(HARMONICS // GROUP)):
            total += tones[i, s]
        for i in ti.static(range(BANDS // GROUP)):
            total += breaths[i, s]
        samples[s] = total


def spline_basis() -> Signal:
    """The cubic B-spline's four weights at each hop from one knot to the next  # (KNOT, 4)"""
    t = np.arange(KNOT) / KNOT
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6


def noise_bands(n_samples: int, seed: int) -> Signal:
    """White noise of level 1 in bands that overlap and add up to it, equally wide on the mel scale  # (BANDS, T)"""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n_samples))
    mel = np.log1p(np.linspace(0, 8000, len(spectrum)) / 700)
    place = (BANDS - 1) * mel / mel[-1]
    weights = np.clip(1 - np.abs(place - np.arange(BANDS)[:, None]), 0, 1)
    return np.fft.irfft(spectrum * weights, n_samples)


# The pitch, estimated -----------------------------------------


def estimate_pitch(samples: Signal, sample_rate: int) -> Signal:
    """ln pitch at every hop: YIN along the path that changes least, and then its minima near there  # (points,)"""
    steps = round(np.log2(HIGHEST / LOWEST) * PER_OCTAVE)
    pitches = LOWEST * 2 ** (np.arange(steps + 1) / PER_OCTAVE)
    differences, loudness = yin(samples, sample_rate)
    lags = np.arange(differences.shape[1])
    cost = np.array([np.interp(sample_rate / pitches, lags, row) for row in differences])
    cost += 0.1 * np.log2(HIGHEST / pitches)  # twice the period fits as well
    path = cheapest_path(loudness[:, None] * cost, 3 / PER_OCTAVE)
    found = []
    for row, pitch in zip(differences, pitches[path], strict=True):
        near = np.flatnonzero(np.abs(np.log2(np.maximum(lags, 1) * pitch / sample_rate)) < 1 / 12)
        lag = int(np.clip(near[np.argmin(row[near])], 1, len(row) - 2))
        before, here, after = row[lag - 1 : lag + 2]
        curve = before - 2 * here + after
        found.append(lag + (np.clip(0.5 * (before - after) / curve, -0.5, 0.5) if curve > 0 else 0))
    return np.log(sample_rate / np.array(found))


def yin(samples: Signal, sample_rate: int) -> tuple[Signal, Signal]:
    """How little a frame is like itself a lag later, 0 … about 1 (points, lags), and how loud it is (points,)

    De Cheveigné and Kawahara, "YIN, a fundamental frequency estimator", JASA 2002.
    """
    size, lags = int(0.04 * sample_rate), int(sample_rate / LOWEST) + 2
    padded = np.pad(samples.astype(np.float64), (size + lags) // 2 + HOP)
    lag, rows, levels = np.arange(lags), [], []
    for middle in range(0, len(samples) + 1, HOP):
        frame = padded[middle + HOP :][: size + lags]
        energy = np.concatenate([[0.0], np.cumsum(frame**2)])
        spectrum = np.fft.rfft(frame, 4 * size)
        product = np.fft.irfft(spectrum * np.conj(np.fft.rfft(frame[:size], 4 * size)))[:lags]
        difference = energy[size] + energy[lag + size] - energy[lag] - 2 * product
        mean = np.cumsum(difference[1:]) / lag[1:]
        rows.append(np.concatenate([[1.0], difference[1:] / np.maximum(mean, 1e-12 + 1e-9 * energy[-1])]))
        levels.append(np.sqrt(energy[-1] / len(frame)))
    return np.array(rows), np.array(levels) / max(1e-12, float(np.mean(levels)))


def cheapest_path(cost: Signal, per_step: float) -> Any:
    """The columns, one for each row, whose costs and jumps are the cheapest: Viterbi's algorithm  # (rows,)"""
    columns = np.arange(cost.shape[1])
    jumps = per_step * np.abs(columns[:, None] - columns)
    total, origins = cost[0], []
    for row in cost[1:]:
        through = total + jumps  # (to, from)
        origins.append(through.argmin(axis=1))
        total = through.min(axis=1) + row
    path = [int(total.argmin())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return np.array(path[::-1])


def fit_knots(logarithms: Signal) -> Signal:
    """The spline's knots that come nearest to a track  # (knots,)"""
    basis, points = spline_basis(), np.arange(len(logarithms))
    matrix = np.zeros((len(points), points[-1] // KNOT + 4))
    for i in range(4):
        matrix[points, points // KNOT + i] = basis[points % KNOT, i]
    smooth = 0.03 * np.diff(np.eye(matrix.shape[1]), 2, axis=0)  # where the track says nothing, no waves
    return np.linalg.lstsq(np.vstack([matrix, smooth]), np.concatenate([logarithms, np.zeros(len(smooth))]))[0]


# The fit ------------------------------------------------------


class Run(NamedTuple):
    """What a fit leaves; without the margins."""

    losses: list[float]  # of iteration 0 … steps
    sounds: tuple[Signal, Signal]  # of iteration 0 and the last  # (T,)
    pitches: tuple[Signal, Signal]  # in Hz  # (points,)
    levels: Signal  # (points, HARMONICS)
    breath: Signal  # the part that is noise  # (T,)
    seconds: float


def fit(target: Sound, seed: int, steps: int) -> Run:
    """Adam on the pitch's knots, the levels and the gains."""
    length = -(-len(target.samples) // HOP) * HOP
    goal = np.pad(target.samples, (MARGIN, MARGIN + length - len(target.samples))).astype(np.float32)
    voice = Voice(fit_knots(estimate_pitch(goal, target.sample_rate)), len(goal), target.sample_rate, seed)
    loudness = common.rms(target.samples)
    buzz = np.tile(np.log(loudness / np.arange(1, HARMONICS + 1)), (voice.knots.shape[0], 1))
    voice.log_levels.from_numpy(buzz.astype(np.float32))
    voice.log_gains.fill(np.log(0.03 * loudness))

    largest = float(np.abs(ts.stft(goal, n_fft=1024)).max())
    loss = ts.SpectralLoss(
        voice.samples, ts.Target.from_signal(goal), stft=[ts.STFT(n_fft=n) for n in LOSS_SIZES],
        terms=[ts.Magnitude(p=1, weight=20 / largest), ts.LogMagnitude(eps=1e-4 * largest)], reduction="mean",
    )  # fmt: skip
    adams = {  # the pitch's steps are 2 cents at most: with 5, some knots left for good before the levels were found
        0.001: ts.optim.Adam([voice.knots], betas=(0.9, 0.99)),
        0.15: ts.optim.Adam([voice.log_levels, voice.log_gains], betas=(0.9, 0.99)),
    }
    voice.run()
    sounds, pitches, losses, began = [voice.samples.to_numpy()], [voice.hertz], [], time.perf_counter()
    with common.progress("fitting", steps) as advance:
        for i in range(steps + 1):
            with ti.ad.Tape(loss.value):
                voice.run()
                loss.compute()
            losses.append(loss.value[None])
            if i < steps:
                for rate, adam in adams.items():
                    adam.lr = rate * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * i / steps)))
                    adam.step()
                advance(f"loss {losses[-1]:.4g}")
    seconds = time.perf_counter() - began
    inner, hops = slice(MARGIN, MARGIN + len(target.samples)), slice(MARGIN // HOP, -(MARGIN // HOP))
    return Run(
        losses,
        (sounds[0][inner], voice.samples.to_numpy()[inner]),
        (pitches[0][hops], voice.hertz[hops]),
        voice.levels.to_numpy()[hops],
        voice.breaths.to_numpy().sum(axis=0)[inner],
        seconds,
    )


# The target ---------------------------------------------------


class Truth(NamedTuple):
    """What is known of a synthesized voice."""

    pitch: Signal  # in Hz, at every sample  # (T,)
    rate: float  # of the vibrato, in Hz
    depth: float  # of the vibrato, in cents
    levels: Signal  # at every sample  # (T, HARMONICS)
    voice: float  # RMS of the harmonics
    noise: float  # RMS of the breath


def synthesize_voice(seed: int) -> tuple[Sound, Truth]:
    """From "ah" to "ee" with vibrato and breath: each harmonic as loud as the vocal tract lets it be."""
    rng, rate = np.random.default_rng(seed), common.SAMPLE_RATE
    t = np.arange(int(SECONDS * rate)) / rate
    base, vibrato, depth = rng.uniform(105, 140), rng.uniform(5, 6.5), rng.uniform(30, 60)
    cents = -200 * np.exp(-t / 0.06) + depth * np.clip(t / 0.5, 0, 1) * np.sin(2 * np.pi * vibrato * t)
    pitch = base * 2 ** (cents / 1200)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    glide = np.clip((t - 0.6) / 0.7, 0, 1)
    envelope = np.minimum(1, t / 0.08) * np.minimum(1, (t[-1] - t) / 0.25)
    levels, voice = np.zeros((len(t), HARMONICS)), np.zeros(len(t))
    for h in range(1, HARMONICS + 1):
        tract = sum(
            gain / (1 + ((h * pitch - (1 - glide) * ah - glide * ee) / width) ** 2)
            for ah, ee, width, gain in ((730, 280, 90, 1), (1090, 2250, 110, 0.6), (2440, 2900, 160, 0.3),
                                        (3500, 3600, 250, 0.15), (5200, 5300, 600, 0.05))
        )  # fmt: skip
        levels[:, h - 1] = envelope * (tract + 0.01) / h**0.5 * (h * pitch < 0.49 * rate)
        voice += levels[:, h - 1] * np.sin(h * phase + rng.uniform(0, 2 * np.pi))
    white = np.fft.rfft(rng.standard_normal(len(t)))
    f = np.fft.rfftfreq(len(t), 1 / rate)
    breath = envelope * np.fft.irfft(white * np.exp(-0.5 * (np.log2((f + 1) / 3000) / 0.8) ** 2), len(t))
    scale = 0.5 / np.abs(voice).max()
    breath *= BREATH * common.rms(voice) / common.rms(breath)
    truth = Truth(pitch, vibrato, depth, scale * levels, scale * common.rms(voice), scale * common.rms(breath))
    return Sound(scale * (voice + breath), rate), truth


# What is measured ---------------------------------------------


class Recovered(NamedTuple):
    """What was found of a synthesized voice, beside what is true."""

    cents: tuple[Signal, Signal]  # the pitch's errors at every hop, of the estimate and of the fit  # (points,)
    vibrato: tuple[float, float]  # rate in Hz, depth in cents
    level_error: float  # RMS in dB, of harmonics no more than 40 dB below the loudest
    noise: float  # RMS; too soft, since noises differ less the softer one of them is

    def rms_cents(self) -> tuple[float, float]:
        """Of the estimate and of the fit, but for the fades at both ends."""
        before, after = (float(np.sqrt(np.mean(cents[INNER] ** 2))) for cents in self.cents)
        return before, after


INNER = slice(round(0.1 * common.SAMPLE_RATE / HOP), -round(0.1 * common.SAMPLE_RATE / HOP))  # hops


def compare(run: Run, truth: Truth) -> Recovered:
    """At every hop of a synthesized voice."""
    at = np.minimum(np.arange(len(run.levels)) * HOP, len(truth.pitch) - 1)
    cents = 1200 * np.log2(run.pitches[0] / truth.pitch[at]), 1200 * np.log2(run.pitches[1] / truth.pitch[at])
    levels = truth.levels[at]
    loud = levels > 0.01 * levels.max()
    error = 20 * np.log10(run.levels[loud] / levels[loud])
    return Recovered(cents, vibrato(run.pitches[1]), float(np.sqrt(np.mean(error**2))), common.rms(run.breath))


def vibrato(hertz: Signal) -> tuple[float, float]:
    """Rate in Hz and depth in cents of the sinusoid that fits a pitch the best, from 0.6 s on."""
    t = np.arange(len(hertz)) * HOP / common.SAMPLE_RATE
    held = (t > 0.6) & (t < t[-1] - 0.1)
    t, cents = t[held], 1200 * np.log2(hertz[held] / hertz[held].mean())
    best = (np.inf, 0.0, 0.0)
    for rate in np.arange(3, 9, 0.01):
        angle = 2 * np.pi * rate * t
        matrix = np.stack([np.sin(angle), np.cos(angle), np.ones(len(t))], axis=1)
        found = np.linalg.lstsq(matrix, cents, rcond=None)[0]
        best = min(best, (float(np.sum((matrix @ found - cents) ** 2)), float(rate), float(np.hypot(*found[:2]))))
    return best[1:]


def magnitudes(samples: Signal) -> Signal:
    """|X[k, f]|  # (K, F)"""
    return np.abs(ts.stft(samples.astype(np.float32), stft=SHOWN)).astype(np.float64)


# The page -----------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Listens, fits, draws and reports."""
    args = common.parse_arguments(argv, "additive", __doc__.splitlines()[0], steps=STEPS)
    truth = None
    if args.wav:
        target = common.make_target(args.wav, SHOWN, int(SECONDS * common.SAMPLE_RATE))
    else:
        target, truth = synthesize_voice(args.seed)
    arch = common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    run = fit(target, args.seed, args.steps)
    recovered = compare(run, truth) if truth else None
    spectra = [magnitudes(samples) for samples in (*run.sounds, target.samples)]
    convergence = [common.spectral_convergence(spectrum, spectra[-1]) for spectrum in spectra[:2]]
    with common.all_or_nothing(args.out) as folder:
        figure = draw(spectra, convergence, target, run, truth, recovered)
        common.save_png(figure, folder / "additive.png")
        for name, samples in zip(("before", "after", "target"), (*run.sounds, target.samples), strict=True):
            common.write_wav(folder / f"{name}.wav", Sound(samples, target.sample_rate))
    print(
        f"{args.steps} steps on {arch}, {len(target.samples) / target.sample_rate:.2f} s of sound: "
        f"loss {run.losses[0]:.4g} -> {run.losses[-1]:.4g}, {1000 * run.seconds / args.steps:.1f} ms per step"
    )
    if truth and recovered:
        report(truth, recovered)
    print(f"spectral convergence {convergence[0]:.1f} -> {convergence[1]:.1f} dB")
    if args.show:
        plt.show()
    if args.steps >= STEPS and truth and recovered:
        check(truth, recovered, convergence[1])


def report(truth: Truth, recovered: Recovered) -> None:
    """What was found, beside what is true."""
    (rate, depth), (before, after) = recovered.vibrato, recovered.rms_cents()
    print(f"pitch: the estimate is off by {before:.2f} cents (RMS), the fit by {after:.2f}; "
          f"levels of the harmonics off by {recovered.level_error:.2f} dB (RMS)")  # fmt: skip
    print(f"{'':24}{'found':>9}{'true':>9}")
    breath = (20 * np.log10(noise / truth.voice) for noise in (recovered.noise, truth.noise))
    for name, found, true in (("vibrato rate (Hz)", rate, truth.rate), ("vibrato depth (cents)", depth, truth.depth),
                              ("breath (dB re voice)", *breath)):  # fmt: skip
        print(f"{name:24}{found:9.2f}{true:9.2f}   off by {found - true:+.2f}")


def check(truth: Truth, recovered: Recovered, convergence: float) -> None:
    """Fails unless pitch, vibrato, levels and spectra are near the true ones."""
    (rate, depth), (_, cents) = recovered.vibrato, recovered.rms_cents()
    for what, value, unit, allowed in (
        ("the pitch is", cents, "cents", 2.0),
        ("the vibrato's rate is", 100 * abs(rate / truth.rate - 1), "%", 2.0),
        ("the vibrato's depth is", 100 * abs(depth / truth.depth - 1), "%", 5.0),
        ("the harmonics' levels are", recovered.level_error, "dB", 2.0),
    ):
        if not value < allowed:
            common.fall_short(f"{what} off by {value:.2f} {unit}, and {allowed:g} are allowed")
    if not convergence < CONVERGENCE:
        common.fall_short(f"the spectral convergence is {convergence:.1f} dB, and {CONVERGENCE:g} dB is asked for")


# Pictures -----------------------------------------------------


def draw(
    spectra: list[Signal],
    convergence: list[float],
    target: Sound,
    run: Run,
    truth: Truth | None,
    recovered: Recovered | None,
) -> Figure:
    """The spectrograms; the pitch and what became of it; the harmonics' levels."""
    figure = plt.figure(figsize=(12, 7.8))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    axes = top.subplots(1, 3, sharey=True)
    first, last = (f"{value:.1f} dB" for value in convergence)
    titles = (f"iteration 0: {first}", f"iteration {len(run.losses) - 1}: {last}", "target")
    for ax, spectrum, title in zip(axes, spectra, titles, strict=True):
        level = common.decibels(spectrum, spectra[-1].max())
        image = common.draw_spectrogram(ax, level, SHOWN, target, title)
    axes[0].set_ylabel("frequency (kHz)")
    top.colorbar(image, ax=axes, label="level (dB re target's max.)", pad=0.01)
    pitch, middle, levels = bottom.subplots(1, 3)
    draw_pitch(pitch, run, target.sample_rate, truth)
    if recovered:
        draw_cents(middle, recovered)
    else:
        draw_parts(middle, run, target.sample_rate)
    draw_levels(levels, run, target.sample_rate, truth)
    return figure


def heard(run: Run) -> Signal:
    """The pitches of the estimate and of the fit where the harmonics are not 40 dB below the loudest  # (2, points)"""
    level = np.sqrt(np.sum(run.levels**2, axis=1))
    return np.where(level > 0.01 * level.max(), np.array(run.pitches), np.nan)


def draw_pitch(ax: Axes, run: Run, sample_rate: int, truth: Truth | None) -> None:
    """In Hz."""
    estimate, fitted = heard(run)
    t = np.arange(len(fitted)) * HOP / sample_rate
    if truth:
        ax.plot(np.arange(len(truth.pitch)) / sample_rate, truth.pitch, color="black", linewidth=4, label="true")
    else:
        ax.plot(t, estimate, color="tab:blue", linewidth=2.5, label="estimate")
    ax.plot(t, fitted, color="tab:orange", linewidth=1.5, label="found")
    low, high = np.nanpercentile(fitted, (2, 98)) if np.isfinite(fitted).any() else (LOWEST, HIGHEST)
    ax.set(title="pitch", xlabel="time (s)", ylabel="frequency (Hz)", xlim=(0, t[-1]))
    ax.set_ylim(low - 0.06 * high, high * 1.12)
    ax.legend(ncols=2, loc="upper right", fontsize=10)


def draw_cents(ax: Axes, recovered: Recovered) -> None:
    """The pitch's errors, of the estimate and of the fit."""
    names = zip(recovered.cents, recovered.rms_cents(), ("iteration 0 (YIN)", "found"), strict=True)
    for (cents, rms, name), colour in zip(names, ("tab:blue", "tab:orange"), strict=True):
        t = np.arange(len(cents)) * HOP / common.SAMPLE_RATE
        ax.plot(t, cents, color=colour, linewidth=1.8, label=f"{name}: {rms:.2f} cents RMS")
    ax.axhline(0, color="black", linewidth=1)
    ax.set(title="pitch, beside the true one", xlabel="time (s)", ylabel="off by (cents)", xlim=(0, t[-1]))
    ax.set_ylim(-22, 30)
    ax.legend(loc="upper right", fontsize=10)


def draw_parts(ax: Axes, run: Run, sample_rate: int) -> None:
    """How loud harmonics and noise are."""
    harmonics = np.sqrt(0.5 * np.sum(run.levels**2, axis=1))
    points = len(harmonics)
    noise = np.sqrt([np.mean(run.breath[max(0, (m - 2) * HOP) : (m + 2) * HOP] ** 2 + 1e-20) for m in range(points)])
    t = np.arange(points) * HOP / sample_rate
    largest = max(harmonics.max(), noise.max())
    for name, level, colour in (("harmonics", harmonics, "tab:orange"), ("noise", noise, "tab:blue")):
        ax.plot(t, common.decibels(level, largest), color=colour, linewidth=1.8, label=name)
    ax.set(title="the parts", xlabel="time (s)", ylabel="level (dB re maximum)", xlim=(0, t[-1]))
    ax.set_ylim(common.DB_RANGE[0], 18)
    ax.legend(ncols=2, loc="upper right", fontsize=10)


def draw_levels(ax: Axes, run: Run, sample_rate: int, truth: Truth | None) -> None:
    """The harmonics at the two moments of the voice, or at the loudest of a recording."""
    points = len(run.levels)
    loudest = int(np.argmax(np.sum(run.levels**2, axis=1)))
    moments = (points // 5, 4 * points // 5) if truth else (loudest,)
    number = np.arange(1, HARMONICS + 1)
    for m, colour in zip(moments, ("tab:orange", "tab:green"), strict=False):
        if truth:
            ax.plot(number, common.decibels(truth.levels[m * HOP], run.levels.max()), color="black", linewidth=1.2)
        level = common.decibels(run.levels[m], run.levels.max())
        ax.plot(number, level, "o", color=colour, markersize=5, label=f"found at {m * HOP / sample_rate:.2f} s")
    if truth:
        ax.plot([], [], color="black", linewidth=1.2, label="true")
    ax.set(title="levels of the harmonics", xlabel="harmonic", ylabel="level (dB re maximum)", xlim=(0, HARMONICS))
    ax.set_ylim(common.DB_RANGE[0], 30)
    ax.legend(loc="upper right", fontsize=10)


if __name__ == "__main__":
    main()
