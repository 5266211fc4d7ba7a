"""Taichi's ndarrays: how numbers get there, and how many fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray
from taichi.lang import impl

MAX_ELEMENTS = 2**31 - 1  # indices are 32-bit
MAX_INDEX = 2**31 - 2**17  # for kernels whose steps go beyond an array's end, and must not wrap round


class _OfItsRuntime:
    """What an ndarray of ours does when Python drops it: it frees its memory, unless that was an earlier runtime's.

    Taichi's own ask whatever runtime there is. After a `ti.init` in between the address may be that of another array,
    which then loses its memory while it is in use. Those of vectors ask none, and their memory is never free again.
    """

    runtime: Any
    arr: Any

    def __del__(self) -> None:
        current = getattr(impl, "get_runtime", None)  # None while Python shuts down
        if current and current() is self.runtime and self.runtime.prog is not None:
            self.runtime.prog.delete_ndarray(self.arr)


class _Numbers(_OfItsRuntime, ti.ScalarNdarray):  # type: ignore[misc]
    pass


class _Vectors(_OfItsRuntime, ti.VectorNdarray):  # type: ignore[misc]
    pass


def new_array(dtype: Any, shape: int | tuple[int, ...]) -> Any:
    """A Taichi ndarray of numbers, not initialised."""
    array = ti.ndarray(dtype, shape)
    array.runtime, array.__class__ = impl.get_runtime(), _Numbers
    return array


def new_vectors(n: int, dtype: Any, count: int) -> Any:
    """A Taichi ndarray of `count` vectors of n numbers, not initialised."""
    array = ti.Vector.ndarray(n, dtype, count)
    array.runtime, array.__class__ = impl.get_runtime(), _Vectors
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
