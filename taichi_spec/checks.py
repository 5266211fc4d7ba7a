"""What users pass in: arrays and fields, checked in Python before any kernel runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray
from taichi.lang.field import ScalarField

from taichi_spec.runtime import check_float64

MAX_TOTAL_SAMPLES = 2**31 - 1


def check_array(name: str, value: Any, check_finite: bool = True) -> NDArray[Any]:
    """`value` as a NumPy array of float32 or float64 that is not empty and, if asked, finite."""
    array = np.asarray(value)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must have dtype float32 or float64, got {array.dtype}")
    if array.ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, got a number, {array}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {array.shape}")
    if check_finite and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, got {array[where]} at index {where}; check_finite=False allows it")
    return array


def check_signal_field(name: str, value: Any) -> ScalarField:
    """`value` as a scalar field of f32 or f64 with shape (T,) or (B, T)."""
    field = check_float_field(name, value)
    if len(field.shape) not in (1, 2):
        raise ValueError(f"{name} must have shape (T,) or (B, T), got {field.shape}")
    if int(np.prod(field.shape, dtype=np.int64)) > MAX_TOTAL_SAMPLES:
        raise ValueError(f"{name} must have fewer than 2**31 samples in all, got shape {field.shape}")
    return field


def check_float_field(name: str, value: Any) -> ScalarField:
    """`value` as a scalar field of f32 or f64 that the device can compute with, its indices from 0."""
    if type(value) is not ScalarField:
        raise TypeError(f"{name} must be a scalar ti.field, got {type(value).__name__}")
    if value.dtype not in (ti.f32, ti.f64):
        raise TypeError(f"{name} must have dtype f32 or f64, got {value.dtype.to_string()}")
    if any(value.snode.ptr.offset):
        raise ValueError(f"{name} must be indexed from 0, got a field with offset={value.snode.ptr.offset}")
    if value.dtype == ti.f64:
        check_float64(name)
    return value


def float_type(field: ScalarField) -> Any:
    """The field's dtype as the object ti.f32 or ti.f64: a field's own equals it, but is not it, in annotations."""
    return ti.f64 if field.dtype == ti.f64 else ti.f32


def has_grad(field: ScalarField) -> bool:
    """Whether the field was made with needs_grad=True."""
    return bool(field.snode.ptr.has_adjoint())


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of the names."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
    return value
