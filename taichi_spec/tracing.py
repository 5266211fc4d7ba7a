"""Taichi's reading of a kernel, without what it does over and over.

Wherever a `ti.func` is inlined, Taichi 1.7 looks up its source anew and, for each node of its syntax tree, lays out the
lines that an error message would quote, whether or not there is an error: half the time that tracing takes. Both follow
from the function alone, and are kept here while kernels are traced.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from taichi.lang import kernel_impl
from taichi.lang.ast.ast_transformer_utils import ASTTransformerContext


@contextmanager
def repeats_kept() -> Iterator[None]:
    """Kernels traced within take half the time for it. What they do, and what an error says, is the same."""
    get_pos_info, getsourcelines = ASTTransformerContext.get_pos_info, kernel_impl.getsourcelines
    positions: dict[tuple[Any, ...], str] = {}
    lines_of = cache(getsourcelines)

    # By file and code, not by function: what a function has closed over is not kept alive.
    def position(context: Any, node: Any) -> str:
        place = (node.lineno, node.col_offset, node.end_lineno, node.end_col_offset, type(node))
        key = (context.file, context.lineno_offset, *place)
        if key not in positions:
            positions[key] = get_pos_info(context, node)
        return positions[key]

    ASTTransformerContext.get_pos_info = position
    kernel_impl.getsourcelines = lambda func: lines_of(getattr(func, "__code__", func))
    try:
        yield
    finally:
        ASTTransformerContext.get_pos_info, kernel_impl.getsourcelines = get_pos_info, getsourcelines
