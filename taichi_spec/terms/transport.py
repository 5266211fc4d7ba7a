"""Transport: how far the frame's power has to travel along the frequency axis to become the target's."""

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import taichi as ti
from taichi.lang.util import to_numpy_type

from taichi_spec.framing import counterpart
from taichi_spec.terms.base import QUANTITIES, Term, check_finite_number, check_p, distance_power
from taichi_spec.vectors import absolute


@dataclass(frozen=True)
class Transport(Term):
    """The cost of moving each frame's spectrum onto the target's: the term that knows where the pitch is.

        P'[k] = max(P[k] − floor · max_k P, 0),   p = P' / Σ_k P',   C[k] = Σ_{j≤k} p[j]      of each signal's frame
        value = Σ_f Δ Σ_k |Cx[k] − Cy[k]|^p,      Δ = 1 / n_fft

    For p = 1 this is the Wasserstein-1 distance in cycles per sample (times the sample rate: in Hz): a sinusoid
    that is 100 Hz off costs 100 Hz, wherever it is, so the gradient points to the target from any distance. For
    p = 2 it is the squared L2 distance of the cumulative spectra (the energy distance): the farther, the steeper.
    With `bands`, one step between neighbours is Δ = 1 / (2 n_bands), so that the whole axis is ½ as well.

    It is blind to level: pair it with a magnitude term. A frame in which either signal is silent (or its powers
    overflow) costs nothing and has no gradient. reduction="mean" divides by the number of frames.

    Backward, with d = Cx − Cy, ψ(d) = sign(d) for p = 1 and 2 d for p = 2:

        s[k]     = Σ_{j≥k} ψ(d[j])                            C[j] contains p[k] for every j ≥ k
        ∂/∂P'[k] = Δ (s[k] − Σ_j p_j s_j) / ΣP'               the normalisation takes the mean off
        ∂/∂P[k]  = ∂/∂P'[k] where P'[k] > 0, else 0;          and −floor · Σ_{P'>0} ∂/∂P' more for the largest bin

    and for y likewise with −s. All sums run from the top bin down, where d = 0 exactly, and a d below the rounding
    of such a sum counts as 0: p = 1 takes no sign from noise, and equal spectra cost nothing at any two levels.

    Args:
        p: the power, 1 or 2.
        quantity: what travels, ``"power"`` or ``"magnitude"``.
        floor: the fraction of the frame's largest bin that is taken off every bin, 0 ≤ floor < 1. The default keeps
            broadband noise out of the balance; 0 counts everything.
        weight: what value and gradient are multiplied by.

    Raises:
        TypeError: floor is not a number.
        ValueError: p, quantity or floor is out of range.

    Example:
        >>> Transport()
        Transport(weight=1.0, p=1, quantity='power', floor=0.02)

    Reference:
        Torres, Peeters and Richard, "Unsupervised Harmonic Parameter Estimation Using Differentiable DSP and
        Spectral Optimal Transport", ICASSP 2024. The floor is this library's.
    """

    p: int = 1
    quantity: str = "power"
    floor: float = 0.02

    takes_negative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_p(self.p)
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity must be one of {QUANTITIES}, got {self.quantity!r}")
        check_finite_number("floor", self.floor)
        if not 0 <= self.floor < 1:
            raise ValueError(f"floor must be at least 0 and below 1, got {self.floor!r}")

    def mean_over(self, n_bins: int, n_frames: int) -> int:
        """The frames: the sum over bins is an integral."""
        return n_frames


ROUNDING = {dtype: float(16 * np.finfo(to_numpy_type(dtype)).eps) for dtype in (ti.f32, ti.f64)}  # of a sum of shares


@ti.func
def cost(d, p: ti.template(), real: ti.template()):
    """|d|^p and its slope, of one number or a vector."""
    return distance_power(ti.select(absolute(d) > real(ROUNDING[real]), d, 0), p, real)


@ti.func
def share(P, least, scale):
    """p[k], 0 where the scale is, whatever P; of one number or a vector."""
    return ti.select(scale > 0, ti.max(P - least, 0) * scale, 0)


@ti.func
def inverse(total, real: ti.template()):
    """1 / ΣP', and 0 for silence and overflow."""
    scale = ti.cast(0, real)
    if total > 0 and 1 / total > 0 and not ti.math.isinf(1 / total):
        scale = 1 / total
    return scale


@cache
def transport_kernels(dtype: Any, p: int, fixed: bool) -> SimpleNamespace:
    """The kernels `value` and `slopes`. The quantities are A, and R or, fixed, (B or 1, F or 1, J).  # (B, block, J)

    Both run one thread a frame, from the top bin down.
    """
    Array = ti.types.ndarray()

    @ti.func
    def largest(P: ti.template(), b, f):
        """The first largest bin, and its value."""
        top, peak = 0, P[b, f, 0]
        for k in range(1, P.shape[2]):
            if P[b, f, k] > peak:
                top, peak = k, P[b, f, k]
        return top, peak

    @ti.func
    def total(P: ti.template(), b, f, least):
        """Σ_k P'[k]."""
        result = ti.cast(0, dtype)
        for k in range(P.shape[2]):
            result += ti.max(P[b, f, k] - least, 0)
        return result

    @ti.func
    def sizes(P: ti.template(), b, f, floor):
        """The largest bin, what is taken off, and 1 / ΣP', which is 0 for silence and overflow."""
        top, peak = largest(P, b, f)
        least = floor * peak
        return top, least, inverse(total(P, b, f, least), dtype)

    @ti.kernel
    def value(A: Array, R: Array, partial: Array, sums: Array, column: ti.i32, floor: dtype, step: dtype,
              items: Array, first: ti.i32, count: ti.i32):  # fmt: skip
        """sums[b, column] += Σ_f Δ Σ_k |Cx − Cy|^p over a block of frames, in a fixed order."""
        for b, f in ti.ndrange(A.shape[0], count):
            frame = ti.cast(0, dtype)
            i, j = counterpart(R, b, f, first, fixed)
            _top_x, least_x, scale_x = sizes(A, b, f, floor)
            _top_y, least_y, scale_y = sizes(R, i, j, floor)
            if first + f < items[b, 1] and scale_x > 0 and scale_y > 0:
                K = A.shape[2]
                d = ti.cast(0, dtype)
                for k_down in range(K):
                    k = K - 1 - k_down
                    part, _ = cost(d, p, dtype)
                    frame += part
                    d -= ti.max(A[b, f, k] - least_x, 0) * scale_x - ti.max(R[i, j, k] - least_y, 0) * scale_y
            partial[b, f, 0] = step * frame
        for b in range(A.shape[0]):
            block = ti.cast(0, dtype)
            for f in range(count):
                block += partial[b, f, 0]
            sums[b, column] = sums[b, column] + block

    @ti.kernel
    def slopes(A: Array, R: Array, dA: Array, dR: Array, coefficients: Array, upstream: Array, column: ti.i32,
               floor: dtype, step: dtype, items: Array, first: ti.i32, count: ti.i32):  # fmt: skip
        """dA += upstream · coefficient · ∂value/∂A, and dR likewise unless R is fixed."""
        for b, f in ti.ndrange(A.shape[0], count):
            i, j = counterpart(R, b, f, first, fixed)
            top_x, least_x, scale_x = sizes(A, b, f, floor)
            top_y, least_y, scale_y = sizes(R, i, j, floor)
            if first + f < items[b, 1] and scale_x > 0 and scale_y > 0:
                K = A.shape[2]
                d, s, mean_x, mean_y = ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype), ti.cast(0, dtype)
                for k_down in range(K):
                    k = K - 1 - k_down
                    x = ti.max(A[b, f, k] - least_x, 0) * scale_x
                    y = ti.max(R[i, j, k] - least_y, 0) * scale_y
                    _, psi = cost(d, p, dtype)
                    s += psi
                    mean_x += x * s
                    mean_y += y * s
                    d -= x - y
                factor = upstream[b] * coefficients[b, column] * step
                d, s = 0, 0
                sum_x, sum_y = ti.cast(0, dtype), ti.cast(0, dtype)  # what goes to the largest bins
                for k_down in range(K):
                    k = K - 1 - k_down
                    x, y = ti.max(A[b, f, k] - least_x, 0) * scale_x, ti.max(R[i, j, k] - least_y, 0) * scale_y
                    _, psi = cost(d, p, dtype)
                    s += psi
                    if x > 0:
                        grad = factor * scale_x * (s - mean_x)
                        dA[b, f, k] = dA[b, f, k] + grad
                        sum_x += grad
                    if ti.static(not fixed):  # noqa: SIM102  one is known when the kernel is compiled
                        if y > 0:
                            grad = -factor * scale_y * (s - mean_y)
                            dR[b, f, k] = dR[b, f, k] + grad
                            sum_y += grad
                    d -= x - y
                dA[b, f, top_x] = dA[b, f, top_x] - floor * sum_x
                if ti.static(not fixed):
                    dR[b, f, top_y] = dR[b, f, top_y] - floor * sum_y

    return SimpleNamespace(value=value, slopes=slopes)
