"""What a resolution is made of beside its transform: bands, weights of bins, its share; and the items of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taichi_spec.stft import STFT, check_integer


@dataclass(frozen=True)
class Constants:
    """A read-only float64 array that compares and hashes by its contents."""

    array: NDArray[np.float64] = field(compare=False)
    key: tuple[tuple[int, ...], bytes] = field(repr=False)

    @staticmethod
    def of(array: NDArray[Any]) -> Constants:
        """A copy of `array`."""
        copy = np.array(array, dtype=np.float64)
        copy.flags.writeable = False
        return Constants(copy, (copy.shape, copy.tobytes()))


def array_of(constants: Constants | None) -> NDArray[np.float64] | None:
    """The array, or None for None."""
    return None if constants is None else constants.array


@dataclass(frozen=True)
class Resolution:
    """One transform of a loss, with what belongs to it.

    stft: the transform. bands: (n_bands, K) or None. bin_weights: (K,) or None. weight: of its terms.
    """

    stft: STFT
    bands: Constants | None = None
    bin_weights: Constants | None = None
    weight: float = 1.0

    @property
    def n_values(self) -> int:
        """How many numbers of a frame are compared: J bands, or K bins."""
        return self.stft.n_bins if self.bands is None else len(self.bands.array)


def check_resolutions(stft: Any, bands: Any, bin_weights: Any, stft_weights: Any) -> tuple[Resolution, ...]:
    """The resolutions of a loss, or an error that names the first wrong argument."""
    several = isinstance(stft, list | tuple)
    transforms = list(stft) if several else [STFT() if stft is None else stft]
    if not transforms:
        raise ValueError("stft must not be empty, got []")
    for transform in transforms:
        if not isinstance(transform, STFT):
            raise TypeError(f"stft must be a taichi_spec.STFT or a list of them, got {type(transform).__name__}")
    matrices = _one_for_each("bands", bands, transforms, several)
    weights = _one_for_each("bin_weights", bin_weights, transforms, several)
    shares = _one_for_each("stft_weights", stft_weights, transforms, True) if stft_weights is not None else None
    return tuple(
        Resolution(
            transform,
            _check_numbers("bands", matrices[i], ("n_bands", transform.n_bins)),
            _check_numbers("bin_weights", weights[i], (transform.n_bins,)),
            1.0 if shares is None else _check_share(shares[i]),
        )
        for i, transform in enumerate(transforms)
    )


def _one_for_each(name: str, given: Any, transforms: list[STFT], several: bool) -> list[Any]:
    """A list with an entry for each STFT; one STFT alone takes the entry itself."""
    if given is None:
        return [None] * len(transforms)
    if not several:
        return [given]
    if not isinstance(given, list | tuple | np.ndarray) or len(given) != len(transforms):
        got = len(given) if isinstance(given, list | tuple) else type(given).__name__
        raise ValueError(f"{name} must have an entry for each STFT, {len(transforms)}, got {got}")
    return list(given)


def _check_numbers(name: str, given: Any, shape: tuple[Any, ...]) -> Constants | None:
    """Finite real numbers of a shape, of which the first size may be free."""
    if given is None:
        return None
    array = np.asarray(given)
    wanted = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers of shape {wanted}, got {array.dtype}")
    free = isinstance(shape[0], str)
    if array.ndim != len(shape) or array.shape[free:] != shape[free:] or not array.size:
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {array[~np.isfinite(array)][0]} in it")
    return Constants.of(array)


def _check_share(weight: Any) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float | np.number):
        raise TypeError(f"stft_weights must be finite numbers, got {weight!r}")
    if not math.isfinite(weight):
        raise ValueError(f"stft_weights must be finite numbers, got {weight!r}")
    return float(weight)


@dataclass(frozen=True)
class Items:
    """The items of a batch: weights, and how many of their samples count. None: all alike."""

    weights: tuple[float, ...] | None = None
    lengths: tuple[int, ...] | None = None

    @staticmethod
    def check(item_weights: Any, lengths: Any) -> Items:
        """The items, their number still unknown."""
        weights = None
        if item_weights is not None:
            numbers = _check_numbers("item_weights", item_weights, ("n_items",))
            weights = tuple(numbers.array.tolist()) if numbers else None
        if lengths is not None:
            if not isinstance(lengths, Iterable):
                raise TypeError(f"lengths must be a list of integers, got {lengths!r}")
            lengths = tuple(check_integer("lengths", length, 1) for length in lengths)
        return Items(weights, lengths)

    def check_fit(self, stft: STFT, batch: int, n_samples: int) -> None:
        """That there is one entry an item, and each length is at least a frame and at most the signal."""
        for name, entries in (("item_weights", self.weights), ("lengths", self.lengths)):
            if entries is not None and len(entries) != batch:
                raise ValueError(f"{name} must have an entry for each of {batch} items, got {len(entries)}")
        for length in self.lengths or ():
            if length > n_samples:
                raise ValueError(f"lengths must be at most the signal's {n_samples} samples, got {length}")
            try:
                stft.n_frames(length)
            except ValueError as error:
                raise ValueError(f"lengths has an item that does not fit: {error}") from error
