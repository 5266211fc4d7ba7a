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
    """Sinusoids at random starts and targets, and a loss's derivative by the logarithm of the start's frequency."""

    def __init__(self, count: int, seed: int, row: Row) -> None:
        rng = np.random.default_rng(seed)
        self.start, self.target = np.exp(rng.uniform(np.log(LOW), np.log(HIGH), (2, count)))  # Hz
        self.phase, phase = rng.uniform(0, 2 * np.pi, (2, count))
        noise = np.zeros((2, count, T))
        if row.snr is not None:
            noise = rng.normal(0, np.sqrt(0.5 / 10 ** (row.snr / 10)), noise.shape)
        self.noise = noise[0]
        self.y = np.sin(angle(self.target, phase)) + noise[1]
        self.options = row.options
        self.fixed = ts.Target.from_signal(self.y)

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

    def signs(self) -> float:
        """The share of right signs at the start."""
        _, slope = self.loss(self.start)
        return float(np.mean(np.sign(slope) == np.sign(self.start - self.target)))

    def arrivals(self, steps: int, lr: float) -> float:
        """The share that Adam brings to the target; the step falls from lr to 0 as half a cosine."""
        u, m, v = np.log(self.start), np.zeros_like(self.start), np.zeros_like(self.start)
        for i in range(steps):
            _, slope = self.loss(np.exp(u))
            m = BETAS[0] * m + (1 - BETAS[0]) * slope
            v = BETAS[1] * v + (1 - BETAS[1]) * slope**2
            step = m / (1 - BETAS[0] ** (i + 1)) / (np.sqrt(v / (1 - BETAS[1] ** (i + 1))) + 1e-12)
            u = u - lr * 0.5 * (1 + np.cos(np.pi * i / steps)) * step
            u = np.clip(u, np.log(20.0), np.log(0.49 * SAMPLE_RATE))
        return float(np.mean(1200 * np.abs(u - np.log(self.target)) / np.log(2) < ARRIVED))


def angle(frequency: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """θ[s] of each sinusoid  # (pairs, T)"""
    return 2 * np.pi / SAMPLE_RATE * frequency[:, None] * n + phase[:, None]


def measure(pairs: int, steps: int, lr: float, seed: int) -> list[tuple[Row, float, float]]:
    """(loss, signs, arrivals) of every row."""
    results = []
    for row in rows():
        began = time.perf_counter()
        made = Pairs(pairs, seed, row)
        results.append((row, made.signs(), made.arrivals(steps, lr)))
        print(f"{row.name:32} {results[-1][1]:.2f} {results[-1][2]:.2f}  {time.perf_counter() - began:.0f} s")
    return results


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
            pairs = Pairs(1, 0, row)
            pairs.y = np.sin(angle(np.array([1000.0]), np.zeros(1)))
            pairs.fixed, pairs.phase, pairs.noise = ts.Target.from_signal(pairs.y[0]), np.zeros(len(grid)), np.zeros(1)
            values, _ = pairs.loss(grid)
            curves.plot(grid, values / values.max(), label=row.name)
    curves.axvline(1000, color="black", linewidth=0.8, linestyle=":")
    curves.set(
        xscale="log", xlabel="frequency (Hz)", ylabel="loss, relative to its maximum", title="target at 1,000 Hz"
    )
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
    results = measure(a.pairs, a.steps, a.lr, a.seed)
    write_table(a.out / "pitch.md", results, caption)
    draw(a.out / "pitch.png", results, caption)
    print(f"wrote {a.out / 'pitch.md'} and {a.out / 'pitch.png'}")


if __name__ == "__main__":
    main()
