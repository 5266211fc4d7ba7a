"""The library's own arrays."""

import gc
from types import SimpleNamespace

import pytest
import taichi as ti

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
