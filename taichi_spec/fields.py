"""A field's numbers for kernels that take arrays: where they lie, or copied.

Taichi compiles a field into a kernel: each new field takes the kernel's whole first call once more. An address it does not
compile. A field of its own, such as `ti.field(ti.f32, shape)` is, lies in memory as an ndarray does. A backend that has no
addresses copies a field that is not too long: all that is compiled for a new one is the copy.
"""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import taichi as ti
from taichi._lib import core
from taichi.lang import impl
from taichi.lang.snode import SNode

from taichi_spec.arrays import itemsize, new_array
from taichi_spec.checks import float_type
from taichi_spec.runtime import arch_name

ARCHS = ("cpu", "cuda")  # whose kernels know a field's address and take one for an array


class FieldMemory:
    """The numbers of a field (T,) or (B, T), as an array (1, T) or (B, T).

    Attributes:
        dtype, shape: of the array.
        address, nbytes: where in memory it begins, and how long it is.
    """

    def __init__(self, field: Any) -> None:
        self.dtype = float_type(field)
        self.shape: tuple[int, ...] = (1, *field.shape)[-2:]
        self.nbytes = itemsize(self.dtype) * self.shape[0] * self.shape[1]
        self.address = int(address_kernel(len(field.shape))(field))

    def stand_in(self) -> Any:
        """An ndarray of the same dtype and rank, to compile for."""
        return new_array(self.dtype, (1, 1))


def has_memory(field: Any) -> bool:
    """Whether a field alone fills a dense block of `ti.root`, row by row, and this backend has its address."""
    block = field.parent()
    alone = isinstance(block, SNode) and block.ptr.type == core.SNodeType.dense and len(block._get_children()) == 1
    return arch_name() in ARCHS and alone and isinstance(block.parent(), impl._Root)


def as_arrays(fields: Sequence[Any], scratch_bytes: int) -> bool:
    """Whether kernels take arrays for these fields: their memory or, where there are no addresses, copies of so many bytes."""
    if arch_name() in ARCHS:
        return all(map(has_memory, fields))
    needed: int = sum(prod(field.shape) * itemsize(float_type(field)) for field in fields)
    return needed <= scratch_bytes


def where_it_lies(signal: Any) -> Any:
    """The memory of a field that has one; else what is given."""
    if not isinstance(signal, ti.Field):
        return signal
    memory = _memories.get(signal)
    if memory is None and has_memory(signal):
        memory = _memories[signal] = FieldMemory(signal)
    return memory or signal


_memories: WeakKeyDictionary[Any, FieldMemory] = WeakKeyDictionary()


@cache
def address_kernel(rank: int) -> Any:
    """The kernel that returns where a field of so many indices begins."""

    @ti.kernel
    def address(field: ti.template()) -> ti.u64:
        return ti.get_addr(field, ti.static([0] * rank))

    return address


@cache
def copy_kernel() -> Any:
    """The kernel that copies a field (T,) or (B, T) to an array."""

    @ti.kernel
    def copy(field: ti.template(), array: ti.types.ndarray()):
        """array[b, s] ← field[b, s]."""
        if ti.static(len(field.shape) == 1):
            for s in range(field.shape[0]):
                array[0, s] = field[s]
        else:
            for b, s in ti.ndrange(*field.shape):
                array[b, s] = field[b, s]

    return copy
