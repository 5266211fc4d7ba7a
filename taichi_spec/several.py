"""Several resolutions of one loss: the same signals, one transform after the other."""

from functools import cache
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import new_array
from taichi_spec.fft.fused import FusedEngine
from taichi_spec.launch import Launch
from taichi_spec.staged import AddingEngine


def sum_of(engines: list[Any], dtype: Any, batch: int) -> Any:
    """The engine whose loss is the sum of several engines' losses."""
    if all(isinstance(engine, FusedEngine) for engine in engines):
        return FusedSum(engines)
    return SumEngine(engines, dtype, batch)


class FusedSum(FusedEngine):
    """The sum of fused engines' losses: one pair of gradients is kept, not one for each engine."""

    def __init__(self, engines: list[FusedEngine]) -> None:
        one = engines[0]
        super().__init__(one.dtype, one.is_field, one.batch, one.n_samples, one.fixed)
        self.engines = engines

    @property
    def spared(self) -> tuple[str, ...]:
        """What all of its engines' are."""
        first, *others = [engine.spared for engine in self.engines]
        return tuple(name for name in first if all(name in spared for spared in others))

    def launches(self, total: Any, grad_x: Any, grad_y: Any, adds: bool = False) -> list[Launch]:
        """The first engine writes value and gradients, the others' are added one after the other."""
        return [
            launch
            for i, engine in enumerate(self.engines)
            for launch in engine.launches(total, grad_x, grad_y, adds=adds or i > 0)
        ]

    def shares(self) -> NDArray[Any]:
        """Each term's share of the last value, summed over the engines  # (B, terms)"""
        return summed_shares(self.engines)


class SumEngine(AddingEngine):
    """The sum of several engines' losses, whichever they are."""

    def __init__(self, engines: list[Any], dtype: Any, batch: int) -> None:
        super().__init__(dtype, batch)
        self.engines = engines
        self.part = new_array(dtype, (batch,))

    def forward(self, x: Any, y: Any, total: Any, keep: bool) -> None:
        """total[b] ← the sum of the engines' totals."""
        total.fill(0)
        for engine in self.engines:
            engine.forward(x, y, self.part, keep)
            add_kernel()(self.part, total)

    def backward(self, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
        """grad_x += upstream[b] ∂L/∂x, and grad_y likewise; either may be None."""
        for engine in self.engines:
            engine.backward(x, y, grad_x, grad_y, upstream)

    def shares(self) -> NDArray[Any]:
        """Each term's share of the last forward pass, summed over the engines  # (B, terms)"""
        return summed_shares(self.engines)


def summed_shares(engines: list[Any]) -> NDArray[Any]:
    """The engines' shares, added  # (B, terms)"""
    shares: NDArray[Any] = np.sum([engine.shares() for engine in engines], axis=0)
    return shares


@cache
def add_kernel() -> Any:
    """The kernel that adds one engine's totals to the sum."""
    Array = ti.types.ndarray()

    @ti.kernel
    def add_part(part: Array, total: Array):
        """total[b] += part[b]."""
        for b in range(total.shape[0]):
            total[b] = total[b] + part[b]

    return add_part
