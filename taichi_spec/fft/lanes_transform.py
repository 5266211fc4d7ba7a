"""What `lanes` does to transform the frames of all lanes, in place.

`work` holds complex lane vectors, real part at base + 2 i and imaginary part at base + 2 i + 1. Loops come from `Plan.loops`.
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.butterflies import butterflies
from taichi_spec.fft.lanes_layout import PLACES, lane_count


def transforms(dtype: Any, radices: tuple[int, ...]) -> SimpleNamespace:
    """The functions `transform`, by mixed radix, and `convolve`, by Bluestein's way.

    Args:
        dtype: ti.f32 or ti.f64.
        radices: those of the plan, each once.
    """
    bf, lane = butterflies(dtype), ti.types.vector(lane_count(dtype), dtype)

    @ti.func
    def butterfly(work: ti.template(), table: ti.template(), r: ti.template(), first, span, row):
        """One butterfly, in place: element q from first + q * span on, its twiddle entry q - 1 of a row of the table."""
        at = [(first + q * span) & PLACES for q in ti.static(range(r))]
        re = [work[at[q]] for q in ti.static(range(r))]
        im = [work[at[q] + 1] for q in ti.static(range(r))]
        bf.turn(re, im, r, table, row * ti.static(2 * r))
        bf.dft(re, im, r, 0, 1)
        for q in ti.static(range(r)):
            work[at[q]] = re[q]
            work[at[q] + 1] = im[q]

    @ti.func
    def butterflies_of(loops: ti.template(), back, row, base, work: ti.template(), table: ti.template(),
                       r: ti.template(), zero):  # fmt: skip
        span, first, turns = loops[back, row, 1], base + loops[back, row, 2], loops[back, row, 3]
        outer, outer_step, outer_turns = loops[back, row, 4], loops[back, row, 5], loops[back, row, 6]
        inner, inner_step, inner_turns = loops[back, row, 7], loops[back, row, 8], loops[back, row, 9]
        i = 0 ^ zero
        while i < outer:
            at, turn = first ^ zero, turns ^ zero
            j = 0 ^ zero
            while j < inner:
                butterfly(work, table, r, at, span, turn)
                at = (at + inner_step) ^ zero
                turn = (turn + inner_turns) ^ zero
                j = (j + 1) ^ zero
            first += outer_step
            turns += outer_turns
            i = (i + 1) ^ zero

    @ti.func
    def transform(loops: ti.template(), back, base, work: ti.template(), table: ti.template(), zero):
        """In place, natural order to reversed order, or back; forward both times."""
        for row in range(loops.shape[1]):
            radix = loops[back, row, 0]
            for r in ti.static(radices):
                if radix == r:
                    butterflies_of(loops, back, row, base, work, table, r, zero)

    @ti.func
    def multiply(
        work: ti.template(), base, table: ti.template(), count, swap_in: ti.template(), swap_out: ti.template()
    ):
        """Element i times table[i], for i < count; re and im change places before or after."""
        for i in range(count):
            at = (base + 2 * i) & PLACES
            re, im = [work[at + ti.static(int(swap_in))]], [work[at + ti.static(int(not swap_in))]]
            bf.rotate(re, im, 0, table[2 * i], table[2 * i + 1])
            work[at + ti.static(int(swap_out))] = re[0]
            work[at + ti.static(int(not swap_out))] = im[0]

    @ti.func
    def convolve(
        loops: ti.template(),
        base,
        work: ti.template(),
        table: ti.template(),
        chirp: ti.template(),
        response: ti.template(),
        size: ti.template(),
        zero,
    ):
        """The transform of any n points by Bluestein's way, natural order in and out.

        Swapping re and im makes the second of its two transforms the inverse.
        """
        multiply(work, base, chirp, size.n, False, False)
        for i in range(size.n, size.inner):
            at = (base + 2 * i) & PLACES
            work[at] = lane(0)
            work[at + 1] = lane(0)
        for back in range(2):
            transform(loops, back, base, work, table, zero)
            if back == 0:
                multiply(work, base, response, size.inner, False, True)
        multiply(work, base, chirp, size.n, True, False)

    return SimpleNamespace(transform=transform, convolve=convolve)
