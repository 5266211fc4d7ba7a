"""What a transform of n points needs to know beforehand: its factors, its tables, where its bins end up.

Everything here is NumPy in float64; an engine rounds a table to its own dtype once.

An in-place transform runs through the factors r1, r2, ... of n; pass p sees groups of r_p * span_p elements, where
span_p = n / (r1 ... r_p), and in each group, for j = 0 .. span - 1, the elements j, j + span, j + 2 span, ... It turns
element q by a twiddle and replaces them by their DFT of r_p. There are two such transforms, and neither reorders:

- natural to reversed, passes from left to right: bins come out in digit-reversed order (`positions`). The twiddle
  depends on the group: a group's elements belong to the bins k with k = b modulo r1 ... r_(p-1), and element q is
  turned by e^(-2 pi i b q / (r1 ... r_p)).
- reversed to natural, passes from right to left: takes the digit-reversed order. The twiddle depends on j:
  e^(-2 pi i j q / (r_p span_p)).

So forward, per-bin work, and back needs no reordering, and one loop body serves both ways.
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
    """The radices of a smooth n, the largest first: the twos in as few factors <= largest (a power of two) as can be.

    They are as even as they can be: 1024 = 2^10 is 8 * 8 * 4 * 4 rather than 8 * 8 * 8 * 2.
    """
    odd = [p for p in prime_factors(n) if p != 2]
    twos = (n // prod(odd)).bit_length() - 1  # n = 2^twos * odd
    width = largest.bit_length() - 1
    count = -(-twos // width)
    powers = [1 << (twos // count + (i < twos % count)) for i in range(count)]
    return tuple(sorted(odd + powers, reverse=True))


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
        """Per pass: where its part of `twiddles` begins."""
        sizes = [span * (r - 1) for r, span in zip(self.radices, self.spans)]
        return tuple(sum(sizes[:p]) for p in range(len(sizes)))

    @cached_property
    def twiddles(self) -> np.ndarray:
        """Those of reversed to natural, for each pass, j < span and q = 1 .. r-1, as (cosine, sine): (n - 1, 2).

        Before the DFTs; or after them, for natural to reversed by decimation in frequency.
        """
        return np.concatenate([turns.reshape(-1, 2) for turns in self.turns])

    @cached_property
    def turns(self) -> list[np.ndarray]:
        """Per pass: e^(-2 pi i j q / (r span)) for j < span and q = 1 .. r-1: (span, r - 1, 2)."""
        return [unit_circle(-np.outer(np.arange(span), np.arange(1, r)), r * span)
                for r, span in zip(self.radices, self.spans)]  # fmt: skip

    @cached_property
    def _group_turns(self) -> list[np.ndarray]:
        """The same for natural to reversed, by groups: (groups, r - 1, 2)."""
        passes, bins = [], np.zeros(1, np.int64)  # bins: per group of the pass, the part of k that is settled
        for r, span in zip(self.radices, self.spans):
            groups = self.n // (r * span)
            passes.append(unit_circle(-np.outer(bins, np.arange(1, r)), groups * r))
            bins = (bins[:, None] + groups * np.arange(r)).ravel()
        return passes

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """The twiddles of both ways, those of natural to reversed first, in rows of r, of which the last one is unused.

        As a row begins at a multiple of its length, one address serves all of it.

        Returns:
            The table, (entries, 2), and for each way and pass in which row of the table it begins, were all of them of
            this pass's length: (2, passes).
        """
        table: list[np.ndarray] = []
        begins, end = [], 0
        for r, turns in zip(self.radices * 2, self._group_turns + self.turns):
            first = -(-end // r)
            table += [np.zeros((first * r - end, 2)), np.pad(turns, ((0, 0), (0, 1), (0, 0))).reshape(-1, 2)]
            begins.append(first)
            end = (first + len(turns)) * r
        return np.concatenate(table), np.reshape(begins, (2, -1))

    def schedule(self, block: int) -> np.ndarray:
        """The passes of natural to reversed, depth first.

        A part of <= block elements is finished before the next begins, so that one that fits a cache stays there.
        Reversed to natural takes the rows from the last to the first.

        A row is (pass, first element, number of groups): (rows, 3).
        """
        rows: list[tuple[int, ...]] = []

        def descend(first: int, size: int, p: int) -> None:
            end = len(self.radices) if size <= block else p + 1
            rows.extend((q, first, size // (self.radices[q] * self.spans[q])) for q in range(p, end))
            if end < len(self.radices):
                part = self.spans[end - 1]
                for start in range(first, first + size, part):
                    descend(start, part, end)

        descend(0, self.n, 0)
        return np.array(rows, np.int64)

    def loops(self, block: int) -> np.ndarray:
        """`schedule` for both directions as loops over butterflies: (2, rows, 10).

        A row is (radix, span, place of the first element, first row of twiddles), and for the outer and the inner loop
        (count, step in places, step in rows of twiddles). An element has two places, real and imaginary part. These rows are
        those of `rows`. The longer one of the loops over groups and over j < span is the inner one.
        """
        directions = []
        _, begins = self.rows
        for back in (False, True):
            rows: list[tuple[int, ...]] = []
            for p, first, groups in self.schedule(block)[:: -1 if back else 1]:
                r, span = self.radices[p], self.spans[p]
                over_groups = (groups, 2 * r * span, 0 if back else 1)
                over_span = (span, 2, 1 if back else 0)
                start = begins[int(back), p] + (0 if back else first // (r * span))
                outer, inner = (over_groups, over_span) if span >= groups else (over_span, over_groups)
                rows.append((r, 2 * span, 2 * first, start, *outer, *inner))
            directions.append(rows)
        return np.array(directions, np.int32)

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
    def response(self) -> np.ndarray:
        """The transform of conj(c), over inner.n, in the order in which `inner` leaves its bins: (inner.n, 2)."""
        m = self.inner.n
        kernel = np.zeros(m, complex)
        kernel[: self.n] = self.chirp[:, 0] - 1j * self.chirp[:, 1]
        kernel[m - self.n + 1 :] = kernel[1 : self.n][::-1]
        bins = np.fft.fft(kernel) / m
        ordered = np.empty((m, 2))
        ordered[self.inner.positions] = np.stack([bins.real, bins.imag], 1)
        return ordered
