"""Noise becomes a sound: its samples follow the gradient of the spectral loss toward a target's spectrum.

python demos/match_spectrum.py
python demos/match_spectrum.py --wav recording.wav
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import taichi as ti
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import common
import taichi_spec as ts
from common import Signal, Sound

STFT = ts.STFT(n_fft=512, hop_length=128)
SYNTHESIZED_SAMPLES = 16_000  # 1 s
RECORDED_SAMPLES = 32_000  # 2 s
GIF_FRAMES = 36
GIF_LAST_FRAMES = 12  # how often the last one is repeated, to be looked at


def main(argv: list[str] | None = None) -> None:
    """Optimises, draws, and reports."""
    args = common.parse_arguments(argv, "match_spectrum", __doc__.splitlines()[0], steps=400)
    target = common.make_target(args.wav, STFT, RECORDED_SAMPLES if args.wav else SYNTHESIZED_SAMPLES)
    arch = common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    loudness = common.rms(target.samples)
    start = loudness * np.random.default_rng(args.seed).standard_normal(len(target.samples))
    run = optimise(start, target.samples, args.steps, lr=0.4 * loudness)
    result = Sound(run.signals[-1], target.sample_rate)

    pictures = Pictures(target, run)
    with common.all_or_nothing(args.out) as folder:
        figure = pictures.figure()
        figure.savefig(folder / "match_spectrum.png", dpi=100)
        pictures.animate(folder / "match_spectrum.gif")
        common.write_wav(folder / "target.wav", target)
        common.write_wav(folder / "result.wav", result)
    print(
        f"{args.steps} steps on {arch}: loss {run.losses[0]:.4g} -> {run.losses[-1]:.4g}, "
        f"spectral convergence {pictures.convergence[0]:.1f} -> {pictures.convergence[-1]:.1f} dB, "
        f"{1000 * run.seconds_per_step:.1f} ms per step"
    )
    if args.show:
        plt.show()


class Run(NamedTuple):
    """What an optimisation leaves."""

    losses: list[float]  # of iteration 0 … steps
    iterations: list[int]  # those whose signal is kept, 0 and the last among them
    signals: list[Signal]
    seconds_per_step: float  # the first step apart, which compiles


def optimise(start: Signal, target: Signal, steps: int, lr: float) -> Run:
    """Adam on the samples themselves."""
    x = ti.field(ti.f32, shape=len(start), needs_grad=True)
    x.from_numpy(start.astype(np.float32))
    loss = ts.SpectralLoss(x, ts.Target.from_signal(target.astype(np.float32)), stft=STFT)
    adam = ts.optim.Adam([x], lr=lr, betas=(0.9, 0.99))  # the gradient shrinks a hundredfold: forget it sooner

    kept = {0, *np.geomspace(1, steps, GIF_FRAMES).round().astype(int).tolist()}  # the first steps change the most
    losses, signals = [], []
    with common.progress("optimising", steps) as advance:
        for i in range(steps):
            if i in kept:
                signals.append(x.to_numpy())
            with ti.ad.Tape(loss.value):
                loss.compute()
            adam.step()
            losses.append(loss.value[None])
            if i == 0:
                began = time.perf_counter()
            advance(f"loss {losses[-1]:.4g}")
        loss.compute()
        losses.append(loss.value[None])
        signals.append(x.to_numpy())
    seconds = (time.perf_counter() - began) / max(1, steps - 1)
    return Run(losses, sorted(kept), signals, seconds)


class Pictures:
    """The spectra of a run, and the pictures made of them."""

    def __init__(self, target: Sound, run: Run) -> None:
        self.target, self.run = target, run
        Y = magnitudes(target.samples)  # (K, F)
        X = [magnitudes(signal) for signal in run.signals]
        self.convergence = [common.spectral_convergence(spectrum, Y) for spectrum in X]
        self.goal = common.decibels(Y, Y.max())
        self.levels = [common.decibels(spectrum, Y.max()) for spectrum in X]

    def figure(self) -> Figure:
        """Target, first and last iteration; one frame's spectra; the loss."""
        figure = plt.figure(figsize=(12, 7.5))
        top, bottom = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        axes = top.subplots(1, 3, sharey=True)
        levels = (self.goal, self.levels[0], self.levels[-1])
        titles = ("target", "iteration 0", f"iteration {self.run.iterations[-1]}")
        for ax, level, title in zip(axes, levels, titles, strict=True):
            image = common.draw_spectrogram(ax, level, STFT, self.target, title)
        axes[0].set_ylabel("frequency (kHz)")
        top.colorbar(image, ax=axes, label="level (dB re target's maximum)", pad=0.01)
        spectra, loss = bottom.subplots(1, 2, width_ratios=(1.8, 1))
        self._draw_frame(spectra)
        self._draw_loss(loss)
        return figure

    def _draw_frame(self, ax: Axes) -> None:
        """The spectra of the frame in which the target's is the richest: the highest mean level."""
        frame = int(np.argmax(self.goal.mean(axis=0)))
        kilohertz = STFT.frequencies(self.target.sample_rate) / 1000
        seconds = STFT.times(len(self.target.samples), self.target.sample_rate)[frame]
        ax.plot(kilohertz, self.levels[0][:, frame], color="0.75", linewidth=1, label="iteration 0")
        ax.plot(kilohertz, self.goal[:, frame], color="black", linewidth=2.5, label="target")
        label = f"iteration {self.run.iterations[-1]}"
        ax.plot(kilohertz, self.levels[-1][:, frame], color="tab:orange", linewidth=1.3, label=label)
        ax.set(title=f"the frame at {seconds:.2f} s", xlabel="frequency (kHz)", ylabel="level (dB)")
        ax.set(xlim=(0, kilohertz[-1]), ylim=(common.DB_RANGE[0], 15))
        ax.legend(ncols=3, loc="upper right")

    def _draw_loss(self, ax: Axes) -> None:
        ax.semilogy(self.run.losses, color="tab:orange")
        ax.set(title="loss", xlabel="iteration", ylabel="Σ (|X| − |Y|)²", xlim=(0, len(self.run.losses) - 1))
        ax.grid(alpha=0.3)

    def animate(self, path: Path) -> None:
        """The spectrogram on its way, beside the target's."""
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), sharey=True)
        common.draw_spectrogram(left, self.goal, STFT, self.target, "target")
        left.set_ylabel("frequency (kHz)")
        image = common.draw_spectrogram(right, self.levels[0], STFT, self.target, "")
        figure.colorbar(image, ax=[left, right], label="level (dB re max.)", pad=0.01)
        writer = PillowWriter(fps=8)
        with common.progress("animating", len(self.levels)) as advance, writer.saving(figure, path, dpi=90):
            for i, level in enumerate(self.levels):
                image.set_data(level)
                right.set_title(f"iteration {self.run.iterations[i]}: convergence {self.convergence[i]:.1f} dB")
                for _ in range(GIF_LAST_FRAMES if i == len(self.levels) - 1 else 1):
                    writer.grab_frame()
                advance("")
        plt.close(figure)


def magnitudes(signal: Signal) -> Signal:
    """|X[k, f]|  # (K, F)"""
    return np.abs(ts.stft(signal.astype(np.float32), stft=STFT)).astype(np.float64)


if __name__ == "__main__":
    main()
