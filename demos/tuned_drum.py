"""Hears a drum and finds the paste on its head: why a tabla has a pitch.

    python demos/tuned_drum.py

The overtones of a bare drumhead are not harmonic: 1 : 1.59 : 2.14 : 2.65. A tabla carries a disc of heavy paste in
its middle that tunes them to about 1 : 2 : 3 : 4, as C. V. Raman explained. Here a membrane with a map m(x, y) of
masses is struck, and heard at a few points, by finite differences:

    m (∂²u/∂t² + 2 σ ∂u/∂t) = T ∇²u,      u = 0 at the rim

From a disc in the wrong place, of the wrong size and mass, the gradient of a spectral loss goes back through every
time step to the map, and from there to the disc, until the drum's spectra are the tabla's.
"""

import time
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import taichi as ti
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.sparse import diags, eye, kron
from scipy.sparse.linalg import eigsh

import common
import taichi_spec as ts
from common import Signal, Simulation, Sound

SAMPLE_RATE = 24_000  # Hz, and time steps per second
SEGMENTS = 20  # of the simulation: 0.21 s
RADIUS = 18  # of the head, in intervals of the grid; all other lengths are in radii
SIDE = 2 * RADIUS + 3  # points of the square that holds the head
BARE_PITCH = 300.0  # Hz
DAMPING = 8.0  # 1/s
EDGE = 0.04  # how soft the disc's edge is
STRIKE, STRIKE_WIDTH = (0.4, 0.15), 0.6
PICKUPS = ((0.0, 0.0), (0.5, 0.35), (-0.55, 0.3), (0.1, -0.7), (0.3, -0.4), (-0.2, 0.65), (-0.4, -0.35))
STEPS = 240

NAMES = ("x (radii)", "y (radii)", "radius (radii)", "mass (of bare head)")
TRUE = np.array([0.0, 0.0, 0.38, 3.125**2])  # Raman's

SPEED = 2 * np.pi * BARE_PITCH / 2.4048  # of waves on the bare head, in radii per second
COURANT = (SPEED * RADIUS / SAMPLE_RATE) ** 2  # stable up to 1/2; paste makes it smaller
X, Y = np.meshgrid(*2 * [(np.arange(SIDE) - RADIUS - 1) / RADIUS], indexing="ij")
INSIDE = np.hypot(X, Y) < 1  # (SIDE, SIDE)

COLOURS = {"iteration 0": "tab:blue", "target": "black", "found": "tab:orange"}
GIF_FRAMES, GIF_SECONDS = 36, 0.0106


# The drum -----------------------------------------------------


class Drum:
    """The simulation: disc → map of masses → rows of displacements → a sound for each pickup."""

    def __init__(self) -> None:
        points = SIDE * SIDE
        self.place = ti.field(ti.f32, shape=2, needs_grad=True)
        self.logarithms = ti.field(ti.f32, shape=2, needs_grad=True)  # of radius and mass
        self.inside = ti.field(ti.f32, shape=points)
        self.inside.from_numpy(INSIDE.ravel().astype(np.float32))
        self.pull = ti.field(ti.f32, shape=points, needs_grad=True)
        self.samples = ti.field(ti.f32, shape=(len(PICKUPS), SEGMENTS * Simulation.SEGMENT), needs_grad=True)
        u = ti.field(ti.f32, shape=(Simulation.SEGMENT + 2, points), needs_grad=True)
        start = np.tile(strike().ravel(), (2, 1))  # two equal rows: at rest
        step, listen = step_of(u, self.pull), listening_kernel(u, self.samples)
        self.simulation = Simulation(u, start, step, (SIDE + 1, points - SIDE - 1), listen, SEGMENTS)

    def run(self) -> None:
        """Strike, and listen."""
        prepare(self.place, self.logarithms, self.inside, self.pull)
        self.simulation.run()

    @property
    def disc(self) -> Signal:
        """Place, radius and mass of the paste  # (4,)"""
        return np.concatenate([self.place.to_numpy(), np.exp(self.logarithms.to_numpy())]).astype(np.float64)

    @disc.setter
    def disc(self, values: Signal) -> None:
        self.place.from_numpy(values[:2].astype(np.float32))
        self.logarithms.from_numpy(np.log(values[2:]).astype(np.float32))

    def sounds(self, disc: Signal) -> Signal:
        """What a drum with this disc sounds like  # (pickups, T)"""
        self.disc = disc
        self.run()
        return self.samples.to_numpy()

    def motion(self, disc: Signal) -> Signal:
        """The head's displacements in its first moments  # (SEGMENT, SIDE, SIDE)"""
        self.sounds(disc)
        return self.simulation.rows_of(0).reshape(-1, SIDE, SIDE)


def strike() -> Signal:
    """A soft mallet pushes the head in and lets go  # (SIDE, SIDE)"""
    r = np.hypot(X - STRIKE[0], Y - STRIKE[1]) / STRIKE_WIDTH
    return INSIDE * (0.5 + 0.5 * np.cos(np.pi * np.minimum(r, 1)))


@ti.kernel
def prepare(place: ti.template(), logarithms: ti.template(), inside: ti.template(), pull: ti.template()):
    """What the Laplacian is multiplied by at each point, T / m, and 0 outside the head."""
    for i in pull:
        x = ti.cast(i // SIDE - RADIUS - 1, ti.f32) / RADIUS - place[0]
        y = ti.cast(i % SIDE - RADIUS - 1, ti.f32) / RADIUS - place[1]
        r = ti.sqrt(x * x + y * y + 1e-6)  # a root has no derivative at 0
        covered = 1 / (1 + ti.exp((r - ti.exp(logarithms[0])) / EDGE))
        mass = 1 + (ti.exp(logarithms[1]) - 1) * covered
        pull[i] = inside[i] * ti.static(COURANT / (1 + DAMPING / SAMPLE_RATE)) / mass


def mass_map(disc: Signal) -> Signal:
    """The map that `prepare` makes, relative to the bare head  # (SIDE, SIDE)"""
    r = np.hypot(X - disc[0], Y - disc[1])
    return 1 + (disc[3] - 1) / (1 + np.exp((r - disc[2]) / EDGE))


def step_of(u: Any, pull: Any) -> Any:
    """The time step at one point; the points lie in a single row, SIDE to a line."""
    kept = (1 - DAMPING / SAMPLE_RATE) / (1 + DAMPING / SAMPLE_RATE)

    @ti.func
    def step(s, i):
        around = u[s + 1, i - 1] + u[s + 1, i + 1] + u[s + 1, i - SIDE] + u[s + 1, i + SIDE]
        u[s + 2, i] = u[s + 1, i] + kept * (u[s + 1, i] - u[s, i]) + pull[i] * (around - 4 * u[s + 1, i])

    return step


def listening_kernel(u: Any, samples: Any) -> Any:
    """What is heard: the displacement at the pickups."""
    points = [(round((x + 1) * RADIUS) + 1) * SIDE + round((y + 1) * RADIUS) + 1 for x, y in PICKUPS]

    @ti.kernel
    def listen(segment: ti.i32):
        for s in range(Simulation.SEGMENT):
            for b in ti.static(range(len(PICKUPS))):
                samples[b, segment * Simulation.SEGMENT + s] = u[s + 2, points[b]]

    return listen


def modes(disc: Signal) -> Signal:
    """Frequencies of the nine lowest modes in Hz, as the simulation has them."""
    second = diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(SIDE, SIDE))
    laplacian = (kron(second, eye(SIDE)) + kron(eye(SIDE), second)).tocsr()
    inside = INSIDE.ravel()
    root = diags(1 / np.sqrt(mass_map(disc).ravel()[inside]))
    matrix = -COURANT * root @ laplacian[inside][:, inside] @ root
    eigenvalues = eigsh(matrix, k=9, sigma=0, v0=np.ones(matrix.shape[0]))[0]
    return SAMPLE_RATE / np.pi * np.arcsin(np.sqrt(np.sort(eigenvalues)) / 2)


# The search ---------------------------------------------------


class Run(NamedTuple):
    """What a search leaves."""

    discs: Signal  # of iteration 0 … steps  # (steps + 1, 4)
    seconds: float


def search(drum: Drum, start: Signal, target: Signal, steps: int) -> Run:
    """Adam on the disc: transport moves the partials to where they belong, then log magnitudes tune them."""
    drum.disc = start
    goal = ts.Target.from_signal(target)
    largest = float(np.abs(ts.stft(target, n_fft=1024)).max())
    stages = (
        (ts.Transport(), [2048], 0.25, 0.03),
        (ts.LogMagnitude(eps=0.03 * largest), [512, 1024], 1.0, 0.05),
    )
    discs, began = [start], time.perf_counter()
    with common.progress("searching", steps) as advance:
        for term, sizes, end, rate in stages:
            stft = [ts.STFT(n_fft=size) for size in sizes]
            loss = ts.SpectralLoss(drum.samples, goal, stft=stft, terms=term, reduction="mean")
            adam = ts.optim.Adam([drum.place, drum.logarithms], betas=(0.9, 0.99))
            n_steps = round(end * steps) - len(discs) + 1
            for i in range(n_steps):
                with ti.ad.Tape(loss.value):
                    drum.run()
                    loss.compute()
                adam.lr = rate * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * i / n_steps)))
                adam.step()
                discs.append(drum.disc)
                advance(f"loss {loss.value[None]:.3g}")
    return Run(np.array(discs), time.perf_counter() - began)


def wrong_start(seed: int) -> Signal:
    """A disc off the middle, up to a half too small or too large, and of a third to two thirds of the mass  # (4,)"""
    rng = np.random.default_rng(seed)
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.4)
    radius = TRUE[2] * rng.uniform(1.2, 1.5) ** rng.choice([-1, 1])
    return np.array([distance * np.cos(angle), distance * np.sin(angle), radius, TRUE[3] * rng.uniform(0.33, 0.66)])


# The page -----------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Strikes the tabla, searches for it, draws and reports."""
    args = common.argument_parser("tuned_drum", __doc__.splitlines()[0], steps=STEPS).parse_args(argv)
    arch = common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    drum, start = Drum(), wrong_start(args.seed)
    run = search(drum, start, drum.sounds(TRUE), args.steps)
    discs = {"iteration 0": start, "found": run.discs[-1], "target": TRUE}
    sounds = {name: Sound(drum.sounds(disc).mean(axis=0), SAMPLE_RATE) for name, disc in discs.items()}
    motions = {name: drum.motion(disc) for name, disc in discs.items()}

    with common.all_or_nothing(args.out) as folder:
        figure = draw(discs, sounds, run)
        common.save_png(figure, folder / "tuned_drum.png")
        animate(motions, folder / "tuned_drum.gif")
        for name, file in (("iteration 0", "before"), ("found", "after"), ("target", "target")):
            common.write_wav(folder / f"{file}.wav", sounds[name])
    report(discs, run, arch)
    if args.show:
        plt.show()
    if args.steps >= STEPS:
        check(run.discs[-1])


def report(discs: dict[str, Signal], run: Run, arch: str) -> None:
    """The figures, in the last lines."""
    steps = len(run.discs) - 1
    print(f"{steps} steps on {arch}, each through {SEGMENTS * Simulation.SEGMENT:,} time steps of {INSIDE.sum():,} "
          f"points and back: {run.seconds / steps:.3f} s per step")  # fmt: skip
    print(f"{'the paste':24}{'start':>10}{'found':>10}{'true':>10}")
    for name, *values in zip(NAMES, *discs.values(), strict=True):
        print(f"{name:24}" + "".join(f"{value:10.4f}" for value in values))
    print("the lowest modes, in Hz and relative to the first:")
    for name, disc in discs.items():
        f = modes(disc)
        print(f"{name:12}{f[0]:6.1f}  " + " ".join(f"{ratio:.3f}" for ratio in f / f[0]))
    print(f"the modes are within {farthest(discs['found']):.1f} cents of the target's")


def farthest(disc: Signal) -> float:
    """How many cents off the worst mode is."""
    return float(np.abs(1200 * np.log2(modes(disc) / modes(TRUE))).max())


def check(found: Signal) -> None:
    """Fails unless every mode is within 5 cents, the place and radius within 0.02 and the mass within 5 %."""
    if not farthest(found) < 5:
        common.fall_short(f"a mode is {farthest(found):.1f} cents off, and 5 are allowed")
    for name, value, true, allowed in zip(NAMES, found, TRUE, (0.02, 0.02, 0.02, 0.05 * TRUE[3]), strict=True):
        if not abs(value - true) < allowed:
            common.fall_short(f"{name} is {value:.3f} instead of {true:.3f}")


# Pictures -----------------------------------------------------


def draw(discs: dict[str, Signal], sounds: dict[str, Sound], run: Run) -> Figure:
    """The maps; the spectra before and after; the modes and the disc on their way."""
    steps = len(run.discs) - 1
    figure = plt.figure(figsize=(12, 11.5))
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1.3, 1, 1))
    axes = top.subplots(1, 3, sharey=True)
    for ax, (name, disc) in zip(axes, discs.items(), strict=True):
        image = show(ax, mass_map(disc), label(name, steps))
        image.set(cmap="magma_r", clim=(1, TRUE[3]))
    axes[0].set_ylabel("y (radii)")
    top.colorbar(image, ax=axes, label="mass (of the bare head)", pad=0.01)
    left, right = middle.subplots(1, 2, sharey=True)
    draw_spectra(left, sounds, ("iteration 0", "target"), steps)
    draw_spectra(right, sounds, ("target", "found"), steps)
    right.set_ylabel("")
    left, right = bottom.subplots(1, 2)
    draw_modes(left, run)
    draw_disc(right, run)
    return figure


def label(name: str, steps: int) -> str:
    """What a drum is called in the figure."""
    return f"iteration {steps}" if name == "found" else name


def show(ax: Axes, values: Signal, title: str) -> Any:
    """Values on the head, as seen from above  # (SIDE, SIDE)"""
    edge = X[-1, 0] + 0.5 / RADIUS
    image = ax.imshow(np.where(INSIDE, values, np.nan).T, origin="lower", extent=(-edge, edge, -edge, edge))
    ax.set(title=title, xlabel="x (radii)", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    return image


def draw_spectra(ax: Axes, sounds: dict[str, Sound], names: tuple[str, ...], steps: int) -> None:
    """The spectra of the pickups' mean, with the harmonics of the tabla."""
    spectra = {name: np.abs(np.fft.rfft(s.samples * np.hanning(len(s.samples)), 2**15)) for name, s in sounds.items()}
    hertz = np.linspace(0, SAMPLE_RATE / 2, 2**14 + 1)
    shown = hertz <= 800
    for name in names:
        level = common.decibels(spectra[name], spectra["target"].max())
        width = 4 if name == "target" and "found" in names else 1.8
        ax.plot(hertz[shown], level[shown], color=COLOURS[name], linewidth=width, label=label(name, steps))
    for harmonic in range(1, 7):
        ax.axvline(harmonic * modes(TRUE)[0], color="0.8", linewidth=1, zorder=0)
    ax.set(title="spectrum (lines: harmonics)", xlabel="frequency (Hz)", ylabel="level (dB re target's max.)")
    ax.set(xlim=(0, 800), ylim=(common.DB_RANGE[0], 18))
    ax.legend(ncols=2, loc="upper right")


def draw_modes(ax: Axes, run: Run) -> None:
    """The modes relative to the lowest, from inharmonic to harmonic."""
    iterations = np.unique(np.linspace(0, len(run.discs) - 1, 61).round().astype(int))
    tracks = np.array([modes(run.discs[i]) for i in iterations])
    ax.plot(iterations, tracks / tracks[:, :1], color="tab:orange", linewidth=1.8)
    goal = modes(TRUE)
    ax.plot(np.full(len(goal), iterations[-1]), goal / goal[0], "o", color="black", clip_on=False, label="target")
    ax.set(title="modes", xlabel="iteration", ylabel="relative to the lowest", xlim=(0, iterations[-1]))
    ax.set(yticks=(1, 2, 3, 4), ylim=(0.8, 4.9))
    ax.grid(axis="y", alpha=0.5)
    ax.legend(loc="upper right")


def draw_disc(ax: Axes, run: Run) -> None:
    """Place, radius and mass."""
    relative = run.discs / np.array([1, 1, TRUE[2], TRUE[3]])
    for values, name in zip(relative.T, ("x", "y", "radius / target's", "mass / target's"), strict=True):
        ax.plot(values, linewidth=2, label=name)
    for value in (0, 1):
        ax.axhline(value, color="black", linewidth=1, zorder=0)
    ax.set(title="the disc of paste", xlabel="iteration", ylabel="radii, or relative to the target's")
    ax.set(xlim=(0, len(relative) - 1), ylim=(-0.7, 2.3))
    ax.legend(ncols=2, loc="upper right")


def animate(motions: dict[str, Signal], path: Any) -> None:
    """The three heads in slow motion after the same stroke."""
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.8), sharey=True)
    images = {}
    for ax, name in zip(axes, motions, strict=True):
        images[name] = show(ax, motions[name][0], name)
        images[name].set(cmap="RdBu_r", clim=(-0.6, 0.6))
    axes[0].set_ylabel("y (radii)")
    gif = common.Gif(figure, dpi=68)
    with common.progress("animating", GIF_FRAMES) as advance:
        for frame in range(GIF_FRAMES):
            moment = frame / GIF_FRAMES * GIF_SECONDS
            for name, image in images.items():
                image.set_data(np.where(INSIDE, motions[name][round(moment * SAMPLE_RATE)], np.nan).T)
            figure.suptitle(f"displacement after {1000 * moment:.1f} ms", fontsize=12)
            gif.add()
            advance("")
    gif.save(path, per_second=14)
    plt.close(figure)


if __name__ == "__main__":
    main()
