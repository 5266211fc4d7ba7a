"""From spectra to the quantities that terms compare, and back.

forward     A[b, f, m] = Σ_k M[m, k] |X[b, f, k]|              or Σ_k M[m, k] |X|²;  without bands M is the identity
backward    G[b, f, k] = X / |X| · Σ_m M[m, k] ∂A[b, f, m]     or 2 X · Σ_m M[m, k] ∂A
"""

from functools import cache
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import upload, upload_integers
from taichi_spec.bins import Parts
from taichi_spec.framing import counterpart
from taichi_spec.polar import polar


class BandTables:
    """A bands' matrix where kernels can read it, or, for None, what takes its place in their arguments.

    Attributes:
        matrix: M  # (n_bands, K)
        bins: the first bin of each band and the one after its last  # (n_bands, 2)
        bands: the first band of each bin and the one after its last  # (K, 2)
    """

    def __init__(self, matrix: NDArray[np.float64] | None, dtype: Any) -> None:
        self.banded = matrix is not None
        self.matrix = upload(np.zeros((1, 1)) if matrix is None else matrix, dtype)
        self.bins = upload_integers(_support(np.zeros((1, 1)) if matrix is None else matrix))
        self.bands = upload_integers(_support(np.zeros((1, 1)) if matrix is None else matrix.T))


def _support(matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where each row starts and ends, without the zeros around it; (0, 0) for a row of zeros."""
    filled = matrix != 0
    first = filled.argmax(axis=1)
    after = matrix.shape[1] - filled[:, ::-1].argmax(axis=1)
    return np.where(filled.any(axis=1)[:, None], np.stack([first, after], axis=1), 0)


@cache
def measure_kernel(dtype: Any, banded: bool, quantity: str) -> Any:
    """The kernel of the forward direction."""
    Array = ti.types.ndarray()

    @ti.func
    def of_bin(X: ti.template(), b, f, k):
        """|X| or |X|²."""
        re, im = X[b, f, k, 0], X[b, f, k, 1]
        result = re * re + im * im
        if ti.static(quantity == "magnitude"):
            result, _, _ = polar(re, im)
        return result

    @ti.kernel
    def measure(X: Array, matrix: Array, bins: Array, A: Array, count: ti.i32):
        """A ← the quantity of each bin or band.  # (B, block, K, 2) → (B, block, J)"""
        for b, f, m in ti.ndrange(A.shape[0], count, A.shape[2]):
            result = ti.cast(0, dtype)
            if ti.static(banded):
                for k in range(bins[m, 0], bins[m, 1]):
                    result += matrix[m, k] * of_bin(X, b, f, k)
            else:
                result = of_bin(X, b, f, m)
            A[b, f, m] = result

    return measure


@cache
def cotangent_kernel(
    dtype: Any, banded: bool, quantities: tuple[str, ...], parts: Parts, fixed: bool, toward_target: bool
) -> Any:
    """The kernel of the backward direction, for the quantities in use and, directly on the spectra, `Complex`.

    With toward_target, the direction of x at X = 0 is Y / |Y|.
    """
    Array = ti.types.ndarray()

    @ti.func
    def back(dA: ti.template(), matrix: ti.template(), bands: ti.template(), b, f, k):
        """Σ_m M[m, k] ∂A[b, f, m]."""
        result = ti.cast(0, dtype)
        if ti.static(banded):
            for m in range(bands[k, 0], bands[k, 1]):
                result += matrix[m, k] * dA[b, f, m]
        else:
            result = dA[b, f, k]
        return result

    @ti.kernel
    def cotangent(X: Array, Y: Array, dA: Array, dR: Array, dP: Array, dQ: Array, matrix: Array, bands: Array,
                  coefficients: Array, upstream: Array, items: Array, first: ti.i32, count: ti.i32):  # fmt: skip
        """X ← G of x and, unless the target is fixed, Y ← G of y, in place; dA, dR of magnitudes, dP, dQ of powers."""
        for b, f, k in ti.ndrange(X.shape[0], count, X.shape[2]):
            x, y = ti.Vector([X[b, f, k, 0], X[b, f, k, 1]]), ti.Vector.zero(dtype, 2)
            i, j = counterpart(Y, b, f, first, fixed)
            if ti.static(not fixed or toward_target or len(parts) > 0):
                y = ti.Vector([Y[i, j, k, 0], Y[i, j, k, 1]])
            G, H = ti.Vector.zero(dtype, 2), ti.Vector.zero(dtype, 2)
            if ti.static("magnitude" in quantities):
                r, u, v = polar(x[0], x[1])
                _, p, q = polar(y[0], y[1])
                if ti.static(toward_target):  # noqa: SIM102  one is known when the kernel is compiled
                    if r == 0:
                        u, v = p, q
                G += back(dA, matrix, bands, b, f, k) * ti.Vector([u, v])
                if ti.static(not fixed):
                    H += back(dR, matrix, bands, b, f, k) * ti.Vector([p, q])
            if ti.static("power" in quantities):
                G += 2 * back(dP, matrix, bands, b, f, k) * x
                if ti.static(not fixed):
                    H += 2 * back(dQ, matrix, bands, b, f, k) * y
            if first + f < items[b, 1]:
                for c in ti.static(range(len(parts))):
                    _, u, v = parts[c][1].distance(x[0] - y[0], x[1] - y[1])
                    slope = upstream[b] * coefficients[b, parts[c][0]] * ti.Vector([u, v])
                    G += slope
                    H -= slope
            for part in ti.static(range(2)):
                X[b, f, k, part] = G[part]
                if ti.static(not fixed):
                    Y[b, f, k, part] = H[part]

    return cotangent
