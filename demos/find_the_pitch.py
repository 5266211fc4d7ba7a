"""Which losses know where the pitch is: oscillators that start up to two octaves off are to reach a target's pitch.

    python demos/find_the_pitch.py

A tone of six partials has one parameter here, its frequency. Four losses between it and a target are drawn along that
frequency, and the direction in which each one's gradient sends the oscillator. Then eight oscillators, a fifth to two
octaves too low or too high, follow each loss. Distances of magnitudes are flat or wrong wherever partials do not
overlap, and hold fast where some of them do: a fifth, a fourth, an octave. The cost of transport grows with every
semitone.
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

SAMPLE_RATE = 16_000  # Hz
N_SAMPLES = 4096
CHUNK = 256  # samples that a thread makes
PARTIALS = 6  # of level 1 / number
STFT = ts.STFT(n_fft=2048)
STEPS = 150
LARGEST_STEP = 0.08  # of ln frequency
ARRIVED = 5.0  # cents
AXIS = np.linspace(-27, 27, 109)  # where the losses are drawn, in semitones off the target
STARTS = np.array([-24.0, -17.0, -12.0, -7.0, 7.0, 12.0, 17.0, 24.0])  # semitones; a seed moves them by up to one
TRANSPORT = "transport"

RIGHT, WRONG = "tab:green", "tab:red"  # directions of the gradient
COLOURS = plt.get_cmap("viridis")(np.linspace(0, 0.85, len(STARTS)))
GIF_FRAMES = 36


def losses() -> dict[str, dict[str, Any]]:
    """The options of each loss, by the name that the figure has for it."""
    return {
        "magnitudes, L1": dict(stft=STFT, terms=ts.Magnitude(p=1)),
        "auraloss multi-resolution": ts.presets.auraloss_multi_resolution(),
        "DDSP multi-scale": ts.presets.ddsp_multi_scale(),
        TRANSPORT: dict(stft=STFT, terms=ts.Transport(floor=0.0)),  # a floor would cut through the weak partials
    }


# The oscillators ----------------------------------------------


class Oscillators:
    """Tones that differ in frequency and phase alone: ln frequency → chunks → samples.

    semitones: how far each one is off the target. phases: of its partials, in cycles  # (n, PARTIALS)
    """

    def __init__(self, semitones: Signal, phases: Signal, target: float) -> None:
        self.target = target  # Hz
        n = len(semitones)
        self.logarithms = ti.field(ti.f32, shape=n, needs_grad=True)  # of the frequency in Hz
        # A copy of each frequency for every chunk: threads would queue to add to a single gradient.
        self.frequencies = ti.field(ti.f32, shape=(n, N_SAMPLES // CHUNK), needs_grad=True)
        self.samples = ti.field(ti.f32, shape=(n, N_SAMPLES), needs_grad=True)
        self.phases = ti.field(ti.f32, shape=(n, PARTIALS))
        self.total = ti.field(ti.f32, shape=(), needs_grad=True)
        self.place(semitones, phases)

    def place(self, semitones: Signal, phases: Signal) -> None:
        """Other tones in the place of these: a loss on their fields is not compiled anew."""
        self.semitones = semitones
        self.phases.from_numpy(phases)

    @property
    def semitones(self) -> Signal:
        """How far each one is off the target  # (n,)"""
        return 12 * (self.logarithms.to_numpy().astype(np.float64) - np.log(self.target)) / np.log(2)

    @semitones.setter
    def semitones(self, values: Signal) -> None:
        self.logarithms.from_numpy((np.log(self.target) + values * np.log(2) / 12).astype(np.float32))

    def run(self) -> None:
        """The tones."""
        spread(self.logarithms, self.frequencies)
        oscillate(self.frequencies, self.phases, self.samples)

    def loss(self, goal: Signal, options: dict[str, Any]) -> ts.SpectralLoss:
        """A loss with a value for each of them."""
        return ts.SpectralLoss(self.samples, ts.Target.from_signal(goal), **{**options, "reduction": "none"})

    def differentiate(self, loss: ts.SpectralLoss) -> tuple[Signal, Signal]:
        """Each one's loss, and its derivative by ln frequency  # (n,), (n,)"""
        with ti.ad.Tape(self.total):
            self.run()
            loss.compute()
            common.add_up(loss.value, self.total)
        return loss.value.to_numpy(), self.logarithms.grad.to_numpy()


@ti.kernel
def spread(logarithms: ti.template(), frequencies: ti.template()):
    """Frequencies in Hz, for each chunk."""
    for b, c in frequencies:
        frequencies[b, c] = ti.exp(logarithms[b])


@ti.kernel
def oscillate(frequencies: ti.template(), phases: ti.template(), samples: ti.template()):
    """Σ_h sin(2π (h f t + phase)) / h, the target's level whatever the frequency."""
    for b, c in frequencies:
        for j in range(CHUNK):
            cycles = frequencies[b, c] * ti.cast(c * CHUNK + j, ti.f32) * ti.static(1 / SAMPLE_RATE)
            tone = ti.cast(0, ti.f32)
            for h in ti.static(range(1, PARTIALS + 1)):
                tone += ti.sin(ti.static(2 * np.pi) * (h * (cycles - ti.floor(cycles)) + phases[b, h - 1])) / h
            samples[b, c * CHUNK + j] = tone


# What is measured ---------------------------------------------


class Landscape(NamedTuple):
    """A loss along the frequency axis AXIS."""

    values: Signal  # of the largest  # (points,)
    right: Signal  # whether the way down is the way to the target  # (points,)

    @property
    def share(self) -> float:
        """Of right directions; at the target itself there is none."""
        return float(self.right[AXIS != 0].mean())


class Run(NamedTuple):
    """What following a loss leaves."""

    semitones: Signal  # off the target, of iteration 0 … steps  # (steps + 1, starts)
    samples: Signal  # of the last iteration  # (starts, T)

    @property
    def cents(self) -> Signal:
        """How far off each one ended  # (starts,)"""
        return 100 * np.abs(self.semitones[-1])

    @property
    def arrived(self) -> int:
        """How many reached the target."""
        return int(np.sum(self.cents < ARRIVED))


def random_phases(n: int, seed: int) -> Signal:
    """Of n tones."""
    return np.random.default_rng(seed).random((n, PARTIALS), dtype=np.float32)


def survey(oscillators: Oscillators, chosen: dict[str, ts.SpectralLoss], seed: int) -> dict[str, Landscape]:
    """Every loss at every frequency of the axis, as many at a time as there are oscillators."""
    n, landscapes = len(oscillators.semitones), {}
    places = np.resize(AXIS, -(-len(AXIS) // n) * n)
    phases = random_phases(len(places), seed)
    with common.progress("surveying", len(chosen)) as advance:
        for name, loss in chosen.items():
            found = []
            for some in np.split(np.arange(len(places)), len(places) // n):
                oscillators.place(places[some], phases[some])
                found.append(oscillators.differentiate(loss))
            values, slopes = (np.concatenate(parts)[: len(AXIS)] for parts in zip(*found, strict=True))
            landscapes[name] = Landscape(values / values.max(), np.sign(slopes) == np.sign(AXIS))
            advance(name)
    return landscapes


def follow(loss: ts.SpectralLoss, oscillators: Oscillators, steps: int, advance: Any) -> Run:
    """Adam on ln frequency, each oscillator for itself; its step falls to 0 as half a cosine."""
    adam = ts.optim.Adam([oscillators.logarithms], betas=(0.9, 0.99))
    history = [oscillators.semitones]
    for i in range(steps):
        oscillators.differentiate(loss)
        adam.lr = LARGEST_STEP * (0.001 + 0.999 * 0.5 * (1 + np.cos(np.pi * i / steps)))
        adam.step()
        oscillators.semitones = np.clip(oscillators.semitones, AXIS[0], AXIS[-1])  # to stay in the picture
        history.append(oscillators.semitones)
        advance(f"{np.mean(np.abs(history[-1])):.1f} semitones off")
    oscillators.run()
    return Run(np.array(history), oscillators.samples.to_numpy())


# The page -----------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Surveys the losses, follows them, draws and reports."""
    parser = common.argument_parser("find_the_pitch", __doc__.splitlines()[0], steps=STEPS)
    args = parser.parse_args(argv)
    arch = common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    rng, began = np.random.default_rng(args.seed), time.perf_counter()
    target = float(rng.uniform(180, 275))
    starts = STARTS + rng.uniform(-1, 1, len(STARTS)) * (np.abs(STARTS) < 24) * (np.abs(STARTS) > 7)
    voice = Oscillators(np.zeros(1), random_phases(1, args.seed + 1), target)
    voice.run()
    goal = voice.samples.to_numpy()[0]
    phases = random_phases(len(starts), args.seed + 3)
    oscillators, runs = Oscillators(starts, phases, target), {}
    oscillators.run()
    before = oscillators.samples.to_numpy()
    chosen = {name: oscillators.loss(goal, options) for name, options in losses().items()}
    landscapes = survey(oscillators, chosen, args.seed + 2)
    with common.progress("following", args.steps * len(chosen)) as advance:
        for name, loss in chosen.items():
            oscillators.place(starts, phases)
            runs[name] = follow(loss, oscillators, args.steps, lambda words, n=name: advance(f"{n}: {words}"))
    seconds = time.perf_counter() - began

    with common.all_or_nothing(args.out) as folder:
        figure = draw(landscapes, runs, target)
        common.save_png(figure, folder / "find_the_pitch.png", colours=128)
        animate(landscapes, runs, folder / "find_the_pitch.gif")
        ended = {"before": before, "target": np.tile(goal, (len(starts), 1)), "after": runs[TRANSPORT].samples}
        for name, sounds in ended.items():
            common.write_wav(folder / f"{name}.wav", Sound(one_after_another(sounds), SAMPLE_RATE))
    report(landscapes, runs, target, args.steps, arch, seconds)
    if args.show:
        plt.show()
    if args.steps >= STEPS and runs[TRANSPORT].arrived < len(STARTS):
        worst = runs[TRANSPORT].cents.max()
        common.fall_short(f"with transport, an oscillator ended {worst:.1f} cents off, and {ARRIVED:g} are allowed")


def one_after_another(tones: Signal) -> Signal:
    """Tones (n, T) as one sound, with soft edges."""
    ramp = np.minimum(1, np.arange(N_SAMPLES) / 400)
    return 0.3 * (tones * ramp * ramp[::-1]).ravel()


def report(
    landscapes: dict[str, Landscape], runs: dict[str, Run], target: float, steps: int, arch: str, seconds: float
) -> None:
    """The figures, in the last lines."""
    first = next(iter(runs.values())).semitones[0]
    print(f"{len(first)} oscillators on {arch} after {steps} steps of each loss; {seconds:.1f} s; "
          f"target {target:.2f} Hz; starts " + ", ".join(f"{at:+.1f}" for at in first) + " semitones off")  # fmt: skip
    print(f"{'':28}{'right direction':>16}{'arrived':>10}{'off by (cents): median':>24}{'worst':>9}")
    for name, run in runs.items():
        print(f"{name:28}{100 * landscapes[name].share:14.0f} %{run.arrived:6d} / {len(first)}"
              f"{np.median(run.cents):24.2f}{run.cents.max():9.2f}")  # fmt: skip
    ends = target * 2 ** (runs[TRANSPORT].semitones[-1] / 12)
    print(f"found with transport (Hz): {', '.join(f'{f:.2f}' for f in ends)}; true: {target:.2f}")


# Pictures -----------------------------------------------------


def draw(landscapes: dict[str, Landscape], runs: dict[str, Run], target: float) -> Figure:
    """Above, each loss along the frequency, with the ways down; below, where the oscillators went."""
    figure = plt.figure(figsize=(12, 7.6))
    axes = figure.subplots(2, len(runs), sharex="row", sharey="row", height_ratios=(1, 1.35))
    for (name, run), above, below in zip(runs.items(), *axes, strict=True):
        draw_landscape(above, landscapes[name])
        draw_balls(above, landscapes[name], run.semitones[-1])
        above.set(title=name, xlabel="semitones off the target")
        for track, colour in zip(run.semitones.T, COLOURS, strict=True):
            below.plot(track, color=colour, linewidth=1.8)
        below.axhline(0, color="black", linewidth=1, linestyle="--")
        below.set(xlabel="iteration", xlim=(0, len(run.semitones) - 1), yticks=range(-24, 25, 12))
        below.set_title(f"{run.arrived} of {len(run.cents)} arrive", color=RIGHT if run.arrived else WRONG)
    axes[0, 0].set_ylabel("loss (of its largest)")
    axes[1, 0].set_ylabel("semitones off the target")
    axes[1, 0].set(ylim=(AXIS[0], AXIS[-1]))
    key = [plt.Line2D([], [], color=colour, linewidth=8) for colour in (RIGHT, WRONG)]
    key.append(plt.Line2D([], [], color="0.2", marker="o", markersize=8, linestyle=""))
    words = ("the gradient leads toward the target", "leads away", "where the oscillators end")
    figure.legend(key, words, loc="outside lower center", ncols=3)
    figure.suptitle(f"Eight oscillators look for {target:.0f} Hz by the gradient of a loss", fontsize=15)
    return figure


def draw_landscape(ax: Axes, landscape: Landscape) -> None:
    """The loss, over a floor that is green where the gradient leads toward the target and red where away."""
    ax.plot(AXIS, landscape.values, color="0.2", linewidth=1.5)
    colours = np.where(landscape.right | (AXIS == 0), RIGHT, WRONG)
    ax.bar(AXIS, 0.1, bottom=-0.16, width=AXIS[1] - AXIS[0], color=colours)
    ax.set(ylim=(-0.16, 1.12), xlim=(AXIS[0], AXIS[-1]), xticks=range(-24, 25, 12), yticks=(0, 0.5, 1))


def draw_balls(ax: Axes, landscape: Landscape, semitones: Signal) -> Any:
    """The oscillators, each at its place on the loss."""
    heights = np.interp(semitones, AXIS, landscape.values)
    return ax.scatter(semitones, heights, color=COLOURS, s=60, edgecolor="white", linewidth=0.8, zorder=3)


def animate(landscapes: dict[str, Landscape], runs: dict[str, Run], path: Any) -> None:
    """The oscillators roll on the losses."""
    figure, axes = plt.subplots(2, 2, figsize=(7.4, 4.6), sharex=True, sharey=True)
    balls = {}
    for ax, (name, run) in zip(axes.flat, runs.items(), strict=True):
        draw_landscape(ax, landscapes[name])
        balls[name] = draw_balls(ax, landscapes[name], run.semitones[0])
        ax.set_title(name)
    for ax in axes[1]:
        ax.set_xlabel("semitones off the target")
    figure.supylabel("loss (of its largest)", fontsize=12)
    steps = len(next(iter(runs.values())).semitones) - 1
    gif = common.Gif(figure, dpi=75, colours=48)
    with common.progress("animating", min(GIF_FRAMES, steps + 1)) as advance:
        for i in sorted({*np.linspace(0, steps, GIF_FRAMES).round().astype(int).tolist()}):
            for name, run in runs.items():
                heights = np.interp(run.semitones[i], AXIS, landscapes[name].values)
                balls[name].set_offsets(np.stack([run.semitones[i], heights], axis=1))
            figure.suptitle(f"iteration {i}")
            gif.add()
            advance("")
    gif.save(path, per_second=10, hold=2)
    plt.close(figure)


if __name__ == "__main__":
    main()
