"""How kernels are compiled and called where that takes longer than it has to.

A call of a Taichi kernel inspects each argument anew, about 5 µs for an ndarray, and looks for what it was compiled to.
Here that is known, and what the next call is launched with is made while this one's kernels are at work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import taichi as ti

from taichi_spec.fields import FieldMemory
from taichi_spec.tracing import repeats_kept


class Launch(NamedTuple):
    """A kernel and what it is called with.

    kernel: a Taichi kernel.
    arguments: ndarrays, fields, their memory, and i32 scalars. A string is the name of one that each call brings along.
    """

    kernel: Any
    arguments: tuple[Any, ...]


class Prepared(NamedTuple):
    """A launch as Taichi's core takes it.

    code: the kernel, compiled for the fields among its arguments.
    new_context: makes the context of one launch, which takes the arguments. It cannot be used again: Taichi writes addresses
        into it that are no longer true then.
    arrays, memories, numbers: the other arguments, each with its place.
    """

    code: Any
    new_context: Callable[[], Any]
    arrays: list[tuple[tuple[int], Any]]
    memories: list[tuple[tuple[int], FieldMemory]]
    numbers: list[tuple[tuple[int], int]]

    def context(self) -> Any:
        """The context of one launch."""
        context = self.new_context()
        take = context.set_arg_ndarray
        for place, array in self.arrays:
            take(place, array)
        for place, given in self.memories:
            context.set_arg_external_array_with_shape(place, given.address, given.nbytes, given.shape, 0)
        for place, number in self.numbers:
            context.set_arg_int(place, number)
        return context


class Chain:
    """Launches one after the other, as one call.

    A call with what the last one brought launches what that one has left ready. So less is to be done until the first
    kernel starts: where the processor's caches are cold, 90 µs of Python's and Taichi's work instead of 130.

    The ranks and dtypes of the first call's arrays hold for all.

    Args:
        launches: what is launched.
        spared: which of Taichi's own passes the kernels are spared, see `without`.
    """

    def __init__(self, launches: list[Launch], spared: tuple[str, ...] = ()) -> None:
        self.launches = launches
        self.spared = spared
        self.brought: dict[str, Any] | None = None  # by the last call
        self.runtime: Any = None  # Taichi's, whose program is gone when it is reset
        self.kernels: list[Any] = []  # Taichi's own, for the fields of the last call
        self.prepared: list[Prepared] = []  # for what the last call brought
        self.ready: list[Any] = []  # the contexts of the next call

    def __call__(self, **brought: Any) -> None:
        """Launches all. brought: what the launches name, and others perhaps."""
        last, self.brought = self.brought, None  # should what follows fail, the next call begins anew
        if brought != last:  # an array or a field is equal to itself alone
            if last is None or any(
                isinstance(new, ti.Field) and new is not last[name] for name, new in brought.items()
            ):
                self.runtime = ti.lang.impl.get_runtime()
                with repeats_kept(), without(*self.spared):
                    self.kernels = [_compiled(launch, brought) for launch in self.launches]
            self.prepared = [_prepared(*both, brought) for both in zip(self.launches, self.kernels, strict=True)]
            self.ready = [one.context() for one in self.prepared]
        launch = self.runtime.prog.launch_kernel
        for one, context in zip(self.prepared, self.ready):
            launch(one.code, context)
        self.ready = [one.context() for one in self.prepared]  # while a GPU is at work
        self.brought = brought


def _arguments(launch: Launch, brought: dict[str, Any]) -> list[Any]:
    return [brought[given] if isinstance(given, str) else given for given in launch.arguments]


def _compiled(launch: Launch, brought: dict[str, Any]) -> tuple[Any, Any]:
    """A launch's kernel for the fields among its arguments: as Taichi compiles it, and what it was compiled to."""
    arguments, kernel, prog = _arguments(launch, brought), launch.kernel._primal, ti.lang.impl.get_runtime().prog
    key = kernel.ensure_compiled(
        *[given.stand_in() if isinstance(given, FieldMemory) else given for given in arguments]
    )
    source = kernel.compiled_kernels[key]
    return source, prog.compile_kernel(prog.config(), prog.get_device_caps(), source)


def _prepared(launch: Launch, kernel: tuple[Any, Any], brought: dict[str, Any]) -> Prepared:
    """A launch with its arguments; fields have no places, they are compiled into the kernel."""
    source, code = kernel
    others = [argument for argument in _arguments(launch, brought) if not isinstance(argument, ti.Field)]
    arrays = [((i,), given.arr) for i, given in enumerate(others) if not isinstance(given, int | FieldMemory)]
    memories = [((i,), given) for i, given in enumerate(others) if isinstance(given, FieldMemory)]
    numbers = [((i,), given) for i, given in enumerate(others) if isinstance(given, int)]
    return Prepared(code, source.make_launch_context, arrays, memories, numbers)


@contextmanager
def without(*passes: str) -> Iterator[None]:
    """Kernels compiled within are spared some of Taichi's own passes.

    "cfg_optimization" takes most of the time on a long straight program, and what compiles Taichi's output does it all
    again. "real_matrix_scalarize" makes numbers of vectors, of which LLVM on a CPU has to find the vectors anew.
    """
    config = ti.lang.impl.current_cfg()
    kept = {name: getattr(config, name) for name in passes}
    try:
        for name in passes:
            setattr(config, name, False)
        yield
    finally:
        for name, value in kept.items():
            setattr(config, name, value)
