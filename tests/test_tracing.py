"""Kernels traced without Taichi's repeated work: the same kernels, and the same messages where one is wrong."""

import ast
import inspect
import linecache
from pathlib import Path
from textwrap import dedent, fill
from types import CodeType

import pytest
import taichi as ti
from taichi.lang import kernel_impl

import taichi_spec as ts
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


@ti.kernel
def writes_beyond(v: ti.types.ndarray(), i: int):
    v[i] = 1.0


def test_a_kernel_that_checks_bounds_quotes_as_taichi():
    ts.init(arch="cpu", debug=True, offline_cache=False, log_level=ti.ERROR)
    try:
        with tracing.repeats_kept(), pytest.raises(ti.TaichiAssertionError, match=r"v\[i\] = 1\.0\n    \^\^\^\^"):
            writes_beyond(ti.ndarray(ti.f32, 4), 9)
    finally:
        ti.reset()


def taichi_functions_in(code):
    """The code of all functions in a module's code that Taichi is to read."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if linecache.getline(inner.co_filename, inner.co_firstlineno).strip() in ("@ti.func", "@ti.kernel"):
                yield inner
            yield from taichi_functions_in(inner)


def test_functions_end_where_inspect_says():
    count = 0
    for path in Path(ts.__file__).parent.rglob("*.py"):
        for code in taichi_functions_in(compile(path.read_text(), str(path), "exec")):
            lines, first = tracing._source_lines(code)
            expected, first_expected = inspect.getsourcelines(code)
            assert first == first_expected
            assert ast.dump(ast.parse(dedent("".join(lines)))) == ast.dump(ast.parse(dedent("".join(expected))))
            count += 1
    assert count > 100


def test_lines_are_filled_as_taichis():
    with open(__file__) as file:
        lines = [*file, "", "  ", "\n", "a\tb\n", "\tb\n", "\x0c a\n", "a" * 99 + " b " + "c" * 99]
    for line in lines:
        for width in (9999, 100):
            assert tracing._filled(line, 4, width) == fill(line, tabsize=4, width=width)


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
