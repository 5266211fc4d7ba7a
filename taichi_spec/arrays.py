"""Taichi's ndarrays: how numbers get there, and how many fit."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray
from taichi.lang import impl
from taichi.lang.util import to_numpy_type

from taichi_spec.runtime import arch_name, cuda_driver

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
    """On the CPU and on CUDA, numbers are copied from memory to memory.

    Taichi would compile a kernel for each dtype and rank, which takes half a second at first on a CPU; and on a GPU it
    would copy all numbers twice, to memory of its own and from there.
    """

    def from_numpy(self, arr: NDArray[Any]) -> None:
        """Takes the numbers of an array of the same shape."""
        copy = _COPIES.get(arch_name())
        if copy is None:
            super().from_numpy(arr)
        else:
            copy(self._address(), np.ascontiguousarray(arr, to_numpy_type(self.dtype)).reshape(self.shape), True)

    def to_numpy(self) -> NDArray[Any]:
        """The numbers, as an array of their own."""
        copy = _COPIES.get(arch_name())
        if copy is None:
            return super().to_numpy()  # type: ignore[no-any-return]
        numbers = np.empty(self.shape, to_numpy_type(self.dtype))
        copy(self._address(), numbers, False)
        return numbers

    def _address(self) -> int:
        """Where the numbers are, for as long as this array lives."""
        return int(impl.get_runtime().prog.get_ndarray_data_ptr_as_int(self.arr))


def _copy(address: int, numbers: NDArray[Any], there: bool) -> None:
    """Copies numbers to an address in memory, or from there."""
    ours = numbers.ctypes.data
    ctypes.memmove(address if there else ours, ours if there else address, numbers.nbytes)


def _copy_by_driver(address: int, numbers: NDArray[Any], there: bool) -> None:
    """Copies numbers to an address of the CUDA device's memory, or from there, after all kernels launched before.

    Raises:
        RuntimeError: the driver cannot.
    """
    cuda, context, ours, count = cuda_driver(), ctypes.c_void_p(), numbers.ctypes.data, ctypes.c_size_t(numbers.nbytes)
    # The context that Taichi uses, if this thread has none so far.
    failed = cuda.cuCtxGetCurrent(ctypes.byref(context))
    if not failed and not context:
        failed = cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) or cuda.cuCtxSetCurrent(context)
    if not failed and there:
        failed = cuda.cuMemcpyHtoD_v2(ctypes.c_uint64(address), ctypes.c_void_p(ours), count)
    elif not failed:
        failed = cuda.cuMemcpyDtoH_v2(ctypes.c_void_p(ours), ctypes.c_uint64(address), count)
    if failed:
        raise RuntimeError(f"CUDA could not copy {numbers.nbytes} bytes, error {failed}")


_COPIES = {"cpu": _copy, "cuda": _copy_by_driver}


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
