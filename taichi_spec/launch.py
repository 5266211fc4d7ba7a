"""How kernels are compiled and called where that takes longer than it has to.

A call of a Taichi kernel inspects each argument anew, about 5 µs for an ndarray, and looks for what it was compiled to. A
graph is told once, and launches any number of kernels in one call.

`ti.graph.Graph` takes no fields, which are compiled into a kernel, and asks of each argument anew what it is: the graphs
here are those of Taichi's core, which know nothing of fields and take what arrays have in the core as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import taichi as ti

from taichi_spec.tracing import repeats_kept


class Launch(NamedTuple):
    """A kernel and what it is called with.

    kernel: a Taichi kernel.
    arguments: ndarrays, fields and i32 scalars. A string is the name of one that each call brings along.
    """

    kernel: Any
    arguments: tuple[Any, ...]


class Chain:
    """Launches one after the other, as one call.

    A call with what the last one brought does nothing in Python but start the graph: where a GPU waits for its first
    kernel and the processor's caches are cold, each object that is looked at costs a microsecond or more.

    The ranks and dtypes of the first call's arrays hold for all.

    Args:
        launches: what is launched.
        without: which of Taichi's own optimisations the kernels are spared, or "".
    """

    def __init__(self, launches: list[Launch], without: str = "") -> None:
        self.launches = launches
        self.without = without
        self.brought: dict[str, Any] | None = None  # by the last call
        self.graph: Any = None  # for the fields of the last call
        self.arguments: dict[str, Any] = {}  # the graph's, by name
        self.config: Any = None

    def __call__(self, **brought: Any) -> None:
        """Launches all. brought: what the launches name, and others perhaps."""
        if brought == self.brought:  # an array or a field is equal to itself alone
            self.graph.jit_run(self.config, self.arguments)
            return
        last, self.brought = self.brought, None  # should what follows fail, the next call begins anew
        if last is None or any(isinstance(new, ti.Field) and new is not last[name] for name, new in brought.items()):
            self.config = ti.lang.impl.current_cfg()
            with repeats_kept(), without(self.without):
                self.graph, self.arguments = _graph(self.launches, brought)
                self.graph.jit_run(self.config, self.arguments)
        else:
            self.arguments.update({name: _in_core(brought[name]) for name in brought.keys() & self.arguments.keys()})
            self.graph.jit_run(self.config, self.arguments)
        self.brought = brought


def _graph(launches: list[Launch], brought: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Kernels as one graph, compiled for the fields among their arguments, and the other arguments by name."""
    names: dict[int, str] = {}  # of what no call brings
    symbols: dict[str, Any] = {}
    ready: dict[str, Any] = {}
    builder = ti.graph.GraphBuilder()._graph_builder
    for launch in launches:
        arguments = [brought[given] if isinstance(given, str) else given for given in launch.arguments]
        called = []
        for given, argument in zip(launch.arguments, arguments):
            if isinstance(argument, ti.Field):
                continue
            name = given if isinstance(given, str) else names.setdefault(id(given), f"kept{len(names)}")
            symbols[name] = _symbol(name, argument)
            ready[name] = _in_core(argument)
            called.append(symbols[name])
        kernel = launch.kernel._primal
        key = kernel.ensure_compiled(*arguments)
        builder.dispatch(kernel.compiled_kernels[key], called)
    return builder.compile(), ready


def _in_core(argument: Any) -> Any:
    """What Taichi's core takes for an argument."""
    return argument if isinstance(argument, int) else argument.arr


def _symbol(name: str, argument: Any) -> Any:
    """The graph's name for an argument like this one."""
    if isinstance(argument, int):
        return ti.graph.Arg(ti.graph.ArgKind.SCALAR, name, ti.i32)
    shape = argument.element_shape
    element = ti.types.vector(*shape, argument.dtype) if shape else argument.dtype
    return ti.graph.Arg(ti.graph.ArgKind.NDARRAY, name, element, ndim=len(argument.shape))


@contextmanager
def without(optimisation: str) -> Iterator[None]:
    """Kernels compiled within are spared one of Taichi's own optimisations, such as "cfg_optimization"; "" for none.

    On a long straight program it may take most of the time, and what compiles Taichi's output does it all again.
    """
    if not optimisation:
        yield
        return
    config = ti.lang.impl.current_cfg()
    kept = getattr(config, optimisation)
    setattr(config, optimisation, False)
    try:
        yield
    finally:
        setattr(config, optimisation, kept)
