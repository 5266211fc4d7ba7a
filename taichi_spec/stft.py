"""The short-time Fourier transform as a description: sizes, window, axes.

Index letters, used in the whole package: b item of a batch, s sample, f frame, n sample within a frame,
k bin; T samples, N = n_fft, H = hop_length, F frames, K = N // 2 + 1 bins.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

PAD_MODES = ("reflect", "constant")
NORMALIZATIONS = (None, "window", "frame_length")

# Sample positions are 32-bit in the kernels; a reflected one reaches 2 T.
MAX_SAMPLES = 2**30


@dataclass(frozen=True)
class STFT:
    """A short-time Fourier transform, described once and checked once; it computes nothing.

        X[k, f] = Σ_n w[n] x[f H + n] e^(−2πi k n / N),   k = 0 … N // 2

    Args:
        n_fft: N, samples in a frame; any integer ≥ 2, odd and prime too.
        hop_length: H, samples from one frame to the next, ≥ 1; it may exceed n_fft. Default ``n_fft // 4``
            (at least 1).
        win_length: length of the window, 1 … n_fft, centred in the frame and zero-padded. Default n_fft.
        window: a name or tuple for `scipy.signal.get_window` (periodic), or win_length numbers.
        center: pad ``n_fft // 2`` samples on both sides, so that frame f is centred on sample f H. Off by
            default: reflected edges spoil the gradient of a pitch.
        pad_mode: what the padding holds, for ``center=True``: ``"reflect"`` (the edge sample not repeated)
            or ``"constant"`` (zeros).
        pad_end: without center, pad zeros at the end, so that a frame starts at every multiple of H (TensorFlow's
            ``pad_end``).
        normalized: ``"window"`` divides the spectrum by √Σw², ``"frame_length"`` by √n_fft.

    Raises:
        TypeError: a size is not an integer, or the window is not a name, a tuple or real numbers.
        ValueError: a size or a name is out of range.

    Example:
        >>> stft = STFT(n_fft=1024)
        >>> stft.n_bins, stft.hop_length, stft.n_frames(16_000)
        (513, 256, 59)

    Reference:
        Names and conventions as in `torch.stft` and librosa.
    """

    n_fft: int = 1024
    hop_length: int = cast(int, None)
    win_length: int = cast(int, None)
    window: str | tuple[Any, ...] | Sequence[float] | NDArray[Any] = "hann"
    center: bool = False
    pad_mode: str = "reflect"
    normalized: str | None = None
    pad_end: bool = False

    def __post_init__(self) -> None:
        n_fft = check_integer("n_fft", self.n_fft, 2)
        hop = max(1, n_fft // 4) if self.hop_length is None else self.hop_length
        win = n_fft if self.win_length is None else self.win_length
        self._set("n_fft", n_fft)
        self._set("hop_length", check_integer("hop_length", hop, 1))
        self._set("win_length", check_integer("win_length", win, 1))
        if self.win_length > n_fft:
            raise ValueError(f"win_length must be at most n_fft = {n_fft}, got {self.win_length}")
        for name in ("center", "pad_end"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.pad_end and self.center:
            raise ValueError("pad_end must be False with center=True, which pads both ends, got True")
        if self.pad_mode not in PAD_MODES:
            raise ValueError(f"pad_mode must be one of {PAD_MODES}, got {self.pad_mode!r}")
        if self.normalized not in NORMALIZATIONS:
            raise ValueError(f"normalized must be one of {NORMALIZATIONS}, got {self.normalized!r}")
        if not isinstance(self.window, str):
            self._set("window", _window_as_tuple(self.window))
        self.window_table  # noqa: B018  a bad window is an error here, not at its first use

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @property
    def n_bins(self) -> int:
        """K = n_fft // 2 + 1, the one-sided bins."""
        return self.n_fft // 2 + 1

    @property
    def pad(self) -> int:
        """Samples of padding on each side: n_fft // 2 if centred, else 0."""
        return self.n_fft // 2 if self.center else 0

    @cached_property
    def window_table(self) -> NDArray[np.float64]:
        """w[n] with its padding and normalisation, float64, read-only.  # (N,)"""
        table = np.zeros(self.n_fft)
        left = (self.n_fft - self.win_length) // 2
        table[left : left + self.win_length] = self._window_values()
        if self.normalized == "window":
            energy = float(np.sum(table**2))
            if energy == 0:
                raise ValueError(f"window must not be all zeros for normalized='window', got {self.window!r}")
            table /= np.sqrt(energy)
        elif self.normalized == "frame_length":
            table /= np.sqrt(self.n_fft)
        table.flags.writeable = False
        return table

    def _window_values(self) -> NDArray[np.float64]:
        given = self.window
        if isinstance(given, tuple) and not isinstance(given[0], str):
            if len(given) != self.win_length:
                raise ValueError(f"window must have win_length = {self.win_length} values, got {len(given)}")
            return np.asarray(given, dtype=np.float64)
        if given == "hann" and self.win_length > 1:
            angles = 2 * np.pi / self.win_length * np.arange(self.win_length)
            return np.asarray(0.5 - 0.5 * np.cos(angles), dtype=np.float64)
        from scipy.signal import get_window  # takes a second to import, which the default window does not need

        try:
            values = get_window(given, self.win_length, fftbins=True)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"window must be a name or tuple known to scipy.signal.get_window, got {given!r} ({error})"
            ) from error
        return np.asarray(values, dtype=np.float64)

    def n_frames(self, n_samples: int) -> int:
        """F, the number of whole frames in a signal of n_samples, padding included.

        Args:
            n_samples: T, samples in the signal.

        Raises:
            TypeError: n_samples is not an integer.
            ValueError: the signal is empty, too long, shorter than one frame, or too short to be reflected.
        """
        n_samples = check_integer("n_samples", n_samples, 1)
        if n_samples > MAX_SAMPLES:
            raise ValueError(f"n_samples must be at most 2**30 = {MAX_SAMPLES}, got {n_samples}")
        if self.center and self.pad_mode == "reflect" and n_samples <= self.pad:
            raise ValueError(
                f"n_samples must exceed n_fft // 2 = {self.pad} to be reflected at its edges, got {n_samples}; "
                f"use center=False or pad_mode='constant'"
            )
        if self.pad_end:
            return -(-n_samples // self.hop_length)
        padded = n_samples + 2 * self.pad
        if padded < self.n_fft:
            raise ValueError(
                f"n_samples must be at least one frame, n_fft = {self.n_fft}, got {n_samples}; "
                f"use a smaller n_fft, center=True or pad_end=True"
            )
        return 1 + (padded - self.n_fft) // self.hop_length

    def frequencies(self, sample_rate: float) -> NDArray[np.float64]:
        """The bins' frequencies k · sample_rate / n_fft, in the unit of sample_rate.  # (K,)"""
        return np.arange(self.n_bins, dtype=np.float64) * (check_rate(sample_rate) / self.n_fft)

    def times(self, n_samples: int, sample_rate: float) -> NDArray[np.float64]:
        """The frames' centres, in seconds if sample_rate is in Hz.  # (F,)"""
        centres = np.arange(self.n_frames(n_samples), dtype=np.float64) * self.hop_length - self.pad + self.n_fft // 2
        return centres / check_rate(sample_rate)


def _window_as_tuple(window: object) -> tuple[Any, ...]:
    """The window as something that compares and hashes: a tuple of numbers, or scipy's tuple as it is."""
    if isinstance(window, tuple) and window and isinstance(window[0], str):
        return window
    values = np.asarray(window)
    if values.dtype.kind not in "fiu":
        raise TypeError(f"window must be a name, a tuple or real numbers, got {window!r}")
    if values.ndim != 1 or not values.size:
        raise ValueError(f"window must be one-dimensional and not empty, got an array of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("window must be finite, got NaN or Inf in it")
    return tuple(values.astype(np.float64).tolist())


def check_integer(name: str, value: object, least: int) -> int:
    """`value` as an int that is at least `least`; a bool or a fraction is not an integer."""
    try:
        number = operator.index(cast(Any, value))
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be an integer >= {least}, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {number}")
    return number


def check_rate(sample_rate: object) -> float:
    """`sample_rate` as a positive, finite float."""
    try:
        rate = float(cast(Any, sample_rate))
    except (TypeError, ValueError):
        raise TypeError(f"sample_rate must be a number > 0, got {sample_rate!r}") from None
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"sample_rate must be a number > 0, got {sample_rate!r}")
    return rate
