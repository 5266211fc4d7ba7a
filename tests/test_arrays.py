"""The library's own arrays."""

import gc
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import dtypes
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


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4), (2, 3, 5)])
def test_numbers_go_in_and_come_out(restarted, shape):
    """As copies, and where Taichi itself has them."""
    for dtype in (*dtypes(), np.int32):
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


def test_numbers_are_copied_in_any_thread(restarted):
    """CUDA's driver asks each thread for a context of its own."""
    array, back = arrays.new_array(ti.f32, 3), []

    def copy():
        array.from_numpy(np.arange(3, dtype=np.float32))
        back.append(array.to_numpy())

    thread = threading.Thread(target=copy)
    thread.start()
    thread.join()
    assert [list(numbers) for numbers in back] == [[0, 1, 2]]


def test_what_the_driver_cannot_copy_is_an_error(monkeypatch):
    driver = SimpleNamespace(cuCtxGetCurrent=lambda _: 0, cuDevicePrimaryCtxRetain=lambda *_: 0,
                             cuCtxSetCurrent=lambda _: 0, cuMemcpyHtoD_v2=lambda *_: 700)  # fmt: skip
    monkeypatch.setattr(arrays, "cuda_driver", lambda: driver)
    with pytest.raises(RuntimeError, match="700"):
        arrays._copy_by_driver(0, np.zeros(3), True)
