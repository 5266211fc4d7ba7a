"""Fields, wherever they lie: alone in memory, where kernels take their address, or among others, or copied."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import TOLERANCE, dtypes, error, field, signals
from taichi_spec.fields import ARCHS, has_memory, where_it_lies

STFT = ts.STFT(n_fft=64)


def alone(dtype, rows, length):
    return ti.field(dtype, (rows, length), needs_grad=True)


def beside_its_gradient(dtype, rows, length):
    made = ti.field(dtype, needs_grad=True)
    ti.root.dense(ti.ij, (rows, length)).place(made, made.grad)
    return made


def by_columns(dtype, rows, length):
    return ti.field(dtype, (rows, length), order="ji", needs_grad=True)


def in_blocks(dtype, rows, length):
    made = ti.field(dtype, needs_grad=True)
    ti.root.dense(ti.ij, (rows, length // 4)).dense(ti.j, 4).place(made)
    ti.root.dense(ti.ij, (rows, length)).place(made.grad)
    return made


def with_a_gradient_elsewhere(dtype, rows, length):
    made, other = ti.field(dtype, needs_grad=True), ti.field(dtype)
    ti.root.dense(ti.ij, (rows, length)).place(made)
    ti.root.dense(ti.ij, (rows, length)).place(other, made.grad)
    return made


@pytest.fixture
def with_addresses(restarted):
    """A backend whose kernels can take a field's address."""
    if restarted not in ARCHS:
        pytest.skip(f"{restarted} has no addresses")


@pytest.fixture
def without_addresses(restarted):
    """One whose kernels cannot."""
    if restarted in ARCHS:
        pytest.skip(f"{restarted} has addresses")


LAYOUTS = [alone, beside_its_gradient, by_columns, in_blocks, with_a_gradient_elsewhere]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout(restarted, gpu_engines, layout):
    on_cpu = [np.float64, np.float32] if layout is alone else [np.float32]  # where each takes seconds to compile
    for dtype in on_cpu if restarted == "cpu" else dtypes():
        x, y = signals(1, 2, 500, dtype=dtype)
        X, Y = layout(ti.f64 if dtype == np.float64 else ti.f32, 2, 500), field(y)
        X.from_numpy(x)
        assert has_memory(X) == (restarted in ARCHS and layout in (alone, with_a_gradient_elsewhere))
        loss = ts.SpectralLoss(X, Y, STFT)
        for tape in range(2):
            with ti.ad.Tape(loss.value):
                loss.compute()
            expected = ts.reference.value_and_grad(x, y, STFT)
            assert loss.value[None] == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype])
            assert error(X.grad.to_numpy(), expected[1]) < TOLERANCE[dtype], tape
            assert error(Y.grad.to_numpy(), expected[2]) < TOLERANCE[dtype], tape
        assert np.array_equal(X.to_numpy(), x)


@pytest.mark.parametrize("stfts", [[STFT], [STFT, ts.STFT(n_fft=128)]], ids=["one", "several"])
def test_a_loss_of_new_fields_takes_the_same_kernels(restarted, gpu_engines, stfts):
    """Without addresses, but for those that copy a signal and add to its gradient."""
    losses = []
    for seed in range(2):
        x, y = signals(seed, 500, dtype=np.float32)
        X, Y = field(x), field(y)
        loss = ts.SpectralLoss(X, Y, stfts)
        with ti.ad.Tape(loss.value):
            loss.compute()
        expected = sum(ts.reference.value_and_grad(x, y, stft)[1] for stft in stfts)
        assert error(X.grad.to_numpy(), expected) < 1e-5
        losses.append(loss)
    ways_back = [loss._engine.ways_back.values() if restarted in ARCHS else () for loss in losses]
    chains = [[loss._engine.chains[True], *ways] for loss, ways in zip(losses, ways_back)]
    for first, second in zip(*chains, strict=True):
        assert [kernel for kernel, _ in first.kernels] == [kernel for kernel, _ in second.kernels]


@pytest.mark.parametrize("shape", [(500,), (2, 500)], ids=str)
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("fit", [False, True])
def test_fields_that_fit_are_copied_at_each_compute(without_addresses, gpu_engines, fit, fixed, shape):
    x, y = signals(2, *shape, dtype=np.float32)
    X, Y = field(x), field(y)
    needed = x.nbytes if fixed else x.nbytes + y.nbytes
    target = ts.Target.from_signal(y) if fixed else Y
    loss = ts.SpectralLoss(X, target, STFT, scratch_bytes=needed - (not fit))
    assert loss._engine.is_field != fit
    for signal in (x, 2 * x, 0 * x):
        X.from_numpy(signal)
        with ti.ad.Tape(loss.value):
            loss.compute()
        expected = ts.reference.value_and_grad(signal, y, STFT)
        assert loss.value[None] == pytest.approx(expected[0].sum(), rel=1e-5)
        for made, right in zip([X] if fixed else [X, Y], expected[1:]):
            found = made.grad.to_numpy()
            assert error(found, right) < 1e-5 or not (found.any() or right.any())
        loss.compute()
        assert loss.value[None] == pytest.approx(expected[0].sum(), rel=1e-5)
        assert np.array_equal(X.to_numpy(), signal)


def test_memory_is_the_fields_own(with_addresses):
    numbers = np.arange(12, dtype=np.float64).reshape(3, 4)
    made = field(numbers)
    memory = where_it_lies(made)
    assert memory is where_it_lies(made) and memory.shape == (3, 4) and memory.nbytes == numbers.nbytes
    assert where_it_lies(field(numbers[0])).shape == (1, 4)
    assert where_it_lies(made.grad).address not in range(memory.address, memory.address + memory.nbytes)
