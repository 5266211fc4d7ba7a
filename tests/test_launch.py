"""Chains: kernels on fields, arrays and numbers, launched as one call."""

import subprocess
import sys

import numpy as np
import pytest
import taichi as ti

from support import field
from taichi_spec.arrays import new_array
from taichi_spec.launch import Chain, Launch, without


@ti.kernel
def add_to_field(x: ti.template(), amount: ti.types.ndarray(), times: ti.i32):
    for i in x:
        x[i] += amount[i] * times


@ti.kernel
def add_to_array(amount: ti.types.ndarray(), by: ti.i32):
    for i in amount:
        amount[i] += by


def test_a_chain_follows_the_fields_and_numbers_of_each_call(restarted):
    first, second = field(np.zeros(3, np.float32)), field(np.ones(3, np.float32))
    amount = new_array(ti.f32, (3,))
    chain = Chain([Launch(add_to_array, (amount, 2)), Launch(add_to_field, ("x", amount, "times"))])
    chain(x=first, times=1)
    chain(x=second, times=10)
    chain(x=first, times=100)
    assert first.to_numpy().tolist() == [602] * 3
    assert second.to_numpy().tolist() == [41] * 3


def test_fields_that_are_made_later_change_nothing(restarted):
    first = field(np.zeros(3, np.float32))
    amount = new_array(ti.f32, (3,))
    chain = Chain([Launch(add_to_array, (amount, 1)), Launch(add_to_field, (first, amount, 1))])
    chain()
    later = ti.field(ti.f32, 5, needs_grad=True)
    chain()
    later.fill(4)
    assert first.to_numpy().tolist() == [3] * 3
    assert later.to_numpy().tolist() == [4] * 5


def test_a_chain_follows_the_arrays_and_numbers_of_each_call(restarted):
    first, second = new_array(ti.f32, (3,)), new_array(ti.f32, (3,))
    chain = Chain([Launch(add_to_array, ("amount", "by"))])
    for amount, by in ((first, 1), (first, 1), (first, 10), (second, 10), (second, 10), (first, 100)):
        chain(amount=amount, by=by)
    assert first.to_numpy().tolist() == [112] * 3
    assert second.to_numpy().tolist() == [20] * 3


def test_a_call_that_fails_leaves_nothing_behind(restarted):
    """Neither what it would have launched, nor what the call before left ready for another array."""
    first, second = new_array(ti.f32, (3,)), new_array(ti.f32, (3,))
    chain = Chain([Launch(add_to_array, ("amount", "by"))])
    chain(amount=first, by=1)
    with pytest.raises(KeyError, match="by"):
        chain(amount=second)
    chain(amount=second, by=10)
    chain(amount=first, by=100)
    assert first.to_numpy().tolist() == [101] * 3
    assert second.to_numpy().tolist() == [10] * 3


def test_spared_passes_are_back_whatever_happens(running_cpu):
    """Kernels of the user's would be compiled without them."""
    config = ti.lang.impl.current_cfg()
    with pytest.raises(ZeroDivisionError), without("cfg_optimization", "real_matrix_scalarize"):
        assert not config.cfg_optimization and not config.real_matrix_scalarize
        _ = 1 / 0
    assert config.cfg_optimization and config.real_matrix_scalarize


def test_a_process_leaves_its_kernels_to_the_next(arch, tmp_path):
    """Taichi writes them when it ends, if nothing of ours keeps it from that: see `runtime`."""
    program = f"""
import numpy as np, taichi_spec as ts
ts.init(arch={arch!r}, offline_cache=True, offline_cache_file_path={str(tmp_path)!r})
ts.value_and_grad(np.ones(100, "f4"), np.zeros(100, "f4"), stft=ts.STFT(8))
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=300)
    assert list(tmp_path.glob("*.tic"))
