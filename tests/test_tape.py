"""SpectralLoss on a `ti.ad.Tape`: chains of kernels, several losses, several tapes, upstream gradients."""

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import TOLERANCE, dtypes, error, field, signals

STFT = ts.STFT(n_fft=64)


def expected(x, y, stft=STFT):
    return ts.reference.value_and_grad(x, y, stft)


@pytest.mark.parametrize("shape", [(500,), (3, 500)], ids=str)
def test_loss_and_both_gradients(restarted, shape):
    x, y = signals(0, *shape, dtype=np.float32)
    X, Y = field(x), field(y)
    loss = ts.SpectralLoss(X, Y, STFT)
    with ti.ad.Tape(loss.value):
        loss.compute()
    value, grad_x, grad_y = expected(x, y)
    assert loss.value[None] == pytest.approx(value.sum(), rel=1e-5)
    assert error(X.grad.to_numpy(), grad_x) < 1e-5
    assert error(Y.grad.to_numpy(), grad_y) < 1e-5
    assert np.array_equal(X.to_numpy(), x)


def test_upstream_gradient(restarted):
    """The loss is one of several added into a field: total = upstream · L + Σ x²."""
    for dtype in dtypes():
        x, y = signals(1, 400, dtype=dtype)
        X, Y = field(x), field(y)
        total = ti.field(X.dtype, shape=(), needs_grad=True)
        loss = ts.SpectralLoss(X, Y, STFT)

        @ti.kernel
        def energy(X: ti.template(), total: ti.template()):
            for s in X:
                total[None] += X[s] ** 2

        @ti.kernel
        def combine(value: ti.template(), total: ti.template(), factor: ti.f32):
            total[None] += factor * value[None]

        value, grad_x, grad_y = expected(x, y)
        x, tolerance = x.astype(np.float64), TOLERANCE[dtype]
        for upstream in (1.0, -2.5, 0.0):
            for _ in range(2):  # the loss's own value starts from zero in each tape
                with ti.ad.Tape(total):
                    energy(X, total)
                    loss.compute()
                    combine(loss.value, total, upstream)
            assert total[None] == pytest.approx(upstream * value + np.sum(x**2), rel=tolerance)
            assert error(X.grad.to_numpy(), upstream * grad_x + 2 * x) < tolerance
            error_y = np.linalg.norm(Y.grad.to_numpy() - upstream * grad_y)
            assert error_y <= tolerance * abs(upstream) * np.linalg.norm(grad_y)


def test_parameters_to_signal_to_loss(cpu):
    """A chain through the user's own kernels, in float64, against finite differences."""
    (y,) = signals(2, 400, count=1)
    parameters, X = field(np.array([0.7, 0.09])), field(np.zeros(400))
    loss = ts.SpectralLoss(X, field(y, needs_grad=False), STFT)

    @ti.kernel
    def synthesize():
        for s in X:
            X[s] = parameters[0] * ti.sin(parameters[1] * s)

    def gradient():
        with ti.ad.Tape(loss.value):
            synthesize()
            loss.compute()
        return parameters.grad.to_numpy()

    def value(amplitude, frequency):
        return ts.spectral_loss(amplitude * np.sin(frequency * np.arange(400)), y, stft=STFT)

    h = 1e-6
    by_amplitude = (value(0.7 + h, 0.09) - value(0.7 - h, 0.09)) / (2 * h)
    by_frequency = (value(0.7, 0.09 + h) - value(0.7, 0.09 - h)) / (2 * h)
    first = gradient()
    assert first == pytest.approx([by_amplitude, by_frequency], rel=1e-6)
    assert np.array_equal(gradient(), first)  # a second tape in a row starts anew


def test_several_losses_on_one_tape(restarted):
    x, y = signals(3, 900, dtype=np.float32)
    X, Y = field(x), field(y)
    sizes = (32, 64, 128)
    first = ts.SpectralLoss(X, Y, ts.STFT(sizes[0]))
    others = [ts.SpectralLoss(X, Y, ts.STFT(n), value=first.value) for n in sizes[1:]]
    for order in ([first, *others], [*others, first]):
        with ti.ad.Tape(first.value):
            for loss in order:
                loss.compute()
        parts = [expected(x, y, ts.STFT(n)) for n in sizes]
        assert first.value[None] == pytest.approx(sum(p[0] for p in parts), rel=1e-5)
        assert error(X.grad.to_numpy(), sum(p[1] for p in parts)) < 1e-5
        assert error(Y.grad.to_numpy(), sum(p[2] for p in parts)) < 1e-5


def test_the_same_loss_twice_on_one_tape(cpu):
    x, y = signals(4, 300)
    X = field(x)
    loss = ts.SpectralLoss(X, field(y, needs_grad=False), STFT)
    with ti.ad.Tape(loss.value):
        loss.compute()
        loss.compute()
    value, grad_x, _ = expected(x, y)
    assert loss.value[None] == pytest.approx(2 * value, rel=1e-12)
    assert error(X.grad.to_numpy(), 2 * grad_x) < 1e-12


def test_outside_a_tape_no_gradient_is_computed(restarted, monkeypatch):
    x, y = signals(5, 300, dtype=np.float32)
    X, Y = field(x), field(y)
    loss = ts.SpectralLoss(X, Y, STFT)
    monkeypatch.setattr(ts.SpectralLoss, "_backward", None)
    for _ in range(3):  # the own value starts from zero each time
        loss.compute()
    assert loss.value[None] == pytest.approx(expected(x, y)[0], rel=1e-5)
    assert not X.grad.to_numpy().any()


def test_now_and_then_a_compute_waits(restarted, monkeypatch):
    """Where Taichi keeps what launches are given until then."""
    X, Y = map(field, signals(13, 2, 400, dtype=np.float32))
    loss, values, waits = ts.SpectralLoss(X, Y, STFT), [], []
    monkeypatch.setattr("taichi_spec.loss.WAIT_AFTER", 3)
    monkeypatch.setattr(ti, "sync", lambda: waits.append(len(values)))
    for _ in range(7):
        with ti.ad.Tape(loss.value):
            loss.compute()
        values.append(loss.value[None])
    assert waits == ([] if restarted in ("cpu", "cuda") else [2, 5])


def test_a_given_value_is_added_to(restarted):
    x, y = signals(6, 300, dtype=np.float32)
    value = field(np.float32(5.0).reshape(()))
    loss = ts.SpectralLoss(field(x), field(y), STFT, value=value)
    loss.compute()
    assert value[None] == pytest.approx(5 + expected(x, y)[0], rel=1e-5)


def test_gradients_are_added(cpu):
    x, y = signals(7, 300)
    X = field(x)
    loss = ts.SpectralLoss(X, field(y, needs_grad=False), STFT)
    X.grad.fill(1)
    with ti.ad.Tape(loss.value, clear_gradients=False):
        loss.compute()
    assert error(X.grad.to_numpy(), 1 + expected(x, y)[1]) < 1e-12


def test_reduction_none_has_a_value_per_item(cpu):
    x, y = signals(8, 3, 300)
    X = field(x)
    loss = ts.SpectralLoss(X, field(y, needs_grad=False), STFT, reduction="none")
    total = ti.field(ti.f64, shape=(), needs_grad=True)

    @ti.kernel
    def combine():
        for b in loss.value:
            total[None] += (b + 1) * loss.value[b]

    with ti.ad.Tape(total):
        loss.compute()
        combine()
    values, grad_x, _ = expected(x, y)
    assert loss.value.to_numpy() == pytest.approx(values, rel=1e-12)
    assert error(X.grad.to_numpy(), grad_x * np.array([[1], [2], [3]])) < 1e-12


def test_reduction_mean(cpu):
    x, y = signals(9, 2, 300)
    X = field(x)
    loss = ts.SpectralLoss(X, field(y, needs_grad=False), STFT, reduction="mean")
    with ti.ad.Tape(loss.value):
        loss.compute()
    values, grad_x, _ = expected(x, y)
    scale = 1 / (2 * STFT.n_bins * STFT.n_frames(300))
    assert loss.value[None] == pytest.approx(scale * values.sum(), rel=1e-12)
    assert error(X.grad.to_numpy(), scale * grad_x) < 1e-12


def test_only_the_target_has_a_gradient(cpu):
    x, y = signals(10, 300)
    Y = field(y)
    loss = ts.SpectralLoss(field(x, needs_grad=False), Y, STFT)
    with ti.ad.Tape(loss.value):
        loss.compute()
    assert error(Y.grad.to_numpy(), expected(x, y)[2]) < 1e-12


def test_a_float64_signal_with_taichis_float32_default(cpu):
    """Python literals in kernels take default_fp; none of ours may round a float64 signal's loss."""
    assert ti.cfg.default_fp == ti.f32
    x, y = signals(11, 500)
    loss = ts.SpectralLoss(field(x), field(y), STFT)
    loss.compute()
    assert loss.value[None] == pytest.approx(expected(x, y)[0], rel=1e-13)


def test_fields_that_share_a_struct(cpu):
    """Fields placed side by side, element by element, are read where they are."""
    x, y = signals(12, 300)
    X, Y = ti.field(ti.f64, needs_grad=False), ti.field(ti.f64, needs_grad=False)
    ti.root.dense(ti.i, 300).place(X, Y)
    X.from_numpy(x)
    Y.from_numpy(y)
    loss = ts.SpectralLoss(X, Y, STFT)
    loss.compute()
    assert loss.value[None] == pytest.approx(expected(x, y)[0], rel=1e-12)
