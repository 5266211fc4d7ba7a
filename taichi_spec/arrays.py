"""Taichi's ndarrays: how numbers get there, and how many fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

MAX_ELEMENTS = 2**31 - 1  # indices are 32-bit


def numpy_dtype(dtype: Any) -> type[np.float32] | type[np.float64]:
    """NumPy's dtype for ti.f32 or ti.f64."""
    return np.float64 if dtype == ti.f64 else np.float32


def itemsize(dtype: Any) -> int:
    """Bytes of one number."""
    return np.dtype(numpy_dtype(dtype)).itemsize


def upload(values: NDArray[Any], dtype: Any) -> Any:
    """Real numbers as a Taichi ndarray of ti.f32 or ti.f64."""
    array = ti.ndarray(dtype, values.shape)
    array.from_numpy(np.ascontiguousarray(values, dtype=numpy_dtype(dtype)))
    return array


def upload_integers(values: NDArray[Any]) -> Any:
    """Integers as a Taichi ndarray of ti.i32."""
    array = ti.ndarray(ti.i32, values.shape)
    array.from_numpy(np.ascontiguousarray(values, dtype=np.int32))
    return array
