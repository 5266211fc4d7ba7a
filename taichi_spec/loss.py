"""SpectralLoss: fields in, a field out, and its place on a `ti.ad.Tape`."""

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.arrays import new_array
from taichi_spec.checks import check_float_field, check_signal_field, float_type, has_grad
from taichi_spec.engines import SCRATCH_BYTES, Options, make_engine
from taichi_spec.fields import as_arrays
from taichi_spec.launch import Chain, Launch
from taichi_spec.runtime import arch_name, check_alive, current_tape, runtime_token
from taichi_spec.stft import STFT
from taichi_spec.target import Target
from taichi_spec.terms import Magnitude, names_of

# Computes: what they left to keep is some MiB then, and to wait takes less than a hundredth of their time.
WAIT_AFTER = 100


class SpectralLoss:
    """How far apart the short-time spectra of two signals are, and the exact gradient for every sample of both.

        L = Σ_terms weight · value, such as Σ_f Σ_k φ(|X[k, f]|, |Y[k, f]|)      forward, by `compute`
        x.grad[s] += ∂value · ∂L/∂x[s], and the same for target                 backward, by `ti.ad.Tape`

    The gradient is added to `x.grad`, as Taichi's own kernels do, in a fixed order: the same input gives the same
    bits. It is taken at the signals as they are when the tape goes back, so do not overwrite them in between. A
    target's gradient is computed only if it is a field with needs_grad. Outside a tape nothing is kept for a backward
    pass and none is done.

    Args:
        x: the signal, a field of f32 or f64  # (T,) or (B, T)
        target: what it is compared with: a field of the same shape and dtype, analysed anew at each compute, or a
            `Target`, analysed once, here.
        stft: the transform; default `STFT()`. A list of them makes a multi-resolution loss, the sum over all.
        terms: a term or a list of terms, `Magnitude(p=2)` by default; their weighted values are added.
        reduction: ``"sum"`` over bins, frames and items; ``"mean"`` over all of these, as far as a term's value is a
            sum over them (not over bins for `Transport`, over items alone for `SpectralConvergence`); ``"none"``:
            each item's sum.
        value: the field that the loss is added to: 0-D, or (B,) for reduction="none". By default the loss makes its
            own, `self.value`, which starts from zero at each compute, or at the first compute of a tape.
        engine: ``"direct"``, the DFT by its definition; ``"auto"`` chooses.
        backward: the direct engine's way back, ``"accumulate"``, ``"per_bin"``, ``"atomic"`` or ``"recompute"``; see
            `taichi_spec.strategies`.
        scratch_bytes: the most scratch memory to take; longer signals are worked through in blocks of frames.
            ``"per_bin"`` cannot be divided and is refused where it needs more. Where Taichi has no address of a field,
            as on Vulkan, fields that fit in as much again are copied first: new ones compile nothing but the copy.
        bands: a matrix that the magnitudes (or, for terms of powers, the powers) are multiplied by before they are
            compared, such as a `mel_filterbank`  # (n_bands, K); a list with one or None for each of several STFTs
        bin_weights: what each bin of both spectra is multiplied by, such as `a_weighting`  # (K,); a list likewise
        stft_weights: what each of several STFTs' part of the loss is multiplied by; default 1 each.
        item_weights: what each item's loss is multiplied by  # (B,)
        lengths: how many samples of each item count  # (B,). The loss is that of the items cut to these lengths:
            what lies beyond has no effect and no gradient.
        zero_phase: where |X| is exactly 0, a magnitude has no derivative: any direction increases it at the same
            rate. By default that bin's gradient is 0, so a silent x never moves. ``"target"`` takes the direction
            of the target there, Y / |Y| in the place of X / |X|: an element of the generalised gradient, with
            which silence moves toward the target. The target's own gradient stays 0 where |Y| is 0.

    Attributes:
        value: the field with the loss.
        values: each term's share of it.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: a shape, a size or a name is wrong; the message has the value.
        RuntimeError: Taichi is not initialised.

    Example:
        >>> x = ti.field(ti.f32, shape=4096, needs_grad=True)
        >>> loss = SpectralLoss(x, Target.from_magnitudes(np.ones(513)))
        >>> with ti.ad.Tape(loss.value):
        ...     loss.compute()

    Reference:
        The term of Magnitude(p=2) is DGen's spectral loss, with its backward repaired.
    """

    def __init__(
        self,
        x: Any,
        target: Any,
        stft: STFT | Sequence[STFT] | None = None,
        terms: Any = Magnitude(),
        reduction: str = "sum",
        value: Any = None,
        engine: str = "auto",
        backward: str = "accumulate",
        scratch_bytes: int = SCRATCH_BYTES,
        bands: Any = None,
        bin_weights: Any = None,
        stft_weights: Any = None,
        item_weights: Any = None,
        lengths: Any = None,
        zero_phase: str | None = None,
    ) -> None:
        self._token = runtime_token()
        options = Options.check(stft, terms, reduction, engine, backward, scratch_bytes, bands, bin_weights,
                                stft_weights, item_weights, lengths, zero_phase)  # fmt: skip
        self.stft = options[0].stft if len(options) == 1 else tuple(each.stft for each in options)
        self.terms, self.reduction = options[0].terms, options[0].reduction
        self.x = check_signal_field("x", x)
        self._batch, self._n_samples = (1, *x.shape)[-2:]
        fixed = target if isinstance(target, Target) else None
        self.target = target if fixed else self._check_target_field(target)
        self._check_value(value)  # before any memory is taken
        dtype = float_type(x)
        fields = [self.x] if fixed else [self.x, self.target]
        arrays = as_arrays(fields, options[0].scratch_bytes)
        self._engine = make_engine(options, dtype, True, self._batch, self._n_samples, fixed, arrays)
        self._total = new_array(dtype, (self._batch,))
        self._upstream = new_array(dtype, (self._batch,))
        self._owns_value = value is None
        self._seen_tape: Any = None
        self._computed = False
        self._since_wait = 0  # computes, on a backend that keeps what launches are given
        self.value = ti.field(dtype, shape=self._value_shape(), needs_grad=True) if value is None else value
        kernels = value_kernels(dtype)
        self._deliver = Chain([Launch(kernels.deliver, (self._total, self.value, "from_zero"))])
        self._receive = Chain([Launch(kernels.receive, (self.value.grad, self._upstream))])

    def compute(self) -> None:
        """Adds the loss to `value`; inside a `ti.ad.Tape`, the gradient follows when the tape ends.

        Raises:
            RuntimeError: Taichi was reset after this loss was made.
            ValueError: inside a tape, neither signal has needs_grad, or the value has not.
        """
        check_alive(self._token, "this SpectralLoss")
        tape = current_tape()
        if tape is not None:
            self._check_gradients()
        _compute(self, self._starts_from_zero(tape), tape is not None)
        self._computed = True

    @property
    def values(self) -> dict[str, Any]:
        """Each term's share of the last computed loss, weight and reduction included: they add up to the loss.

        Names are those of the terms' classes, "magnitude", "log_magnitude", …; a second term of a class gets _2. A
        share is a float, or for reduction="none" an array (B,).

        Raises:
            RuntimeError: Taichi was reset after this loss was made, or nothing was computed yet.
        """
        check_alive(self._token, "this SpectralLoss")
        if not self._computed:
            raise RuntimeError("values are there after the first compute()")
        shares = self._engine.shares()  # (B, terms)
        return {
            name: share if self.reduction == "none" else float(share.sum())
            for name, share in zip(names_of(self.terms), shares.T, strict=True)
        }

    def _starts_from_zero(self, tape: Any) -> bool:
        """Whether this compute replaces what is in `value`, rather than adding to it.

        A Tape zeroes the field that it was made for; other computes of the same tape may have added to it since.
        """
        first = tape is None or (tape is not self._seen_tape and tape.loss is not self.value)
        self._seen_tape = tape
        return self._owns_value and first

    def _forward(self, from_zero: bool, keep: bool) -> None:
        y = None if isinstance(self.target, Target) else self.target
        self._engine.forward(self.x, y, self._total, keep)
        self._deliver(from_zero=int(from_zero))
        self._wait_now_and_then()

    def _wait_now_and_then(self) -> None:
        """Taichi's Vulkan and Metal keep what each launch is given, 30 KiB in a tape, until somebody waits for them."""
        self._since_wait += arch_name() not in ("cpu", "cuda")
        if self._since_wait == WAIT_AFTER:
            ti.sync()
            self._since_wait = 0

    def _backward(self) -> None:
        """∂L/∂total[b] = value.grad, then the engine's way back."""
        self._receive()
        y = None if isinstance(self.target, Target) else self.target
        grad_x = self.x.grad if has_grad(self.x) else None
        grad_y = y.grad if y is not None and has_grad(y) else None
        self._engine.backward(self.x, y, grad_x, grad_y, self._upstream)

    def _value_shape(self) -> tuple[int, ...]:
        return (self._batch,) if self.reduction == "none" else ()

    def _check_target_field(self, target: Any) -> Any:
        if not hasattr(target, "snode"):
            raise TypeError(f"target must be a scalar ti.field or a taichi_spec.Target, got {type(target).__name__}")
        field = check_signal_field("target", target)
        if field.shape != self.x.shape or field.dtype != self.x.dtype:
            raise ValueError(
                f"target must have x's shape {self.x.shape} and dtype {self.x.dtype.to_string()}, "
                f"got {field.shape} and {field.dtype.to_string()}"
            )
        return field

    def _check_value(self, value: Any) -> None:
        if value is not None and check_float_field("value", value).shape != self._value_shape():
            raise ValueError(
                f"value must have shape {self._value_shape()} for reduction={self.reduction!r}, got {value.shape}"
            )

    def _check_gradients(self) -> None:
        fields = [self.x] if isinstance(self.target, Target) else [self.x, self.target]
        if not any(has_grad(field) for field in fields):
            raise ValueError("x (or target) must be made with needs_grad=True to be used in a ti.ad.Tape")
        if not has_grad(self.value):
            raise ValueError("value must be made with needs_grad=True to be used in a ti.ad.Tape")


@ti.ad.grad_replaced
def _compute(loss: SpectralLoss, from_zero: bool, keep: bool) -> None:
    loss._forward(from_zero, keep)


@ti.ad.grad_for(_compute)
def _compute_grad(loss: SpectralLoss, from_zero: bool, keep: bool) -> None:
    loss._backward()


@cache
def value_kernels(dtype: Any) -> SimpleNamespace:
    """The kernels `deliver` and `receive`, between an engine's totals per item and the user's value field."""
    Array = ti.types.ndarray()

    @ti.kernel
    def deliver(total: Array, value: ti.template(), from_zero: ti.i32):
        """value ← (0 or value) + Σ_b total[b], or item by item where value has shape (B,)."""
        if ti.static(len(value.shape) == 0):
            for _ in range(1):  # a single thread: the items are added in order
                items = ti.cast(0, dtype)
                for b in range(total.shape[0]):
                    items += total[b]
                value[None] = ti.select(from_zero != 0, 0, value[None]) + ti.cast(items, value.dtype)
        else:
            for b in range(total.shape[0]):
                value[b] = ti.select(from_zero != 0, 0, value[b]) + ti.cast(total[b], value.dtype)

    @ti.kernel
    def receive(value_grad: ti.template(), upstream: Array):
        """upstream[b] ← ∂value: the adjoint of `deliver`."""
        for b in range(upstream.shape[0]):
            if ti.static(len(value_grad.shape) == 0):
                upstream[b] = ti.cast(value_grad[None], dtype)
            else:
                upstream[b] = ti.cast(value_grad[b], dtype)

    return SimpleNamespace(deliver=deliver, receive=receive)
