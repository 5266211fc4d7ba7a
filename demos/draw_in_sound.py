"""Draws with sound: a signal is optimised from noise until its spectrogram shows a picture.

    python demos/draw_in_sound.py
    python demos/draw_in_sound.py --image picture.png

Upwards is frequency, to the right is time, bright is loud: black is 50 dB below white. Only magnitudes are asked for;
the phases that go with them come out of the descent. Wide pictures make longer sounds.
"""

import time
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import taichi as ti
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import common
import taichi_spec as ts
from common import Signal, Sound

STFT = ts.STFT(n_fft=512, hop_length=128)
SAMPLE_RATE = common.SAMPLE_RATE
BAND = (8, 248)  # bins that show the picture: 250 Hz to 7.7 kHz
BLACK = -50.0  # dB re white
SECONDS_PER_HEIGHT = 2.0  # as long as a square picture takes
STEPS = 400
LIKENESS = 0.9  # the correlation that is asked for
GIF_FRAMES = 14


# The picture --------------------------------------------------


def yin_yang(size: int = 480) -> Signal:
    """Yin and yang among the eight trigrams: brightness 0 … 1, first row on top  # (size, size)"""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(1, -1, size))
    r = np.hypot(x, y)
    head, tail = np.hypot(x, y - 0.3), np.hypot(x, y + 0.3)
    bright = ((x < 0) | (head < 0.3)) & ~(tail < 0.3)
    bright = np.where(head < 0.09, False, np.where(tail < 0.09, True, bright))
    picture = np.where((r < 0.6) & bright | (np.abs(r - 0.6) < 0.02), 1.0, 0.0)
    for k, lines in enumerate((0b111, 0b110, 0b101, 0b100, 0b000, 0b001, 0b010, 0b011)):
        angle = np.pi / 2 + k * np.pi / 4
        out, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        for line in range(3):
            bar = (np.abs(out - 0.72 - 0.09 * line) < 0.027) & (np.abs(along) < 0.2)
            whole = bool(lines >> line & 1)
            picture[bar & (whole | (np.abs(along) > 0.035))] = 1.0
    return picture


def load_picture(path: Path) -> Signal:
    """An image file as brightness 0 … 1, transparent parts black, first row on top  # (rows, columns)"""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # 16 bits and more, of a range that is not told
                values = np.asarray(image, dtype=np.float64)
                picture = (values - values.min()) / max(np.ptp(values), np.finfo(float).tiny)
            else:
                whole = image.convert("RGBA")
                black = Image.new("RGBA", whole.size, "black")
                picture = np.asarray(Image.alpha_composite(black, whole).convert("L"), dtype=np.float64) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not an image that can be read"
        common.fail(f"{path}: {reason}")
    if not np.isfinite(picture).all() or np.ptp(picture) < 1 / 255:
        common.fail(f"{path}: is of one brightness, so there is nothing to draw")
    return picture


def target_magnitudes(picture: Signal) -> Signal:
    """What |X| is to be, 1 where the picture is white  # (K, F)"""
    rows, columns = picture.shape
    seconds = float(np.clip(SECONDS_PER_HEIGHT * columns / rows, 0.5, 6))
    n_frames = STFT.n_frames(round(seconds * SAMPLE_RATE))
    size = (n_frames, BAND[1] - BAND[0])
    fitted = Image.fromarray(picture.astype(np.float32)).resize(size, Image.Resampling.BOX)
    brightness = np.zeros((STFT.n_bins, n_frames))
    brightness[BAND[0] : BAND[1]] = np.asarray(fitted)[::-1]
    return 10 ** (BLACK / 20 * (1 - brightness))


def brightness_of(magnitudes: Signal) -> Signal:
    """The picture that magnitudes show."""
    return np.clip(1 - common.decibels(magnitudes, 1.0) / BLACK, 0, 1)


# The descent --------------------------------------------------


class Run(NamedTuple):
    """What a descent leaves."""

    losses: list[float]  # of iteration 0 … steps
    iterations: list[int]  # those whose signal is kept, 0 and the last among them
    signals: list[Signal]
    seconds: float


def draw_with_sound(goal: Signal, seed: int, steps: int) -> Run:
    """Adam on the samples, from noise."""
    n_samples = STFT.n_fft + (goal.shape[1] - 1) * STFT.hop_length
    level = float(np.sqrt(np.mean(goal**2) / np.sum(STFT.window_table**2)))  # noise with about the picture's energy
    x = ti.field(ti.f32, shape=n_samples, needs_grad=True)
    x.from_numpy(level * np.random.default_rng(seed).standard_normal(n_samples).astype(np.float32))
    # The magnitudes' distance draws what is bright, the logarithms' keeps what is dark free of noise.
    terms = [ts.Magnitude(p=2), ts.LogMagnitude(p=2, eps=10 ** (BLACK / 20), weight=0.05)]
    loss = ts.SpectralLoss(x, ts.Target.from_magnitudes(goal.astype(np.float32)), stft=STFT, terms=terms)
    adam = ts.optim.Adam([x], betas=(0.9, 0.99))

    kept = {0, *np.geomspace(1, steps, GIF_FRAMES).round().astype(int).tolist()}  # the first steps change the most
    losses, signals, began = [], [], time.perf_counter()
    with common.progress("drawing", steps) as advance:
        for i in range(steps):
            if i in kept:
                signals.append(x.to_numpy())
            with ti.ad.Tape(loss.value):
                loss.compute()
            adam.lr = 0.5 * level * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * i / steps)))
            adam.step()
            losses.append(loss.value[None])
            advance(f"loss {losses[-1]:.4g}")
        loss.compute()
        losses.append(loss.value[None])
        signals.append(x.to_numpy())
    seconds = time.perf_counter() - began
    return Run(losses, sorted(kept), [signal * fade(n_samples) for signal in signals], seconds)


def fade(n_samples: int) -> Signal:
    """Ends for the signal: its first and last samples are in no window's middle, so the loss lets them be noise."""
    ramp = np.minimum(1, np.arange(n_samples, dtype=np.float32) / 48)
    return ramp * ramp[::-1]


def correlation(shown: Signal, wanted: Signal) -> float:
    """Of two pictures' brightness: 1 if they are the same."""
    return float(np.corrcoef(shown.ravel(), wanted.ravel())[0, 1])


# The page -----------------------------------------------------


def main(argv: list[str] | None = None) -> None:
    """Loads the picture, draws it, writes the files and reports."""
    parser = common.argument_parser("draw_in_sound", __doc__.splitlines()[0], steps=STEPS)
    parser.add_argument("--image", type=Path, help="the picture, instead of yin and yang")
    args = parser.parse_args(argv)
    goal = target_magnitudes(load_picture(args.image) if args.image else yin_yang())
    arch = common.start_backend(args.arch)
    common.make_folder(args.out)
    common.set_up_figures(args.show)

    run = draw_with_sound(goal, args.seed, args.steps)
    spectra = [np.abs(ts.stft(signal, stft=STFT)) for signal in run.signals]
    wanted, shown = brightness_of(goal), [brightness_of(spectrum) for spectrum in spectra]
    likeness = [correlation(picture, wanted) for picture in shown]

    sound = Sound(0.5 * run.signals[-1] / np.abs(run.signals[-1]).max(), SAMPLE_RATE)
    with common.all_or_nothing(args.out) as folder:
        figure = draw(wanted, shown, likeness, run, sound)
        common.save_png(figure, folder / "draw_in_sound.png", colours=128)
        animate(shown, likeness, run, folder / "draw_in_sound.gif")
        common.write_wav(folder / "drawing.wav", sound)
    convergence = [common.spectral_convergence(spectrum, goal) for spectrum in (spectra[0], spectra[-1])]
    print(
        f"{args.steps} steps on {arch}, {len(sound.samples) / SAMPLE_RATE:.2f} s of sound, "
        f"{1000 * run.seconds / args.steps:.1f} ms per step: loss {run.losses[0]:.4g} -> {run.losses[-1]:.4g}, "
        f"spectral convergence {convergence[0]:.1f} -> {convergence[1]:.1f} dB"
    )
    print(f"correlation of the spectrogram and the picture: {likeness[0]:.3f} -> {likeness[-1]:.3f}")
    if args.show:
        plt.show()
    if args.steps >= STEPS and likeness[-1] < LIKENESS:
        common.fall_short(f"the correlation is {likeness[-1]:.3f}, and {LIKENESS} is asked for")


# Pictures -----------------------------------------------------


def draw(wanted: Signal, shown: list[Signal], likeness: list[float], run: Run, sound: Sound) -> Figure:
    """The picture, the first and the last iteration; the way there, and the sound."""
    figure = plt.figure(figsize=(12, 7.4))
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    axes = top.subplots(1, 3, sharey=True)
    titles = ("picture", "iteration 0", f"iteration {run.iterations[-1]}")
    for ax, picture, title in zip(axes, (wanted, shown[0], shown[-1]), titles, strict=True):
        image = show(ax, picture, title)
    axes[0].set_ylabel("frequency (kHz)")
    top.colorbar(image, ax=axes, label="level (dB re white)", pad=0.01)
    wave, curve = bottom.subplots(1, 2, width_ratios=(1.8, 1))
    wave.plot(np.arange(len(sound.samples)) / SAMPLE_RATE, sound.samples, color="tab:orange", linewidth=0.5)
    wave.set(title="the sound", xlabel="time (s)", ylabel="drawing.wav", xlim=(0, len(sound.samples) / SAMPLE_RATE))
    curve.plot(run.iterations, likeness, "o-", color="tab:orange", markersize=4)
    curve.set(title="likeness", xlabel="iteration", ylabel="correlation", ylim=(-0.05, 1.05))
    curve.grid(alpha=0.3)
    return figure


def show(ax: Axes, picture: Signal, title: str) -> plt.cm.ScalarMappable:
    """Brightness (K, F) over time and frequency, its scale in dB."""
    n_samples = STFT.n_fft + (picture.shape[1] - 1) * STFT.hop_length
    t, f = STFT.times(n_samples, SAMPLE_RATE), STFT.frequencies(SAMPLE_RATE) / 1000
    extent = (t[0], t[-1], f[0], f[-1])
    image = ax.imshow(BLACK * (1 - picture), origin="lower", aspect="auto", extent=extent, cmap="magma")
    image.set_clim(BLACK, 0)
    ax.set(title=title, xlabel="time (s)")
    return image


def animate(shown: list[Signal], likeness: list[float], run: Run, path: Path) -> None:
    """The picture on its way out of the noise."""
    figure, ax = plt.subplots(figsize=(3.9, 3.9))
    image = show(ax, shown[0], "")
    ax.set_ylabel("frequency (kHz)")
    gif = common.Gif(figure, dpi=66, colours=20)
    with common.progress("animating", len(shown)) as advance:
        for i, picture in enumerate(shown):
            image.set_data(BLACK * (1 - picture))
            ax.set_title(f"iteration {run.iterations[i]}: correlation {likeness[i]:.2f}")
            gif.add()
            advance("")
    gif.save(path, per_second=6, hold=2)
    plt.close(figure)


if __name__ == "__main__":
    main()
