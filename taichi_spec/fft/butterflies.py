"""Small DFTs, written once: a value is a scalar (a GPU thread) or a lane vector (a CPU core).

In `butterflies`, elements are turned first and then transformed: the fewest operations, for any radix. In `fused_dft`
each twiddle is part of a butterfly of six multiply-adds: the fewest instructions where a multiplication and an addition
are one. A GPU is faster with these; a CPU, which has few registers, takes 4 % longer.

A butterfly of `butterflies` works in place on two Python lists of Taichi values, `re` and `im`, which live in registers:

    re = [source[...] for q in ti.static(range(8))]
    im = [source[...] for q in ti.static(range(8))]
    dft(re, im, 8, 0, 1)

Element q of the transform sits at index first + q * step, before and after: inputs and outputs are both in natural
order. The transform is forward, sum_q v[q] e^(-2 pi i k q / r), unnormalised. There is no inverse: swap `re` and `im`
in the call (or in the data) and the same code is the inverse.
"""

import math
from functools import cache
from types import SimpleNamespace

import taichi as ti

from taichi_spec.fft.pairs import constant as number
from taichi_spec.fft.pairs import hold
from taichi_spec.precision import split
from taichi_spec.vectors import negative

RADICES = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 15, 16)
COPRIME = {6: (2, 3), 10: (2, 5), 12: (4, 3), 14: (2, 7), 15: (3, 5)}  # how `dft_coprime` divides a radix


@cache
def butterflies(dtype) -> SimpleNamespace:
    """The Taichi functions for one dtype: `dft(re, im, radix, first, step)`, `rotate`, `turn` and `constant`."""

    @ti.func
    def constant(value: ti.template()):
        high, middle, low = ti.static(split(value))
        return ti.cast(high, dtype) + (ti.cast(middle, dtype) + ti.cast(low, dtype))

    @ti.func
    def rotate(re: ti.template(), im: ti.template(), q: ti.template(), cosine, sine):
        """Multiply element q by cosine + i sine."""
        real = re[q] * cosine - im[q] * sine
        im[q] = re[q] * sine + im[q] * cosine
        re[q] = real

    @ti.func
    def turn(re: ti.template(), im: ti.template(), r: ti.template(), twiddles: ti.template(), at):
        """Multiply elements 1 ... r - 1 by those of a flat table from `at` on, cosine beside sine."""
        for q in ti.static(range(1, r)):
            rotate(re, im, q, twiddles[at + 2 * q - 2], twiddles[at + 2 * q - 1])

    @ti.func
    def add_subtract(re: ti.template(), im: ti.template(), a: ti.template(), b: ti.template()):
        """(a, b) becomes (a + b, a - b): the DFT of two."""
        real, imag = re[a] - re[b], im[a] - im[b]
        re[a], im[a] = re[a] + re[b], im[a] + im[b]
        re[b], im[b] = real, imag

    @ti.func
    def swap(re: ti.template(), im: ti.template(), a: ti.template(), b: ti.template()):
        re[a], re[b] = re[b], re[a]
        im[a], im[b] = im[b], im[a]

    @ti.func
    def minus_i(re: ti.template(), im: ti.template(), q: ti.template()):
        """Multiply element q by -i."""
        re[q], im[q] = im[q], negative(re[q])

    @ti.func
    def dft4(re: ti.template(), im: ti.template(), first: ti.template(), step: ti.template()):
        a, b, c, d = ti.static(first, first + step, first + 2 * step, first + 3 * step)
        add_subtract(re, im, a, c)
        add_subtract(re, im, b, d)
        minus_i(re, im, d)
        add_subtract(re, im, a, b)
        add_subtract(re, im, c, d)
        swap(re, im, b, c)

    @ti.func
    def dft8(re: ti.template(), im: ti.template(), first: ti.template(), step: ti.template()):
        # Even elements and odd elements each by a DFT of four, then bins k and k + 4 from even k and odd k turned.
        dft4(re, im, first, ti.static(2 * step))
        dft4(re, im, ti.static(first + step), ti.static(2 * step))
        half = constant(ti.static(math.sqrt(0.5)))
        b, c, d = ti.static(first + 3 * step, first + 5 * step, first + 7 * step)  # odd bins 1, 2, 3
        re[b], im[b] = (im[b] + re[b]) * half, (im[b] - re[b]) * half
        minus_i(re, im, c)
        re[d], im[d] = (im[d] - re[d]) * half, negative(re[d] + im[d]) * half
        for k in ti.static(range(4)):
            add_subtract(re, im, ti.static(first + 2 * k * step), ti.static(first + (2 * k + 1) * step))
        reorder(re, im, first, step, (0, 2, 4, 6, 1, 3, 5, 7))

    @ti.func
    def reorder(re: ti.template(), im: ti.template(), first: ti.template(), step: ti.template(), order: ti.template()):
        """Element q becomes what element order[q] was: names change, nothing is computed."""
        old_re = [re[first + p * step] for p in ti.static(order)]
        old_im = [im[first + p * step] for p in ti.static(order)]
        for q in ti.static(range(len(order))):
            re[first + q * step] = old_re[q]
            im[first + q * step] = old_im[q]

    @ti.func
    def dft16(re: ti.template(), im: ti.template(), first: ti.template(), step: ti.template()):
        # 16 = 4 x 4: element 4 p + q; DFTs over p, turn bin k of column q by e^(-2 pi i k q / 16), DFTs over q.
        for q in ti.static(range(4)):
            dft4(re, im, ti.static(first + q * step), ti.static(4 * step))
        for k, q in ti.static(ti.ndrange((1, 4), (1, 4))):
            angle = ti.static(-math.pi * k * q / 8)
            rotate(
                re,
                im,
                ti.static(first + (4 * k + q) * step),
                constant(ti.static(math.cos(angle))),
                constant(ti.static(math.sin(angle))),
            )
        for k in ti.static(range(4)):
            dft4(re, im, ti.static(first + 4 * k * step), step)
        reorder(re, im, first, step, ti.static([4 * (k % 4) + k // 4 for k in range(16)]))

    @ti.func
    def dft_odd(re: ti.template(), im: ti.template(), r: ti.template(), first: ti.template(), step: ti.template()):
        # With s[j] = v[j] + v[r-j] and d[j] = v[j] - v[r-j], and sums over j = 1 .. (r-1)/2,
        # bins k and r - k are  (v[0] + sum cos(2 pi j k / r) s[j])  -+  i (sum sin(2 pi j k / r) d[j]).
        half = ti.static(range(1, (r + 1) // 2))
        for j in ti.static(half):
            add_subtract(re, im, ti.static(first + j * step), ti.static(first + (r - j) * step))
        s_re = [re[first + j * step] for j in ti.static(half)]
        s_im = [im[first + j * step] for j in ti.static(half)]
        d_re = [re[first + (r - j) * step] for j in ti.static(half)]
        d_im = [im[first + (r - j) * step] for j in ti.static(half)]
        zero_re, zero_im = re[first], im[first]
        for j in ti.static(half):
            re[first] += s_re[j - 1]
            im[first] += s_im[j - 1]
        for k in ti.static(half):
            a_re, a_im = zero_re, zero_im
            sine = constant(ti.static(math.sin(2 * math.pi * k / r)))
            b_re, b_im = sine * d_re[0], sine * d_im[0]
            for j in ti.static(half):
                cosine = constant(ti.static(math.cos(2 * math.pi * (j * k % r) / r)))
                a_re += cosine * s_re[j - 1]
                a_im += cosine * s_im[j - 1]
            for j in ti.static(half[1:]):
                sine = constant(ti.static(math.sin(2 * math.pi * (j * k % r) / r)))
                b_re += sine * d_re[j - 1]
                b_im += sine * d_im[j - 1]
            low, high = ti.static(first + k * step, first + (r - k) * step)
            re[low], im[low] = a_re + b_im, a_im - b_re
            re[high], im[high] = a_re - b_im, a_im + b_re

    @ti.func
    def dft_coprime(re: ti.template(), im: ti.template(), a: ti.template(), b: ti.template(), first: ti.template(),
                    step: ti.template()):  # fmt: skip
        # r = a b without a common factor: with element n = b i + a l modulo r in row i, column l of a matrix, bin k is in row
        # k modulo a, column k modulo b of the matrix's DFTs over i and over l; no twiddles between them (Good and Thomas).
        reorder(re, im, first, step, ti.static([(b * (p // b) + a * (p % b)) % (a * b) for p in range(a * b)]))
        for q in ti.static(range(b)):
            dft_small(re, im, a, ti.static(first + q * step), ti.static(b * step))
        for p in ti.static(range(a)):
            dft_small(re, im, b, ti.static(first + p * b * step), step)
        reorder(re, im, first, step, ti.static([k % a * b + k % b for k in range(a * b)]))

    @ti.func
    def dft_small(re: ti.template(), im: ti.template(), r: ti.template(), first: ti.template(), step: ti.template()):
        if ti.static(r == 2):
            add_subtract(re, im, first, ti.static(first + step))
        elif ti.static(r == 4):
            dft4(re, im, first, step)
        else:
            dft_odd(re, im, r, first, step)

    @ti.func
    def dft(re: ti.template(), im: ti.template(), r: ti.template(), first: ti.template(), step: ti.template()):
        """The DFT of r elements, r one of RADICES."""
        if ti.static(r == 8):
            dft8(re, im, first, step)
        elif ti.static(r == 16):
            dft16(re, im, first, step)
        elif ti.static(r in COPRIME):
            dft_coprime(re, im, ti.static(COPRIME[r][0]), ti.static(COPRIME[r][1]), first, step)
        else:
            dft_small(re, im, r, first, step)

    return SimpleNamespace(dft=dft, rotate=rotate, turn=turn, constant=constant)


def bit_reverse(i: int, n: int) -> int:
    """i with the order of its log2(n) bits turned round."""
    return int(format(i, f"0{n.bit_length() - 1}b")[::-1], 2) if n > 1 else 0


def turn_add(a, b, c=None, t=None, quarter=False):
    """a + w b and a - w b for w = c (1 - i t), or 1 if c is None, times -i if `quarter`: six multiply-adds."""
    if c is None:
        p, s = b
        if quarter:
            p, s = s, -p
        return (hold(a[0] + p), hold(a[1] + s)), (hold(a[0] - p), hold(a[1] - s))
    p, s = hold(b[0] + t * b[1]), hold(b[1] - t * b[0])
    if quarter:
        return (hold(a[0] + c * s), hold(a[1] - c * p)), (hold(a[0] - c * s), hold(a[1] + c * p))
    return (hold(a[0] + c * p), hold(a[1] + c * s)), (hold(a[0] - c * p), hold(a[1] - c * s))


def fused_dft(values, pairs, dtype, mirrored=False):
    """The DFT of a power of two of (real, imaginary) pairs, natural order in and out; called while a kernel is traced.

    Decimation in time, each twiddle fused into its butterfly as cosine and tangent (Linzer and Feig). With `pairs`, a
    function from entry to (cosine, tangent), the bins are k + f for the fraction f that its table was made for; or, if
    mirrored, k + 1 - f.
    """
    r = len(values)
    values = [values[bit_reverse(q, r)] for q in range(r)]
    half = 1
    while half < r:
        for q in range(max(1, half // 2)):
            factors = factors_of(q, half, pairs, dtype, mirrored)
            for b in range(q, r, 2 * half):
                for e, factor in zip((b, b + half // 2), factors):
                    values[e], values[e + half] = turn_add(values[e], values[e + half], *factor)
        half *= 2
    return values


def factors_of(q, half, pairs, dtype, mirrored):
    """How `turn_add` takes w = e^(-pi i (q + f) / half), and for half >= 2 also -i w.

    For 1 - f it is -i conj(w) of the entry half / 2 - 1 - q of the same size; for half = 1, -conj(w).
    """
    if pairs is None:
        angle = math.pi * q / half
        c, t = (number(math.cos(angle), dtype), number(math.tan(angle), dtype)) if q else (None, None)
    elif mirrored:
        c, t = pairs(max(half - 1 - q, 0))
        return [(-c, -t)] if half == 1 else [(c, -t, True), (-c, -t)]
    else:
        c, t = pairs(half // 2 + q)
    return [(c, t)] if half == 1 else [(c, t), (c, t, True)]
