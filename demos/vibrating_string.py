"""Hears a plucked string and finds its tension, its stiffness and its damping, through the simulation's time steps.

    python demos/vibrating_string.py
    python demos/vibrating_string.py --seconds 1

A stiff, damped string by finite differences, plucked at one point and heard at another, at 44,100 steps a second:

    μ ∂²u/∂t² = T ∂²u/∂x² − EI ∂⁴u/∂x⁴ − 2 μ σ₀ ∂u/∂t + 2 μ σ₁ ∂³u/∂t∂x²

From a string that is a few semitones off, with a stiffness and damping that are wrong by a factor of 2 to 3.5, the
gradient of a spectral loss goes back through every time step to these four numbers. First the transport term finds
the tension: it knows how far the partials have to move. Then log magnitudes find the rest, loud partials first: where
a partial lies tells the stiffness, how it decays tells the damping.
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
from common import Signal, Simulation, Sound

SAMPLE_RATE = 44_100  # Hz, and time steps per second
LENGTH = 0.65  # m
DENSITY = 1.2e-3  # kg/m, a wound G string
PLUCK, PICKUP = 0.21, 0.14  # of the length
INTERVALS = 50  # of the string, LENGTH / INTERVALS long; its highest mode is at 8 kHz
FIRST, LAST = 1, INTERVALS + 1  # the points that do not move; one more on each side holds zeros
STEPS = 180

NAMES = ("tension", "stiffness", "damping", "treble damping")
UNITS = ("N", "N m²", "1/s", "m²/s")
SYMBOLS = ("T", "EI", "σ₀", "σ₁")
TRUE = np.array([78.0, 1.7e-3, 4.0, 5e-3])

COLOURS = {"iteration 0": "tab:blue", "target": "black", "found": "tab:orange"}
GIF_FRAMES, GIF_SECONDS = 48, 0.012


# The string ---------------------------------------------------


class String:
    """The simulation: parameters → coefficients → rows of displacements → samples."""

    def __init__(self, seconds: float) -> None:
        n_segments = int(np.ceil(seconds * SAMPLE_RATE / Simulation.SEGMENT))
        self.logarithms = [ti.field(ti.f32, shape=1, needs_grad=True) for _ in NAMES]
        points = INTERVALS + 3
        # One number for each point, though all are equal: a GPU's threads would queue to add to a single gradient.
        self.coefficients = ti.field(ti.f32, shape=(4, points), needs_grad=True)
        self.samples = ti.field(ti.f32, shape=n_segments * Simulation.SEGMENT, needs_grad=True)
        u = ti.field(ti.f32, shape=(Simulation.SEGMENT + 2, points), needs_grad=True)
        start = np.tile(pluck(), (2, 1))  # two equal rows: at rest
        step, listen = step_of(u, self.coefficients), listening_kernel(u, self.samples)
        self.simulation = Simulation(u, start, step, (FIRST + 1, LAST), listen, n_segments)

    def run(self) -> None:
        """Pluck, and listen."""
        prepare(*self.logarithms, self.coefficients)
        self.simulation.run()

    @property
    def parameters(self) -> Signal:
        """Tension, stiffness and the two dampings  # (4,)"""
        return np.exp([float(field[0]) for field in self.logarithms])

    @parameters.setter
    def parameters(self, values: Signal) -> None:
        for field, value in zip(self.logarithms, values, strict=True):
            field[0] = np.log(value)

    def sound(self, parameters: Signal) -> Signal:
        """What a string with these parameters sounds like  # (T,)"""
        self.parameters = parameters
        self.run()
        return self.samples.to_numpy()

    def shapes(self, parameters: Signal, seconds: float) -> Signal:
        """Its displacements in the first moments, the start among them  # (steps, INTERVALS + 1)"""
        self.sound(parameters)
        segments = int(np.ceil(seconds * SAMPLE_RATE / Simulation.SEGMENT))
        rows = [pluck()[None], *(self.simulation.rows_of(segment) for segment in range(segments))]
        return np.concatenate(rows)[:, FIRST : LAST + 1]


def pluck() -> Signal:
    """A corner at PLUCK, rounded by the finger; 1 at most.  # (points,)"""
    x = np.arange(-1, INTERVALS + 2) / INTERVALS
    shape = np.clip(np.minimum(x / PLUCK, (1 - x) / (1 - PLUCK)), 0, None)
    for _ in range(3):
        shape[FIRST + 1 : LAST] = (
            shape[FIRST : LAST - 1] + 2 * shape[FIRST + 1 : LAST] + shape[FIRST + 2 : LAST + 1]
        ) / 4
    return shape


@ti.kernel
def prepare(tension: ti.template(), stiffness: ti.template(), damping: ti.template(), treble: ti.template(),
            coefficients: ti.template()):  # fmt: skip
    """What the finite differences are multiplied by; the parameters come as logarithms, so that they stay positive."""
    for i in range(coefficients.shape[1]):
        dt = ti.static(1 / SAMPLE_RATE)
        h2 = ti.static((LENGTH / INTERVALS) ** 2)
        loss = ti.exp(damping[0]) * dt
        coefficients[0, i] = (1 - loss) / (1 + loss)
        coefficients[1, i] = ti.exp(tension[0]) * ti.static(1 / DENSITY) * (dt * dt / h2) / (1 + loss)
        coefficients[2, i] = -ti.exp(stiffness[0]) * ti.static(1 / DENSITY) * (dt * dt / (h2 * h2)) / (1 + loss)
        coefficients[3, i] = 2 * ti.exp(treble[0]) * (dt / h2) / (1 + loss)


def step_of(u: Any, c: Any) -> Any:
    """The time step at one point, explicit, as in Bilbao's "Numerical Sound Synthesis"."""

    @ti.func
    def bend(s, i):
        """The second difference along the string, 0 at its ends, which are hinged."""
        return ti.cast((i > FIRST) & (i < LAST), ti.f32) * (u[s, i - 1] - 2 * u[s, i] + u[s, i + 1])

    @ti.func
    def step(s, i):
        now = bend(s + 1, i)
        u[s + 2, i] = (
            u[s + 1, i]
            + c[0, i] * (u[s + 1, i] - u[s, i])
            + c[1, i] * now
            + c[2, i] * (bend(s + 1, i - 1) - 2 * now + bend(s + 1, i + 1))
            + c[3, i] * (now - bend(s, i))
        )

    return step


def listening_kernel(u: Any, samples: Any) -> Any:
    """What a magnetic pickup hears: the velocity at one point."""
    point, gain = FIRST + round(PICKUP * INTERVALS), 15.0

    @ti.kernel
    def listen(segment: ti.i32):
        for s in range(Simulation.SEGMENT):
            samples[segment * Simulation.SEGMENT + s] = gain * (u[s + 2, point] - u[s + 1, point])

    return listen


# The search ---------------------------------------------------


class Stage(NamedTuple):
    """A part of the search."""

    name: str
    share: float  # of the steps
    terms: ts.Transport | ts.LogMagnitude
    sizes: tuple[int, ...]  # n_fft
    rates: tuple[float, ...]  # the largest steps of the logarithms of NAMES; 0 for one that waits


def stages(largest: float) -> tuple[Stage, ...]:
    """Coarse to fine; `largest` is the target's largest magnitude."""
    loud, soft = 0.03 * largest, 0.001 * largest
    return (
        Stage("transport", 0.24, ts.Transport(), (4096,), (0.03, 0, 0, 0)),
        Stage("loud partials", 0.38, ts.LogMagnitude(eps=loud), (512, 1024, 2048), (0.01, 0.08, 0.08, 0.08)),
        Stage("all partials", 0.38, ts.LogMagnitude(eps=soft), (1024, 2048, 4096), (0.003, 0.05, 0.05, 0.05)),
    )


class Run(NamedTuple):
    """What a search leaves."""

    parameters: Signal  # of iteration 0 … steps  # (steps + 1, 4)
    stages: list[tuple[str, int]]  # each one's name and first iteration
    seconds: float


def search(string: String, start: Signal, target: Signal, steps: int) -> Run:
    """Adam on the logarithms of the parameters, one stage after the other."""
    string.parameters = start
    goal = ts.Target.from_signal(target)
    largest = float(np.abs(ts.stft(target, n_fft=1024)).max())
    history, firsts, began, end = [start], [], time.perf_counter(), 0.0
    with common.progress("searching", steps) as advance:
        for stage in stages(largest):
            firsts.append((stage.name, len(history) - 1))
            end += stage.share * steps
            n_steps = round(end) - len(history) + 1
            stft = [ts.STFT(n_fft=size) for size in stage.sizes]
            loss = ts.SpectralLoss(string.samples, goal, stft=stft, terms=stage.terms, reduction="mean")
            moved = [(field, rate) for field, rate in zip(string.logarithms, stage.rates, strict=True) if rate]
            adams = [ts.optim.Adam([field], lr=rate, betas=(0.9, 0.99)) for field, rate in moved]
            for i in range(n_steps):
                with ti.ad.Tape(loss.value):
                    string.run()
                    loss.compute()
                for adam, (_, rate) in zip(adams, moved, strict=True):
                    adam.lr = rate * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * i / n_steps)))
                    adam.step()
                history.append(string.parameters)
                advance(f"{stage.name}: {cents(history[-1]):+.1f} cents")
    return Run(np.array(history), firsts, time.perf_counter() - began)


def wrong_start(seed: int) -> Signal:
    """Parameters that are off: 1.5 to 4 semitones, and factors of 2 to 3.5, each up or down  # (4,)"""
    rng = np.random.default_rng(seed)
    semitones, factors = rng.uniform(1.5, 4), rng.uniform(2, 3.5, 3)
    return TRUE * np.array([2 ** (semitones / 6), *factors]) ** rng.choice([-1, 1], 4)


# What is measured ---------------------------------------------


def pitch(parameters: Signal) -> float:
    """The first partial in Hz, of the continuous string."""
    tension, stiffness, *_ = parameters
    wavenumber = np.pi / LENGTH
    return float(wavenumber * np.sqrt((tension + stiffness * wavenumber**2) / DENSITY) / (2 * np.pi))


def cents(parameters: Signal) -> float:
    """How far the pitch is from the target's."""
    return 1200 * float(np.log2(pitch(parameters) / pitch(TRUE)))


def decay(parameters: Signal, partial: int) -> float:
    """Seconds until a partial has fallen by 60 dB."""
    return float(np.log(1000) / (parameters[2] + parameters[3] * (partial * np.pi / LENGTH) ** 2))


# The page -----------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Plucks the target, searches for it, draws and reports."""
    parser = common.argument_parser("vibrating_string", __doc__.splitlines()[0], steps=STEPS)
    parser.add_argument("--seconds", type=common.number(0.2, 10), default=0.5, help="length of the sound")
    args = parser.parse_args(argv)
    arch = common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    string, start = String(args.seconds), wrong_start(args.seed)
    target = string.sound(TRUE)
    run = search(string, start, target, args.steps)
    found = run.parameters[-1]

    strings = {"iteration 0": start, "target": TRUE, "found": found}
    sounds = {name: Sound(string.sound(values), SAMPLE_RATE) for name, values in strings.items()}
    shapes = {name: string.shapes(values, GIF_SECONDS) for name, values in strings.items()}
    with common.all_or_nothing(args.out) as folder:
        figure = draw(shapes, sounds, run)
        common.save_png(figure, folder / "vibrating_string.png")
        animate(shapes, folder / "vibrating_string.gif")
        for name, file in (("iteration 0", "before"), ("found", "after"), ("target", "target")):
            common.write_wav(folder / f"{file}.wav", sounds[name])
    report(start, found, run, arch, string)
    if args.show:
        plt.show()
    if args.steps >= STEPS:
        check(found)


def report(start: Signal, found: Signal, run: Run, arch: str, string: String) -> None:
    """The figures, in the last lines."""
    few, many = string.simulation.megabytes
    steps, n_samples = len(run.parameters) - 1, string.samples.shape[0]
    print(f"{steps} steps on {arch}, each through {n_samples:,} time steps and back: {run.seconds / steps:.3f} s "
          f"per step; {few:.1f} MB for the string's states, {many:.1f} MB without checkpoints")  # fmt: skip
    print(f"{'':24}{'start':>10}{'found':>10}{'true':>10}")
    rows = list(
        zip((f"{name} ({unit})" for name, unit in zip(NAMES, UNITS, strict=True)), start, found, TRUE, strict=True)
    )
    rows += [(f"T60 of partial {k} (s)", *(decay(p, k) for p in (start, found, TRUE))) for k in (1, 10)]
    for name, *values in rows:
        print(f"{name:24}" + "".join(f"{value:10.4g}" for value in values) + f"   off by {relative(*values[1:])}")
    pitches = "".join(f"{pitch(p):10.2f}" for p in (start, found, TRUE))
    print(f"{'pitch (Hz)':24}{pitches}   off by {cents(found):+.2f} cents")


def relative(value: float, true: float) -> str:
    """The error in percent."""
    return f"{100 * (value / true - 1):+.2f} %"


def check(found: Signal) -> None:
    """Fails unless the pitch is within 2 cents and every parameter within 5 %."""
    if not abs(cents(found)) < 2:
        common.fall_short(f"the pitch is {cents(found):+.2f} cents off, and 2 are allowed")
    for name, value, true in zip(NAMES, found, TRUE, strict=True):
        if not abs(value / true - 1) < 0.05:
            common.fall_short(f"the {name} is off by {relative(value, true)}, and 5 % is allowed")


# Pictures -----------------------------------------------------


def draw(shapes: dict[str, Signal], sounds: dict[str, Sound], run: Run) -> Figure:
    """The strings in motion, their spectra, and the parameters on their way."""
    figure = plt.figure(figsize=(12, 10.5))
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1, 1.1, 1.1))
    draw_shapes(top, shapes, len(run.parameters) - 1)
    left, right = middle.subplots(1, 2, sharey=True)
    draw_spectra(left, sounds, ("iteration 0", "target"), len(run.parameters) - 1)
    draw_spectra(right, sounds, ("target", "found"), len(run.parameters) - 1)
    right.set_ylabel("")
    left, right = bottom.subplots(1, 2)
    draw_pitch(left, run)
    draw_parameters(right, run)
    return figure


def draw_shapes(figure: Any, shapes: dict[str, Signal], steps: int) -> None:
    """The three strings at the same moments of the target's first half period."""
    moments = np.linspace(0, 0.5 / pitch(TRUE), 7)
    x = 100 * LENGTH * np.linspace(0, 1, INTERVALS + 1)
    axes = figure.subplots(1, 3, sharey=True)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(moments)))
    for ax, name in zip(axes, ("iteration 0", "found", "target"), strict=True):
        for moment, colour in zip(moments, colours, strict=True):
            shape = shapes[name][round(moment * SAMPLE_RATE)]
            ax.plot(x, shape, color=colour, linewidth=1.8, label=f"{1000 * moment:.1f} ms")
        ax.set(title=label(name, steps), xlabel="along the string (cm)", xlim=(0, x[-1]))
    axes[0].set_ylabel("displacement")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", title="after")


def label(name: str, steps: int) -> str:
    """What a string is called in the figure."""
    return f"iteration {steps}" if name == "found" else name


def draw_spectra(ax: Axes, sounds: dict[str, Sound], names: tuple[str, ...], steps: int) -> None:
    """The spectra of the whole sounds, up to 4 kHz."""
    spectra = {name: np.abs(np.fft.rfft(s.samples * np.hanning(len(s.samples)))) for name, s in sounds.items()}
    for name in names:
        level = common.decibels(spectra[name], spectra["target"].max())
        kilohertz = np.linspace(0, SAMPLE_RATE / 2000, len(level))
        shown = kilohertz <= 4
        width = 2.6 if name == "target" and "found" in names else 1.3
        ax.plot(kilohertz[shown], level[shown], color=COLOURS[name], linewidth=width, label=label(name, steps))
    ax.set(title="spectrum", xlabel="frequency (kHz)", ylabel="level (dB re target's max.)", xlim=(0, 4))
    ax.set_ylim(common.DB_RANGE[0], 18)
    ax.legend(ncols=2, loc="upper right")


def draw_pitch(ax: Axes, run: Run) -> None:
    """The pitch's error."""
    ax.plot([cents(p) for p in run.parameters], color="tab:orange", linewidth=2)
    ax.axhline(0, color="black", linewidth=1)
    ax.set(title="pitch", xlabel="iteration", ylabel="off by (cents)", xlim=(0, len(run.parameters) - 1))
    mark_stages(ax, run)


def draw_parameters(ax: Axes, run: Run) -> None:
    """All parameters relative to the target's."""
    for symbol, name, values in zip(SYMBOLS, NAMES, (run.parameters / TRUE).T, strict=True):
        ax.semilogy(values, linewidth=2, label=f"{name} {symbol}")
    ax.axhline(1, color="black", linewidth=1)
    ax.set(
        title="parameters", xlabel="iteration", ylabel="relative to the target's", xlim=(0, len(run.parameters) - 1)
    )
    ax.set(ylim=(0.2, 8), yticks=(0.25, 0.5, 1, 2, 4), yticklabels=("¼", "½", "1", "2", "4"))
    ax.minorticks_off()
    ax.legend(ncols=2, loc="upper right")
    mark_stages(ax, run)


def mark_stages(ax: Axes, run: Run) -> None:
    """Where a stage begins, and which."""
    for i, (name, first) in enumerate(run.stages):
        if i:
            ax.axvline(first, color="0.7", linestyle="--", linewidth=1)
        ax.text(first + 0.01 * ax.get_xlim()[1], 0.02, name, color="0.4", transform=ax.get_xaxis_transform())


def animate(shapes: dict[str, Signal], path: Any) -> None:
    """The strings in slow motion: the wrong one falls out of step, the found one does not."""
    figure, ax = plt.subplots(figsize=(7, 2.9))
    x = 100 * LENGTH * np.linspace(0, 1, INTERVALS + 1)
    width = {"iteration 0": 2, "target": 5, "found": 2}
    lines = {name: ax.plot(x, x, color=COLOURS[name], linewidth=width[name], label=name)[0] for name in shapes}
    ax.set(xlabel="along the string (cm)", ylabel="displacement", xlim=(0, x[-1]), ylim=(-1.05, 1.4))
    ax.legend(ncols=3, loc="upper right")
    gif = common.Gif(figure, dpi=80)
    with common.progress("animating", GIF_FRAMES) as advance:
        for frame in range(GIF_FRAMES):
            moment = frame / GIF_FRAMES * GIF_SECONDS
            for name, line in lines.items():
                line.set_ydata(shapes[name][round(moment * SAMPLE_RATE)])
            ax.set_title(f"{1000 * moment:.2f} ms", loc="left")
            gif.add()
            advance("")
    gif.save(path, per_second=16)
    plt.close(figure)


if __name__ == "__main__":
    main()
