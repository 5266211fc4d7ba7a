"""Filterbanks and weights along the frequency axis, in NumPy float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taichi_spec.stft import check_integer, check_rate

NORMS = ("slaney", None)

SLANEY_STEP = 200 / 3  # Hz per mel up to the break
SLANEY_BREAK = 1000.0  # Hz, from where on the scale is logarithmic
SLANEY_LOG_STEP = np.log(6.4) / 27  # per mel beyond it

A_POLES = (20.598997, 107.65265, 737.86223, 12194.217)  # Hz, of the A-weighting


def mel_filterbank(
    n_mels: int,
    n_fft: int,
    sample_rate: float,
    fmin: float = 0.0,
    fmax: float | None = None,
    norm: str | None = "slaney",
    htk: bool = False,
) -> NDArray[np.float64]:
    """Triangles of equal width on the mel scale: the matrix of `librosa.filters.mel`.

        M[m, k] = max(0, min((f_k − c_m) / (c_{m+1} − c_m), (c_{m+2} − f_k) / (c_{m+2} − c_{m+1})))
        f_k = k · sample_rate / n_fft,   c = n_mels + 2 frequencies equally spaced in mel from fmin to fmax

    A triangle between two bins is a row of zeros: its band is 0 in both signals and has no gradient.

    Args:
        n_mels: bands.
        n_fft: N of the transform that they are for.
        sample_rate: in Hz.
        fmin, fmax: the outer corners of the first and last triangle, in Hz; default 0 and sample_rate / 2.
        norm: ``"slaney"`` multiplies each triangle by 2 / (c_{m+2} − c_m), in 1 / Hz: equal areas. None: peaks of 1.
        htk: HTK's mel, 2595 log10(1 + f / 700), instead of Slaney's: linear to 1 kHz, logarithmic beyond.

    Returns:
        M  # (n_mels, K)

    Raises:
        TypeError: a number is of the wrong type.
        ValueError: a number is out of range.

    Example:
        >>> mel_filterbank(n_mels=40, n_fft=512, sample_rate=16_000).shape
        (40, 257)

    Reference:
        Slaney, "Auditory Toolbox", 1998; the HTK Book; librosa.
    """
    n_mels, n_fft = check_integer("n_mels", n_mels, 1), check_integer("n_fft", n_fft, 2)
    sample_rate = check_rate(sample_rate)
    top = sample_rate / 2 if fmax is None else fmax
    for name, value in (("fmin", fmin), ("fmax", top)):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise TypeError(f"{name} must be a frequency in Hz, got {value!r}")
    if not 0 <= fmin < top <= sample_rate / 2:
        raise ValueError(f"fmin and fmax must be 0 <= fmin < fmax <= {sample_rate / 2}, got {fmin} and {top}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
    corners = _mel_to_hz(np.linspace(_hz_to_mel(fmin, htk), _hz_to_mel(top, htk), n_mels + 2), htk)[:, None]
    frequencies = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)  # (K,)
    widths = np.diff(corners, axis=0)
    rising = (frequencies - corners[:-2]) / widths[:-1]  # (n_mels, K)
    falling = (corners[2:] - frequencies) / widths[1:]
    matrix = np.maximum(0, np.minimum(rising, falling))
    return matrix * (2 / (corners[2:] - corners[:-2])) if norm == "slaney" else matrix


def _hz_to_mel(frequency: float, htk: bool) -> float:
    if htk:
        return float(2595 * np.log10(1 + frequency / 700))
    if frequency < SLANEY_BREAK:
        return frequency / SLANEY_STEP
    return float(SLANEY_BREAK / SLANEY_STEP + np.log(frequency / SLANEY_BREAK) / SLANEY_LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64], htk: bool) -> NDArray[np.float64]:
    if htk:
        return 700 * (10 ** (mel / 2595) - 1)
    beyond = np.maximum(mel - SLANEY_BREAK / SLANEY_STEP, 0)
    return np.where(beyond > 0, SLANEY_BREAK * np.exp(SLANEY_LOG_STEP * beyond), SLANEY_STEP * mel)


def a_weighting(frequencies: ArrayLike) -> NDArray[np.float64]:
    """How much less than 1 kHz a frequency counts for the ear, as a factor of amplitudes: for ``bin_weights``.

        R(f) = f₄² f⁴ / ((f² + f₁²) √(f² + f₂²) √(f² + f₃²) (f² + f₄²)),   A(f) = R(f) / R(1000 Hz)

    Args:
        frequencies: in Hz, ≥ 0, such as ``stft.frequencies(sample_rate)``  # any shape

    Returns:
        A, not in dB: 1 at 1 kHz, 0 at 0 Hz  # the same shape

    Raises:
        TypeError: the frequencies are not real numbers.
        ValueError: a frequency is negative, NaN or Inf.

    Example:
        >>> a_weighting([0.0, 1000.0])
        array([0., 1.])

    Reference:
        IEC 61672-1:2013, annex E.
    """
    given: Any = np.asarray(frequencies)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"frequencies must be real numbers in Hz, got {given.dtype}")
    if not (np.isfinite(given).all() and (given >= 0).all()):
        wrong = given[~(np.isfinite(given) & (given >= 0))]
        raise ValueError(f"frequencies must be finite and at least 0, got {wrong.flat[0]}")
    weights: NDArray[np.float64] = _a_response(given.astype(np.float64)) / _a_response(np.float64(1000.0))
    return weights


def _a_response(f: Any) -> Any:
    f1, f2, f3, f4 = A_POLES
    squared = f**2
    return squared**2 / ((squared + f1**2) * np.sqrt((squared + f2**2) * (squared + f3**2)) * (squared + f4**2))
