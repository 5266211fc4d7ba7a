"""From the signal to windowed frames, and the adjoint: from frames back to the signal.

    cut     v[f, n]  = w[n] x[s(f, n)]
    fold    ∂x[s]   += Σ_{(f, n): s(f, n) = s} w[n] ∂v[f, n]

Element n of frame f sits at position q = f H + n of the padded signal; position q holds sample s = q − pad.
Reflection adds two more images of each sample near an edge, mirrored at s = 0 and at s = T − 1.
"""

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import taichi as ti

from taichi_spec.arrays import upload_integers
from taichi_spec.stft import STFT

IMAGES = 3  # the sample itself, its mirror image before the signal, its mirror image after it


@ti.dataclass
class Framing:
    """The sizes that kernels need, as one argument."""

    n_samples: ti.i32  # T
    n_frames: ti.i32  # F
    n_fft: ti.i32  # N
    hop: ti.i32  # H
    pad: ti.i32
    reflect: ti.i32  # 1: the padding mirrors the signal, 0: it is zero

    @ti.func
    def sample(self, f, n):
        """The sample that element n of frame f reads; −1 if it is a padded zero."""
        s = f * self.hop + n - self.pad
        mirrored = ti.select(s < 0, -s, 2 * (self.n_samples - 1) - s)
        outside = (s < 0) | (s >= self.n_samples)
        return ti.select(outside, ti.select(self.reflect == 1, mirrored, -1), s)

    @ti.func
    def position(self, s, image):
        """The padded position of an image of sample s; −1 if there is no such image. The adjoint of `sample`."""
        q = s + self.pad
        if image == 1:
            q = ti.select(self.reflect == 1 and s >= 1 and s <= self.pad, self.pad - s, -1)
        if image == 2:
            mirrored = 2 * (self.n_samples - 1) - s
            beyond = mirrored - self.n_samples  # compared before pad is added: 2 T + pad would overflow
            q = ti.select(self.reflect == 1 and beyond >= 0 and beyond < self.pad, mirrored + self.pad, -1)
        return q

    @ti.func
    def first(self, q):
        """The first frame that contains position q: the least f ≥ 0 with q − f H < N."""
        f = 0
        if q >= self.n_fft:
            f = (q - self.n_fft) // self.hop + 1
        return f

    @ti.func
    def last(self, q):
        """The last frame that contains position q: the greatest f < F with f H ≤ q."""
        return ti.min(q // self.hop, self.n_frames - 1)


@ti.func
def counterpart(R: ti.template(), b, f, first, fixed: ti.template()):
    """Where frame first + f of item b is in the target's array: (B, block, …), or fixed, (B or 1, F or 1, …)."""
    i, j = b, f
    if ti.static(fixed):
        i, j = ti.min(b, R.shape[0] - 1), ti.min(first + f, R.shape[1] - 1)
    return i, j


@ti.func
def of_item(fr, items: ti.template(), b):
    """The framing of item b, which may be shorter than the whole: its own number of samples and of frames."""
    own = fr
    own.n_samples = items[b, 0]
    own.n_frames = items[b, 1]
    return own


@ti.func
def framing_of(items: ti.template(), b, n_fft, hop, pad, reflect):
    """The same, from numbers."""
    return Framing(items[b, 0], items[b, 1], n_fft, hop, pad, reflect)  # type: ignore[call-arg]


def framing(stft: STFT, n_samples: int) -> Any:
    """`Framing` of a signal of n_samples."""
    return cast(Any, Framing)(  # ti.dataclass makes the constructor
        n_samples=n_samples,
        n_frames=stft.n_frames(n_samples),
        n_fft=stft.n_fft,
        hop=min(stft.hop_length, 2**30),  # beyond the longest signal every hop is alike: one frame
        pad=stft.pad,
        reflect=int(stft.center and stft.pad_mode == "reflect"),
    )


def item_sizes(stft: STFT, lengths: Sequence[int]) -> Any:
    """Samples and frames of each item, as an ndarray of ti.i32  # (B, 2)"""
    return upload_integers(np.array([(length, stft.n_frames(length)) for length in lengths]))


def touched(stft: STFT, n_samples: int, first: int, count: int) -> tuple[int, int]:
    """The samples [low, high) that frames first … first + count − 1 read, with what reflection adds."""
    start = first * stft.hop_length - stft.pad
    stop = (first + count - 1) * stft.hop_length - stft.pad + stft.n_fft
    low, high = max(start, 0), min(stop, n_samples)
    if stft.center and stft.pad_mode == "reflect":
        if start < 0:
            low, high = 0, max(high, 1 - start)
        if stop > n_samples:
            low = min(low, 2 * n_samples - 1 - stop)
            high = n_samples
    return max(low, 0), min(high, n_samples)


@ti.func
def load(x: ti.template(), b, s):
    """Sample s of item b, of a signal of shape (T,) or (B, T), field or ndarray."""
    if ti.static(len(x.shape) == 1):
        return x[s]
    else:
        return x[b, s]


@ti.func
def add(x: ti.template(), b, s, value):
    """x[b, s] += value where no other thread touches it (`+=` would be an atomic)."""
    if ti.static(len(x.shape) == 1):
        x[s] = x[s] + value
    else:
        x[b, s] = x[b, s] + value


def annotation(is_field: bool) -> Any:
    """How a kernel declares a signal: fields are compiled in, ndarrays are passed."""
    return ti.template() if is_field else ti.types.ndarray()


@cache
def framing_kernels(is_field: bool, dtype: Any) -> SimpleNamespace:
    """The kernels `cut` and `fold` for signals of one kind and dtype."""
    Signal = annotation(is_field)
    Array = ti.types.ndarray()

    @ti.kernel
    def cut(x: Signal, window: Array, v: Array, fr: Framing, items: Array, first: ti.i32, count: ti.i32):
        """v[b, f, n] = w[n] x[b, s(first + f, n)], and 0 in frames beyond an item.  # (B, block, N)"""
        for b, f, n in ti.ndrange(v.shape[0], count, fr.n_fft):
            own = of_item(fr, items, b)
            value = ti.cast(0, dtype)
            if first + f < own.n_frames:
                s = own.sample(first + f, n)
                if s >= 0:
                    value = window[n] * load(x, b, s)
            v[b, f, n] = value

    @ti.kernel
    def fold(v: Array, window: Array, grad: Signal, fr: Framing, items: Array, first: ti.i32, count: ti.i32,
             low: ti.i32, high: ti.i32):  # fmt: skip
        """grad[b, s] += Σ w[n] v[b, f, n] over the elements that read s, frames in order, image after image."""
        for b, s in ti.ndrange(v.shape[0], (low, high)):
            total = ti.cast(0, dtype)
            own = of_item(fr, items, b)
            if s < own.n_samples:
                for image in range(IMAGES):
                    q = own.position(s, image)
                    if q >= 0:
                        for f in range(ti.max(own.first(q), first), ti.min(own.last(q), first + count - 1) + 1):
                            n = q - f * fr.hop
                            total += window[n] * v[b, f - first, n]
                add(grad, b, s, total)

    return SimpleNamespace(cut=cut, fold=fold)
