"""Hears an FM synthesizer and finds its settings: carrier, ratio, index, and the times of its envelopes.

    python demos/fm_synth.py
    python demos/fm_synth.py --wav recording.wav

Two operators, as in Chowning's voice and in the synthesizers of the eighties; one shakes the other's phase:

    x(t) = level (1 − e^(−t/attack)) e^(−t/decay) sin(2π carrier t + β(t) sin(2π ratio carrier t)),  β = index e^(−t/fade)

Sidebands come, go and fold over when a setting moves, so any distance has valleys that lead nowhere: thirty-two voices
with random settings set out. They follow the transport term, which spans the narrow valleys, beside a coarse distance of
log magnitudes that hears levels and envelopes. The best eight go on with finer distances, and the nearest is the
answer. A recording is matched as far as two operators can.
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
SECONDS = 1.0
ONSET = 512  # samples of silence before the note, so that windows see the attack
CHUNK = 256  # samples that a thread makes
LEAST = 2048  # samples, the largest window's
VOICES, FINALISTS = 32, 8
STEPS = 320

NAMES = ("carrier", "ratio", "index", "attack", "decay", "fade", "level")
UNITS = ("Hz", "", "", "s", "s", "s", "")
STARTS = np.array([(100, 500), (0.5, 4), (1, 8), (0.005, 0.08), (0.1, 1.2), (0.1, 1.2), (0.1, 1)])  # from … to
TARGETS = np.array([(150, 350), (0.8, 3), (2, 6), (0.01, 0.04), (0.2, 0.6), (0.15, 0.5), (0.4, 0.6)])
LIMITS = np.array([(30, 2000), (0.1, 12), (0.02, 12), (0.001, 0.4), (0.02, 5), (0.02, 5), (1e-3, 4)])
SCALES = np.array([0.5, 0.5, 1, 1, 1, 1, 1])  # how far a logarithm moves while another moves by 1
FINE = 0.05  # the largest relative error that a found setting may have

COLOURS = {"iteration 0": "tab:blue", "target": "black", "found": "tab:orange"}


# The synthesizer ----------------------------------------------


class Voices:
    """Some voices: logarithms of settings → a copy for every chunk → samples."""

    def __init__(self, settings: Signal, n_samples: int, sample_rate: int) -> None:
        n, chunks = len(settings), n_samples // CHUNK
        self.scaled = ti.field(ti.f32, shape=(n, len(NAMES)), needs_grad=True)  # ln setting / scale
        # Threads would queue to add to a single gradient: each chunk has its own, and `spread` adds them up.
        self.settings_of_chunks = ti.field(ti.f32, shape=(n, chunks, len(NAMES)), needs_grad=True)
        self.samples = ti.field(ti.f32, shape=(n, n_samples), needs_grad=True)
        self.total = ti.field(ti.f32, shape=(), needs_grad=True)
        self.sample_rate = sample_rate
        self.settings = settings

    @property
    def settings(self) -> Signal:
        """Of each voice, in the order of NAMES  # (n, 7)"""
        return np.exp(SCALES * self.scaled.to_numpy())

    @settings.setter
    def settings(self, values: Signal) -> None:
        inside = np.clip(values, *LIMITS.T)
        self.scaled.from_numpy((np.log(inside) / SCALES).astype(np.float32))

    def run(self) -> None:
        """The sounds."""
        spread(self.scaled, self.settings_of_chunks)
        play(self.settings_of_chunks, self.samples, 1 / self.sample_rate)

    def differentiate(self, loss: ts.SpectralLoss) -> None:
        """Each voice's loss, and its derivatives."""
        with ti.ad.Tape(self.total):
            self.run()
            loss.compute()
            common.add_up(loss.value, self.total)


@ti.kernel
def spread(scaled: ti.template(), settings: ti.template()):
    """Settings are positive: what moves is their logarithms."""
    for b, c in ti.ndrange(settings.shape[0], settings.shape[1]):
        for i in ti.static(range(len(NAMES))):
            settings[b, c, i] = ti.exp(ti.static(float(SCALES[i])) * scaled[b, i])


@ti.kernel
def play(p: ti.template(), samples: ti.template(), dt: ti.f32):
    """The formula above; a note starts after ONSET samples."""
    for b, c in ti.ndrange(p.shape[0], p.shape[1]):
        for j in range(CHUNK):
            t = ti.max(c * CHUNK + j - ONSET, 0) * dt
            carrier = p[b, c, 0] * t  # in cycles
            modulator = p[b, c, 1] * carrier
            depth = p[b, c, 2] * ti.exp(-t / p[b, c, 5])
            envelope = p[b, c, 6] * (1 - ti.exp(-t / p[b, c, 3])) * ti.exp(-t / p[b, c, 4])
            shaken = depth * ti.sin(ti.static(2 * np.pi) * (modulator - ti.floor(modulator)))
            samples[b, c * CHUNK + j] = envelope * ti.sin(
                ti.static(2 * np.pi) * (carrier - ti.floor(carrier)) + shaken
            )


def sound_of(settings: Signal, like: Sound) -> Sound:
    """What one voice sounds like, as long as another sound."""
    voice = Voices(settings[None], len(like.samples), like.sample_rate)
    voice.run()
    return Sound(voice.samples.to_numpy()[0], like.sample_rate)


# The search ---------------------------------------------------


class Stage(NamedTuple):
    """A part of the search."""

    name: str
    share: float  # of the steps
    options: dict[str, Any]  # of the loss
    rate: float  # the largest step of the logarithms


def stages(largest: float) -> tuple[Stage, ...]:
    """Coarse to fine; `largest` is the target's largest magnitude."""
    coarse = ts.STFT(n_fft=1024, hop_length=512)
    loud, soft = ts.LogMagnitude(eps=0.03 * largest), ts.LogMagnitude(eps=0.001 * largest)
    beside = ts.LogMagnitude(eps=loud.eps, weight=0.1 / coarse.n_bins)  # as large as the transport's, near the end
    return (
        Stage("transport", 0.32, dict(stft=coarse, terms=[ts.Transport(floor=0.0), beside]), 0.08),
        Stage("loud", 0.22, dict(stft=[ts.STFT(n_fft=n) for n in (512, 2048)], terms=loud), 0.04),
        Stage("loud and soft", 0.46, dict(stft=[ts.STFT(n_fft=n) for n in (512, 1024, 2048)], terms=soft), 0.03),
    )


class Run(NamedTuple):
    """What a search leaves."""

    tracks: list[Signal]  # each voice's settings, of iteration 0 to its last  # (iterations, 7)
    winner: int
    firsts: list[tuple[str, int]]  # each stage's name and first iteration
    seconds: float

    @property
    def track(self) -> Signal:
        """The winner's settings, of iteration 0 … steps  # (steps + 1, 7)"""
        return self.tracks[self.winner]


def search(target: Sound, starts: Signal, steps: int) -> Run:
    """Adam on the logarithms of all settings, each voice for itself, one stage after the other."""
    goal = ts.Target.from_signal(target.samples.astype(np.float32))
    largest = float(np.abs(ts.stft(target.samples, n_fft=1024)).max())
    racing, tracks = np.arange(len(starts)), [[start] for start in starts]
    firsts, began, done, end = [], time.perf_counter(), 0, 0.0
    with common.progress("searching", steps) as advance:
        for stage in stages(largest):
            end += stage.share * steps
            if round(end) == done:
                continue
            firsts.append((stage.name, done))
            voices = Voices(np.array([tracks[i][-1] for i in racing]), len(target.samples), target.sample_rate)
            loss = ts.SpectralLoss(voices.samples, goal, **stage.options, reduction="none")
            for settings, values in descend(voices, loss, round(end) - done, stage.rate):
                for i, row in zip(racing, settings, strict=True):
                    tracks[i].append(row)
                advance(f"{stage.name}: loss {values.min():.4g}")
            done = round(end)
            racing = racing[np.argsort(values)][:FINALISTS]
    return Run([np.array(track) for track in tracks], int(racing[0]), firsts, time.perf_counter() - began)


def descend(voices: Voices, loss: ts.SpectralLoss, steps: int, rate: float) -> Any:
    """Settings after each step, and the losses before it; the step falls to 2 % as half a cosine."""
    adam = ts.optim.Adam([voices.scaled], betas=(0.9, 0.99))
    for i in range(steps):
        voices.differentiate(loss)
        adam.lr = rate * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * i / steps)))
        adam.step()
        voices.settings = voices.settings  # within their limits
        yield voices.settings, loss.value.to_numpy()


# The target ---------------------------------------------------


def draw_settings(rng: np.random.Generator, ranges: Signal, n: int) -> Signal:
    """Random settings, equally likely per octave  # (n, 7)"""
    return np.exp(rng.uniform(*np.log(ranges).T, (n, len(NAMES))))


def prepare(recording: Sound) -> Sound:
    """A recording that starts as a voice does: its note after ONSET silent samples."""
    loud = np.abs(recording.samples)
    note = recording.samples[np.argmax(loud > 0.03 * loud.max()) :]
    length = max(LEAST, -(-(ONSET + len(note)) // CHUNK) * CHUNK)
    samples = np.zeros(length)
    samples[ONSET : ONSET + len(note)] = note
    return Sound(samples, recording.sample_rate)


def magnitudes(sound: Sound) -> Signal:
    """|X[k, f]|  # (K, F)"""
    return np.abs(ts.stft(sound.samples.astype(np.float32), stft=SHOWN)).astype(np.float64)


# The page -----------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Plays the target, searches for it, draws and reports."""
    args = common.parse_arguments(argv, "fm_synth", __doc__.splitlines()[0], steps=STEPS)
    n_samples = int(SECONDS * common.SAMPLE_RATE) // CHUNK * CHUNK
    recording = prepare(common.make_target(args.wav, SHOWN, n_samples)) if args.wav else None
    arch = common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    rng = np.random.default_rng(args.seed)
    true = None if recording else draw_settings(rng, TARGETS, 1)[0]
    target = recording or sound_of(true, Sound(np.zeros(n_samples), common.SAMPLE_RATE))
    run = search(target, draw_settings(rng, STARTS, VOICES), args.steps)
    found = run.track[-1]

    sounds = {"iteration 0": sound_of(run.track[0], target), "found": sound_of(found, target), "target": target}
    spectra = {name: magnitudes(sound) for name, sound in sounds.items()}
    with common.all_or_nothing(args.out) as folder:
        figure = draw(spectra, target, run, true)
        common.save_png(figure, folder / "fm_synth.png")
        for name, file in (("iteration 0", "before"), ("found", "after"), ("target", "target")):
            common.write_wav(folder / f"{file}.wav", sounds[name])
    report(spectra, run, true, args.steps, arch)
    if args.show:
        plt.show()
    if args.steps >= STEPS and true is not None:
        check(found, true)


def report(spectra: dict[str, Signal], run: Run, true: Signal | None, steps: int, arch: str) -> None:
    """The figures, in the last lines."""
    first, last = (common.spectral_convergence(spectra[name], spectra["target"]) for name in ("iteration 0", "found"))
    print(f"{steps} steps on {arch}, {VOICES} voices and then {FINALISTS}: {run.seconds / steps:.3f} s per step; "
          f"spectral convergence {first:.1f} -> {last:.1f} dB")  # fmt: skip
    print(f"{'':14}{'start':>10}{'found':>10}" + (f"{'true':>10}" if true is not None else ""))
    for i, (name, unit) in enumerate(zip(NAMES, UNITS, strict=True)):
        start, found = run.track[0, i], run.track[-1, i]
        line = f"{f'{name} ({unit})' if unit else name:14}{start:10.4g}{found:10.4g}"
        print(line if true is None else f"{line}{true[i]:10.4g}   off by {100 * (found / true[i] - 1):+.2f} %")
    if true is not None:
        print(f"{sum(near(track[-1], true) for track in run.tracks)} of {VOICES} voices found carrier and ratio")


def near(settings: Signal, true: Signal) -> bool:
    """Whether carrier and ratio are within FINE of the true ones."""
    return bool(np.all(np.abs(settings[:2] / true[:2] - 1) < FINE))


def check(found: Signal, true: Signal) -> None:
    """Fails unless every setting is within FINE of the true one."""
    for name, value, right in zip(NAMES, found, true, strict=True):
        if not abs(value / right - 1) < FINE:
            common.fall_short(
                f"the {name} is off by {100 * (value / right - 1):+.2f} %, and {100 * FINE:g} % is allowed"
            )


# Pictures -----------------------------------------------------


def draw(spectra: dict[str, Signal], target: Sound, run: Run, true: Signal | None) -> Figure:
    """The spectrograms; the voices' ways; the winner's settings and envelopes."""
    figure = plt.figure(figsize=(12, 7.8))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    steps = len(run.track) - 1
    axes = top.subplots(1, 3, sharey=True)
    titles = {"iteration 0": "iteration 0", "found": f"iteration {steps}", "target": "target"}
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        level = common.decibels(spectra[name], spectra["target"].max())
        image = common.draw_spectrogram(ax, level, SHOWN, target, title)
        ax.set_ylim(0, highest(spectra["target"], target.sample_rate) / 1000)
    axes[0].set_ylabel("frequency (kHz)")
    top.colorbar(image, ax=axes, label="level (dB re target's max.)", pad=0.01)
    plane, curves, envelopes = bottom.subplots(1, 3, width_ratios=(1.15, 1.25, 1))
    draw_plane(plane, run, true)
    draw_settings_of(curves, run, true)
    draw_envelopes(envelopes, run, true, (len(target.samples) - ONSET) / target.sample_rate)
    return figure


def highest(spectrum: Signal, sample_rate: int) -> float:
    """The frequency in Hz up to which there is something to see."""
    seen = common.decibels(spectrum, spectrum.max()).max(axis=1) > 0.8 * common.DB_RANGE[0]
    return min(1.3 * float(SHOWN.frequencies(sample_rate)[seen].max()) + 500, sample_rate / 2)


def draw_plane(ax: Axes, run: Run, true: Signal | None) -> None:
    """Where the voices went in carrier and ratio."""
    for track in run.tracks:
        ax.loglog(*track[:, :2].T, color="0.75", linewidth=0.8, zorder=1)
        ax.plot(*track[0, :2], ".", color="0.6", markersize=5, zorder=1)
    ax.plot(*run.track[:, :2].T, color=COLOURS["found"], linewidth=2.2, label="the best voice")
    ax.plot(*run.track[0, :2], "o", color=COLOURS["found"], markersize=7)
    ax.plot([], [], ".-", color="0.7", label="the others")
    if true is not None:
        ax.plot(*true[:2], "*", color="black", markersize=15, label="target", zorder=4)
    ax.set(
        title=f"the search of {VOICES} voices", xlabel="carrier (Hz)", ylabel="ratio", xlim=(60, 1100), ylim=(0.35, 10)
    )
    ax.set(xticks=(100, 200, 400, 800), xticklabels=("100", "200", "400", "800"))
    ax.set(yticks=(0.5, 1, 2, 4), yticklabels=("½", "1", "2", "4"))
    ax.minorticks_off()
    ax.legend(loc="upper right", ncols=1, fontsize=10)


def draw_settings_of(ax: Axes, run: Run, true: Signal | None) -> None:
    """The winner's settings, relative to the target's, or to what was found."""
    relative = run.track / (run.track[-1] if true is None else true)
    for name, values in zip(NAMES, relative.T, strict=True):
        ax.semilogy(values, linewidth=1.8, label=name)
    ax.axhline(1, color="black", linewidth=1)
    ax.set(title="the best voice's settings", xlabel="iteration", xlim=(0, len(run.track) - 1), ylim=(0.05, 25))
    ax.set_ylabel("relative to the target's" if true is not None else "relative to the last")
    ax.set(yticks=(0.125, 0.25, 0.5, 1, 2, 4, 8), yticklabels=("⅛", "¼", "½", "1", "2", "4", "8"))
    ax.minorticks_off()
    ax.legend(
        ncols=3, loc="upper center", fontsize=10, handlelength=1.2, columnspacing=0.9, frameon=True, edgecolor="none"
    )
    for i, (name, first) in enumerate(run.firsts):
        if i:
            ax.axvline(first, color="0.7", linestyle="--", linewidth=1)
        x = first + 0.01 * (len(run.track) - 1)
        ax.text(x, 0.02, name, color="0.4", fontsize=10, transform=ax.get_xaxis_transform())


def draw_envelopes(ax: Axes, run: Run, true: Signal | None, seconds: float) -> None:
    """Amplitude, solid, and modulation index, dashed."""
    t = np.linspace(0, seconds, 500)
    drawn = {"target": (true, 4.0), "iteration 0": (run.track[0], 1.5), "found": (run.track[-1], 1.5)}
    steps = len(run.track) - 1
    other = ax.twinx()
    other.spines["right"].set_visible(True)
    for name, (settings, width) in drawn.items():
        if settings is not None:
            _, _, index, attack, decay, fade, level = settings
            label = name if name != "found" else f"iteration {steps}"
            amplitude = level * (1 - np.exp(-t / attack)) * np.exp(-t / decay)
            ax.plot(t, amplitude, color=COLOURS[name], linewidth=width, label=label)
            other.plot(t, index * np.exp(-t / fade), color=COLOURS[name], linewidth=width, linestyle=":")
    ax.set(title="its envelopes", xlabel="time (s)", ylabel="amplitude (solid)", xlim=(0, t[-1]))
    other.set_ylabel("modulation index (dotted)")
    ax.set_ylim(0, None)
    other.set_ylim(0, None)
    ax.legend(loc="upper right", fontsize=10)


if __name__ == "__main__":
    main()
