"""`Transport` between the quantities that `lanes_stages` keeps in work memory: its value and, its adjoint, its slopes."""

from typing import Any

import taichi as ti

from taichi_spec.fft.lanes_layout import PLACES, lane_count
from taichi_spec.terms.transport import cost, inverse, share
from taichi_spec.vectors import negative


def transporting(dtype: Any, fixed: bool, backward: bool) -> Any:
    """The `ti.func` for a `Transport` of the quantities in work memory, as its docstring and `transport_kernels` say.

    Args:
        dtype, fixed, backward: as in `lanes.lane_kernel`.
    """
    L = lane_count(dtype)
    lane = ti.types.vector(L, dtype)

    @ti.func
    def largest(work: ti.template(), q, top_at, size: ti.template(), zero):
        """The largest bin of a quantity; its index, the first if there are several, goes to work memory."""
        top, peak = lane(0), work[q]
        k = 1 ^ zero
        while k < size.rows:
            P = work[(q + k) & PLACES]
            top = ti.select(P > peak, ti.cast(k, dtype), top)  # a number as wide as P: LLVM joins lanes of one width
            peak = ti.max(P, peak)
            k = (k + 1) ^ zero
        work[top_at] = top
        return peak

    @ti.func
    def total(work: ti.template(), q, least, size: ti.template(), zero):
        """ΣP'."""
        result = lane(0)
        k = 0 ^ zero
        while k < size.rows:
            result += ti.max(work[(q + k) & PLACES] - least, 0)
            k = (k + 1) ^ zero
        return result

    @ti.func
    def scales(work: ti.template(), at, total_q, total_r):
        """1 / ΣP', both 0 in lanes in which either is silent or overflows."""
        work[at], work[at + 1] = total_q, total_r
        for l in range(L):
            scale_q, scale_r = inverse(work[at][l], dtype), inverse(work[at + 1][l], dtype)
            audible = ti.cast(scale_q > 0 and scale_r > 0, dtype)
            work[at][l], work[at + 1][l] = audible * scale_q, audible * scale_r
        return work[at], work[at + 1]

    @ti.func
    def move_floor(work: ti.template(), dq, top_at, at, by):
        """∂q += by in the largest bin."""
        work[at] = by
        for l in range(L):
            top = dq + ti.cast(work[top_at][l], ti.i32)
            work[top][l] = work[top][l] + work[at][l]

    @ti.func
    def transport(work: ti.template(), q, spare, term: ti.template(), coefficient, size: ti.template(), zero):
        """Σ_k |Cx − Cy|^p Δ of the quantities at q and q + rows; ∂q += coefficient times its slopes, and so ∂r."""
        r, dq, dr = q + size.rows, q + 2 * size.rows, q + 3 * size.rows
        floor, step = dtype(term.floor), 1 / ti.cast(size.axis, dtype)
        least_q = floor * largest(work, q, spare, size, zero)
        least_r = floor * largest(work, r, spare + 1, size, zero)
        scale_q, scale_r = scales(work, spare + 2, total(work, q, least_q, size, zero),
                                  total(work, r, least_r, size, zero))  # fmt: skip
        value, d, s, mean_q, mean_r = lane(0), lane(0), lane(0), lane(0), lane(0)
        k = (size.rows - 1) ^ zero
        while k >= 0:
            x, y = share(work[(q + k) & PLACES], least_q, scale_q), share(work[(r + k) & PLACES], least_r, scale_r)
            part, psi = cost(d, term.p, dtype)
            value += part
            s += psi
            mean_q += x * s
            mean_r += y * s
            d += y - x  # to subtract, Taichi negates a number
            k = (k - 1) ^ zero
        if ti.static(backward):
            by_q, by_r = coefficient * step * scale_q, negative(coefficient) * step * scale_r
            d, s, sum_q, sum_r = lane(0), lane(0), lane(0), lane(0)
            k = (size.rows - 1) ^ zero
            while k >= 0:
                x, y = share(work[(q + k) & PLACES], least_q, scale_q), share(work[(r + k) & PLACES], least_r, scale_r)
                _, psi = cost(d, term.p, dtype)
                s += psi
                slope = ti.select(x > 0, by_q * (s - mean_q), 0)
                sum_q += slope
                work[(dq + k) & PLACES] = work[(dq + k) & PLACES] + slope
                if ti.static(not fixed):
                    slope = ti.select(y > 0, by_r * (s - mean_r), 0)
                    sum_r += slope
                    work[(dr + k) & PLACES] = work[(dr + k) & PLACES] + slope
                d += y - x  # to subtract, Taichi negates a number
                k = (k - 1) ^ zero
            move_floor(work, dq, spare, spare + 2, -floor * sum_q)
            if ti.static(not fixed):
                move_floor(work, dr, spare + 1, spare + 2, -floor * sum_r)
        return step * value

    return transport
