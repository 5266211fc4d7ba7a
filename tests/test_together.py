"""What the GPU's engines write on CUDA four numbers at a time; real functions run on the CPU too."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from taichi_spec.fft.together import four_writer, fours

PLACES = fours([3, 1, 4, 0, 5])
write, add = four_writer(ti.f32), four_writer(ti.f32, adds=True)


@ti.kernel
def write_all(a: ti.types.ndarray(dtype=ti.f32, ndim=1)):
    for i in range(1):
        for some in ti.static(PLACES):
            write(*[a[i + at] for at in ti.static(some)], *[ti.cast(10 * at, ti.f32) for at in ti.static(some)])


@ti.kernel
def add_all(a: ti.types.ndarray(dtype=ti.f32, ndim=1)):
    for i in range(1):
        for some in ti.static(PLACES):
            add(*[a[i + at] for at in ti.static(some)], *[ti.cast(at, ti.f32) for at in ti.static(some)])


def test_places_come_in_fours():
    assert PLACES == [[3, 1, 4, 0], [5, 5, 5, 5]]
    assert fours([]) == []


@pytest.mark.parametrize("start", range(3))
def test_numbers_are_written_and_added_after_any_start_of_taichi(start):
    ts.init(arch="cpu", log_level=ti.ERROR)
    array = ti.ndarray(ti.f32, 6)
    array.fill(7)
    write_all(array)
    assert array.to_numpy().tolist() == [0, 10, 7, 30, 40, 50]
    add_all(array)
    assert np.array_equal(array.to_numpy(), [0, 11, 7, 33, 44, 55])
