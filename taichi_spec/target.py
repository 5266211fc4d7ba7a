"""Fixed targets: analysed once, when a loss first meets them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taichi_spec.arrays import upload
from taichi_spec.checks import check_array
from taichi_spec.stft import STFT


class Target:
    """A target that does not change: a signal or its magnitudes. No gradient goes to it.

    Make one with `Target.from_signal` or `Target.from_magnitudes`; give it to `SpectralLoss` or to the functions
    of `taichi_spec` in the place of a target signal.
    """

    def __init__(self, kind: str, array: NDArray[Any]) -> None:
        self.kind = kind
        self.array = array

    def __repr__(self) -> str:
        return f"Target.from_{self.kind}(array of shape {self.array.shape})"

    @staticmethod
    def from_signal(array: ArrayLike, check_finite: bool = True) -> Target:
        """A target signal; its magnitudes |Y[k, f]| are computed once.

        Args:
            array: float32 or float64  # (T,) for all items of a batch, or (B, T)
            check_finite: look for NaN and Inf.

        Raises:
            TypeError: the dtype is not float32 or float64.
            ValueError: the shape is wrong, or a value is NaN or Inf.

        Example:
            >>> Target.from_signal(np.zeros(4096, dtype=np.float32))
            Target.from_signal(array of shape (4096,))
        """
        signal = check_array("array", array, check_finite)
        if signal.ndim not in (1, 2):
            raise ValueError(f"array must have shape (T,) or (B, T), got {signal.shape}")
        return Target("signal", signal.copy())

    @staticmethod
    def from_magnitudes(array: ArrayLike, check_finite: bool = True) -> Target:
        """Target magnitudes |Y[k, f]| ≥ 0, in the unit of `taichi_spec.stft`.

        Args:
            array: float32 or float64  # (K,) for every frame, (K, F), or (B, K, F)
            check_finite: look for NaN and Inf.

        Raises:
            TypeError: the dtype is not float32 or float64.
            ValueError: the shape is wrong, or a value is negative, NaN or Inf.

        Example:
            >>> Target.from_magnitudes(np.ones(513))
            Target.from_magnitudes(array of shape (513,))
        """
        magnitudes = check_array("array", array, check_finite)
        if magnitudes.ndim not in (1, 2, 3):
            raise ValueError(f"array must have shape (K,), (K, F) or (B, K, F), got {magnitudes.shape}")
        if (magnitudes < 0).any():
            raise ValueError(f"array must not be negative, got {magnitudes.min()} in it")
        return Target("magnitudes", magnitudes.copy())

    def check(self, stft: STFT, batch: int, n_samples: int) -> None:
        """That the target fits signals of shape (batch, n_samples).

        Raises:
            ValueError: it does not; the message has both shapes.
        """
        if self.kind == "signal":
            allowed = [(n_samples,), (batch, n_samples)]
        else:
            bins, frames = stft.n_bins, stft.n_frames(n_samples)
            allowed = [(bins,), (bins, frames), (batch, bins, frames)]
        if self.array.shape not in allowed:
            raise ValueError(
                f"target must have {self.kind} of shape {' or '.join(map(str, allowed))}, got {self.array.shape}"
            )

    def magnitudes(self) -> NDArray[Any]:
        """Given magnitudes in the kernels' order  # (B or 1, F or 1, K)"""
        array = self.array[:, None] if self.array.ndim == 1 else self.array  # (…, K, F)
        array = array[None] if array.ndim == 2 else array  # (B, K, F)
        return np.ascontiguousarray(np.swapaxes(array, 1, 2))


class FixedTarget:
    """A target's spectrum, analysed, where kernels read it.

    Args:
        spectrum: magnitudes, or a complex spectrum  # (B or 1, F or 1, K)
        bands: the bands' matrix (n_bands, K), or None.
        dtype: ti.f32 or ti.f64.

    Attributes:
        magnitude, power: of bins, or of bands  # (B or 1, F or 1, J)
        spectrum: real and imaginary parts, 0 where only magnitudes are known  # (B or 1, F or 1, K, 2)
    """

    def __init__(self, spectrum: NDArray[Any], bands: NDArray[np.float64] | None, dtype: Any) -> None:
        magnitudes = np.abs(spectrum)
        powers = magnitudes**2
        self.magnitude = upload(magnitudes if bands is None else magnitudes @ bands.T, dtype)
        self.power = upload(powers if bands is None else powers @ bands.T, dtype)
        known = spectrum if np.iscomplexobj(spectrum) else np.zeros((1, 1, 1))
        self.spectrum = upload(np.stack([known.real, known.imag], axis=-1), dtype)
