"""Taichi's ndarrays: how numbers get there, and how many fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray
from taichi.lang import impl

MAX_ELEMENTS = 2**31 - 1  # indices are 32-bit


class _Array(ti.ScalarNdarray):  # type: ignore[misc]
    """An ndarray that leaves the runtime alone which came after its own.

    Taichi's own asks whatever runtime there is to free its memory when Python drops it. After a `ti.init` in between
    the address may be that of another array, which then loses its memory while it is in use.
    """

    def __del__(self) -> None:
        current = getattr(impl, "get_runtime", None)  # None while Python shuts down
        if current and current() is self.runtime:
            super().__del__()


def new_array(dtype: Any, shape: int | tuple[int, ...]) -> Any:
    """A Taichi ndarray of numbers, not initialised."""
    array = ti.ndarray(dtype, shape)
    array.runtime, array.__class__ = impl.get_runtime(), _Array
    return array


def numpy_dtype(dtype: Any) -> type[np.float32] | type[np.float64]:
    """NumPy's dtype for ti.f32 or ti.f64."""
    return np.float64 if dtype == ti.f64 else np.float32


def itemsize(dtype: Any) -> int:
    """Bytes of one number."""
    return np.dtype(numpy_dtype(dtype)).itemsize


def upload(values: NDArray[Any], dtype: Any) -> Any:
    """Real numbers as a Taichi ndarray of ti.f32 or ti.f64."""
    array = new_array(dtype, values.shape)
    array.from_numpy(np.ascontiguousarray(values, dtype=numpy_dtype(dtype)))
    return array


def upload_integers(values: NDArray[Any]) -> Any:
    """Integers as a Taichi ndarray of ti.i32."""
    array = new_array(ti.i32, values.shape)
    array.from_numpy(np.ascontiguousarray(values, dtype=np.int32))
    return array
