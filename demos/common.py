"""What the demos share: arguments, targets, WAV files, output, progress, and the look of the figures."""

import argparse
import io
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import matplotlib
import numpy as np
import taichi as ti
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from scipy.io import wavfile

import taichi_spec as ts

SAMPLE_RATE = 16_000  # Hz; recordings above it are resampled, so that a demo takes less than a minute
MAX_SAMPLE_RATE = 768_000  # Hz; a header that says more is damaged
SILENCE = 1e-6  # RMS relative to full scale, -120 dB
DB_RANGE = (-80.0, 0.0)  # of every spectrum in every figure, relative to the target's maximum

Signal = NDArray[np.floating[Any]]


def fail(message: str) -> NoReturn:
    """Ends the demo with one line on stderr and exit code 2."""
    print(f"{Path(sys.argv[0]).stem}: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def fall_short(message: str) -> NoReturn:
    """Ends the demo, its files written, with one line on stderr and exit code 1: it did not get where it should."""
    print(f"{Path(sys.argv[0]).stem}: did not get there: {message}", file=sys.stderr)
    raise SystemExit(1)


# Arguments ---------------------------------------------------


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """The message alone; argparse would print the usage before it."""
        fail(message)


def parse_arguments(argv: list[str] | None, name: str, description: str, steps: int) -> argparse.Namespace:
    """The arguments of a demo that can take a recording, checked."""
    parser = argument_parser(name, description, steps)
    parser.add_argument("--wav", type=Path, help="a recording to take as the target, instead of a synthesized sound")
    return parser.parse_args(argv)


def argument_parser(name: str, description: str, steps: int) -> Parser:
    """The arguments that every demo takes; a demo adds its own."""
    parser = Parser(prog=name, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=_integer(1), default=steps, help="iterations of the optimiser")
    parser.add_argument("--seed", type=_integer(0), default=0, help="of what is random at the start")
    parser.add_argument("--arch", choices=("auto", "cpu", "cuda", "vulkan", "metal"), default="auto", help="backend")
    parser.add_argument("--out", type=Path, default=Path("out") / name, help="folder for what the demo writes")
    parser.add_argument("--show", action="store_true", help="open the figure in a window, too")
    return parser


def _integer(least: int) -> Any:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"must be an integer >= {least}, got {text!r}")
        return number

    return parse


def number(least: float, most: float) -> Any:
    """What argparse makes of a number from least to most."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a number from {least:g} to {most:g}, got {text!r}")
        return value

    return parse


def start_backend(arch: str) -> str:
    """Starts Taichi, or ends the demo where the backend is not there."""
    try:
        return ts.init(arch=arch)
    except RuntimeError as error:
        fail(str(error))


# Targets -----------------------------------------------------


class Sound(NamedTuple):
    """A signal and its sample rate in Hz."""

    samples: Signal  # (T,)
    sample_rate: int


def make_target(wav: Path | None, stft: ts.STFT, n_samples: int) -> Sound:
    """The recording, or a synthesized sound, of at most n_samples and of whole frames."""
    if wav is None:
        sound = Sound(synthesize(n_samples), SAMPLE_RATE)
        print(f"target: synthesized, {n_samples / SAMPLE_RATE:.2f} s at {SAMPLE_RATE} Hz")
    else:
        sound, report = load_recording(wav, n_samples, stft.n_fft)
        print(f"target: {report}")
    whole = stft.n_fft + (stft.n_frames(len(sound.samples)) - 1) * stft.hop_length  # no frame holds a sample after it
    sound = sound._replace(samples=sound.samples[:whole])
    if rms(sound.samples) < SILENCE:
        fail(f"{wav}: is silent, so there is nothing to match")
    return sound


def rms(signal: Signal) -> float:
    """Root mean square, which sets the level of the noise at the start and the size of the steps."""
    return float(np.sqrt(np.mean(signal**2)))


def synthesize(n_samples: int) -> Signal:
    """Four decaying partials of 330 Hz, and a fifth that glides from 1,200 to 4,800 Hz."""
    t = np.arange(n_samples) / SAMPLE_RATE
    progress = np.linspace(0, 1, n_samples)
    partials = sum(
        level * np.sin(2 * np.pi * 330 * harmonic * t) * np.exp(-1.5 * progress)
        for harmonic, level in ((1, 1.0), (2, 0.6), (3, 0.4), (5, 0.25))
    )
    glide = np.sin(2 * np.pi * np.cumsum(1200 * 4**progress) / SAMPLE_RATE)
    sound = partials + 0.5 * np.sqrt(np.hanning(n_samples)) * glide
    return 0.5 * sound / np.abs(sound).max()


def load_recording(path: Path, most: int, least: int) -> tuple[Sound, str]:
    """A WAV file as a mono sound of at least `least` and at most `most` samples, and what was done to it."""
    rate, data = read_wav(path)
    channels = 1 if data.ndim == 1 else data.shape[1]
    done = [
        f"{path.name}: {rate} Hz, {channels} channel{'s' * (channels > 1)}, {data.dtype}, {len(data) / rate:.2f} s"
    ]
    signal = to_float(data)
    if not np.isfinite(signal).all():
        fail(f"{path}: holds NaN or Inf")
    if channels > 1:
        signal = signal.mean(axis=1)
        done.append("mixed down to mono")
    new_rate = min(rate, SAMPLE_RATE)
    length = math.ceil(most * rate / new_rate)
    if len(signal) > length:
        first = loudest(signal, length)
        signal = signal[first : first + length]
        done.append(f"cut to the loudest {length / rate:.2f} s, from {first / rate:.2f} s on")
    if new_rate != rate:
        from scipy.signal import resample_poly  # takes a second to import

        common = math.gcd(rate, new_rate)
        signal = resample_poly(signal, new_rate // common, rate // common)[:most]
        done.append(f"resampled to {new_rate} Hz")
    if len(signal) < least:
        fail(f"{path}: {len(signal)} samples at {new_rate} Hz, and at least {least} are needed")
    return Sound(signal, new_rate), "; ".join(done)


def loudest(signal: Signal, length: int) -> int:
    """Where the stretch of `length` samples with the most energy starts."""
    energy = np.concatenate([[0.0], np.cumsum(signal**2)])
    return int(np.argmax(energy[length:] - energy[:-length]))


# WAV files ---------------------------------------------------


def read_wav(path: Path) -> tuple[int, NDArray[Any]]:
    """Sample rate and samples as they are stored, (T,) or (T, channels)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are not about sound
            rate, data = wavfile.read(path)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}")
    except ValueError as error:
        fail(f"{path}: not a WAV file that can be read ({error})")
    except Exception:  # a damaged header makes SciPy raise nearly anything
        fail(f"{path}: a damaged WAV file")
    if not data.size:
        fail(f"{path}: holds no samples")
    if not 0 < rate <= MAX_SAMPLE_RATE:
        fail(f"{path}: a sample rate of {rate} Hz is not in 1 … {MAX_SAMPLE_RATE}")
    return rate, data


def to_float(data: NDArray[Any]) -> Signal:
    """Stored samples in float64, full scale ±1: 8 bits are stored with an offset, 24 in the upper bits of 32."""
    if data.dtype.kind == "f":
        return data.astype(np.float64)
    if data.dtype.kind == "u":
        return data / 128 - 1
    return data / -float(np.iinfo(data.dtype).min)


def write_wav(path: Path, sound: Sound) -> None:
    """Writes 32-bit float samples, which nothing clips."""
    wavfile.write(path, sound.sample_rate, sound.samples.astype(np.float32))


# Output ------------------------------------------------------


def make_folder(folder: Path) -> None:
    """Makes the output folder, or ends the demo, before any work, where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fail(f"--out {folder}: cannot be written ({error.strerror})")


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`; its files move there once all of them are written."""
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
            yield Path(unfinished)
            for file in sorted(Path(unfinished).iterdir()):
                file.replace(folder / file.name)
                print(f"wrote {folder / file.name}")
    except OSError as error:
        fail(f"--out {folder}: cannot be written ({error.strerror or error})")


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar, moved by calling what this yields with the newest number in words."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    with Progress(TextColumn("{task.description}"), *columns) as bar:
        task = bar.add_task(description, total=total, note="")
        yield lambda words: bar.update(task, advance=1, note=words)


# Batches ------------------------------------------------------


@ti.kernel
def add_up(values: ti.template(), total: ti.template()):
    """The items' losses in one number, for a tape to start from: each item follows its own gradient."""
    for b in values:
        total[None] += values[b]


# Simulations -------------------------------------------------


class Simulation:
    """Steps through time that a `ti.ad.Tape` can go back through, in the memory of one segment of them.

    Forward, the two rows that each segment starts from are kept: the checkpoints. Backward, from the last segment to
    the first, a segment's rows are computed again from its checkpoint, and the adjoints of its steps follow.

    Args:
        u: the rows of a segment, (SEGMENT + 2, points), made with needs_grad=True; row s + 2 follows from the two
            before it.
        start: the first two rows  # (2, points)
        step: a `ti.func` (s, i) that computes u[s + 2, i].
        moving: the points first … last − 1 that move.
        listen: a kernel (segment) that reads what is heard in a segment's rows 2 … SEGMENT + 1.
        n_segments: how many follow each other.
    """

    SEGMENT = 256
    UNROLLED = 16  # steps in a kernel on a GPU

    def __init__(
        self, u: Any, start: Signal, step: Any, moving: tuple[int, int], listen: Any, n_segments: int
    ) -> None:
        self.u, self.listen, self.n_segments = u, listen, n_segments
        self.checkpoints = ti.field(u.dtype, shape=(n_segments + 1, *start.shape))
        for row, point in np.argwhere(start):
            self.checkpoints[0, row, point] = start[row, point]
        if ti.cfg.arch in (ti.x64, ti.arm64):
            self.rows, self.advance = self.SEGMENT, _serial_kernel(step, moving, self.SEGMENT)
        else:
            self.rows, self.advance = self.UNROLLED, _parallel_kernel(step, moving, self.UNROLLED)

    def run(self) -> None:
        """From the start to the end. A tape takes the gradient from what `listen` writes to what `step` reads."""
        _run(self)

    def rows_of(self, segment: int) -> Signal:
        """The rows 2 … SEGMENT + 1 of a segment, after a run  # (SEGMENT, points)"""
        self.compute(segment)
        return self.u.to_numpy()[2:]

    def compute(self, segment: int) -> None:
        """A segment's rows, from its checkpoint."""
        load_checkpoint(self.checkpoints, self.u, segment)
        for row in range(0, self.SEGMENT, self.rows):
            self.advance(row)

    def forward(self) -> None:
        """All segments, and the checkpoints between them."""
        for segment in range(self.n_segments):
            self.compute(segment)
            self.listen(segment)
            save_checkpoint(self.checkpoints, self.u, segment + 1)

    def backward(self) -> None:
        """The adjoint of `forward`: a segment's first two rows are the last two of the segment before it."""
        self.u.grad.fill(0)
        for segment in reversed(range(self.n_segments)):
            self.compute(segment)
            self.listen.grad(segment)
            for row in reversed(range(0, self.SEGMENT, self.rows)):
                self.advance.grad(row)
            hand_back(self.u.grad)

    @property
    def megabytes(self) -> tuple[float, float]:
        """What rows, adjoints and checkpoints take, and what all rows and adjoints would take without checkpoints."""
        row = 4e-6 * self.u.shape[1]
        kept = 2 * self.u.shape[0] + 2 * self.checkpoints.shape[0]
        return row * kept, row * 2 * self.SEGMENT * self.n_segments


@ti.ad.grad_replaced
def _run(simulation: Simulation) -> None:
    simulation.forward()


@ti.ad.grad_for(_run)
def _run_backward(simulation: Simulation) -> None:
    simulation.backward()


def _serial_kernel(step: Any, moving: tuple[int, int], rows: int) -> Any:
    """For a CPU: a thousand points are done before a second thread has woken up."""

    @ti.kernel
    def advance(row: ti.i32):
        ti.loop_config(serialize=True)
        for _ in range(1):  # Taichi's autodiff turns inner loops around, but not the outermost
            for s in range(row, row + rows):
                for i in range(moving[0], moving[1]):
                    step(s, i)

    return advance


def _parallel_kernel(step: Any, moving: tuple[int, int], rows: int) -> Any:
    """For a GPU: a launch for every step."""

    @ti.kernel
    def advance(row: ti.i32):
        for s in ti.static(range(rows)):
            for i in range(moving[0], moving[1]):
                step(row + s, i)

    return advance


@ti.kernel
def load_checkpoint(checkpoints: ti.template(), u: ti.template(), segment: ti.i32):
    """The segment's first two rows."""
    for j, i in ti.ndrange(2, u.shape[1]):
        u[j, i] = checkpoints[segment, j, i]


@ti.kernel
def save_checkpoint(checkpoints: ti.template(), u: ti.template(), segment: ti.i32):
    """The segment's last two rows, where the next one starts."""
    for j, i in ti.ndrange(2, u.shape[1]):
        checkpoints[segment, j, i] = u[u.shape[0] - 2 + j, i]


@ti.kernel
def hand_back(adjoint: ti.template()):
    """The first two rows' adjoints become the last two's of the segment before; the others start from zero."""
    for j, i in ti.ndrange(2, adjoint.shape[1]):
        adjoint[adjoint.shape[0] - 2 + j, i] = adjoint[j, i]
    for j, i in ti.ndrange(adjoint.shape[0] - 2, adjoint.shape[1]):
        adjoint[j, i] = 0


# Figures -----------------------------------------------------


def set_up_figures(show: bool) -> None:
    """Chooses matplotlib's backend, and says so where no window can be opened."""
    if not show:
        matplotlib.use("agg")
    elif matplotlib.get_backend().lower() == "agg":
        print("--show: there is no display here, so the figure is only written to a file")
    matplotlib.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "font.size": 12,
            "axes.titlesize": 13,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )


def picture_of(figure: Figure, dpi: int) -> Image.Image:
    """A figure as it is now."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer).convert("RGB")


def in_few_colours(picture: Image.Image, colours: int | Image.Image) -> Image.Image:
    """In so many colours, or in those of another picture: noise in full colours makes large files."""
    if isinstance(colours, int):
        return picture.quantize(colours, dither=Image.Dither.NONE)
    return picture.quantize(palette=colours, dither=Image.Dither.NONE)


def save_png(figure: Figure, path: Path, colours: int = 256) -> None:
    """Writes a figure at the size that the README shows."""
    in_few_colours(picture_of(figure, dpi=100), colours).save(path, optimize=True)


class Gif:
    """An animation of a figure, a picture at a time."""

    PALETTE_FROM = 8  # pictures

    def __init__(self, figure: Figure, dpi: int, colours: int = 32) -> None:
        self.figure, self.dpi, self.colours = figure, dpi, colours
        self.frames: list[Image.Image] = []

    def add(self) -> None:
        """The figure as it is now."""
        self.frames.append(picture_of(self.figure, self.dpi))

    def save(self, path: Path, per_second: float, hold: float = 0) -> None:
        """Writes the animation; its last picture stays for `hold` seconds more."""
        durations = [round(1000 / per_second)] * len(self.frames)
        durations[-1] += round(1000 * hold)
        palette = self._palette()
        first, *others = (in_few_colours(frame, palette) for frame in self.frames)
        first.save(path, save_all=True, append_images=others, duration=durations, loop=0)

    def _palette(self) -> Image.Image:
        """Colours for all pictures, so that what stands still is stored once."""
        width, height = self.frames[0].size
        chosen = self.frames[:: max(1, len(self.frames) // self.PALETTE_FROM)]
        sheet = Image.new("RGB", (width, height * len(chosen)))
        for i, frame in enumerate(chosen):
            sheet.paste(frame, (0, i * height))
        return in_few_colours(sheet, self.colours)


def decibels(magnitudes: Signal, reference: float) -> Signal:
    """20 log10 of magnitudes relative to `reference`, no lower than any figure shows."""
    return 20 * np.log10(np.maximum(magnitudes / reference, 10 ** (DB_RANGE[0] / 20)))


def spectral_convergence(X: Signal, Y: Signal) -> float:
    """20 log10(‖|Y| − |X|‖ / ‖|Y|‖) of a result's and a target's magnitudes, in dB."""
    return 20 * math.log10(np.linalg.norm(Y - X) / np.linalg.norm(Y))


def draw_spectrogram(ax: Axes, level: Signal, stft: ts.STFT, sound: Sound, title: str) -> Any:
    """Levels in dB (K, F) over time and frequency, on the scale that all spectrograms share."""
    t = stft.times(len(sound.samples), sound.sample_rate)
    f = stft.frequencies(sound.sample_rate) / 1000
    dt, df = stft.hop_length / sound.sample_rate, f[1]
    extent = (t[0] - dt / 2, t[-1] + dt / 2, f[0] - df / 2, f[-1] + df / 2)
    image = ax.imshow(level, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="nearest")
    image.set_clim(*DB_RANGE)
    ax.set(title=title, xlabel="time (s)", ylim=(0, f[-1]))
    return image
