"""What the library is measured against: the same loss in PyTorch and JAX, bare transforms, a copy of the same bytes.

A peer is a class with `name`, `kinds` (what it can do) and `prepare(kind, n_fft, x, y)`, which returns a function to
time: it runs once, synchronises, and returns nothing.

    both    value, and the gradients of both signals
    fixed   value against a target whose magnitudes are known, and the gradient of x
    value   value alone
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[], None]


def version(package: str) -> str:
    """The installed version of a package."""
    return importlib.metadata.version(package)


class Torch:
    """`torch.stft`, `abs`, autograd; eager, as everybody writes it."""

    name = "torch"
    kinds = ("both", "fixed", "value")

    def __init__(self, device: str) -> None:
        import torch

        self.torch, self.device = torch, device
        self.version = f"torch {version('torch')}"

    def synchronise(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def spectrum(self, x: Any, n_fft: int, window: Any) -> Any:
        return self.torch.stft(x, n_fft, n_fft // 4, window=window, center=False, return_complex=True)

    def upload(self, values: np.ndarray, needs_grad: bool) -> Any:
        return self.torch.from_numpy(values).to(self.device).requires_grad_(needs_grad)

    def loss(self, X: Any, magnitudes: Any) -> Any:
        return ((X.abs() - magnitudes) ** 2).sum()

    def prepare(self, kind: str, n_fft: int, x: np.ndarray, y: np.ndarray) -> Run:
        window = self.torch.hann_window(n_fft, device=self.device)
        X, Y = self.upload(x, kind != "value"), self.upload(y, kind == "both")
        fixed = self.spectrum(Y, n_fft, window).abs().detach() if kind == "fixed" else None

        def run() -> None:
            X.grad = Y.grad = None
            magnitudes = fixed if fixed is not None else self.spectrum(Y, n_fft, window).abs()
            loss = self.loss(self.spectrum(X, n_fft, window), magnitudes)
            if kind != "value":
                loss.backward()
            self.synchronise()

        return run

    def gradient(self, n_fft: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """∂L/∂x, for its accuracy."""
        window = self.torch.hann_window(n_fft, device=self.device)
        X, Y = self.upload(x, True), self.upload(y, False)
        self.loss(self.spectrum(X, n_fft, window), self.spectrum(Y, n_fft, window).abs()).backward()
        return np.asarray(X.grad.cpu().numpy())


class BareTransforms(Torch):
    """Four real transforms of the same frames and nothing else: both signals forward, and as many again for the way
    back. No loss, no gradient: less than any peer can do."""

    name = "4 bare FFTs"
    kinds = ("both",)

    def prepare(self, kind: str, n_fft: int, x: np.ndarray, y: np.ndarray) -> Run:
        window = self.torch.hann_window(n_fft, device=self.device)
        X, Y = self.upload(x, False), self.upload(y, False)

        def run() -> None:
            for signal in (X, Y, X, Y):
                self.spectrum(signal, n_fft, window)
            self.synchronise()

        return run


class Copy(Torch):
    """The memory-copy floor: two signals read, two gradients written (one of each for `fixed`)."""

    name = "copy floor"
    kinds = ("both", "fixed")

    def prepare(self, kind: str, n_fft: int, x: np.ndarray, y: np.ndarray) -> Run:
        signals = [self.upload(x, False)] + ([self.upload(y, False)] if kind == "both" else [])
        gradients = [self.torch.empty_like(signal) for signal in signals]

        def run() -> None:
            for signal, gradient in zip(signals, gradients, strict=True):
                gradient.copy_(signal)
            self.synchronise()

        return run


class Auraloss(Torch):
    """`auraloss.freq.MultiResolutionSTFTLoss()`, or where it is not installed its formula, and both gradients."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        try:
            from auraloss.freq import MultiResolutionSTFTLoss

            self.function = MultiResolutionSTFTLoss(device=device)
            self.version = f"auraloss {version('auraloss')}"
        except ImportError:
            self.windows = {n: self.torch.hann_window(n, device=device) for n in (600, 1200, 240)}
            self.function, self.version = self.formula, "auraloss's formula"

    def formula(self, x: Any, y: Any) -> Any:
        """The mean over its three resolutions of spectral convergence and the logarithms' distance."""
        torch = self.torch

        def magnitude(signal: Any, n_fft: int, hop: int, win_length: int) -> Any:
            X = torch.stft(signal.view(-1, signal.shape[-1]), n_fft, hop, win_length, self.windows[win_length],
                           return_complex=True)  # fmt: skip
            return torch.sqrt(torch.clamp(X.real**2 + X.imag**2, min=1e-8))

        total = 0.0
        for sizes in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)):
            a, b = magnitude(x, *sizes), magnitude(y, *sizes)
            convergence = torch.norm(b - a, p="fro") / torch.norm(b, p="fro")
            total = total + (convergence + torch.nn.functional.l1_loss(torch.log(a), torch.log(b))) / 3
        return total

    def prepare(self, x: np.ndarray, y: np.ndarray) -> Run:  # type: ignore[override]
        X, Y = (self.upload(v[None, None], True) for v in (x, y))  # (1, 1, T)

        def run() -> None:
            X.grad = Y.grad = None
            self.function(X, Y).backward()
            self.synchronise()

        return run


class Jax:
    """`jit(value_and_grad)` of a frame gather, `rfft`, `abs`."""

    name = "jax"
    kinds = ("both", "fixed", "value")

    def __init__(self, device: str) -> None:
        # Unless told otherwise it takes three quarters of a GPU's memory at once, which the others then lack.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        import jax

        self.jax = jax
        self.version = f"jax {version('jax')}"
        self.device = jax.devices("gpu" if device == "cuda" else "cpu")[0]

    def prepare(self, kind: str, n_fft: int, x: np.ndarray, y: np.ndarray) -> Run:
        jax, jnp = self.jax, self.jax.numpy
        hop = n_fft // 4
        n_frames, parts = 1 + (len(x) - n_fft) // hop, -(-n_fft // hop)
        n = np.arange(n_fft)
        window = jnp.asarray(0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft), dtype=jnp.float32)

        def magnitude(signal: Any) -> Any:
            # Frames as stacked slices of the hop: no gather indices, which JAX would scatter on the way back.
            end = (n_frames + parts - 1) * hop
            rows = jnp.pad(signal[:end], (0, max(0, end - len(signal)))).reshape(-1, hop)
            frames = jnp.concatenate([rows[i : i + n_frames] for i in range(parts)], axis=1)[:, :n_fft]
            return jnp.abs(jnp.fft.rfft(frames * window))

        def loss(signal: Any, other: Any) -> Any:
            b = other if kind == "fixed" else magnitude(other)
            return jnp.sum((magnitude(signal) - b) ** 2)

        X, Y = (jax.device_put(v, self.device) for v in (x, y))
        Y = jax.jit(magnitude)(Y) if kind == "fixed" else Y
        wrt = {"both": (0, 1), "fixed": 0}.get(kind)
        function = jax.jit(loss if wrt is None else jax.value_and_grad(loss, argnums=wrt))

        def run() -> None:
            jax.block_until_ready(function(X, Y))

        return run


PEERS: dict[str, list[type]] = {"torch": [Torch], "jax": [Jax], "fft": [BareTransforms, Copy]}
