"""The seed plan's ways back, one signature: (engine, x, y, grad_x, grad_y, upstream) → None.

Each adds upstream[b] · ∂L/∂x to grad_x and likewise for y, and agrees with `staged.accumulate`, the default:

    accumulate   option A   scratch (F, N), in blocks: summed over bins before one write, then a gather
    per_bin      option B   scratch (F, N, K): every bin's contribution is written, the gather sums them
    atomic       option C   parallel over bins, no scratch for samples: atomic additions to the gradient
    recompute    the plan's failed attempt: no scratch at all, the DFT computed again in the gather
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.arrays import MAX_ELEMENTS, itemsize, new_array, upload
from taichi_spec.bins import distance_of
from taichi_spec.direct import turn
from taichi_spec.framing import IMAGES, Framing, add, annotation, load
from taichi_spec.polar import polar
from taichi_spec.staged import StagedEngine, accumulate
from taichi_spec.terms import BinTerm


def per_bin(engine: StagedEngine, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
    """Every bin's contribution to every sample of every frame is written, then gathered (option B).

        scratch  c[f, n, k] = Re(G[k, f] e^(+2πi k n / N))      (F, N, K)
        gather   ∂x[s]     += Σ_f w[n] Σ_k c[f, n, k]

    `check_per_bin` has refused a scratch beyond the engine's limit.
    """
    t = engine.transform
    k = strategy_kernels(t.is_field, t.dtype)
    if engine.bin_scratch is None:
        engine.bin_scratch = new_array(t.dtype, (t.batch, t.n_frames, t.stft.n_fft, t.stft.n_bins))
    for first, count in engine.cotangents(x, y, upstream):
        for G, grad in ((engine.X, grad_x), (engine.Y, grad_y)):
            if grad is not None:
                k.spread(G, engine.bin_scratch, t.dft.roots, count)
                k.fold_bins(engine.bin_scratch, t.window, grad, t.framing, first, count)


def check_per_bin(batch: int, n_frames: int, n_fft: int, dtype: Any, scratch_bytes: int) -> None:
    """Refuses a scratch of (B, F, N, K) beyond `scratch_bytes`, before anything is allocated."""
    elements = batch * n_frames * n_fft * (n_fft // 2 + 1)
    needed = elements * itemsize(dtype)
    if needed > scratch_bytes or elements > MAX_ELEMENTS:
        raise ValueError(
            f"backward='per_bin' needs {needed} bytes of scratch ({n_frames} frames × {n_fft} samples × "
            f"{n_fft // 2 + 1} bins × {batch} items), more than scratch_bytes = {scratch_bytes} "
            f"or 2**31 - 1 elements; use backward='accumulate'"
        )


def atomic(engine: StagedEngine, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
    """Each bin of each frame adds its contribution to the gradient atomically (option C).

        ∂x[s(f, n)] += w[n] Re(G[k, f] e^(+2πi k n / N)),  in parallel over k and f

    The order of the additions, and so the last bits, differ from run to run.
    """
    t = engine.transform
    k = strategy_kernels(t.is_field, t.dtype)
    for first, count in engine.cotangents(x, y, upstream):
        for G, grad in ((engine.X, grad_x), (engine.Y, grad_y)):
            if grad is not None:
                k.scatter(G, grad, t.window, t.dft.roots, t.framing, first, count)


def recompute(engine: StagedEngine, x: Any, y: Any, grad_x: Any, grad_y: Any, upstream: Any) -> None:
    """No scratch: each sample computes the DFT of each frame it lies in again (the plan's failed attempt).

        ∂x[s] += Σ_f w[n] Σ_k Re(G[k, f] e^(+2πi k n / N)),  n = s − f H + pad,  X[k, f] and G[k, f] on the spot

    It is exact, and O(N² · N/H) for a sample: for tests and small signals.

    What went wrong in the seed's version: its text is not preserved beyond the sketch, but the arithmetic leaves one
    suspect. Recomputation and storage agree to rounding here (the tests ask for 1e-12), so neither "subtle
    differences" nor the order of summation can lower a gradient. The position can: the seed's loop runs over
    `offsetFromJ`, the distance from sample j to the window's *end*, so the sample sits at n = N − 1 − offsetFromJ.
    With n = offsetFromJ, each contribution is read from the frame's mirror image: the gradient's cosine to the right
    one falls to near zero and its projection with it, an "incorrect, lower gradient" (tests/test_gradient.py plants
    this error and measures it).
    """
    t, fixed = engine.transform, engine.fixed is not None
    weights = upload(engine.weights.to_numpy()[0], t.dtype)  # (terms,), the same for all items here
    magnitudes = engine.fixed.magnitude if engine.fixed else engine.Y
    sizes = (t.window, t.dft.roots, weights, upstream, t.framing)
    for own, other, grad, is_target in ((x, y, grad_x, False), (y, x, grad_y, True)):
        if grad is not None:
            kernel = recompute_kernel(t.is_field, t.dtype, engine.terms, fixed, is_target)
            kernel(own, own if fixed else other, magnitudes, grad, *sizes)


@cache
def strategy_kernels(is_field: bool, dtype: Any) -> SimpleNamespace:
    """The kernels of `per_bin` and `atomic`."""
    Signal = annotation(is_field)
    Array = ti.types.ndarray()

    @ti.kernel
    def spread(G: Array, c: Array, roots: Array, count: ti.i32):
        """c[b, f, n, k] = Re(G[b, f, k] e^(+2πi k n / N)).  # (B, F, N, K)"""
        N = c.shape[2]
        for b, f, n in ti.ndrange(c.shape[0], count, N):
            i = 0
            for k in range(c.shape[3]):
                c[b, f, n, k] = G[b, f, k, 0] * roots[i, 0] - G[b, f, k, 1] * roots[i, 1]
                i = turn(i, n, N)

    @ti.kernel
    def fold_bins(c: Array, window: Array, grad: Signal, fr: Framing, first: ti.i32, count: ti.i32):
        """grad[b, s] += Σ_f w[n] Σ_k c[b, f, n, k], in a fixed order."""
        for b, s in ti.ndrange(c.shape[0], fr.n_samples):
            total = ti.cast(0, dtype)
            for image in range(IMAGES):
                q = fr.position(s, image)
                if q >= 0:
                    for f in range(ti.max(fr.first(q), first), ti.min(fr.last(q), first + count - 1) + 1):
                        n = q - f * fr.hop
                        bins = ti.cast(0, dtype)
                        for k in range(c.shape[3]):
                            bins += c[b, f - first, n, k]
                        total += window[n] * bins
            add(grad, b, s, total)

    @ti.kernel
    def scatter(G: Array, grad: Signal, window: Array, roots: Array, fr: Framing, first: ti.i32, count: ti.i32):
        """grad[b, s(f, n)] += w[n] Re(G[b, f, k] e^(+2πi k n / N)), atomically."""
        for b, f, k in ti.ndrange(G.shape[0], count, G.shape[2]):
            i = 0
            for n in range(fr.n_fft):
                s = fr.sample(first + f, n)
                if s >= 0:
                    value = window[n] * (G[b, f, k, 0] * roots[i, 0] - G[b, f, k, 1] * roots[i, 1])
                    if ti.static(len(grad.shape) == 1):
                        grad[s] += value
                    else:
                        grad[b, s] += value
                i = turn(i, k, fr.n_fft)

    return SimpleNamespace(spread=spread, fold_bins=fold_bins, scatter=scatter)


@cache
def recompute_kernel(is_field: bool, dtype: Any, terms: tuple[BinTerm, ...], fixed: bool, is_target: bool) -> Any:
    """The kernel of `recompute`: the gradient of one signal, `own`, as x or (is_target) as y."""
    Signal = annotation(is_field)
    Array = ti.types.ndarray()
    distance = distance_of(terms, dtype)

    @ti.func
    def bin_of(x: ti.template(), window: ti.template(), roots: ti.template(), fr, b, f, k):
        """|X[k, f]| and X[k, f] / |X[k, f]|, straight from the signal."""
        re, im = ti.cast(0, dtype), ti.cast(0, dtype)
        i = 0
        for n in range(fr.n_fft):
            s = fr.sample(f, n)
            if s >= 0:
                v = window[n] * load(x, b, s)
                re += v * roots[i, 0]
                im -= v * roots[i, 1]
            i = turn(i, k, fr.n_fft)
        return polar(re, im)

    @ti.func
    def slope(own: ti.template(), other: ti.template(), magnitudes: ti.template(),
              window: ti.template(), roots: ti.template(), weights: ti.template(), fr, b, f, k):  # fmt: skip
        """φ₁ X / |X|, or for the target φ₂ Y / |Y|."""
        a, u, v = bin_of(own, window, roots, fr, b, f, k)
        r = ti.cast(0, dtype)
        if ti.static(fixed):
            r = magnitudes[ti.min(b, magnitudes.shape[0] - 1), ti.min(f, magnitudes.shape[1] - 1), k]
        else:
            r, _, _ = bin_of(other, window, roots, fr, b, f, k)
        phi1 = ti.cast(0, dtype)
        if ti.static(is_target):
            _, _, phi1 = distance(r, a, weights)
        else:
            _, phi1, _ = distance(a, r, weights)
        return phi1 * u, phi1 * v

    @ti.kernel
    def gather(own: Signal, other: Signal, magnitudes: Array, grad: Signal,
               window: Array, roots: Array, weights: Array, upstream: Array, fr: Framing):  # fmt: skip
        for b, s in ti.ndrange(upstream.shape[0], fr.n_samples):
            total = ti.cast(0, dtype)
            for image in range(IMAGES):
                q = fr.position(s, image)
                if q >= 0:
                    for f in range(fr.first(q), fr.last(q) + 1):
                        n = q - f * fr.hop
                        bins = ti.cast(0, dtype)
                        i = 0
                        for k in range(fr.n_fft // 2 + 1):
                            g, h = slope(own, other, magnitudes, window, roots, weights, fr, b, f, k)
                            bins += g * roots[i, 0] - h * roots[i, 1]
                            i = turn(i, n, fr.n_fft)
                        total += window[n] * bins
            add(grad, b, s, upstream[b] * total)

    return gather


WAYS_BACK = {"accumulate": accumulate, "per_bin": per_bin, "atomic": atomic, "recompute": recompute}
