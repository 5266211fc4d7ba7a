"""How kernels are compiled and called where that takes longer than it has to.

A call of a Taichi kernel inspects each argument anew, about 5 µs for an ndarray. A `ti.graph` is told their types once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import taichi as ti


class Launcher:
    """A kernel of ndarrays and i32 scalars; the ranks and dtypes of the first call's arguments hold for all.

    Args:
        kernel: a Taichi kernel without templates.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.graph: Any = None
        self.names: tuple[str, ...] = ()

    def __call__(self, *arguments: Any) -> None:
        """Launches the kernel."""
        if self.graph is None:
            self._build(arguments)
        self.graph.run(dict(zip(self.names, arguments)))

    def _build(self, arguments: tuple[Any, ...]) -> None:
        self.names = tuple(f"a{i}" for i in range(len(arguments)))
        symbols = [_symbol(name, argument) for name, argument in zip(self.names, arguments)]
        builder = ti.graph.GraphBuilder()
        builder.dispatch(self.kernel, *symbols)
        self.graph = builder.compile()


def _symbol(name: str, argument: Any) -> Any:
    """The graph's name for an argument like this one."""
    if isinstance(argument, int):
        return ti.graph.Arg(ti.graph.ArgKind.SCALAR, name, ti.i32)
    shape = argument.element_shape
    element = ti.types.vector(*shape, argument.dtype) if shape else argument.dtype
    return ti.graph.Arg(ti.graph.ArgKind.NDARRAY, name, element, ndim=len(argument.shape))


@contextmanager
def without(optimisation: str) -> Iterator[None]:
    """Kernels compiled within are spared one of Taichi's own optimisations: ``"cfg_optimization"``, for instance.

    On a long straight program it may take most of the time, and what compiles Taichi's output does it all again.
    """
    config = ti.lang.impl.current_cfg()
    kept = getattr(config, optimisation)
    setattr(config, optimisation, False)
    try:
        yield
    finally:
        setattr(config, optimisation, kept)
