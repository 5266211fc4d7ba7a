"""Several resolutions of one loss: the same signals, one transform after the other."""

from functools import cache
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import upload


class SumEngine:
    """The sum of several engines' losses, with the interface of one."""

    def __init__(self, engines: list[Any], dtype: Any, batch: int) -> None:
        self.engines = engines
        self.part = ti.ndarray(dtype, (batch,))
        self.ones = upload(np.ones(batch), dtype)  # (B,)

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

    def value_and_grad(self, x: Any, y: Any, total: Any, grad_x: Any, grad_y: Any) -> None:
        """total as in `forward`, and the gradients of Σ_b total[b], which replace what is in grad_x and grad_y."""
        self.forward(x, y, total, keep=True)
        for grad in (grad_x, grad_y):
            if grad is not None:
                grad.fill(0)
        self.backward(x, y, grad_x, grad_y, self.ones)

    def shares(self) -> NDArray[Any]:
        """Each term's share of the last forward pass, summed over the engines  # (B, terms)"""
        shares: NDArray[Any] = np.sum([engine.shares() for engine in self.engines], axis=0)
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
