"""Which losses know where the pitch is: one sinusoid is to reach the frequency of another.

    python tests/benchmarks/pitch.py --out out/pitch

Pairs of frequencies are drawn from 60 to 6,500 Hz, equally likely per octave, with random phases; 16 kHz, 4,096
samples. For each loss:

    sign      the share of pairs at which the derivative by frequency points from the start to the target
    arrives   the share at which Adam on the logarithm of the frequency ends within 50 cents of the target

and both at signal-to-noise ratios, with independent noise in either signal. Writes pitch.md (the table) and
pitch.png (the table as bars, and the losses along the frequency axis).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

import taichi_spec as ts

SAMPLE_RATE = 16_000  # Hz
T = 4096
LOW, HIGH = 60.0, 6500.0  # Hz
ARRIVED = 50.0  # cents
BETAS = (0.9, 0.99)  # of Adam: a longer memory of the steep start would shorten the last steps

n = np.arange(T)


@dataclass(frozen=True)
class Row:
    """A loss, with the options that compute it; None is the waveform's squared distance. snr in dB."""

    name: str
    options: dict[str, Any] | None = field(hash=False)
    snr: float | None = None


def rows() -> list[Row]:
    """The losses of the table."""
    stft = ts.STFT(2048)
    transport = dict(stft=stft, terms=ts.Transport(floor=0.0))
    floored = dict(stft=stft, terms=ts.Transport())
    ddsp = ts.presets.ddsp_multi_scale()
    return [
        Row("waveform L2", None),
        Row("L1 magnitude", dict(stft=stft, terms=ts.Magnitude(p=1))),
        Row("spectral convergence", dict(stft=stft, terms=ts.SpectralConvergence())),
        Row("auraloss multi-resolution", ts.presets.auraloss_multi_resolution()),
        Row("DDSP magnitude", {**ddsp, "terms": ts.Magnitude(p=1)}),
        Row("DDSP magnitude and log", ddsp),
        Row("DAC mel", ts.presets.descript_mel(SAMPLE_RATE)),
        Row("transport, center=True", dict(stft=ts.STFT(2048, center=True), terms=ts.Transport(floor=0.0))),
        Row("transport, floor 0", transport),
        *(Row(f"transport, floor 0, {snr} dB SNR", transport, snr) for snr in (20, 10, 0)),
        Row("transport, floor 2 %", floored),
        Row("transport, floor 2 %, 0 dB SNR", floored, 0),
    ]


class Pairs:
    """Sinusoids x on their way to y, and a loss's derivative by the logarithm of the frequency of x.

    Args:
        phase: of x, in radians  # (pairs,)
        noise: added to x  # (pairs, T)
        y: the targets  # (pairs, T)
        options: of the loss; None is the waveform's squared distance.
    """

    def __init__(self, phase: np.ndarray, noise: np.ndarray, y: np.ndarray, options: dict[str, Any] | None) -> None:
        self.phase, self.noise, self.y, self.options = phase, noise, y, options
        self.fixed = ts.Target.from_signal(y)

    def loss(self, frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The loss of each pair and its derivative by ln f  # (pairs,)"""
        theta = angle(frequency, self.phase)
        x = np.sin(theta) + self.noise
        if self.options is None:
            values, grad = np.sum((x - self.y) ** 2, axis=1), 2 * (x - self.y)
        else:
            values, grad = ts.value_and_grad(x, self.fixed, **{**self.options, "reduction": "none"})
        slope = np.sum(grad * np.cos(theta) * (theta - self.phase[:, None]), axis=1)  # ∂θ/∂ln f = θ − phase
        return values, slope


def angle(frequency: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """θ[s] of each sinusoid  # (pairs, T)"""
    return 2 * np.pi / SAMPLE_RATE * frequency[:, None] * n + phase[:, None]


def measure(row: Row, pairs: int, steps: int, lr: float, seed: int) -> tuple[float, float]:
    """The shares of right signs at the start and of arrivals at the end."""
    rng = np.random.default_rng(seed)
    start, target = np.exp(rng.uniform(np.log(LOW), np.log(HIGH), (2, pairs)))  # Hz
    phase = rng.uniform(0, 2 * np.pi, (2, pairs))
    noise = np.zeros((2, pairs, T))
    if row.snr is not None:
        noise = rng.normal(0, np.sqrt(0.5 / 10 ** (row.snr / 10)), noise.shape)
    made = Pairs(phase[0], noise[0], np.sin(angle(target, phase[1])) + noise[1], row.options)
    _, slope = made.loss(start)
    end = descend(made, start, steps, lr)
    cents = 1200 * np.abs(np.log2(end / target))
    return float(np.mean(np.sign(slope) == np.sign(start - target))), float(np.mean(cents < ARRIVED))


def descend(pairs: Pairs, start: np.ndarray, steps: int, lr: float) -> np.ndarray:
    """Where Adam ends; its step falls from lr to 0 as half a cosine.  # (pairs,), Hz"""
    u, m, v = np.log(start), np.zeros_like(start), np.zeros_like(start)
    for i in range(steps):
        _, slope = pairs.loss(np.exp(u))
        m = BETAS[0] * m + (1 - BETAS[0]) * slope
        v = BETAS[1] * v + (1 - BETAS[1]) * slope**2
        step = m / (1 - BETAS[0] ** (i + 1)) / (np.sqrt(v / (1 - BETAS[1] ** (i + 1))) + 1e-12)
        u = u - lr * 0.5 * (1 + np.cos(np.pi * i / steps)) * step
        u = np.clip(u, np.log(20.0), np.log(0.49 * SAMPLE_RATE))
    return np.exp(u)


def write_table(path: Path, results: list[tuple[Row, float, float]], caption: str) -> None:
    """The results in Markdown."""
    lines = [caption, "", "| loss | sign | arrives |", "| --- | --- | --- |"]
    lines += [f"| {row.name} | {sign:.2f} | {arrives:.2f} |" for row, sign, arrives in results]
    path.write_text("\n".join(lines) + "\n")


def draw(path: Path, results: list[tuple[Row, float, float]], caption: str) -> None:
    """Bars of both shares, and four losses along the frequency axis."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (bars, curves) = plt.subplots(1, 2, figsize=(13, 5.5), layout="constrained")
    at = np.arange(len(results))[::-1]
    bars.barh(at + 0.2, [sign for _, sign, _ in results], 0.38, label="right sign of the derivative")
    bars.barh(at - 0.2, [arrives for _, _, arrives in results], 0.38, label=f"arrives within {ARRIVED:.0f} cents")
    bars.axvline(0.5, color="black", linewidth=0.8, linestyle=":", label="a coin toss")
    bars.set_yticks(at, [row.name for row, _, _ in results])
    bars.set(xlim=(0, 1), xlabel="share of pairs", title="from random starts, 60 to 6,500 Hz")
    bars.legend(loc="lower left", bbox_to_anchor=(0, 1.06), frameon=False, ncols=3, fontsize=8)
    grid = np.exp(np.linspace(np.log(LOW), np.log(HIGH), 400))
    chosen = ("L1 magnitude", "auraloss multi-resolution", "DDSP magnitude and log", "transport, floor 2 %")
    for row, _, _ in results:
        if row.name in chosen:
            y = np.sin(angle(np.full(len(grid), 1000.0), np.zeros(len(grid))))
            values, _ = Pairs(np.zeros(len(grid)), np.zeros_like(y), y, row.options).loss(grid)
            curves.plot(grid, values / values.max(), label=row.name)
    curves.axvline(1000, color="black", linewidth=0.8, linestyle=":")
    curves.set(xscale="log", xlabel="frequency (Hz)", ylabel="loss over its maximum", title="target at 1,000 Hz")
    curves.legend(frameon=False, fontsize=8)
    figure.suptitle(caption, fontsize=9)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100, help="pairs of frequencies (100)")
    parser.add_argument("--steps", type=int, default=250, help="of Adam (250)")
    parser.add_argument("--lr", type=float, default=0.1, help="Adam's first step, in nepers of frequency (0.1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arch", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("out/pitch"))
    a = parser.parse_args(arguments)
    a.out.mkdir(parents=True, exist_ok=True)
    ts.init(arch=a.arch)
    caption = (
        f"{a.pairs} pairs, {a.steps} steps of Adam on ln f, step {a.lr} to 0 as half a cosine, betas {BETAS}; "
        f"n_fft 2,048 where one is named, center=False unless said; float64 on {a.arch}."
    )
    results = []
    for row in rows():
        began = time.perf_counter()
        results.append((row, *measure(row, a.pairs, a.steps, a.lr, a.seed)))
        print(f"{row.name:32} {results[-1][1]:.2f} {results[-1][2]:.2f}  {time.perf_counter() - began:.0f} s")
    write_table(a.out / "pitch.md", results, caption)
    draw(a.out / "pitch.png", results, caption)
    print(f"wrote {a.out / 'pitch.md'} and {a.out / 'pitch.png'}")


if __name__ == "__main__":
    main()
