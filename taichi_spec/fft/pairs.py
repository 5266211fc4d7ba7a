"""Two real frames ride in one complex transform: what becomes of its bins k and N - k, together.

Functions without a decorator run while Taichi traces a kernel: they take and return Python lists of Taichi values.
"""

from functools import cache
from typing import Any

import taichi as ti
from taichi.lang import impl

from taichi_spec.bins import Parts, part_distance
from taichi_spec.precision import split

KNOWN = 0x1FFFFFFF
KNOWN_SAMPLE = 0x3FFFFFFF  # the same for a place in signals, of which there may be more
MAX_KNOWN = KNOWN_SAMPLE + 1


def hold(value):
    """Evaluates an expression here, once, and gives it a name."""
    return impl.expr_init(value)


def zeros(count, dtype):
    """So many numbers of a thread's own."""
    return [hold(ti.cast(0, dtype)) for _ in range(count)]


@ti.func
def push(re: ti.template(), im: ti.template(), u: ti.template(), v: ti.template()):
    """The last element becomes u + i v, each other one the next: after as many as there are, all are in their places."""
    last = ti.static(len(re) - 1)
    for k in ti.static(range(last)):
        re[k], im[k] = re[k + 1], im[k + 1]
    re[last], im[last] = u, v


def element(array, *at):
    """array[at] as a `ti.func` reads it, without one: many take longer to trace than what they do."""
    return impl.subscript(None, array, *at)


@ti.func
def size(value):
    """|value|. On CUDA `abs` is a function, which counts for ten instructions when LLVM decides what to inline."""
    return ti.select(value > 0, value, 0 - value)


def cell(x, is_field, b, at):
    """Sample `at` of a field's item b; of an ndarray, value `at` of its memory, which takes no multiplication."""
    if len(x.shape) == 1:
        return element(x, at)
    return element(x, b, at) if is_field else element(x, 0, at)


def known(index):
    """An index >= 0 of which LLVM knows no more than that: constants added to it become offsets of the access.

    Without the mask an addition may overflow for all LLVM knows; with fewer known bits it may turn into a bitwise or.
    Either way each access would compute its own address.
    """
    return hold(index & KNOWN)


def constant(value: float, dtype):
    """A Python float in full precision: Taichi would round it to `default_fp`."""
    high, middle, low = split(value)
    if dtype == ti.f32:
        return hold(ti.cast(high, dtype))
    return hold(ti.cast(high, dtype) + (ti.cast(middle, dtype) + ti.cast(low, dtype)))


def tiny(dtype):
    """So little that it only keeps 1 / sqrt finite: 1e-36 in float32, 1e-288 in float64."""
    value = ti.cast(1e-36, dtype)
    if dtype == ti.f64:
        value = hold(value * value)
        value = hold(value * value)
        value = value * value
    return hold(value)


def bits_of(dtype):
    """The type of a number's bits."""
    return ti.i64 if dtype == ti.f64 else ti.i32


@cache
def power_of_two(dtype: Any) -> Any:
    """A `ti.func` from a peak of 2^e ... 2^(e+1) to 2^e and 2^-e."""
    Bits, (BIAS, MANTISSA) = bits_of(dtype), (1023, 52) if dtype == ti.f64 else (127, 23)

    @ti.func
    def exponent(e: ti.template()):
        """The bits of the power of two with biased exponent e."""
        return ti.cast(e, Bits) << MANTISSA

    @ti.func
    def powers(peak):
        bits = ti.bit_cast(peak, Bits) & exponent(2 * BIAS + 1)
        bits = ti.min(ti.max(bits, exponent(1)), exponent(2 * BIAS - 2))
        return ti.bit_cast(bits, dtype), ti.bit_cast(exponent(2 * BIAS) - bits, dtype)

    return powers


def measures_of(parts: Parts, fixed: bool, dtype: Any, summed: tuple[int, ...]) -> Any:
    """The function of a kernel that `two_bins` takes its measure from: see `measures`.

    fixed: whether y is magnitudes, and a transform has two frames of x. summed: the parts of which values are wanted.
    """
    distance = part_distance(parts, dtype)

    @ti.func
    def both(a: ti.template(), b: ti.template(), j: ti.template()):
        value, da, db = distance(a, b, j)
        return value, da, db

    @ti.func
    def against(first: ti.template(), second: ti.template(), a: ti.template(), b: ti.template(), j: ti.template()):
        value0, da, _ = distance(a, first, j)
        value1, db, _ = distance(b, second, j)
        return value0, value1, da, db

    @ti.func
    def read(array: ti.template(), at: ti.template()):
        return array[at]

    def measures(y, row0, row1, forces):
        """A function from k - t to what measures bin k: from two magnitudes the values of the parts in `summed`, and both
        derivatives, those of all parts together. If fixed, the values of the first frame come before the second's.

        row0, row1: where this thread's first magnitudes of the target lie, if fixed. forces: what each part's derivative is
        multiplied by, the first one and the second one.
        """

        def weighed(slopes, s):
            total = hold(forces[s][0] * slopes[0])
            for force, slope in list(zip(forces[s], slopes))[1:]:
                total = hold(total + force * slope)
            return total

        def at(away):
            target = [hold(read(y, row + away)) for row in (row0, row1)] if fixed else []

            def measure(a, b):
                of_part = against if fixed else both
                *values, da, db = zip(*[of_part(*target, a, b, j) for j in range(len(parts))])
                return [some[j] for some in values for j in summed], weighed(da, 0), weighed(db, 1)

            return measure

        return at

    return measures


def forces_of(factors, scale):
    """What `measures` multiplies derivatives by: each part's factor, but nothing in a silent half. scale: see `two_bins`."""
    if scale is None:
        return [factors, factors]
    return [[hold(factor * scale[2 + s]) for factor in factors] for s in (0, 1)]


def two_bins(z, m, measure, scale, fixed, dtype):
    """Bins k and N - k of the packed transform: the two distances, and what replaces the bins.

    z = X + i Y at k and m = conj(X) + i conj(Y) at N - k give 2 X and 2 Y; G_X = phi' X / |X| and G_Y go back the
    same way. Both k and N - k will contribute: half of the gradients each, which `measure` has in it.

    scale: what makes an amplitude of each half of z, 0 if it is silent; its gradients' share, or 0; whether
    the halves are equal. None where none is silent or equal, and amplitudes are magnitudes of 2 X and 2 Y.
    """
    x = hold(z[0] + m[0]), hold(z[1] - m[1])
    y = hold(z[1] + m[1]), hold(m[0] - z[0])
    may_equal = scale is not None and not fixed
    if may_equal:
        y = tuple(hold(ti.select(scale[4] > 0, mine, other)) for mine, other in zip(x, y))
    least = tiny(dtype)
    px = hold(x[0] * x[0] + (x[1] * x[1] + least))
    py = hold(y[0] * y[0] + (y[1] * y[1] + least))
    if may_equal:
        py = hold(ti.select(scale[4] > 0, px, py))
    # Directions first: a large slope over a tiny amplitude may overflow.
    ix, iy = hold(ti.rsqrt(px)), hold(ti.rsqrt(py))
    a, b = hold(px * ix), hold(py * iy)
    if scale is not None:
        # The maximum keeps these products apart from what is subtracted of them: fused, equal ones would differ.
        none = constant(0.0, dtype)
        a, b = hold(ti.max(a * scale[0], none)), hold(ti.max(b * scale[1], none))
    found, dx, dy = measure(a, b)
    real, imag = hold(dx * (x[0] * ix)), hold(dx * (x[1] * ix))
    p, q = hold(dy * (y[0] * iy)), hold(dy * (y[1] * iy))
    return (
        found,
        (hold(real - q), hold(imag + p)),
        (hold(real + q), hold(p - imag)),
    )


@ti.func
def add_distances(found: ti.template(), values: ti.template(), second: ti.template()):
    """found[j] += the distances that `two_bins` found; of two frames, the second one's come last, and count if it is there."""
    count = ti.static(len(found))
    for j in ti.static(range(count)):
        found[j] += values[j]
        if ti.static(len(values) > count):
            found[j] += ti.select(second, values[count + j], 0)


def pair_comparer(dtype: Any, sums: int, plane: int, fixed: bool, gradient: bool) -> Any:
    """The `ti.func` that compares bins k and N - k, z and m, which lie in shared memory, imaginary parts `plane` further on.

    It adds as many distances as there are sums, those of a second frame only if there is one, and with gradients the bins
    become theirs, real and imaginary parts exchanged.
    """

    @ti.func
    def compare_pair(found: ti.template(), sm: ti.template(), at: ti.template(), other: ti.template(), z: ti.template(),
                     m: ti.template(), k: ti.template(), goals: ti.template(), scale: ti.template(),
                     second: ti.template()):  # fmt: skip
        values, low, high = ti.static(two_bins(z, m, goals(k), scale, fixed, dtype))
        add_distances(found, values, second)
        if ti.static(gradient):
            twice = ti.select(at == other, ti.cast(2, dtype), ti.cast(1, dtype))
            sm[other], sm[other + plane] = twice * high[1], twice * high[0]
            sm[at], sm[at + plane] = twice * low[1], twice * low[0]

    return compare_pair
