"""Taichi's reading of a kernel, without what it does over and over.

Wherever a `ti.func` is inlined, Taichi 1.7 looks up its source anew and, for each node of its syntax tree, lays out the
lines that an error message would quote, whether or not there is an error: most of the time that tracing takes. Both
follow from the function alone, and are kept here while kernels are traced. So is what it looks up in the source to
know whether a function that is made one of its own stands in a class.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from textwrap import TextWrapper, dedent, fill
from types import SimpleNamespace
from typing import Any

from taichi.lang import kernel_impl
from taichi.lang.ast import ast_transformer_utils
from taichi.lang.ast.ast_transformer_utils import ASTTransformerContext


@contextmanager
def repeats_kept() -> Iterator[None]:
    """Kernels traced within take less than half the time for it. What they do, and what an error says, is the same."""
    kept: list[tuple[Any, str, Any]] = [
        (ASTTransformerContext, "get_pos_info", _by_place(ASTTransformerContext.get_pos_info)),
        (ast_transformer_utils, "TextWrapper", cache(_Wrapper)),
        (kernel_impl, "getsourcefile", _by_code(kernel_impl.getsourcefile)),
        (kernel_impl, "getsourcelines", _by_code(kernel_impl.getsourcelines)),
        (kernel_impl, "textwrap", SimpleNamespace(fill=cache(fill), dedent=cache(dedent))),
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


# By file and code, not by function: what a function has closed over is not kept alive.


def _by_code(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of functions."""
    kept = cache(function)
    return lambda func: kept(getattr(func, "__code__", func))


def _by_place(get_pos_info: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
    """Taichi's function from a node to the lines that quote it."""
    positions: dict[tuple[Any, ...], str] = {}

    def position(context: Any, node: Any) -> str:
        place = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, type(node))
        key = (context.file, context.lineno_offset, *place)
        if key not in positions:
            positions[key] = get_pos_info(context, node)
        return positions[key]

    return position


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


class _Wrapper(TextWrapper):
    """Breaks lines, but those that are short enough it does not search for where they might be broken."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.long: dict[str, list[str]] = {}

    def wrap(self, text: str) -> list[str]:
        line = text.rstrip(" \n")
        if len(text) <= self.width and line.isprintable():
            return [line] if line else []
        if text not in self.long:
            self.long[text] = super().wrap(text)
        return self.long[text]
