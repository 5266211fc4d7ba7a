"""How kernels are compiled and called where that takes longer than it has to.

A call of a Taichi kernel inspects each argument anew, about 5 µs for an ndarray. A `ti.graph` is told their types once,
and launches any number of kernels in one call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import taichi as ti

from taichi_spec.tracing import repeats_kept


class Launch(NamedTuple):
    """A kernel and what it is called with.

    kernel: a Taichi kernel.
    arguments: ndarrays and i32 scalars. A string is the name of an array, or a field, that each call brings along.
    has_fields: whether there are fields among them, which are compiled into the kernel.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    has_fields: bool = False


class Chain:
    """Launches one after the other, as one call.

    The ranks and dtypes of the first call's arrays hold for all.

    Args:
        launches: what is launched.
        without: which of Taichi's own optimisations the kernels are spared, or "".
    """

    def __init__(self, launches: list[Launch], without: str = "") -> None:
        self.groups = [
            (has_fields, list(group)) for has_fields, group in groupby(launches, lambda one: one.has_fields)
        ]
        self.without = without
        self.steps: list[Any] = []  # functions of the arrays by name

    def __call__(self, **arrays: Any) -> None:
        """Launches all. arrays: those that the launches name, and others perhaps."""
        if self.steps:
            self._run(arrays)
        else:
            with repeats_kept(), without(self.without):
                self.steps = [
                    step for has_fields, group in self.groups for step in self._steps(has_fields, group, arrays)
                ]
                self._run(arrays)

    def _run(self, arrays: dict[str, Any]) -> None:
        for step in self.steps:
            step(arrays)

    def _steps(self, has_fields: bool, group: list[Launch], arrays: dict[str, Any]) -> list[Any]:
        if has_fields:
            return [_direct(launch) for launch in group]
        return [_graph(group, arrays)]


def _direct(launch: Launch) -> Any:
    """A function of the arrays by name that calls a kernel on fields."""

    def step(arrays: dict[str, Any]) -> None:
        launch.kernel(*(arrays[a] if isinstance(a, str) else a for a in launch.arguments))

    return step


def _graph(launches: list[Launch], arrays: dict[str, Any]) -> Any:
    """A function of the arrays by name that runs kernels as one graph. What is the same in every call is kept.

    `ti.graph.Graph.run` asks of each argument anew what it is, and takes out of arrays what Taichi's core takes: kept
    arguments are given to the core as they are, and only those that a call brings are taken out.
    """
    kept: dict[str, Any] = {}
    names: dict[int, str] = {}
    builder = ti.graph.GraphBuilder()
    symbols: dict[str, Any] = {}
    for launch in launches:
        for argument in launch.arguments:
            if not isinstance(argument, str) and id(argument) not in names:
                names[id(argument)] = name = f"kept{len(kept)}"
                kept[name] = argument
        called = [argument if isinstance(argument, str) else names[id(argument)] for argument in launch.arguments]
        arguments = [kept[name] if name in kept else arrays[name] for name in called]
        symbols.update({name: _symbol(name, argument) for name, argument in zip(called, arguments)})
        # Taichi would read the kernel's program with arrays of its own, which outlive a `ti.init`: see `arrays`.
        launch.kernel._primal.ensure_compiled(*arguments)
        builder.dispatch(launch.kernel, *(symbols[name] for name in called))
    graph = builder.compile()._compiled_graph
    ready = {name: argument if isinstance(argument, int) else argument.arr for name, argument in kept.items()}
    brought = [name for name in symbols if name not in kept]

    def step(arrays: dict[str, Any]) -> None:
        graph.jit_run(ti.lang.impl.current_cfg(), {**ready, **{name: arrays[name].arr for name in brought}})

    return step


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
