"""Taichi's ndarrays: how numbers get there, and how many fit."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray
from taichi.lang import impl
from taichi.lang.util import to_numpy_type

from taichi_spec.runtime import arch_name

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
    """On the CPU, numbers are copied. Taichi would compile a kernel for each dtype and rank, half a second at first."""

    def from_numpy(self, arr: NDArray[Any]) -> None:
        """Takes the numbers of an array of the same shape."""
        if arch_name() == "cpu":
            self._memory()[...] = arr
        else:
            super().from_numpy(arr)

    def to_numpy(self) -> NDArray[Any]:
        """The numbers, as an array of their own."""
        numbers: NDArray[Any] = self._memory().copy() if arch_name() == "cpu" else super().to_numpy()
        return numbers

    def _memory(self) -> NDArray[Any]:
        """Where the numbers are, on the CPU: for as long as this array lives."""
        address = impl.get_runtime().prog.get_ndarray_data_ptr_as_int(self.arr)
        memory = (ctypes.c_char * (itemsize(self.dtype) * int(np.prod(self.shape)))).from_address(address)
        numbers: NDArray[Any] = np.ndarray(self.shape, to_numpy_type(self.dtype), memoryview(memory))
        return numbers


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


def itemsize(dtype: Any) -> int:
    """Bytes of one number."""
    return int(np.dtype(to_numpy_type(dtype)).itemsize)


def upload(values: NDArray[Any], dtype: Any) -> Any:
    """Real numbers as a Taichi ndarray of ti.f32 or ti.f64."""
    array = new_array(dtype, values.shape)
    array.from_numpy(np.ascontiguousarray(values, dtype=to_numpy_type(dtype)))
    return array


def upload_integers(values: NDArray[Any]) -> Any:
    """Integers as a Taichi ndarray of ti.i32."""
    array = new_array(ti.i32, values.shape)
    array.from_numpy(np.ascontiguousarray(values, dtype=np.int32))
    return array
