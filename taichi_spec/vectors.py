"""What Taichi has of numbers alone, of vectors too.

On a CPU lanes of frames stay vectors until LLVM has them: see `launch.without`. On a GPU all are numbers, and Taichi's own
functions do.
"""

import taichi as ti

from taichi_spec.runtime import arch_name


@ti.func
def negative(x):
    """-x."""
    if ti.static(arch_name() == "cpu"):
        return 0 - x
    else:
        return -x


@ti.func
def absolute(x):
    """|x|."""
    if ti.static(arch_name() == "cpu"):
        return ti.max(x, 0 - x)
    else:
        return abs(x)


@ti.func
def sign(x, real: ti.template()):
    """1, 0 or -1, as a number of type `real`."""
    if ti.static(arch_name() == "cpu"):
        return ti.select(x > 0, 1, ti.select(x < 0, -1, 0 * x))
    else:
        return ti.cast(x > 0, real) - ti.cast(x < 0, real)
