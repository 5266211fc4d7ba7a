"""The oracle: NumPy in float64, the formulas as they are written. Slow on purpose, and short enough to check.

Every kernel of the package is tested against this file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taichi_spec.stft import STFT
from taichi_spec.terms import Complex as ComplexTerm
from taichi_spec.terms import LogMagnitude, Magnitude, Power, SpectralConvergence, Term, Transport

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
    if stft.center and stft.pad_mode == "reflect":
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


def distance_power(d: Float, p: int) -> tuple[Float, Float]:
    """|d|^p and its derivative, which at d = 0 is 0."""
    return (np.abs(d), np.sign(d)) if p == 1 else (d**2, 2 * d)


def log_magnitude(a: Float, b: Float, term: LogMagnitude) -> tuple[Float, Float, Float]:
    """|ln(a + eps) − ln(b + eps)|^p with its two derivatives; with clamp, of ln max(a, eps)."""
    if term.clamp:
        u, v = np.maximum(a, term.eps), np.maximum(b, term.eps)
        du, dv = 1.0 * (a >= term.eps), 1.0 * (b >= term.eps)
    else:
        u, v, du, dv = a + term.eps, b + term.eps, np.ones_like(a), np.ones_like(b)
    value, slope = distance_power(np.log(u) - np.log(v), term.p)
    return value, slope * du / u, -slope * dv / v


def spectral_convergence(a: Float, b: Float, eps: float) -> tuple[Float, Float, Float]:
    """‖b − a‖ / (‖b‖ + eps), norms over the last two axes, with its two derivatives."""
    distance = np.sqrt(np.sum((b - a) ** 2, axis=(-2, -1), keepdims=True))
    norm = np.sqrt(np.sum(b**2, axis=(-2, -1), keepdims=True))
    toward = (a - b) / np.where(distance > 0, distance, 1)  # ∂‖b − a‖/∂a
    along = b / np.where(norm > 0, norm, 1)  # ∂‖b‖/∂b
    below = np.where(norm + eps > 0, norm + eps, np.inf)
    return (distance / below)[..., 0, 0], toward / below, -toward / below - distance * along / below**2


def transport(P: Float, R: Float, term: Transport, step: float) -> tuple[Float, Float, Float]:
    """Σ_f Δ Σ_k |Cx − Cy|^p of quantities P, R (…, K, F), with its derivatives: see `Transport`."""
    kept = [np.maximum(Q - term.floor * Q.max(axis=-2, keepdims=True), 0) for Q in (P, R)]  # P'
    totals = [Q.sum(axis=-2, keepdims=True) for Q in kept]
    audible = (totals[0] > 0) & (totals[1] > 0)  # (…, 1, F)
    shares = [Q / np.where(audible, total, 1) * audible for Q, total in zip(kept, totals, strict=True)]  # p
    # C[k] = Σ_{j≤k} p[j] = 1 − Σ_{j>k} p[j]: from the top, so that d = 0 exactly above both spectra
    above = _sums_from_the_top(shares[0] - shares[1])
    value, psi = distance_power(-(above - (shares[0] - shares[1])), term.p)
    s = _sums_from_the_top(psi)
    slopes = []
    for Q, part, share, total, sign in zip((P, R), kept, shares, totals, (1, -1), strict=True):
        slope = sign * step * (s - np.sum(share * s, axis=-2, keepdims=True)) / np.where(audible, total, 1)
        slope = slope * (part > 0) * audible  # ∂/∂P'
        largest = np.arange(Q.shape[-2])[:, None] == Q.argmax(axis=-2)[..., None, :]
        slopes.append(slope - term.floor * largest * slope.sum(axis=-2, keepdims=True))
    return step * value.sum(axis=(-2, -1)), slopes[0], slopes[1]


def _sums_from_the_top(a: Float) -> Float:
    """Σ_{j≥k} a[j] along the axis of bins."""
    return np.cumsum(a[..., ::-1, :], axis=-2)[..., ::-1, :]


def distance(a: Float, b: Float, term: Term, step: float) -> tuple[Float, Float, Float]:
    """An item's value (…), and ∂value/∂a, ∂value/∂b (…, J, F), of the quantities that the term compares."""
    if isinstance(term, SpectralConvergence):
        return spectral_convergence(a, b, term.eps)
    if isinstance(term, Transport):
        return transport(a, b, term, step)
    if isinstance(term, LogMagnitude):
        phi, phi1, phi2 = log_magnitude(a, b, term)
    elif isinstance(term, Magnitude | Power):
        phi, phi1 = distance_power(a - b, term.p)
        phi2 = -phi1
    else:
        raise TypeError(f"terms must be known to the reference, got {term!r}")
    return phi.sum(axis=(-2, -1)), phi1, phi2


def complex_distance(X: Complex, Y: Complex, p: int) -> tuple[Float, Complex]:
    """Σ |X − Y|^p and the cotangent of X; that of Y is its negative."""
    D = X - Y
    return np.sum(np.abs(D) ** p, axis=(-2, -1)), direction(D) if p == 1 else 2 * D


def value_and_grad(
    x: ArrayLike,
    y: ArrayLike | None,
    stft_: STFT,
    terms: tuple[Term, ...] = (Magnitude(),),
    magnitudes: ArrayLike | None = None,
    bands: ArrayLike | None = None,
    bin_weights: ArrayLike | None = None,
    zero_phase: str | None = None,
) -> tuple[Float, Float, Float]:
    """L = Σ weight · value over the terms for each item, and its gradients.

        a = M |X|,    G = X / |X| · Mᵀ ∂L/∂a          or, of powers,    P = M |X|²,    G = 2 X · Mᵀ ∂L/∂P
        ∂L/∂x = adjoint(G);   the same for y

    Args:
        x, y: real signals  # (…, T); y may be None where magnitudes are given.
        stft_: the transform.
        terms: what to sum.
        magnitudes: |Y| if there is no y  # (…, K, F) or (K, 1)
        bands: M  # (n_bands, K); by default the identity.
        bin_weights: what multiplies each bin of X and Y  # (K,)
        zero_phase: "target" takes Y / |Y| for X / |X| at X = 0.

    Returns:
        L  # (…), ∂L/∂x  # (…, T), ∂L/∂y  # (…, T), zeros where there is no y
    """
    n_samples = np.shape(x)[-1]
    w = np.ones((stft_.n_bins, 1)) if bin_weights is None else np.asarray(bin_weights)[:, None]
    M = np.eye(stft_.n_bins) if bands is None else np.asarray(bands, dtype=np.float64)
    step = 1 / stft_.n_fft if bands is None else 1 / (2 * len(M))
    X = w * stft(x, stft_)
    Y = w * (np.asarray(magnitudes, dtype=np.float64) if y is None else stft(y, stft_))
    Y = np.broadcast_to(Y, X.shape).astype(np.complex128)
    toward_x, toward_y = direction(X), direction(Y)
    if zero_phase == "target":
        toward_x = np.where(X == 0, toward_y, toward_x)
    value, G, H = np.zeros(X.shape[:-2]), np.zeros_like(X), np.zeros_like(X)
    for term in terms:
        if isinstance(term, ComplexTerm):
            part, slope = complex_distance(X, Y, term.p)
            g, h = slope, -slope
        elif getattr(term, "quantity", "magnitude") == "power":
            part, slope1, slope2 = distance(M @ np.abs(X) ** 2, M @ np.abs(Y) ** 2, term, step)
            g, h = 2 * X * (M.T @ slope1), 2 * Y * (M.T @ slope2)
        else:
            part, slope1, slope2 = distance(M @ np.abs(X), M @ np.abs(Y), term, step)
            g, h = toward_x * (M.T @ slope1), toward_y * (M.T @ slope2)
        value, G, H = value + term.weight * part, G + term.weight * g, H + term.weight * h
    gradient_x = adjoint(w * G, n_samples, stft_)
    gradient_y = adjoint(w * H, n_samples, stft_) if y is not None else np.zeros_like(gradient_x)
    return value, gradient_x, gradient_y
