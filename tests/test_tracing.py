"""Kernels traced without Taichi's repeated work: the same kernels, and the same messages where one is wrong."""

import inspect
from textwrap import TextWrapper

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


# Each node of a line has its own place in a message, and each caller its own.
MESSAGE = f"""line {asks_for_wrong._primal.func.__code__.co_firstlineno + 2}, in asks_for_wrong:
    return half(v) + wrong(v)
                     ^^^^^^^^
"""
INNER = f"""line {wrong.func.func.__code__.co_firstlineno + 2}, in wrong:
    return v + no_such_name  # noqa: F821
               ^^^^^^^^^^^^
Name "no_such_name" is not defined"""


def test_kernels_and_messages_are_taichis(cpu):
    with tracing.repeats_kept():
        with pytest.raises(ti.TaichiCompilationError) as raised:
            asks_for_wrong(1.0)
        assert MESSAGE in str(raised.value)
        assert str(raised.value).endswith(INNER)
        assert twice_halved(8.0) == 6


def test_lines_are_broken_as_taichis():
    with open(__file__) as file:
        lines = [*file, "", "  ", "a\tb", "a\nb", "\x0b a", "a\xa0", "a" * 80, "a" * 81, " " * 85]
    for line in lines:
        assert tracing._Wrapper(width=80).wrap(line) == TextWrapper(width=80).wrap(line)


def test_methods_are_told_from_functions():
    with tracing.repeats_kept():

        @ti.data_oriented
        class Doubler:
            @ti.kernel
            def run(self, v: float) -> float:
                return 2 * v

        @ti.kernel
        def run(v: float) -> float:
            return 2 * v

    assert Doubler.run._is_classkernel and not run._is_classkernel


def test_taichi_has_its_own_back():
    before = kernel_impl.getsourcelines
    with pytest.raises(ZeroDivisionError), tracing.repeats_kept():
        assert kernel_impl.getsourcelines(half.func.func) == inspect.getsourcelines(half.func.func)
        _ = 1 / 0
    assert kernel_impl.getsourcelines is before
