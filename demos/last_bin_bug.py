"""A gradient in which every bin overwrites the one before, so that only the last survives: how wrong is it?

    python demos/last_bin_bug.py

The backward pass that this package repairs wrote each bin's contribution to the same scratch element, with `=` where
the sum over bins needs `+=`. It was said to converge still, since the last bin points somewhat the right way and the
step size makes up for the length. Here both gradients are compared with finite differences, and both descend from the
same noise, by plain gradient descent, with every step size of the same sweep.
"""

from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import taichi as ti
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import common
import taichi_spec as ts
from common import Signal, Sound
from taichi_spec import reference
from taichi_spec.direct import DirectDFT, turn
from taichi_spec.runtime import has_float64

STFT = ts.STFT(n_fft=256, hop_length=64)
SAMPLES = 2048
STEP_SIZES = 10.0 ** np.arange(-5, -0.9, 0.5)  # 1e-5 … 1e-1, two to a decade
COLOURS = {"right": "tab:blue", "last bin": "tab:red"}


# The bug ------------------------------------------------------


@ti.kernel
def overwrite(G: ti.types.ndarray(), v: ti.types.ndarray(), roots: ti.types.ndarray(), count: ti.i32):
    """v[b, f, n] = Re(G[b, f, K−1] e^(+2πi (K−1) n / N)), all that is left of the sum over k.  # (B, block, N)"""
    N = v.shape[2]
    for b, f, n in ti.ndrange(v.shape[0], count, N):
        i = 0
        for k in range(G.shape[2]):
            v[b, f, n] = G[b, f, k, 0] * roots[i, 0] - G[b, f, k, 1] * roots[i, 1]  # the bug: `=`, not `+=`
            i = turn(i, n, N)


class LastBinDFT(DirectDFT):
    """The package's direct DFT, but for its adjoint."""

    def adjoint(self, G: Any, v: Any, count: int) -> None:
        """Writes every bin's contribution over the one before."""
        overwrite(G, v, self.roots, count)


DFTS = {"right": DirectDFT, "last bin": LastBinDFT}


# What is measured ---------------------------------------------


class Batch:
    """Signals in rows, their losses against one target, and their gradients, right or with the bug."""

    def __init__(self, rows: Signal, target: Signal, way: str) -> None:
        dtype = ti.f64 if has_float64() else ti.f32
        self.x = ti.field(dtype, shape=rows.shape, needs_grad=True)  # (B, T)
        self.x.from_numpy(rows)
        goal = ts.Target.from_signal(target)
        self.loss = ts.SpectralLoss(self.x, goal, stft=STFT, reduction="none", engine="direct")
        transform = self.loss._engine.transform
        transform.dft = DFTS[way](STFT.n_fft, dtype, transform.batch, transform.block)
        self.total = ti.field(dtype, shape=(), needs_grad=True)

    def differentiate(self) -> Signal:
        """The losses  # (B,); the gradients are in `x.grad`  # (B, T)"""
        with ti.ad.Tape(self.total):
            self.loss.compute()
            add_up(self.loss.value, self.total)
        return self.loss.value.to_numpy()


@ti.kernel
def add_up(value: ti.template(), total: ti.template()):
    """total += Σ_b value[b]: a tape starts from one number."""
    for b in value:
        total[None] += value[b]


@ti.kernel
def move(x: ti.template(), grad: ti.template(), step_sizes: ti.types.ndarray()):
    """x[b] ← x[b] − step_sizes[b] grad[b], each row with its own step size."""
    for b, s in x:
        x[b, s] = x[b, s] - step_sizes[b] * grad[b, s]


def gradient(x: Signal, target: Signal, way: str) -> Signal:
    """∂L/∂x, right or with the bug  # (T,)"""
    batch = Batch(x[None], target, way)
    batch.differentiate()
    return batch.x.grad.to_numpy()[0]


def finite_differences(x: Signal, target: Signal, h: float) -> Signal:
    """Central differences of the float64 reference, (L(x + h e_s) − L(x − h e_s)) / 2h for every sample s  # (T,)

    The two losses are subtracted bin by bin, (a − b)² − (c − b)² = (a − c) (a + c − 2 b), which saves the digits that
    their sums would lose.
    """
    b = np.abs(reference.stft(target, STFT))  # (K, F)
    differences = np.empty(len(x))
    with common.progress("finite differences", len(x)) as advance:
        for s in range(len(x)):
            pair = np.stack([x, x])
            pair[:, s] += h, -h
            a, c = np.abs(reference.stft(pair, STFT))  # (2, K, F)
            differences[s] = ((a - c) * (a + c - 2 * b)).sum() / (2 * h)
            advance("")
    return differences


class Comparison(NamedTuple):
    """A gradient g beside finite differences d."""

    cosine: float  # ⟨g, d⟩ / ‖g‖ ‖d‖
    norm_ratio: float  # ‖g‖ / ‖d‖
    error: float  # ‖g − d‖ / ‖d‖
    same_sign: float  # share of the samples: the cosine of single samples, which is +1 or −1
    ratios: Signal  # 5 %, 50 % and 95 % of the samples have g[s] / d[s] below these


def compare(g: Signal, d: Signal) -> Comparison:
    """How far a gradient is from finite differences, over all samples and per sample."""
    norm_g, norm_d = np.linalg.norm(g), np.linalg.norm(d)
    moved = d != 0  # the window is zero at the first sample, so nothing depends on it
    return Comparison(
        cosine=g @ d / (norm_g * norm_d),
        norm_ratio=norm_g / norm_d,
        error=np.linalg.norm(g - d) / norm_d,
        same_sign=np.mean((g * d > 0)[moved]),
        ratios=np.quantile(g[moved] / d[moved], (0.05, 0.5, 0.95)),
    )


class Descent(NamedTuple):
    """One gradient's descents, a row for each step size."""

    losses: Signal  # (steps + 1, B)
    results: Signal  # (B, T)

    @property
    def final(self) -> Signal:
        """The last losses, infinite where the descent diverged  # (B,)"""
        return np.where(self.losses[-1] < self.losses[0], self.losses[-1], np.inf)

    @property
    def best(self) -> int:
        """The row that ends lowest."""
        return int(np.argmin(self.final))


def descend(start: Signal, target: Signal, way: str, steps: int) -> Descent:
    """Plain gradient descent from one start, with every step size of the sweep at once."""
    batch = Batch(np.tile(start, (len(STEP_SIZES), 1)), target, way)
    step_sizes = STEP_SIZES.astype(batch.x.to_numpy().dtype)
    losses = []
    with common.progress(f"descending: {way}", steps) as advance:
        for _ in range(steps):
            losses.append(batch.differentiate())
            move(batch.x, batch.x.grad, step_sizes)
            advance(f"best loss {np.nanmin(losses[-1]):.4g}")
    losses.append(batch.differentiate())
    return Descent(np.array(losses), batch.x.to_numpy())


# The page -----------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Compares the gradients, descends with both, draws and reports."""
    args = common.parse_arguments(argv, "last_bin_bug", __doc__.splitlines()[0], steps=200)
    target = common.make_target(args.wav, STFT, SAMPLES)
    common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    y = target.samples
    start = common.rms(y) * np.random.default_rng(args.seed).standard_normal(len(y))
    differences = finite_differences(start, y, h=1e-5 * common.rms(y))
    gradients = {way: gradient(start, y, way) for way in DFTS}
    descents = {way: descend(start, y, way, args.steps) for way in DFTS}

    with common.all_or_nothing(args.out) as folder:
        figure = draw(target, start, differences, gradients, descents)
        figure.savefig(folder / "last_bin_bug.png", dpi=100)
    report(differences, gradients, descents)
    if args.show:
        plt.show()


def report(differences: Signal, gradients: dict[str, Signal], descents: dict[str, Descent]) -> None:
    """The figures, in the last lines."""
    print(f"gradient of the start, {len(differences)} samples, against central differences in float64:")
    for way, g in gradients.items():
        c = compare(g, differences)
        print(f"  {way + ':':9} cosine {c.cosine:.10f}, norm ratio {c.norm_ratio:.6f}, relative error {c.error:.2e}")
        low, median, high = c.ratios
        print(f"  {'':9} per sample: same sign in {100 * c.same_sign:.1f} %, ratio {median:.4f} (median), "
              f"{low:.4f} … {high:.4f} (5 … 95 %)")  # fmt: skip
    steps = len(descents["right"].losses) - 1
    print(f"plain gradient descent, {steps} steps, the best of {len(STEP_SIZES)} step sizes "
          f"{STEP_SIZES[0]:.0e} … {STEP_SIZES[-1]:.0e}:")  # fmt: skip
    for way, d in descents.items():
        print(f"  {way + ':':9} loss {d.losses[0, d.best]:.5g} -> {d.final[d.best]:.5g} "
              f"(step size {STEP_SIZES[d.best]:.2g})")  # fmt: skip
    print(f"  the last bin's final loss is {descents['last bin'].final.min() / descents['right'].final.min():.4g} "
          f"times the right one's")  # fmt: skip


def draw(
    target: Sound, start: Signal, differences: Signal, gradients: dict[str, Signal], descents: dict[str, Descent]
) -> Figure:
    """The gradients, the descents, and where these end."""
    figure = plt.figure(figsize=(12, 11.5))
    top, middle, bottom = figure.subfigures(3, 1)
    traces, scatter = top.subplots(1, 2, width_ratios=(1.8, 1))
    draw_traces(traces, differences, gradients)
    draw_scatter(scatter, differences, gradients)
    curves, sweep = middle.subplots(1, 2, width_ratios=(1.8, 1))
    draw_curves(curves, descents)
    draw_sweep(sweep, descents)
    draw_results(bottom, target, start, descents)
    return figure


def draw_traces(ax: Axes, differences: Signal, gradients: dict[str, Signal]) -> None:
    """The gradients over a stretch of samples in the middle."""
    s = np.arange(len(differences) // 2, len(differences) // 2 + 80)
    for way, g in gradients.items():
        ax.plot(s, g[s], color=COLOURS[way], linewidth=2, label=way)
    ax.plot(s, differences[s], ".", color="black", label="finite differences")
    ax.set(title="gradient at the start", xlabel="sample s", ylabel="∂L/∂x[s]", xlim=(s[0], s[-1]))
    ax.set_ylim(top=1.35 * np.abs(differences[s]).max())  # room for the legend
    ax.legend(ncols=3, loc="upper right")


def draw_scatter(ax: Axes, differences: Signal, gradients: dict[str, Signal]) -> None:
    """Every sample's gradient against its finite difference: on the diagonal if it is right."""
    for way, g in gradients.items():
        ax.plot(differences, g, ".", color=COLOURS[way], markersize=3, rasterized=True)
        cosine = compare(g, differences).cosine
        y = 0.93 if way == "right" else 0.83
        ax.text(0.04, y, f"{way}: cosine {cosine:.3f}", color=COLOURS[way], transform=ax.transAxes)
    ax.set(title="every sample", xlabel="finite difference", ylabel="gradient")
    ax.grid(alpha=0.3)


def draw_curves(ax: Axes, descents: dict[str, Descent]) -> None:
    """The losses, each with its best step size."""
    for way, d in descents.items():
        label = f"{way}: step size {STEP_SIZES[d.best]:.2g}"
        ax.semilogy(d.losses[:, d.best], color=COLOURS[way], linewidth=2, label=label)
    ax.set(title="gradient descent with the best step size", xlabel="iteration", ylabel="loss Σ (|X| − |Y|)²")
    ax.set_xlim(0, len(d.losses) - 1)
    ax.grid(alpha=0.3)
    ax.legend(loc="center right")


def draw_sweep(ax: Axes, descents: dict[str, Descent]) -> None:
    """Where each step size ends; a descent that diverges has no point."""
    for way, d in descents.items():
        ax.loglog(STEP_SIZES, np.where(np.isfinite(d.final), d.final, np.nan), "o-", color=COLOURS[way], label=way)
    ax.set(title="every step size", xlabel="step size", ylabel="final loss", xlim=STEP_SIZES[[0, -1]] * (0.7, 1.4))
    ax.axhline(d.losses[0, 0], color="0.5", linestyle="--", linewidth=1)
    ax.text(STEP_SIZES[-1], 0.9 * d.losses[0, 0], "iteration 0", color="0.4", ha="right", va="top")
    smallest = min(np.flatnonzero(np.isinf(d.final)).min(initial=len(STEP_SIZES)) for d in descents.values())
    if smallest < len(STEP_SIZES):
        ax.axvspan(STEP_SIZES[smallest] * 10**-0.25, ax.get_xlim()[1], color="0.92")
        ax.text(0.98, 0.5, "diverges", rotation=90, ha="right", va="center", transform=ax.transAxes)
    ax.grid(alpha=0.3)


def draw_results(figure: Any, target: Sound, start: Signal, descents: dict[str, Descent]) -> None:
    """Spectrograms of the target, the start, and what each gradient makes of it."""
    steps = len(descents["right"].losses) - 1
    signals = {"target": target.samples, "iteration 0": start}
    for way, d in descents.items():
        signals[f"iteration {steps}: {way}"] = d.results[d.best]
    axes = figure.subplots(1, 4, sharey=True)
    magnitudes = {title: np.abs(reference.stft(signal, STFT)) for title, signal in signals.items()}
    for ax, (title, spectrum) in zip(axes, magnitudes.items(), strict=True):
        level = common.decibels(spectrum, magnitudes["target"].max())
        image = common.draw_spectrogram(ax, level, STFT, target, title)
    axes[0].set_ylabel("frequency (kHz)")
    figure.colorbar(image, ax=axes, label="level (dB re target's max.)", pad=0.01)


if __name__ == "__main__":
    main()
