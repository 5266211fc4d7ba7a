"""The library's own arrays."""

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from taichi_spec import arrays


@pytest.mark.parametrize(
    "make", [lambda: arrays.new_array(ti.f32, 5), lambda: arrays.new_vectors(4, ti.f32, 5)], ids=["numbers", "vectors"]
)
def test_memory_is_freed_in_the_runtime_that_it_was_taken_from(cpu, make, monkeypatch):
    """In another one its address may be that of another array."""
    freed = []
    runtimes = [SimpleNamespace(prog=SimpleNamespace(delete_ndarray=freed.append)) for _ in range(2)]
    kept, dropped = make(), make()
    kept.runtime, dropped.runtime = runtimes
    memory = dropped.arr
    monkeypatch.setattr(arrays, "impl", SimpleNamespace(get_runtime=lambda: runtimes[1]))
    del kept, dropped
    gc.collect()
    assert freed == [memory]


def test_graphs_leave_no_arrays_of_taichis_own(cpu):
    """They would ask whatever runtime there is to free their memory when they are dropped, late, in cycles."""
    gc.collect()
    before = {id(there) for there in gc.get_objects() if isinstance(there, ti.Ndarray)}
    x = np.zeros((2, 100), np.float32)
    ts.value_and_grad(x[0], x[1], n_fft=32, wrt="both")
    made = [there for there in gc.get_objects() if isinstance(there, ti.Ndarray) and id(there) not in before]
    assert made
    assert all(isinstance(there, arrays._OfItsRuntime) for there in made)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4), (2, 3, 5)])
def test_numbers_go_in_and_come_out(running_cpu, dtype, shape):
    """As copies, and where Taichi itself has them."""
    numbers = (10 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    array = arrays.new_array({np.float32: ti.f32, np.float64: ti.f64, np.int32: ti.i32}[dtype], shape)
    array.from_numpy(numbers)
    back = array.to_numpy()
    assert back.dtype == dtype and back.shape == shape
    np.testing.assert_array_equal(back, numbers)
    last = tuple(n - 1 for n in shape)
    assert array[last] == numbers[last]
    back[...], numbers[last] = 0, 99
    assert array[last] != 99 and array.to_numpy().any()
