"""What the fused engines share: one pass makes value and gradients, and what a tape's backward needs is kept.

forward     total[b] ← L[b],  kept ← ∂L/∂x, ∂L/∂y          one pass over the signals, or two: see `BinEngine`
backward    ∂x[b, s] += upstream[b] · kept[b, s]
"""

from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import new_array, upload
from taichi_spec.bins import Account, Parts, columns_of, parts_of
from taichi_spec.fields import copy_kernel, where_it_lies
from taichi_spec.framing import add, annotation
from taichi_spec.launch import Chain, Launch
from taichi_spec.terms import SumsTerm, Term, unweighted


class FusedEngine(ABC):
    """An engine whose `evaluate` computes value and gradients together.

    Args:
        dtype: ti.f32 or ti.f64, of the signals.
        is_field: whether kernels take fields; or else arrays, which stand for fields too: see `fields`.
        batch, n_samples: B and T.
        fixed: whether the target is an array of magnitudes, which has no gradient.
    """

    def __init__(self, dtype: Any, is_field: bool, batch: int, n_samples: int, fixed: bool) -> None:
        self.dtype, self.is_field, self.batch, self.n_samples, self.fixed = dtype, is_field, batch, n_samples, fixed
        self.kept: list[Any] = []  # ∂L/∂x and ∂L/∂y, (B, T) each, made by the first forward in a tape
        self.chains: dict[bool, Chain] = {}  # with gradients and without, made when first needed
        self.ways_back: dict[tuple[bool, bool], Chain] = {}  # likewise, by which gradients are wanted
        self.copies: dict[str, tuple[Any, Chain]] = {}  # of fields without memory: an array (B, T), and what fills it

    def forward(self, x: Any, y: Any, total: Any, keep: bool) -> None:
        """total[b] ← L[b]; y is None where the target is fixed. `keep`: a backward follows."""
        self.evaluate(x, y, total, *(self._kept() if keep else (None, None)))

    def backward(self, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
        """grad_x += upstream[b] ∂L/∂x as the last `forward` kept it, and grad_y likewise; either may be None."""
        asked = grad_x is not None, grad_y is not None
        grads = dict(grad_x=where_it_lies(grad_x), grad_y=where_it_lies(grad_y))
        if asked not in self.ways_back:
            launches = [
                Launch(add_scaled_kernel(isinstance(grad, ti.Field), self.batch == 1), (kept, "upstream", name))
                for kept, (name, grad) in zip(self.kept, grads.items())
                if grad is not None
            ]
            self.ways_back[asked] = Chain(launches)
        self.ways_back[asked](upstream=upstream, **grads)

    def value_and_grad(self, x: Any, y: Any, total: Any, grad_x: Any, grad_y: Any) -> None:
        """total as in `forward`, and its sum's gradients, which replace what is in the ndarrays grad_x and grad_y.

        The pass makes both: one that is not asked for goes to memory of the engine's own.
        """
        if grad_x is None:
            grad_x = self._kept()[0]
        if grad_y is None and not self.fixed:
            grad_y = self._kept()[1]
        self.evaluate(x, y, total, grad_x, grad_y)

    def _kept(self) -> tuple[Any, Any]:
        while len(self.kept) < (1 if self.fixed else 2):
            self.kept.append(new_array(self.dtype, (self.batch, self.n_samples)))
        return self.kept[0], None if self.fixed else self.kept[1]

    def evaluate(self, x: Any, y: Any, total: Any, grad_x: Any, grad_y: Any) -> None:
        """total[b] ← L[b] and, unless grad_x is None, the gradients ← those of L. y and grad_y: None if fixed."""
        gradient = grad_x is not None
        if gradient not in self.chains:
            grads = ("grad_x", None if self.fixed else "grad_y") if gradient else (None, None)
            self.chains[gradient] = Chain(self.launches("total", *grads), self.spared)
        if not self.is_field:
            x, y = self._array_of("x", x), self._array_of("y", y)
        self.chains[gradient](x=x, y=y, total=total, grad_x=grad_x, grad_y=grad_y)

    def _array_of(self, name: str, signal: Any) -> Any:
        """What kernels take for a signal: where a field lies, or else a copy of what is in it now; an array as it is."""
        signal = where_it_lies(signal)
        if not isinstance(signal, ti.Field):
            return signal
        if name not in self.copies:
            copy = new_array(self.dtype, (self.batch, self.n_samples))
            self.copies[name] = copy, Chain([Launch(copy_kernel(), ("field", copy))])
        copy, fill = self.copies[name]
        fill(field=signal)
        return copy

    @property
    @abstractmethod
    def spared(self) -> tuple[str, ...]:
        """Which of Taichi's passes the engine's kernels are spared: see `launch.without`."""

    @abstractmethod
    def launches(self, total: Any, grad_x: Any, grad_y: Any, adds: bool = False) -> list[Launch]:
        """What `evaluate` launches, for signals named "x" and "y". The other arrays are names too, or arrays.

        adds: whether total and gradients are added to what is there.
        """

    @abstractmethod
    def shares(self) -> NDArray[Any]:
        """Each term's share of the last value, weights included  # (B, terms)"""


class BinEngine(FusedEngine):
    """A fused engine for terms that are sums over bins and frames, or functions of such sums.

        S[b, j]   = Σ_f Σ_k s_j(|X|, |Y|)                      by a pass, `_evaluation`
        L[b]      = Σ_t weight[b, t] · g_t(S)                  `finish_function`: a few numbers
        c[b, j]   = weight[b, t] · ∂g_t/∂S_j                   the same
        ∂L/∂|X|   = Σ_j c[b, j] ∂s_j/∂|X|                      by the same pass that makes S, if c is known before it

    Where g_t is S itself, c is the weight. The c of a `SumsTerm` needs its sums first: a pass of the value alone, with
    no way back and no other term, comes before.

    Args:
        dtype, is_field, batch, n_samples, fixed: as in `FusedEngine`.
        terms: what is summed.
        weights: of each term and item  # (B, terms)
    """

    def __init__(self, dtype: Any, is_field: bool, batch: int, n_samples: int, terms: tuple[Term, ...],
                 weights: NDArray[np.float64], fixed: bool) -> None:  # fmt: skip
        super().__init__(dtype, is_field, batch, n_samples, fixed)
        self.terms = terms = unweighted(terms)
        self.parts = parts_of(terms)
        self.first_parts = parts_of(terms, SumsTerm)
        self.at = at = Account.of(terms)
        numbers = np.zeros((batch, at.values + len(terms)))
        numbers[:, at.weights : at.weights + len(terms)] = weights
        for t, term in enumerate(terms):
            if not isinstance(term, SumsTerm):  # whose coefficients are functions of sums
                numbers[:, at.coefficients + columns_of(terms)[t]] = weights[:, t]
        self.account = upload(numbers, dtype)

    def launches(self, total: Any, grad_x: Any, grad_y: Any, adds: bool = False) -> list[Launch]:
        """As `FusedEngine` says."""
        if grad_x is not None and self.first_parts:
            return self._after_sums(grad_x, grad_y, total, adds)
        return self._evaluation(grad_x, grad_y, self.parts, total, adds)

    def shares(self) -> NDArray[Any]:
        """As `FusedEngine` says."""
        shares: NDArray[Any] = self.account.to_numpy()[:, self.at.values :]
        return shares

    def _after_sums(self, grad_x: Any, grad_y: Any, total: Any, adds: bool) -> list[Launch]:
        """The gradients of a loss whose coefficients are functions of sums: a pass that finds those, then the pass itself."""
        unused = new_array(self.dtype, (self.batch,))
        first = self._evaluation(None, None, self.first_parts, unused, False)
        return [*first, *self._evaluation(grad_x, grad_y, self.parts, total, adds)]

    @abstractmethod
    def _evaluation(self, grad_x: Any, grad_y: Any, parts: Parts, total: Any, adds: bool) -> list[Launch]:
        """The account's sums ← those of `parts`; unless grad_x is None, the gradients by its coefficients; finish."""


class GPUEngine(BinEngine):
    """What the engines for GPUs share. Arguments: as `BinEngine`'s."""

    @property
    def spared(self) -> tuple[str, ...]:
        """As `FusedEngine` says: what takes four fifths of the time to compile, and changes nothing."""
        return ("advanced_optimization",)

    def _keep_goal(self, goal: NDArray[Any] | None) -> tuple[int, int]:
        """self.goal ← a fixed target's numbers  # (B or 1, F or 1, width)

        Returns how far it is in them from an item to the next and from a frame: 0 where one serves all.
        """
        if goal is None:
            self.goal: Any = None
            return 0, 0
        self.goal = upload(goal.ravel(), self.dtype)
        items, frames, width = goal.shape
        return frames * width * (items > 1), width * (frames > 1)


def run_sums(parts: Parts, record: int, dtype: Any) -> Any:
    """The `ti.func` sums[b, column] ← Σ_c partial[b, c, j] over all runs c of an item, by the 128 threads t of a block.

    All parts j at once, so that one does not wait for the other. record: numbers from a run's to the next one's. shared:
    room for 128 numbers of each part.
    """
    C = len(parts)

    @ti.func
    def add_runs(partial: ti.template(), sums: ti.template(), shared: ti.template(), b, runs, t):
        found = [ti.cast(0, dtype) for _ in ti.static(range(C))]
        at = [t + ti.static(128 * j) for j in ti.static(range(C))]  # here: SPIR-V has no values from within an if
        c = t
        while c < runs:
            for j in ti.static(range(C)):
                found[j] += partial[(b * runs + c) * record + j]
            c += 128
        ti.simt.block.sync()  # until all have read the item before
        for j in ti.static(range(C)):
            shared[at[j]] = found[j]
        for s in ti.static((64, 32, 16, 8, 4, 2, 1)):
            ti.simt.block.sync()
            if t < s:
                for j in ti.static(range(C)):
                    shared[at[j]] = shared[at[j]] + shared[at[j] + s]
        if t == 0:
            for j in ti.static(range(C)):
                sums[b, ti.static(parts[j][0])] = shared[at[j]]

    return add_runs


@cache
def add_scaled_kernel(is_field: bool, alone: bool) -> Any:
    """The kernel that adds a kept gradient to the user's. alone: whether there is one item, and no index to be divided."""
    Signal = annotation(is_field)

    @ti.kernel
    def add_scaled(kept: ti.types.ndarray(), upstream: ti.types.ndarray(), grad: Signal):
        """grad[b, s] += upstream[b] kept[b, s]."""
        if ti.static(alone):
            for s in range(kept.shape[1]):
                add(grad, 0, s, upstream[0] * kept[0, s])
        elif ti.static(is_field):
            for b, s in ti.ndrange(*grad.shape):  # known sizes
                add(grad, b, s, upstream[b] * kept[b, s])
        else:
            for b, s in ti.ndrange(kept.shape[0], kept.shape[1]):
                add(grad, b, s, upstream[b] * kept[b, s])

    return add_scaled
