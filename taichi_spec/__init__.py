"""Differentiable spectral losses as Taichi kernels, with a hand-written backward."""

from taichi_spec import optim, presets, reference
from taichi_spec.bands import a_weighting, mel_filterbank
from taichi_spec.functional import spectral_loss, stft, value_and_grad
from taichi_spec.loss import SpectralLoss
from taichi_spec.runtime import init
from taichi_spec.stft import STFT
from taichi_spec.target import Target
from taichi_spec.terms import (
    BinTerm,
    Complex,
    LogMagnitude,
    Magnitude,
    Power,
    SpectralConvergence,
    SumsTerm,
    Transport,
)

__version__ = "0.1.0"

__all__ = [
    "STFT",
    "BinTerm",
    "Complex",
    "LogMagnitude",
    "Magnitude",
    "Power",
    "SpectralConvergence",
    "SpectralLoss",
    "SumsTerm",
    "Target",
    "Transport",
    "a_weighting",
    "init",
    "mel_filterbank",
    "optim",
    "presets",
    "reference",
    "spectral_loss",
    "stft",
    "value_and_grad",
]
