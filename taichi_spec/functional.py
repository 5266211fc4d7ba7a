"""NumPy in, NumPy out."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import ArrayLike, NDArray

from taichi_spec.arrays import new_array, upload
from taichi_spec.checks import MAX_TOTAL_SAMPLES, check_array, check_choice
from taichi_spec.engines import SCRATCH_BYTES, Options, choose_dft, make_engine
from taichi_spec.runtime import check_float64, runtime_token
from taichi_spec.staged import BlockTransform
from taichi_spec.stft import STFT
from taichi_spec.target import Target

OPTIONS = frozenset(inspect.signature(Options.check).parameters)


def spectral_loss(x: ArrayLike, y: ArrayLike | Target, **options: Any) -> Any:
    """The spectral loss of two NumPy signals, L = Σ_f Σ_k φ(|X[k, f]|, |Y[k, f]|).

    Args:
        x: real signal, float32 or float64  # (…, T)
        y: the target: an array of x's shape and dtype, or a `Target`.
        **options: those of `value_and_grad`, but wrt.

    Returns:
        The loss: a float, or for ``reduction="none"`` an array of x's leading shape.

    Raises:
        TypeError, ValueError, RuntimeError: as `value_and_grad`.

    Example:
        >>> spectral_loss(np.ones(2048), np.ones(2048), n_fft=512)
        0.0
    """
    if "wrt" in options:
        raise TypeError("wrt belongs to value_and_grad; spectral_loss computes no gradient")
    return _evaluate(x, y, "none", **options)[0]


def value_and_grad(x: ArrayLike, y: ArrayLike | Target, *, wrt: str = "x", **options: Any) -> tuple[Any, Any]:
    """The spectral loss of two NumPy signals and its gradient.

        L = Σ_f Σ_k φ(|X[k, f]|, |Y[k, f]|),   ∂L/∂x[s],   ∂L/∂y[s]

    Args:
        x: real signal, float32 or float64  # (…, T)
        y: the target: an array of x's shape and dtype, or a `Target`, which has no gradient.
        wrt: the gradient of what: ``"x"``, ``"y"``, or ``"both"``.
        **options: ``stft=`` an `STFT` or a list of them, or its arguments (``n_fft=1024``); ``terms``, ``reduction``,
            ``engine``, ``backward``, ``scratch_bytes``, ``bands``, ``bin_weights``, ``stft_weights``,
            ``item_weights``, ``lengths`` and ``zero_phase`` as in `SpectralLoss`; ``check_finite=False`` lets NaN
            and Inf pass.

    Returns:
        value, gradient: the value a float, or for ``reduction="none"`` an array of x's leading shape; the gradient an
        array like x (of the values' sum), or for ``wrt="both"`` a pair.

    Raises:
        TypeError: a dtype is neither float32 nor float64, or an option is unknown.
        ValueError: a shape, a size, a name or a value is wrong.
        RuntimeError: Taichi is not initialised.

    Example:
        >>> value, grad = value_and_grad(np.zeros(2048), np.ones(2048), n_fft=512)
    """
    check_choice("wrt", wrt, ("x", "y", "both"))
    if wrt != "x" and isinstance(y, Target):
        raise ValueError(f"wrt must be 'x' where y is a Target, got {wrt!r}")
    value, grad_x, grad_y = _evaluate(x, y, wrt, **options)
    return value, {"x": grad_x, "y": grad_y, "both": (grad_x, grad_y)}[wrt]


def stft(x: ArrayLike, *, check_finite: bool = True, **options: Any) -> NDArray[Any]:
    """The short-time Fourier transform, for looking and plotting.

        X[k, f] = Σ_n w[n] x[f H + n] e^(−2πi k n / N)

    Args:
        x: real signal, float32 or float64  # (…, T)
        check_finite: look for NaN and Inf.
        **options: ``stft=`` an `STFT`, or any of its arguments.

    Returns:
        X, complex64 or complex128 as x is  # (…, K, F)

    Raises:
        TypeError, ValueError, RuntimeError: as `value_and_grad`.

    Example:
        >>> stft(np.ones(2048), n_fft=512).shape
        (257, 13)
    """
    runtime_token()
    description = _stft_of(options)
    if not isinstance(description, STFT):
        raise TypeError(f"stft must be a taichi_spec.STFT, got {type(description).__name__}")
    if options:
        raise TypeError(f"{next(iter(options))!r} is not an option of stft()")
    signal = _check_signal("x", x, check_finite)
    rows = signal.reshape(-1, signal.shape[-1])  # (B, T)
    dtype = _taichi_dtype(signal)
    batch, n_samples = rows.shape
    dft = choose_dft("auto", description.n_fft)
    transform = BlockTransform(description, dtype, False, batch, n_samples, 1, SCRATCH_BYTES, dft)
    spectrum = transform.spectrum(upload(rows, dtype))  # (B, K, F)
    return spectrum.reshape(*signal.shape[:-1], *spectrum.shape[1:])


def _evaluate(
    x: ArrayLike,
    y: ArrayLike | Target,
    wrt: str,
    *,
    check_finite: bool = True,
    **given: Any,
) -> tuple[Any, Any, Any]:
    """value, grad_x or None, grad_y or None."""
    runtime_token()
    description = _stft_of(given)
    unknown = given.keys() - OPTIONS
    if unknown:
        raise TypeError(f"{min(unknown)!r} is not an option of the spectral loss")
    options = Options.check(description, **given)
    signal = _check_signal("x", x, check_finite)
    other = y if isinstance(y, Target) else _check_signal("y", y, check_finite)
    if not isinstance(other, Target) and (other.shape != signal.shape or other.dtype != signal.dtype):
        raise ValueError(
            f"y must have x's shape {signal.shape} and dtype {signal.dtype}, got {other.shape} and {other.dtype}"
        )
    evaluation = _evaluation(options, signal, other)
    values, *gradients = evaluation.run(signal, other, wrt)
    value = values.reshape(signal.shape[:-1]) if options[0].reduction == "none" else float(values.sum())
    grad_x, grad_y = (None if grad is None else grad.reshape(signal.shape) for grad in gradients)
    return value, grad_x, grad_y


class _Evaluation:
    """An engine with the arrays it needs, for signals of one shape."""

    def __init__(self, options: tuple[Options, ...], signal: NDArray[Any], target: Target | None) -> None:
        self.shape = (signal.size // signal.shape[-1], signal.shape[-1])  # (B, T)
        dtype = _taichi_dtype(signal)
        self.engine = make_engine(options, dtype, False, self.shape[0], self.shape[1], target)
        self.x, self.grad_x = new_array(dtype, self.shape), new_array(dtype, self.shape)
        self.y, self.grad_y = None, None
        if target is None:
            self.y, self.grad_y = new_array(dtype, self.shape), new_array(dtype, self.shape)
        self.total = new_array(dtype, self.shape[:1])

    def run(self, x: NDArray[Any], y: Any, wrt: str) -> tuple[Any, ...]:
        """Values per item  # (B,), and the gradients that are asked for  # (B, T)"""
        self.x.from_numpy(np.ascontiguousarray(x).reshape(self.shape))
        if self.y is not None:
            self.y.from_numpy(np.ascontiguousarray(y).reshape(self.shape))
        grad_x = self.grad_x if wrt in ("x", "both") else None
        grad_y = self.grad_y if wrt in ("y", "both") else None
        if wrt == "none":
            self.engine.forward(self.x, self.y, self.total, keep=False)
        else:
            self.engine.value_and_grad(self.x, self.y, self.total, grad_x, grad_y)
        return tuple(None if a is None else a.to_numpy() for a in (self.total, grad_x, grad_y))


_recent: OrderedDict[tuple[Any, ...], _Evaluation] = OrderedDict()  # so that a loop builds its tables once
_RECENT = 2
_recent_token: object = None


def _evaluation(options: tuple[Options, ...], signal: NDArray[Any], other: Any) -> _Evaluation:
    """The evaluation for these options and shapes, kept from a recent call if there was one."""
    global _recent_token
    token = runtime_token()
    if token is not _recent_token:
        _recent.clear()
        _recent_token = token
    target = other if isinstance(other, Target) else None
    key = (options, signal.shape, signal.dtype, target)
    if key not in _recent:
        _recent[key] = _Evaluation(options, signal, target)
        while len(_recent) > _RECENT:
            _recent.popitem(last=False)
    _recent.move_to_end(key)
    return _recent[key]


def _stft_of(options: dict[str, Any]) -> Any:
    """The STFT, or list of them, that the options describe, which are taken out of them."""
    given = {name: options.pop(name) for name in STFT.__dataclass_fields__ if name in options}
    described = options.pop("stft", None)
    if described is None:
        return STFT(**given)
    if given:
        raise TypeError(f"stft and {next(iter(given))} cannot both be given")
    return described


def _check_signal(name: str, value: ArrayLike, check_finite: bool) -> NDArray[Any]:
    signal = check_array(name, value, check_finite)
    if signal.size > MAX_TOTAL_SAMPLES:
        raise ValueError(f"{name} must have fewer than 2**31 samples in all, got shape {signal.shape}")
    if signal.dtype == np.float64:
        check_float64(name)
    return signal


def _taichi_dtype(signal: NDArray[Any]) -> Any:
    return ti.f64 if signal.dtype == np.float64 else ti.f32
