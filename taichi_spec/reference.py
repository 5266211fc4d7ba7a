"""The oracle: NumPy in float64, the formulas as they are written. Slow on purpose, and short enough to check.

Every kernel of the package is tested against this file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taichi_spec.stft import STFT
from taichi_spec.terms import Magnitude, Term

Float = NDArray[np.float64]
Complex = NDArray[np.complex128]


def sources(n_samples: int, stft: STFT) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which sample the element n of frame f reads, and whether there is one (padding with zeros has none).

    Returns:
        index, present: both  # (F, N)
    """
    n_frames = stft.n_frames(n_samples)
    s = np.arange(n_frames)[:, None] * stft.hop_length + np.arange(stft.n_fft) - stft.pad  # (F, N)
    inside = (s >= 0) & (s < n_samples)
    if stft.pad_mode == "reflect":
        s = np.where(s < 0, -s, s)
        s = np.where(s >= n_samples, 2 * (n_samples - 1) - s, s)
        inside = np.ones_like(inside)
    return np.where(inside, s, 0), inside


def stft(x: ArrayLike, stft: STFT) -> Complex:
    """X[k, f] = Σ_n w[n] x[f H + n] e^(−2πi k n / N).

    Args:
        x: real signal  # (…, T)
        stft: the transform.

    Returns:
        X  # (…, K, F)
    """
    signal = np.asarray(x, dtype=np.float64)
    index, present = sources(signal.shape[-1], stft)
    frames = signal[..., index] * (stft.window_table * present)  # (…, F, N)
    return np.swapaxes(np.fft.rfft(frames, axis=-1), -1, -2)


def adjoint(G: Complex, n_samples: int, stft: STFT) -> Float:
    """The transform's adjoint: u[f, n] = w[n] Re Σ_{k<K} G[k, f] e^(+2πi k n / N), each element back to its sample.

    Args:
        G: cotangent of the spectrum  # (…, K, F)
        n_samples: T.
        stft: the transform.

    Returns:
        ∂x  # (…, T)
    """
    full = np.zeros((*G.shape[:-2], G.shape[-1], stft.n_fft), dtype=np.complex128)  # (…, F, N)
    full[..., : stft.n_bins] = np.swapaxes(G, -1, -2)
    u = stft.window_table * (np.fft.ifft(full, axis=-1) * stft.n_fft).real  # (…, F, N)
    index, present = sources(n_samples, stft)
    gradient = np.zeros((*G.shape[:-2], n_samples))
    for item in np.ndindex(gradient.shape[:-1]):
        np.add.at(gradient[item], index, u[item] * present)
    return gradient


def direction(X: Complex) -> Complex:
    """X / |X|, and 0 where |X| = 0. Scaled first, so that |X|² neither underflows nor overflows."""
    largest = np.maximum(np.abs(X.real), np.abs(X.imag))
    scaled = X / np.where(largest > 0, largest, 1)
    return scaled / np.where(largest > 0, np.abs(scaled), 1)


def magnitude(a: Float, b: Float, p: int) -> tuple[Float, Float, Float]:
    """φ(a, b) = |a − b|^p with ∂φ/∂a and ∂φ/∂b; the derivative at a = b is 0."""
    d = a - b
    if p == 1:
        return np.abs(d), np.sign(d), -np.sign(d)
    return d**2, 2 * d, -2 * d


def distance(a: Float, b: Float, terms: tuple[Term, ...]) -> tuple[Float, Float, Float]:
    """Σ over the terms of weight · (φ, ∂φ/∂a, ∂φ/∂b), for each bin and frame."""
    total = [np.zeros_like(a), np.zeros_like(a), np.zeros_like(a)]
    for term in terms:
        if not isinstance(term, Magnitude):
            raise TypeError(f"terms must be known to the reference, got {term!r}")
        for i, part in enumerate(magnitude(a, b, term.p)):
            total[i] += term.weight * part
    return total[0], total[1], total[2]


def value_and_grad(
    x: ArrayLike,
    y: ArrayLike | None,
    stft_: STFT,
    terms: tuple[Term, ...] = (Magnitude(),),
    magnitudes: ArrayLike | None = None,
) -> tuple[Float, Float, Float]:
    """L = Σ_f Σ_k φ(|X|, |Y|) for each item, and its gradients.

        G = φ₁(|X|, |Y|) · X / |X|,   ∂L/∂x = adjoint(G);   the same for y with φ₂

    Args:
        x, y: real signals  # (…, T); y may be None where magnitudes are given.
        stft_: the transform.
        terms: what to sum.
        magnitudes: |Y| if there is no y  # (…, K, F) or (K, 1)

    Returns:
        L  # (…), ∂L/∂x  # (…, T), ∂L/∂y  # (…, T), zeros where there is no y
    """
    n_samples = np.shape(x)[-1]
    X = stft(x, stft_)
    Y = stft(y, stft_) if y is not None else None
    a = np.abs(X)
    b = np.abs(Y) if Y is not None else np.broadcast_to(np.asarray(magnitudes, dtype=np.float64), a.shape)
    phi, phi1, phi2 = distance(a, b, terms)
    gradient_x = adjoint(phi1 * direction(X), n_samples, stft_)
    gradient_y = adjoint(phi2 * direction(Y), n_samples, stft_) if Y is not None else np.zeros_like(gradient_x)
    return phi.sum(axis=(-2, -1)), gradient_x, gradient_y
