"""Python floats in Taichi code at full precision."""

import numpy as np


def split(value: float) -> tuple[float, float, float]:
    """Three float32 numbers whose sum is `value` to float64 precision.

    Taichi reads a Python float as `default_fp`, which the user chose: float32 would spoil a float64 constant.
    """
    parts = []
    for _ in range(3):
        parts.append(float(np.float32(value)))
        value -= parts[-1]
    high, middle, low = parts
    return high, middle, low
