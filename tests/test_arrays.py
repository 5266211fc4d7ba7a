"""The library's own arrays."""

import gc

import taichi as ti

import taichi_spec as ts
from taichi_spec.arrays import new_array


def test_memory_is_freed_in_the_runtime_that_it_was_taken_from(cpu, monkeypatch):
    """Taichi's own arrays ask the runtime that there is, in which their address may be that of another array."""
    freed = []
    monkeypatch.setattr(ti.ScalarNdarray, "__del__", lambda array: freed.append(array.shape))
    kept, dropped = new_array(ti.f32, (1,)), new_array(ti.f32, 2)
    del dropped
    gc.collect()
    assert freed == [(2,)]
    ts.init(arch="cpu", log_level=ti.ERROR)
    del kept
    gc.collect()
    assert freed == [(2,)]
