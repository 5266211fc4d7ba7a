"""What the fused engines share: one pass makes value and gradients, and what a tape's backward needs is kept.

forward     total[b] ← L[b],  kept ← ∂L/∂x, ∂L/∂y          one pass over the signals
backward    ∂x[b, s] += upstream[b] · kept[b, s]
"""

from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import upload
from taichi_spec.framing import add, annotation


class FusedEngine(ABC):
    """An engine whose `_run` computes value and gradients together.

    Args:
        dtype: ti.f32 or ti.f64, of the signals.
        is_field: whether signals are fields or ndarrays.
        batch, n_samples: B and T.
        weights: what each term is multiplied by  # (terms,)
        fixed: whether the target is an array of magnitudes, which has no gradient.
    """

    def __init__(self, dtype: Any, is_field: bool, batch: int, n_samples: int, weights: NDArray[np.float64],
                 fixed: bool) -> None:  # fmt: skip
        self.dtype, self.is_field, self.batch, self.n_samples, self.fixed = dtype, is_field, batch, n_samples, fixed
        self.weights = upload(weights, dtype)
        self._signals: tuple[Any, Any] = (None, None)  # of the last pass
        self.kept: list[Any] = []  # ∂L/∂x and ∂L/∂y, (B, T) each, made by the first forward in a tape

    def forward(self, x: Any, y: Any, total: Any, keep: bool) -> None:
        """total[b] ← L[b]; y is None where the target is fixed. `keep`: a backward follows."""
        self._signals = x, y
        if keep:
            self.value_and_grad(x, y, total, *self._kept())
        else:
            self._run(x, y, total, None, None)

    def backward(self, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
        """grad_x += upstream[b] ∂L/∂x as the last `forward` kept it, and grad_y likewise; either may be None."""
        for kept, grad in zip(self.kept, (grad_x, grad_y), strict=False):
            if grad is not None:
                add_scaled_kernel(self.is_field)(kept, upstream, grad)

    def value_and_grad(self, x: Any, y: Any, total: Any, grad_x: Any, grad_y: Any) -> None:
        """total as in `forward`, and its sum's gradients, which replace what is in the ndarrays grad_x and grad_y.

        The pass makes both: one that is not asked for goes to memory of the engine's own.
        """
        self._signals = x, y
        if grad_x is None:
            grad_x = self._kept()[0]
        if grad_y is None and not self.fixed:
            grad_y = self._kept()[1]
        self._run(x, y, total, grad_x, grad_y)

    def shares(self) -> NDArray[Any]:
        """Each term's share of the loss, weights included, of the signals of the last pass  # (B, terms)

        The pass sums the terms before it sums over the bins, so a share is computed when it is asked for: the value
        alone, with the other terms' weights 0.
        """
        weights = self.weights
        shares = np.empty((self.batch, weights.shape[0]))
        total = ti.ndarray(self.dtype, (self.batch,))
        for t, weight in enumerate(weights.to_numpy()):
            self.weights = upload(np.where(np.arange(len(shares[0])) == t, weight, 0), self.dtype)
            self._run(*self._signals, total, None, None)
            shares[:, t] = total.to_numpy()
        self.weights = weights
        return shares

    def _kept(self) -> tuple[Any, Any]:
        while len(self.kept) < (1 if self.fixed else 2):
            self.kept.append(ti.ndarray(self.dtype, (self.batch, self.n_samples)))
        return self.kept[0], None if self.fixed else self.kept[1]

    @abstractmethod
    def _run(self, x: Any, y: Any, total: Any, grad_x: Any, grad_y: Any) -> None:
        """total[b] ← L[b] and, unless grad_x is None, the gradients ← those of L. y and grad_y: None if fixed."""


@cache
def add_scaled_kernel(is_field: bool) -> Any:
    """The kernel that adds a kept gradient to the user's."""
    Signal = annotation(is_field)

    @ti.kernel
    def add_scaled(kept: ti.types.ndarray(), upstream: ti.types.ndarray(), grad: Signal):
        """grad[b, s] += upstream[b] kept[b, s]."""
        for b, s in ti.ndrange(kept.shape[0], kept.shape[1]):
            add(grad, b, s, upstream[b] * kept[b, s])

    return add_scaled
