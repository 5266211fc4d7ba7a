"""A complex number as a length and a direction."""

import taichi as ti


@ti.func
def polar(re, im):
    """|z| and z / |z|, both 0 at z = 0; scaled, so that |z|² neither underflows nor overflows."""
    largest = ti.max(abs(re), abs(im))
    r, u, v = largest, largest, largest
    if largest > 0:
        u, v = re / largest, im / largest
        norm = ti.sqrt(u * u + v * v)
        r, u, v = largest * norm, u / norm, v / norm
    return r, u, v
