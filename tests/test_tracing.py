"""Kernels traced without Taichi's repeated work: the same kernels, and the same messages where one is wrong."""

import inspect

import pytest
import taichi as ti
from taichi.lang import kernel_impl

from taichi_spec import tracing


@ti.func
def half(v):
    return v / 2


@ti.kernel
def twice_halved(v: float) -> float:
    return half(v) + half(half(v))


@ti.func
def wrong(v):
    return v + no_such_name  # noqa: F821


@ti.kernel
def asks_for_wrong(v: float) -> float:
    return half(v) + wrong(v)


def message():
    with pytest.raises(ti.TaichiCompilationError) as raised:
        asks_for_wrong(1.0)
    return str(raised.value)


def test_kernels_and_messages_are_the_same(cpu):
    expected = message()
    ti.init(arch=ti.cpu, log_level=ti.ERROR)
    with tracing.repeats_kept():
        assert message() == expected
        assert twice_halved(8.0) == 6
    assert "return v + no_such_name" in expected


def test_taichi_has_its_own_back():
    before = kernel_impl.getsourcelines
    with pytest.raises(ZeroDivisionError), tracing.repeats_kept():
        assert kernel_impl.getsourcelines(message) == inspect.getsourcelines(message)
        _ = 1 / 0
    assert kernel_impl.getsourcelines is before
