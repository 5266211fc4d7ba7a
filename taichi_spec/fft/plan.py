"""What a transform of n points needs to know beforehand: its factors, its tables, where its bins end up.

Everything here is NumPy in float64; an engine rounds a table to its own dtype once.

An in-place transform by decimation in frequency runs through the factors r1, r2, ... of n from left to right. Pass p
sees blocks of r_p * span_p elements, span_p = n / (r1 ... r_p). In each block it takes, for j = 0 .. span - 1, the
elements j, j + span, j + 2 span, ..., replaces them by their DFT of r_p, and turns element q by the twiddle
e^(-2 pi i j q / (r_p span_p)). Bins come out in digit-reversed order (`positions`). Decimation in time is the
transpose: the passes from right to left, the turn before the DFT; it takes the digit-reversed order and gives the
natural one. So forward, per-bin work, and back needs no reordering.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

SMOOTH = (2, 3, 5, 7)


def prime_factors(n: int) -> list[int]:
    """The prime factors of n among SMOOTH in rising order, and what is left of n if that is not 1."""
    factors = []
    for p in SMOOTH:
        while n % p == 0:
            factors.append(p)
            n //= p
    return factors + [n] * (n > 1)


def is_smooth(n: int) -> bool:
    """Whether n is a product of 2, 3, 5 and 7."""
    return max(prime_factors(n), default=1) <= max(SMOOTH)


def smooth_size(least: int) -> int:
    """The size for Bluestein's convolution: 2^a, 3 * 2^a, 5 * 2^a or 15 * 2^a, the smallest that is >= least."""
    return min(odd << max(0, -(-least // odd) - 1).bit_length() for odd in (1, 3, 5, 15))


def factorise(n: int, largest: int = 8) -> tuple[int, ...]:
    """The radices of a smooth n, the largest first: the twos in as few factors <= largest as can be."""
    odd = [p for p in prime_factors(n) if p != 2]
    twos = (n // prod(odd)).bit_length() - 1  # n = 2^twos * odd
    width = largest.bit_length() - 1
    count = -(-twos // width)
    # As even as they can be: 1024 = 2^10 is 8 * 8 * 4 * 4 rather than 8 * 8 * 8 * 2.
    powers = [1 << (twos // count + (i < twos % count)) for i in range(count)]
    return tuple(sorted(odd + powers, reverse=True))


def factorise_by_four(n: int) -> tuple[int, ...]:
    """The radices of a smooth n, the largest first: the twos in fours, and one 8 or 2 where their number is odd."""
    odd = [p for p in prime_factors(n) if p != 2]
    twos = (n // prod(odd)).bit_length() - 1
    eights = [8] if twos % 2 and twos > 1 else []
    rest = twos - 3 * len(eights)
    return tuple(sorted(odd + eights + [4] * (rest // 2) + [2] * (rest % 2), reverse=True))


@dataclass(frozen=True)
class Plan:
    """An in-place complex transform of n points by the given radices, whose product is n."""

    n: int
    radices: tuple[int, ...]

    @cached_property
    def spans(self) -> tuple[int, ...]:
        """Per pass: how far apart the elements of one butterfly lie."""
        return tuple(self.n // prod(self.radices[: p + 1]) for p in range(len(self.radices)))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Per pass: where its twiddles begin in `twiddles`."""
        sizes = [span * (r - 1) for r, span in zip(self.radices, self.spans)]
        return tuple(sum(sizes[:p]) for p in range(len(sizes)))

    @cached_property
    def twiddles(self) -> np.ndarray:
        """e^(-2 pi i j q / (r span)) for each pass, each j < span, q = 1 .. r-1, as (cosine, sine): (n - 1, 2)."""
        tables = []
        for r, span in zip(self.radices, self.spans):
            turns = np.outer(np.arange(span), np.arange(1, r)).ravel()
            tables.append(unit_circle(-turns, r * span))
        return np.concatenate(tables)

    def schedule(self, block: int) -> np.ndarray:
        """The passes of decimation in frequency, depth first: once a part has <= block elements it is finished alone.

        A row is (radix, span, offset of its twiddles, first element, number of butterfly groups): (rows, 5). A part
        that fits a cache stays there for all its passes. Decimation in time takes the rows from the last to the first.
        """
        rows = []

        def descend(first: int, size: int, p: int) -> None:
            last = len(self.radices) if size <= block else p + 1
            for q in range(p, last):
                groups = size // (self.radices[q] * self.spans[q])
                rows.append((self.radices[q], self.spans[q], self.offsets[q], first, groups))
            if last < len(self.radices):
                part = self.spans[last - 1]
                for start in range(first, first + size, part):
                    descend(start, part, last)

        descend(0, self.n, 0)
        return np.array(rows, np.int32)

    @cached_property
    def positions(self) -> np.ndarray:
        """Where decimation in frequency leaves bin k, for k = 0 .. n-1: (n,)."""
        k = np.arange(self.n)
        position = np.zeros(self.n, np.int64)
        for r, span in zip(self.radices, self.spans):
            position += k % r * span
            k //= r
        return position

    @cached_property
    def pairs(self) -> np.ndarray:
        """Positions of bins k and n - k, for k = 0 .. n//2: (n//2 + 1, 2)."""
        k = np.arange(self.n // 2 + 1)
        return np.stack([self.positions[k], self.positions[-k % self.n]], 1)


def unit_circle(numerator: np.ndarray, denominator: int) -> np.ndarray:
    """(cos, sin) of 2 pi numerator / denominator, reduced to one turn in exact integers first: (..., 2)."""
    angle = 2 * np.pi * (numerator % denominator) / denominator
    return np.stack([np.cos(angle), np.sin(angle)], -1)


@dataclass(frozen=True)
class Bluestein:
    """A transform of any n points as a circular convolution of size `inner.n` >= 2 n - 1.

    With the chirp c[n] = e^(-pi i n^2 / N), and kn = (k^2 + n^2 - (k - n)^2) / 2:
    X[k] = c[k] sum_n (x[n] c[n]) conj(c[k - n]).
    """

    n: int
    inner: Plan

    @cached_property
    def chirp(self) -> np.ndarray:
        """c[n] for n = 0 .. N-1: (N, 2)."""
        k = np.arange(self.n)
        return unit_circle(-(k * k), 2 * self.n)

    @cached_property
    def filter(self) -> np.ndarray:
        """The transform of conj(c), over inner.n, in the order in which `inner` leaves its bins: (inner.n, 2)."""
        m = self.inner.n
        kernel = np.zeros(m, complex)
        kernel[: self.n] = self.chirp[:, 0] - 1j * self.chirp[:, 1]
        kernel[m - self.n + 1 :] = kernel[1 : self.n][::-1]
        bins = np.fft.fft(kernel) / m
        ordered = np.empty((m, 2))
        ordered[self.inner.positions] = np.stack([bins.real, bins.imag], 1)
        return ordered
