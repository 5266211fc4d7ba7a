"""Same input, same bits."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import error, field, signals


@pytest.mark.parametrize("engine,backward", [("fft", "accumulate"), ("direct", "accumulate"), ("direct", "per_bin"),
                                             ("direct", "recompute")])  # fmt: skip
@pytest.mark.parametrize("hop", [1, 4, 8])
def test_three_runs(restarted, engine, backward, hop):
    x, y = signals(0, 2, 150, dtype=np.float32)
    options = dict(wrt="both", n_fft=16, hop_length=hop, center=True, engine=engine, backward=backward)
    value, grads = ts.value_and_grad(x, y, **options)
    for _ in range(2):
        again, again_grads = ts.value_and_grad(x.copy(), y.copy(), **options)
        assert again == value
        assert np.array_equal(again_grads, grads)


def test_large_windows_and_several_resolutions(restarted):
    x, y = signals(1, 4096, dtype=np.float32)
    for n_fft in (2048, 512, 100):
        first = ts.value_and_grad(x, y, n_fft=n_fft)
        for _ in range(2):
            again = ts.value_and_grad(x, y, n_fft=n_fft)
            assert again[0] == first[0]
            assert np.array_equal(again[1], first[1])


def training_run(loss, X, x, steps=8):
    X.from_numpy(x)
    adam, values = ts.optim.Adam([X], lr=0.05), []
    for _ in range(steps):
        with ti.ad.Tape(loss.value):
            loss.compute()
        values.append(loss.value[None])
        adam.step()
    return values, X.to_numpy()


def test_a_whole_training_run(restarted):
    x, y = signals(2, 400, dtype=np.float32)
    X = field(x)
    loss = ts.SpectralLoss(X, ts.Target.from_signal(y), ts.STFT(64))
    values, moved = training_run(loss, X, x)
    assert values[-1] < 0.8 * values[0]
    again, moved_again = training_run(loss, X, x)
    assert again == values
    assert np.array_equal(moved_again, moved)


@pytest.mark.parametrize("fixed", [False, True])
def test_any_number_of_threads(cpu, fixed):
    """Long enough for several runs a thread; called twice, for a call must leave its shared memory as it found it."""
    x, y = signals(3, 3, 20_000, dtype=np.float32)
    target = ts.Target.from_signal(y) if fixed else y
    options = dict(wrt="x" if fixed else "both", stft=ts.STFT(64, 15, center=True), reduction="none")
    results = []
    for threads in (1, 3):
        ts.init(arch="cpu", log_level=ti.ERROR, cpu_max_num_threads=threads)
        results += [ts.value_and_grad(x, target, **options) for _ in range(2)]
    for values, grads in results[1:]:
        assert np.array_equal(values, results[0][0])
        assert np.array_equal(grads, results[0][1])
    expected = ts.reference.value_and_grad(x, y, options["stft"])
    assert error(results[0][0], expected[0]) < 1e-6
    assert error(results[0][1], expected[1] if fixed else expected[1:]) < 1e-5
