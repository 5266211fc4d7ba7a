"""Optimisers on fields."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import taichi as ti

from taichi_spec.checks import check_float_field, float_type, has_grad
from taichi_spec.runtime import check_alive, runtime_token


class Adam:
    """Adam, gradient descent with a step size for each element.

        m ← β₁ m + (1 − β₁) g,   v ← β₂ v + (1 − β₂) g²
        p ← p − lr · m̂ / (√v̂ + eps),   m̂ = m / (1 − β₁^t),  v̂ = v / (1 − β₂^t)

    eps is added outside the root, as in the paper and in torch.

    Args:
        fields: the parameters, scalar fields of f32 or f64 of any shape, made with needs_grad=True.
        lr: step size > 0; may be changed between steps as `adam.lr`.
        betas: (β₁, β₂), each 0 ≤ β < 1.
        eps: > 0.

    Raises:
        TypeError: fields is not a list of scalar fields.
        ValueError: a field has no gradient, or a number is out of range.

    Example:
        >>> x = ti.field(ti.f32, shape=8, needs_grad=True)
        >>> Adam([x], lr=1e-2).step()

    Reference:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """

    def __init__(
        self, fields: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        self._token = runtime_token()
        self.fields = _check_fields(fields)
        self.lr, self.eps = _check_positive("lr", lr), _check_positive("eps", eps)
        self.betas = _check_betas(betas)
        self.steps = 0
        self._moments = [(ti.field(p.dtype, p.shape), ti.field(p.dtype, p.shape)) for p in self.fields]

    def step(self) -> None:
        """Moves each field against its gradient.

        Raises:
            RuntimeError: Taichi was reset after this optimiser was made.
        """
        check_alive(self._token, "this Adam")
        lr = _check_positive("lr", self.lr)
        self.steps += 1
        beta1, beta2 = self.betas
        # lr · m̂ / (√v̂ + eps) with the two corrections moved into the step and into eps
        root = float(np.sqrt(1 - beta2**self.steps))
        numbers = (lr * root / (1 - beta1**self.steps), beta1, beta2, 1 - beta1, 1 - beta2, self.eps * root)
        for p, (m, v) in zip(self.fields, self._moments, strict=True):
            adam_kernel(float_type(p))(p, p.grad, m, v, *numbers)

    def zero_grad(self) -> None:
        """Sets the fields' gradients to zero; a `ti.ad.Tape` does so by itself."""
        check_alive(self._token, "this Adam")
        for p in self.fields:
            p.grad.fill(0)


@cache
def adam_kernel(dtype: Any) -> Any:
    """One step of one field."""

    @ti.kernel
    def step(p: ti.template(), grad: ti.template(), m: ti.template(), v: ti.template(),
             rate: dtype, beta1: dtype, beta2: dtype, rest1: dtype, rest2: dtype, eps: dtype):  # fmt: skip
        for I in ti.grouped(p):
            g = grad[I]
            m[I] = beta1 * m[I] + rest1 * g
            v[I] = beta2 * v[I] + rest2 * g * g
            p[I] = p[I] - rate * m[I] / (ti.sqrt(v[I]) + eps)

    return step


def _check_fields(fields: Iterable[Any]) -> list[Any]:
    if not isinstance(fields, list | tuple):
        raise TypeError(f"fields must be a list of scalar ti.fields, got {type(fields).__name__}")
    if not fields:
        raise ValueError("fields must not be empty, got []")
    for i, field in enumerate(fields):
        check_float_field(f"fields[{i}]", field)
        if not has_grad(field):
            raise ValueError(f"fields[{i}] must be made with needs_grad=True, got shape {field.shape} without")
    return list(fields)


def _check_positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating):
        raise TypeError(f"{name} must be a number > 0, got {value!r}")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return float(value)


def _check_betas(betas: Any) -> tuple[float, float]:
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers, got {betas!r}")
    if not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must each be at least 0 and below 1, got {betas!r}")
    return float(betas[0]), float(betas[1])
