"""A complex number as a length and a direction."""

import taichi as ti

from taichi_spec.vectors import absolute


@ti.func
def polar(re, im):
    """|z| and z / |z|, both 0 at z = 0; scaled, so that |z|² neither underflows nor overflows.

    Of two numbers or two vectors of them.
    """
    largest = ti.max(absolute(re), absolute(im))
    u, v = re / ti.select(largest > 0, largest, 1), im / ti.select(largest > 0, largest, 1)
    norm = ti.sqrt(u * u + v * v)
    return largest * norm, u / ti.select(largest > 0, norm, 1), v / ti.select(largest > 0, norm, 1)
