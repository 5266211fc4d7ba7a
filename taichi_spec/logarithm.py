"""The difference of two logarithms, in arithmetic that compilers make vector instructions of.

Taichi calls the C library for each `ti.log` on the CPU, one number at a time.

    u = 2^j v' ,  v / √2 ≲ v' ≲ √2 v            j from the bits of u and v: their difference is about 2^52 log₂ (u / v)
    ln u − ln v = j ln 2 + ln(1 + s) − ln(1 − s),   s = (u − v 2^j) / (u + v 2^j),   |s| ≤ 0.2004
    ln(1 + s) − ln(1 − s) = s (2 + ⅔ s² + ⅖ s⁴ + …)             as a polynomial in s², fitted for the least relative error

The subtraction u − v 2^j is exact, so the difference has the sign of u − v, and is 0 only where u = v.
"""

import math

import taichi as ti

from taichi_spec.precision import split

# Relative error at most 2.5e-9 and 1.4e-17 for s² ≤ 0.0402 (Remez).
COEFFICIENTS = {
    ti.f32: (1.9999999951044938, 0.666670542747191, 0.3995218346457054, 0.3044469205024613),
    ti.f64: (2.0, 0.6666666666667577, 0.3999999999526263, 0.28571429509986024, 0.2222213105360042, 0.18186613670246873,
             0.15245669467864845, 0.15399801140967662),
}  # fmt: skip


@ti.func
def constant(value: ti.template(), real: ti.template()):
    """A Python float in full precision."""
    high, middle, low = ti.static(split(value))
    return ti.cast(high, real) + (ti.cast(middle, real) + ti.cast(low, real))


@ti.func
def log_ratio(u, v, real: ti.template()):
    """ln u − ln v, a few ulp off, for positive normal numbers u and v."""
    Bits, BIAS, MANTISSA = ti.static((ti.i64, 1023, 52) if real == ti.f64 else (ti.i32, 127, 23))
    bits_u, bits_v = ti.bit_cast(u, Bits), ti.bit_cast(v, Bits)
    j = (bits_u - bits_v + (ti.cast(1, Bits) << (MANTISSA - 1))) >> MANTISSA
    e = (bits_u >> MANTISSA) - BIAS  # both are brought near 1, where their difference does not underflow
    near_u, near_v = ti.bit_cast(bits_u - (e << MANTISSA), real), ti.bit_cast(bits_v + ((j - e) << MANTISSA), real)
    s = (near_u - near_v) / (near_u + near_v)
    z = s * s
    series = constant(ti.static(COEFFICIENTS[real][-1]), real)
    for i in ti.static(range(len(COEFFICIENTS[real]) - 2, -1, -1)):
        series = series * z + constant(ti.static(COEFFICIENTS[real][i]), real)
    return ti.cast(ti.cast(j, ti.i32), real) * constant(ti.static(math.log(2)), real) + s * series
