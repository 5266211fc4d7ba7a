"""Published losses by name: each returns the options with which `SpectralLoss` and the functions compute it.

loss = SpectralLoss(x, target, **presets.ddsp_multi_scale())
value, grad = value_and_grad(a, b, **presets.auraloss_multi_resolution())
"""

from __future__ import annotations

import math
from typing import Any

from taichi_spec.bands import mel_filterbank
from taichi_spec.stft import STFT
from taichi_spec.terms import LogMagnitude, Magnitude, SpectralConvergence


def auraloss_multi_resolution() -> dict[str, Any]:
    """auraloss's `MultiResolutionSTFTLoss` with its defaults.

        L = ⅓ Σ_resolutions  ‖|Y| − |X|‖_F / ‖|Y|‖_F  +  mean |ln max(|X|, 1e-4) − ln max(|Y|, 1e-4)|

    auraloss's eps of 1e-8 is a power: the floor of the logarithm is an amplitude of 1e-4. Here it is not applied
    to the magnitudes of the convergence as well, which shows only where the target is all but silent; and the
    convergence is taken an item at a time, not over the whole batch.

    Returns:
        stft, stft_weights, terms and reduction.

    Example:
        >>> [stft.n_fft for stft in auraloss_multi_resolution()["stft"]]
        [1024, 2048, 512]

    Reference:
        Steinmetz and Reiss, "auraloss", DMRN+15, 2020; the resolutions: Yamamoto, Song and Kim, ICASSP 2020.
    """
    sizes = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    return dict(
        stft=[STFT(n_fft, hop, win_length, center=True) for n_fft, hop, win_length in sizes],
        stft_weights=[1 / len(sizes)] * len(sizes),
        terms=[SpectralConvergence(eps=0.0), LogMagnitude(p=1, eps=1e-4, clamp=True)],
        reduction="mean",
    )


def ddsp_multi_scale() -> dict[str, Any]:
    """DDSP's multi-scale spectral loss, with weight 1 for magnitudes and for logarithms.

        L = Σ_resolutions  mean ||X| − |Y||  +  mean |ln max(|X|, 1e-5) − ln max(|Y|, 1e-5)|

    with zeros at the signal's end, where the last frames reach beyond it.

    Returns:
        stft, terms and reduction.

    Example:
        >>> [stft.n_fft for stft in ddsp_multi_scale()["stft"]]
        [2048, 1024, 512, 256, 128, 64]

    Reference:
        Engel, Hantrakul, Gu and Roberts, "DDSP: Differentiable Digital Signal Processing", ICLR 2020.
    """
    return dict(
        stft=[STFT(n_fft, pad_end=True) for n_fft in (2048, 1024, 512, 256, 128, 64)],
        terms=[Magnitude(p=1), LogMagnitude(p=1, eps=1e-5, clamp=True)],
        reduction="mean",
    )


def descript_mel(sample_rate: float = 44_100) -> dict[str, Any]:
    """The multi-scale mel loss of the Descript Audio Codec.

        L = Σ_resolutions  mean |log10 max(M |X|, 1e-5) − log10 max(M |Y|, 1e-5)|

    with 5, 10, … 320 mel bands M at n_fft = 32, 64, … 2048.

    Args:
        sample_rate: in Hz.

    Returns:
        stft, bands, terms and reduction.

    Example:
        >>> [len(bands) for bands in descript_mel()["bands"]]
        [5, 10, 20, 40, 80, 160, 320]

    Reference:
        Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN", NeurIPS 2023.
    """
    sizes = tuple(2**i for i in range(5, 12))
    return dict(
        stft=[STFT(n_fft, center=True) for n_fft in sizes],
        bands=[mel_filterbank(5 * 2**i, n_fft, sample_rate) for i, n_fft in enumerate(sizes)],
        terms=LogMagnitude(p=1, eps=1e-5, clamp=True, weight=1 / math.log(10)),
        reduction="mean",
    )
