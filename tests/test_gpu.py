"""The GPU's fused engines against the reference, on layouts chosen so that each way through the kernels is taken.

Kernels are compiled anew for each n_fft, and in one engine for each hop: so not the grid of the other engines.
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import taichi as ti

import taichi_spec as ts
from support import TOLERANCE, check_equal_frames, dtypes, error, field, large, signals, skip_large_in_software
from taichi_spec import functional, runtime
from taichi_spec.engines import Options, make_engine
from taichi_spec.fft import blocks, blocks_layout, frames, frames_layout, matrix, matrix_layout
from taichi_spec.fft.blocks import BlocksEngine
from taichi_spec.fft.frames import FramesEngine
from taichi_spec.fft.matrix import MatrixEngine
from taichi_spec.fft.matrix_layout import Teams
from taichi_spec.several import FusedSum

SMALL = ts.STFT(64, 16, center=True)


class Chirped:
    """`FramesEngine` with convolutions, whatever the size."""


ENGINES = [BlocksEngine, FramesEngine, MatrixEngine]


@pytest.fixture(autouse=True, params=ENGINES, ids=lambda kind: kind.__name__)
def kind(request, gpu_engines, restarted, monkeypatch):
    """The engine under test: each takes what those before leave. `Teams`: matrices whose rows teams of threads have."""
    if not runtime.shared_bytes(restarted):
        pytest.skip(f"{restarted} has another engine")
    skip_large_in_software(request, restarted)
    engine = {Teams: MatrixEngine, Chirped: FramesEngine}.get(request.param, request.param)
    for before in {BlocksEngine: (), FramesEngine: ("blocks",), MatrixEngine: ("blocks", "frames")}[engine]:
        monkeypatch.setattr(f"taichi_spec.fft.{before}.supports", lambda *sizes: False)
    if request.param is Chirped:
        monkeypatch.setattr(frames_layout, "is_smooth", lambda n_fft: False)
    if request.param is Teams:
        monkeypatch.setattr(matrix_layout, "nearest_to_a_square", lambda n_fft: None)
    monkeypatch.setattr(matrix_layout, "GRID", 32)  # so few blocks that each has several groups of lines
    monkeypatch.setattr(matrix_layout, "AT_WORK", 4)  # so few that runs are long
    functional._recent.clear()  # engines of other tests
    return engine


@pytest.fixture
def scale(request):
    """How much longer signals are than some hundred samples: teams have long rows alone."""
    return 64 if request.node.callspec.params.get("kind") is Teams else 1


@pytest.fixture
def small(scale):
    """The transform of most tests here."""
    return SMALL if scale == 1 else ts.STFT(8192, 2048, center=True)


with_teams = pytest.mark.parametrize(
    "kind", [*ENGINES, Chirped, Teams], indirect=True, ids=lambda kind: kind.__name__
)  # for tests that take `scale` or `small`


with_large_teams = pytest.mark.parametrize(
    "kind", [*ENGINES, Chirped, pytest.param(Teams, marks=large)], indirect=True, ids=lambda kind: kind.__name__
)  # where their kernels are


def dtypes_at(scale):
    """The dtypes of tests at this scale: teams have float32 alone."""
    return dtypes() if scale == 1 else [np.float32]


def used():
    """The engine of the most recent call."""
    return next(reversed(functional._recent.values())).engine


# n_fft, hop, edges, (B, T); of blocks, overlaps that threads divide and others; of others, every radix.
CASES = [
    (BlocksEngine, 64, 16, "reflect", (3, 700)),
    (BlocksEngine, 64, 1, "constant", (2, 300)),
    (BlocksEngine, 64, 23, "none", (1, 500)),
    (BlocksEngine, 64, 100, "constant", (2, 700)),
    (BlocksEngine, 128, 32, "none", (1, 100_003)),
    (BlocksEngine, 128, 96, "none", (2, 7000)),
    (BlocksEngine, 256, 128, "constant", (2, 9000)),
    (BlocksEngine, 256, 256, "reflect", (3, 3000)),
    (BlocksEngine, 512, 128, "constant", (2, 5000)),
    pytest.param(BlocksEngine, 512, 50, "reflect", (2, 5000), marks=large),
    (BlocksEngine, 1024, 256, "reflect", (3, 9000)),
    pytest.param(BlocksEngine, 2048, 512, "none", (1, 20_001), marks=large),
    (FramesEngine, 96, 1, "reflect", (2, 60)),
    (FramesEngine, 35, 50, "constant", (2, 700)),
    (FramesEngine, 36, 36, "none", (2, 300)),
    (FramesEngine, 48, 12, "none", (2, 900)),
    (FramesEngine, 98, 41, "reflect", (2, 700)),
    (FramesEngine, 112, 28, "none", (2, 900)),
    (FramesEngine, 180, 90, "none", (1, 2001)),
    (FramesEngine, 400, 160, "constant", (1, 20_001)),
    pytest.param(FramesEngine, 1000, 333, "reflect", (3, 3000), marks=large),
    (Chirped, 37, 9, "reflect", (3, 700)),
    (Chirped, 74, 1, "none", (2, 200)),
    (Chirped, 121, 150, "constant", (2, 2000)),
    pytest.param(Chirped, 509, 200, "reflect", (2, 3000), marks=large),
    pytest.param(Chirped, 947, 252, "none", (1, 20_001), marks=large),
    (MatrixEngine, 64, 1, "reflect", (2, 60)),
    (MatrixEngine, 35, 50, "constant", (2, 700)),
    (MatrixEngine, 1000, 333, "reflect", (3, 3000)),
    (MatrixEngine, 162, 81, "none", (1, 2001)),
    (MatrixEngine, 8192, 2048, "reflect", (1, 9000)),
    (MatrixEngine, 675, 200, "reflect", (1, 2000)),
    pytest.param(MatrixEngine, 16_807, 5000, "reflect", (1, 25_000), marks=large),
    pytest.param(MatrixEngine, 16_384, 4096, "none", (2, 90_000), marks=large),
    (MatrixEngine, 8192, 3000, "constant", (2, 60_000)),
    (MatrixEngine, 8192, 9000, "reflect", (1, 40_000)),
    pytest.param(MatrixEngine, 32_768, 8192, "none", (1, 150_000), marks=large),
]


@pytest.mark.parametrize("kind,n_fft,hop,edges,shape", CASES, indirect=["kind"])
def test_value_and_gradients(kind, n_fft, hop, edges, shape):
    # Windows that are 0 at their ends would hide what happens to a frame's first sample.
    padding = dict(center=edges != "none", pad_mode="constant" if edges == "constant" else "reflect")
    stft = ts.STFT(n_fft, hop, window="hamming", **padding)
    for dtype in dtypes():
        x, y = signals(0, *shape, dtype=dtype)
        first = ts.value_and_grad(x, y, wrt="both", stft=stft)
        expected = ts.reference.value_and_grad(x, y, stft)
        assert isinstance(used(), kind)
        assert first[0] == pytest.approx(expected[0].sum(), rel=TOLERANCE[dtype])
        assert error(first[1][0], expected[1]) < TOLERANCE[dtype]
        assert error(first[1][1], expected[2]) < TOLERANCE[dtype]
        for _ in range(2):
            again = ts.value_and_grad(x.copy(), y.copy(), wrt="both", stft=stft)
            assert again[0] == first[0]
            assert np.array_equal(again[1], first[1])


@pytest.mark.parametrize("shape", [(2, 70_003), (1, 150_000), (2049, 64)], ids=str)
def test_long_signals_and_large_batches(kind, shape, monkeypatch):
    """Teams have several runs then, of several frames; matrices several chunks of frames."""
    for engine in (blocks_layout, frames_layout):
        monkeypatch.setattr(engine, "teams_at_work", lambda *_: 128)
    monkeypatch.setattr("taichi_spec.fft.runs.AHEAD", 1)
    monkeypatch.setattr("taichi_spec.fft.runs.LEAST", 4)
    x, y = signals(1, *shape, dtype=np.float32)
    values, grads = ts.value_and_grad(x, y, wrt="both", stft=SMALL, reduction="none", scratch_bytes=2**20)
    if kind is not MatrixEngine:
        runs = used().runs[True]
        assert runs.short > 1 and runs.number * len(x) > runs.teams
    else:
        assert used().chunk < used().units * len(x)
    expected = ts.reference.value_and_grad(x, y, SMALL)
    assert values == pytest.approx(expected[0], rel=1e-5)
    assert error(grads[0], expected[1]) < 1e-5
    assert error(grads[1], expected[2]) < 1e-5


def test_nothing_is_left_to_sum(kind):
    """The pass before has all sums. Each sample has images at both edges, some of them among what runs leave over."""
    x, y = signals(24, 3, 65, dtype=np.float32)
    terms = (ts.SpectralConvergence(),)
    expected = ts.reference.value_and_grad(x, y, SMALL, terms)
    values, grads = ts.value_and_grad(x, y, wrt="both", stft=SMALL, terms=terms, reduction="none")
    fixed, grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=SMALL, terms=terms, reduction="none")
    assert isinstance(used(), kind)
    for value, found in ((values, grads), (fixed, [grad])):
        assert value == pytest.approx(expected[0], rel=1e-5)
        for mine, wanted in zip(found, expected[1:], strict=False):
            assert error(mine, wanted) < 1e-5


@with_teams
def test_value_only(kind, small, scale):
    for dtype in dtypes_at(scale):
        x, y = signals(2, 3, 700 * scale, dtype=dtype)
        expected = ts.reference.value_and_grad(x, y, small)[0]
        values = ts.spectral_loss(x, y, stft=small, reduction="none")
        assert isinstance(used(), kind)
        assert values == pytest.approx(expected, rel=TOLERANCE[dtype])


@with_teams
@pytest.mark.parametrize("hop", [16, 23, 70])
@pytest.mark.parametrize("which", ["(K,)", "(K, F)", "(B, K, F)", "odd", "long", "signal"])
def test_fixed_target(kind, which, hop, small, scale):
    n_samples = {"odd": 516 * scale, "long": 100_000}.get(which, 500 * scale)
    stft = ts.STFT(small.n_fft, hop * small.n_fft // 64, center=True)
    for dtype in dtypes_at(scale):
        x, y = signals(3, 3, n_samples, dtype=dtype)
        bins, frames = stft.n_bins, stft.n_frames(n_samples)
        shape = {"(K,)": (bins,), "(K, F)": (bins, frames)}.get(which, (3, bins, frames))
        magnitudes = np.random.default_rng(3).uniform(0, 5, shape).astype(dtype)
        target = ts.Target.from_magnitudes(magnitudes)
        full = magnitudes[:, None] if which == "(K,)" else magnitudes
        if which == "signal":
            target, full = ts.Target.from_signal(y[0]), np.abs(ts.reference.stft(y[0], stft))
        expected = ts.reference.value_and_grad(x, None, stft, magnitudes=full)
        values, grad = ts.value_and_grad(x, target, stft=stft, reduction="none")
        assert isinstance(used(), kind)
        assert values == pytest.approx(expected[0], rel=TOLERANCE[dtype])
        assert error(grad, expected[1]) < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", [MatrixEngine], indirect=True)
@pytest.mark.parametrize("n_fft", [8192, pytest.param(32_768, marks=large), 1024, 675, 486])
def test_a_bins_own_magnitude(kind, n_fft):
    """Rows of two passes and of three, an even number of them and an odd one: each bin is compared with its own goal."""
    stft = ts.STFT(n_fft, n_fft // 3)
    (x,) = signals(32, 3 * n_fft, dtype=np.float32, count=1)
    goals = np.random.default_rng(32).uniform(0, 20, stft.n_bins).astype(np.float32)
    value, grad = ts.value_and_grad(x, ts.Target.from_magnitudes(goals), stft=stft)
    assert isinstance(used(), kind)
    expected = ts.reference.value_and_grad(x, None, stft, magnitudes=goals[:, None])
    assert value == pytest.approx(expected[0], rel=TOLERANCE[np.float32])
    assert error(grad, expected[1]) < TOLERANCE[np.float32]


def test_a_missing_second_frame_has_no_loss():
    """With an odd number of frames the last one shares its transform with none, whatever the target is."""
    (x,) = signals(4, 64 + 2 * 16, dtype=np.float32, count=1)
    target = ts.Target.from_magnitudes(np.full((33, 3), 1e18, dtype=np.float32))
    value, grad = ts.value_and_grad(x, target, n_fft=64, hop_length=16)
    assert value == pytest.approx(99 * 1e36, rel=1e-5)
    assert np.isfinite(grad).all()


@with_teams
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_fields_in_a_tape(kind, batch, small, scale):
    x, y = signals(5, *batch, 500 * scale, dtype=np.float32)
    X, Y = field(x), field(y)
    total = ti.field(ti.f32, shape=(), needs_grad=True)
    loss = ts.SpectralLoss(X, Y, small)
    assert isinstance(loss._engine, kind)

    @ti.kernel
    def combine():
        total[None] += -2.5 * loss.value[None]

    with ti.ad.Tape(total):
        loss.compute()
        combine()
    expected = ts.reference.value_and_grad(x, y, small)
    assert total[None] == pytest.approx(-2.5 * expected[0].sum(), rel=1e-5)
    assert error(X.grad.to_numpy(), -2.5 * expected[1]) < 1e-5
    assert error(Y.grad.to_numpy(), -2.5 * expected[2]) < 1e-5


@dataclass(frozen=True)
class Huber(ts.BinTerm):
    """Quadratic up to `width`, linear beyond: a user's own term, with a branch."""

    width: float = 1.5

    @ti.func
    def distance(self, a, b, real: ti.template()):
        d = a - b
        value, slope = d * d, 2 * d
        if abs(d) > real(self.width):
            value = real(self.width) * (2 * abs(d) - real(self.width))
            slope = 2 * real(self.width) * (ti.cast(d > 0, real) - ti.cast(d < 0, real))
        return value, slope, -slope


@with_teams
def test_a_users_own_term(kind, small, scale, monkeypatch):
    x, y = signals(6, 2, 500 * scale, dtype=np.float32)
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=small, terms=[Huber(weight=0.5), ts.Magnitude(p=1)])
    assert isinstance(used(), kind)
    # The direct DFT of so long a frame is a matter of minutes.
    options = dict(stft=small, terms=[Huber(weight=0.5), ts.Magnitude(p=1)], engine="direct" if scale == 1 else "fft")
    for engine in ("blocks", "frames", "matrix"):
        monkeypatch.setattr(f"taichi_spec.fft.{engine}.supports", lambda *sizes: False)
    expected, expected_grads = ts.value_and_grad(x, y, wrt="both", **options)
    assert value == pytest.approx(expected, rel=1e-5)
    assert error(grads[0], expected_grads[0]) < 1e-5
    assert error(grads[1], expected_grads[1]) < 1e-5


SUMS = (ts.Magnitude(p=1, weight=0.1), ts.SpectralConvergence(weight=30.0), ts.LogMagnitude(eps=0.5))


@with_large_teams
def test_equal_frames_among_others(kind, small, scale):
    check_equal_frames(small, SUMS, scale)
    assert isinstance(used(), kind)


@with_large_teams
def test_functions_of_sums_and_weighted_items(kind, small, scale):
    """Two passes, the first for the sums; of items with weights of their own, one of them silent."""
    terms = SUMS
    x, y = signals(8, 3, 700 * scale, dtype=np.float32)
    x[1] = 0
    weights = np.array([1.0, -2.0, 0.5])
    options = dict(stft=small, terms=terms, item_weights=weights, reduction="none")
    values, grads = ts.value_and_grad(x, y, wrt="both", **options)
    assert isinstance(used(), kind)
    shares = used().shares()
    expected = ts.reference.value_and_grad(x, y, small, terms)
    assert values == pytest.approx(weights * expected[0], rel=1e-5)
    for b, t in np.ndindex(shares.shape):
        part = ts.reference.value_and_grad(x[b], y[b], small, terms[t : t + 1])[0]
        assert shares[b, t] == pytest.approx(weights[b] * part, rel=1e-5)
    magnitudes = ts.Target.from_magnitudes(np.abs(ts.reference.stft(y, small)).astype(np.float32))
    fixed_values, fixed_grad = ts.value_and_grad(x, magnitudes, **options)
    assert isinstance(used(), kind)
    assert fixed_values == pytest.approx(values, rel=1e-5)
    for b, weight in enumerate(weights):
        for grad, right in ((grads[0], expected[1]), (grads[1], expected[2]), (fixed_grad, expected[1])):
            assert error(grad[b], weight * right[b]) < 1e-4 or not right[b].any()


def contents(dtype, length):
    noise = np.random.default_rng(0).standard_normal(length)
    made = dict(silence=0 * noise, constant=np.ones(length), noise=noise, tiny=1e-20 * noise, huge=1e18 * noise)
    return {name: values.astype(dtype) for name, values in made.items()}


@with_large_teams
def test_silence_and_extremes(kind, small, scale):
    for dtype in dtypes_at(scale):
        made = contents(dtype, 500 * scale)
        for x, y in itertools.product(made, made):
            value, (grad_x, grad_y) = ts.value_and_grad(made[x], made[y], wrt="both", stft=small)
            expected, expected_x, expected_y = ts.reference.value_and_grad(made[x], made[y], small)
            assert isinstance(used(), kind)
            assert np.isfinite(grad_x).all() and np.isfinite(grad_y).all(), (x, y)
            assert np.isfinite(value) or expected > np.finfo(dtype).max, (x, y)
            if x == "silence":
                assert not grad_x.any()
            if y == "silence":
                assert not grad_y.any()
            if x == y:
                assert value == 0 and not grad_x.any() and not grad_y.any(), x
            elif "constant" not in (x, y):  # its empty bins have a direction that is rounding
                loose = 1e-9 if dtype == np.float64 else 1e-4
                assert error(grad_x, expected_x) < loose or not expected_x.any(), (x, y)
                assert error(grad_y, expected_y) < loose or not expected_y.any(), (x, y)


@with_teams
def test_equal_signals_are_at_distance_zero(kind, small, scale):
    (x,) = signals(7, 500 * scale, dtype=np.float32, count=1)
    for p in (1, 2):
        value, grads = ts.value_and_grad(x, x, wrt="both", stft=small, terms=ts.Magnitude(p=p))
        assert isinstance(used(), kind)
        assert value == 0
        assert not np.any(grads)


@pytest.mark.parametrize("kind", [*ENGINES, Chirped], indirect=True)
def test_equal_frames_at_an_edge(kind):
    """Whatever comes behind them."""
    x, y = signals(35, 500, dtype=np.float32)
    x[:33] = y[:33]
    _, grads = ts.value_and_grad(x, y, wrt="both", stft=ts.STFT(64, 150, center=True), terms=ts.Magnitude(p=1))
    assert isinstance(used(), kind)
    assert not np.any(grads[0][:33]) and not np.any(grads[1][:33])
    assert np.all(np.any([grad[120:180] for grad in grads], axis=1))


@with_teams
def test_a_second_engine_of_the_same_sizes_compiles_nothing(small, scale):
    options = Options.check(small, ts.Magnitude(weight=0.3), "sum", "auto", "accumulate", 2**28)
    shape = 2, 500 * scale
    x, y, grad_x, grad_y = (ti.ndarray(ti.f32, shape) for _ in range(4))
    total = ti.ndarray(ti.f32, 2)

    def run():
        make_engine(options, ti.f32, False, *shape, None).value_and_grad(x, y, total, grad_x, grad_y)

    kernels = (
        blocks.fused_kernel,
        matrix.column_kernels,
        matrix.gather_kernel,
        matrix.levels_kernel,
        matrix.register_kernels,
        matrix.rows_kernel,
        matrix.sums_kernels,
        matrix.team_rows_kernel,
    )
    run()
    before = [kernel.cache_info().misses for kernel in kernels]
    run()
    assert [kernel.cache_info().misses for kernel in kernels] == before


@pytest.mark.parametrize(
    "kind,hop",
    [
        pytest.param(MatrixEngine, 20, marks=large),
        (MatrixEngine, 100),
        pytest.param(Teams, 20, marks=large),
        pytest.param(Teams, 100, marks=large),
    ],
    indirect=["kind"],
)
def test_items_of_unequal_lengths_in_small_chunks(kind, hop, small, scale):
    """Chunks begin and end within items, short ones among them; gradients are over what was there before."""
    lengths = tuple(scale * length for length in (900, 180, 1234, 2000, 300))
    stft, dtype = ts.STFT(small.n_fft, hop * small.n_fft // 64, center=True), dtypes_at(scale)[0]
    x, y = signals(9, 5, 2000 * scale, dtype=dtype)
    for item, length in enumerate(lengths):
        x[item, length:], y[item, length:] = np.nan, np.nan
    for target in (y, ts.Target.from_signal(y, check_finite=False)):
        for scratch in (2**11 * scale, 2**14 * scale):
            both = {} if isinstance(target, ts.Target) else {"wrt": "both"}
            for _ in range(2):
                values, grads = ts.value_and_grad(x, target, stft=stft, lengths=lengths, reduction="none",
                                                  check_finite=False, scratch_bytes=scratch, **both)  # fmt: skip
                assert isinstance(used(), kind) and used().chunk < used().units * 5
                evaluation = next(reversed(functional._recent.values()))
                for left_over in filter(None, (used().work, evaluation.grad_x, evaluation.grad_y)):
                    left_over.fill(np.nan)
            for item, length in enumerate(lengths):
                expected = ts.reference.value_and_grad(x[item, :length], y[item, :length], stft)
                assert values[item] == pytest.approx(expected[0], rel=TOLERANCE[dtype])
                for grad, right in zip(grads if both else [grads], expected[1:]):
                    assert error(grad[item, :length], right) < TOLERANCE[dtype], item
                    assert not grad[item, length:].any()


@pytest.mark.parametrize("kind", [Teams], indirect=True)
@pytest.mark.parametrize("hop,run", [(2048, 16), (8192, 1), (9000, 1)])
def test_gradients_of_frames_that_meet_are_added_up(kind, hop, run):
    """Of 48 frames in three runs of 16; and one by one where frames do not meet."""
    stft = ts.STFT(8192, hop, window="hamming")
    x, y = signals(34, 8192 + 47 * 2048, dtype=np.float32)
    expected = ts.reference.value_and_grad(x, y, stft)
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
    assert isinstance(used(), kind) and used().run == run
    assert value == pytest.approx(expected[0], rel=TOLERANCE[np.float32])
    assert error(grads, expected[1:]) < TOLERANCE[np.float32]


LATE = (*np.zeros(40), *np.hamming(10), *np.zeros(14))  # a window that begins behind the frame's middle


@pytest.mark.parametrize("kind", [BlocksEngine], indirect=True)
@pytest.mark.parametrize("hop,win_length,window,center", [
    (5, 20, "hamming", True),  # 5 threads of 8 stray
    (50, 30, "hamming", True),  # samples in no window between frames
    (9, 38, "hamming", False),
    (9, 64, LATE, True),  # and before the first frame
])  # fmt: skip
def test_windows_shorter_than_a_frame(kind, hop, win_length, window, center):
    """Rows of points where the window is 0 are left out, at both ends; one item can just be reflected."""
    stft = ts.STFT(64, hop, win_length, window, center)
    x, y = signals(13, 3, 1500, dtype=np.float32)
    lengths = (1500, 700, 33 if center else 300)
    options = dict(stft=stft, lengths=lengths, reduction="none")
    value, grads = ts.value_and_grad(x, y, wrt="both", **options)
    assert isinstance(used(), kind) and used().layout.span < 64
    fixed_value, fixed_grad = ts.value_and_grad(x, ts.Target.from_signal(y), **options)
    assert isinstance(used(), kind)
    for item, length in enumerate(lengths):
        expected = ts.reference.value_and_grad(x[item, :length], y[item, :length], stft)
        assert (value[item], fixed_value[item]) == pytest.approx((expected[0], expected[0]), rel=1e-5)
        for grad, right in ((grads[0], expected[1]), (grads[1], expected[2]), (fixed_grad, expected[1])):
            assert error(grad[item, :length], right) < 1e-5, item
            assert not grad[item, length:].any()


# Both signals' levels; None where they are to be the same.
LEVELS = [
    (1, 1),
    (1e-3, 2e-3),
    (1e3, 3e3),
    (1, 0.1),
    (1, 0.01),
    (0, 1),
    (1, None),
    (1, 0),
    (0, 0),
    (1e-12, 1e-12),
    (1e12, 1),
]


@pytest.mark.parametrize("kind", [BlocksEngine], indirect=True)
def test_a_table_that_a_block_does_not_divide(monkeypatch):
    """Its last entries are put into shared memory too."""
    chosen = blocks.choose
    monkeypatch.setattr(blocks, "choose", lambda *sizes: replace(chosen(*sizes), teams=4))
    stft, (x, y) = ts.STFT(512), signals(9, 5000, dtype=np.float32)
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
    expected = ts.reference.value_and_grad(x, y, stft)
    layout = used().layout
    assert layout.resident % layout.block
    for result in (value, ts.spectral_loss(x, y, stft=stft)):
        assert result == pytest.approx(expected[0].sum(), rel=TOLERANCE[np.float32])
    assert error(grads, expected[1:]) < TOLERANCE[np.float32]


@pytest.mark.parametrize("kind", [BlocksEngine], indirect=True)
@pytest.mark.parametrize(
    "hop,win_length", [pytest.param(256, None, marks=large), pytest.param(200, None, marks=large), (320, 700)]
)
def test_threads_that_have_their_bins_mirrors(kind, hop, win_length):
    """Each pair of bins is compared in registers; those of thread 0 are other ones, and lie elsewhere."""
    stft = ts.STFT(1024, hop, win_length, "hamming", center=True)
    x, y = signals(14, 2, 9000, dtype=np.float32)
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
    assert isinstance(used(), kind) and used().layout.mirrored
    expected = ts.reference.value_and_grad(x, y, stft)
    assert error(grads, expected[1:]) < TOLERANCE[np.float32]
    fixed_value, grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=stft)
    assert isinstance(used(), kind) and used().layout.mirrored
    assert error(grad, expected[1]) < TOLERANCE[np.float32]
    for result in (value, fixed_value, ts.spectral_loss(x, y, stft=stft)):
        assert result == pytest.approx(expected[0].sum(), rel=TOLERANCE[np.float32])


@pytest.mark.parametrize("kind", [BlocksEngine], indirect=True)
@pytest.mark.parametrize("n_fft,hop,terms", [
    pytest.param(1024, 256, [ts.Power()], marks=large),
    pytest.param(1024, 256, [ts.LogMagnitude(p=2, eps=0.5)], marks=large),
    pytest.param(1024, 200, [ts.LogMagnitude(p=2, eps=0.5)], marks=large), (512, 128, [ts.Power()]),
    pytest.param(4096, 700, [ts.Magnitude(), ts.Power(weight=1e-3)], marks=large),
], ids=str)  # fmt: skip
def test_terms_whose_bins_take_turns(kind, n_fft, hop, terms):
    """Few pairs at once; some frames are equal, some of other levels, and most need no scale."""
    stft = ts.STFT(n_fft, hop, window="hamming")
    x, y = signals(31, 9 * n_fft, dtype=np.float32)
    x[3 * n_fft : 5 * n_fft] *= 0.01
    y[6 * n_fft : 8 * n_fft] = x[6 * n_fft : 8 * n_fft]
    expected = ts.reference.value_and_grad(x, y, stft, terms=terms)
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stft, terms=terms)
    fixed_value, grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=stft, terms=terms)
    assert isinstance(used(), kind)
    assert error([*grads, grad], [*expected[1:], expected[1]]) < TOLERANCE[np.float32]
    for result in (value, fixed_value, ts.spectral_loss(x, y, stft=stft, terms=terms)):
        assert result == pytest.approx(expected[0], rel=TOLERANCE[np.float32])


@pytest.mark.parametrize("n_fft", [64, 256, pytest.param(1024, marks=large), pytest.param(4096, marks=large)])
def test_one_sample_is_the_loudest(kind, n_fft):
    """And another one in y, wherever they are: all threads of a frame agree on its levels."""
    if kind is FramesEngine and n_fft == 4096:
        n_fft = next(n for n in (1792, 1200) if frames.supports(ts.STFT(n), ti.f32, 1, 6 * n, (ts.Magnitude(),)))
    stft, places = ts.STFT(n_fft), range(0, 6 * n_fft, n_fft // 8 + 1)
    x, y = np.float32(1e-6) * signals(5, 6 * n_fft, dtype=np.float32)
    x[places], y[places[1:]] = 1, 1e-3
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
    assert isinstance(used(), kind)
    expected = ts.reference.value_and_grad(x, y, stft)
    assert value == pytest.approx(expected[0], rel=TOLERANCE[np.float32])
    assert error(grads, expected[1:]) < TOLERANCE[np.float32]


@pytest.mark.parametrize("kind", [MatrixEngine], indirect=True)
@pytest.mark.parametrize("n_fft", [8192, 4096, 1250])
def test_every_sample_counts_for_the_level(kind, n_fft):
    """One in each frame is a million times as loud as the others and the other signal, whose gradient it must not spoil."""
    stft = ts.STFT(n_fft, n_fft, window="hamming")
    x, y = np.float32(1e-6) * signals(33, n_fft * (n_fft // 128 + 1), dtype=np.float32)
    for frame, place in enumerate(range(0, n_fft, 128)):
        x[frame * n_fft + place] = 1
    _, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
    assert isinstance(used(), kind)
    for grad, expected in zip(grads, ts.reference.value_and_grad(x, y, stft)[1:]):
        assert error(grad, expected) < TOLERANCE[np.float32]


@pytest.mark.parametrize("kind", [BlocksEngine], indirect=True)
@pytest.mark.parametrize("n_fft", [512, 1024])
def test_levels_of_two_frames_that_share_a_transform(n_fft):
    """Each has its own, next to a fixed target; the last one is alone."""
    stft, frames = ts.STFT(n_fft, n_fft, window="hamming"), 7
    x, y = signals(25, frames, n_fft, dtype=np.float32)
    x[::2] *= 1e-3
    x[2] = 0
    x, y = x.ravel(), y.ravel()
    expected = ts.reference.value_and_grad(x, y, stft)
    value, grad = ts.value_and_grad(x, ts.Target.from_signal(y), stft=stft)
    assert isinstance(used(), BlocksEngine)
    assert value == pytest.approx(expected[0], rel=TOLERANCE[np.float32])
    for mine, wanted in zip(np.split(grad, frames), np.split(expected[1], frames), strict=True):
        assert error(mine, wanted) < TOLERANCE[np.float32] or not (mine.any() or wanted.any())


@pytest.mark.parametrize("kind", [BlocksEngine], indirect=True)
def test_levels_change():
    """Frame by frame, a thread's team finds out whether it has to scale: where the levels stay, by votes."""
    for n_fft in (512, 1024, 2048) if runtime.arch_name() == "cuda" else (512,):
        stft, length = ts.STFT(n_fft), 4 * n_fft
        x, y = signals(11, len(LEVELS), length, dtype=np.float32)
        for part, (level_x, level_y) in enumerate(LEVELS):
            x[part] *= level_x
            y[part] = x[part] if level_y is None else level_y * y[part]
        x, y = x.ravel(), y.ravel()
        _, grads = ts.value_and_grad(x, y, wrt="both", stft=stft)
        assert isinstance(used(), BlocksEngine)
        for grad, expected in zip(grads, ts.reference.value_and_grad(x, y, stft)[1:]):
            for part, levels in enumerate(LEVELS):
                inner = slice(part * length + n_fft, (part + 1) * length - n_fft)  # in no frame of another level
                assert error(grad[inner], expected[inner]) < 1e-5, (n_fft, levels)


@pytest.mark.parametrize("kind,n_fft", [(BlocksEngine, 64), (MatrixEngine, 60), (Teams, 8192)], indirect=["kind"])
def test_after_another_start_of_taichi(kind, n_fft):
    x, y = signals(12, 300 + 2 * n_fft, dtype=np.float32)
    first = ts.value_and_grad(x, y, wrt="both", n_fft=n_fft)
    ts.init(arch=runtime.arch_name(), log_level=ti.ERROR)
    again = ts.value_and_grad(x, y, wrt="both", n_fft=n_fft)
    assert isinstance(used(), kind)
    assert again[0] == first[0] and np.array_equal(again[1], first[1])


@pytest.mark.parametrize("kind", [BlocksEngine, MatrixEngine], indirect=True)
def test_several_resolutions(kind):
    """One engine's and the other's: the later one adds to value and gradients, after a pass that adds to neither.

    The teams of a last block that have no run add nothing.
    """
    stfts = [SMALL, ts.STFT(60, 20, center=True), ts.STFT(64, 44, center=True)]
    terms = (ts.Magnitude(), ts.SpectralConvergence(weight=1000.0))
    x, y = signals(10, 2, 540, dtype=np.float32)
    value, grads = ts.value_and_grad(x, y, wrt="both", stft=stfts, terms=terms, scratch_bytes=2**13)
    assert isinstance(used(), FusedSum)
    last = used().engines[2]
    if kind is BlocksEngine:
        assert 2 * last.runs[True].number % last.layout.teams
    else:
        assert last.chunk < 2 * last.units
    expected = [ts.reference.value_and_grad(x, y, stft, terms) for stft in stfts]
    assert value == pytest.approx(sum(each[0].sum() for each in expected), rel=1e-5)
    assert error(grads[0], sum(each[1] for each in expected)) < 1e-5
    assert error(grads[1], sum(each[2] for each in expected)) < 1e-5


@pytest.mark.parametrize("kind", [BlocksEngine], indirect=True)
def test_what_is_left_to_the_other_engine():
    plain = (ts.Magnitude(),)
    assert blocks.supports(ts.STFT(1024), ti.f32, 1, 2**30, plain)
    for sizes in ((2, 2**30), (2, 2**29 + 1)):
        assert not blocks.supports(ts.STFT(1024), ti.f32, *sizes, plain)
        assert not frames.supports(ts.STFT(1000), ti.f32, *sizes, plain)
    assert not blocks.supports(ts.STFT(1000), ti.f32, 1, 5000, plain)
    assert not blocks.supports(ts.STFT(32), ti.f32, 1, 5000, plain)
    assert not blocks.supports(ts.STFT(8192), ti.f32, 1, 10_000, plain)
    assert not blocks.supports(ts.STFT(1024), ti.f32, 1, 5000, (ts.Magnitude(),) * 17)
    assert not blocks.supports(ts.STFT(1024, 2**31), ti.f32, 1, 5000, plain)
    assert blocks.supports(ts.STFT(1024, 1), ti.f32, 1, 2**24, plain)


def test_what_is_left_to_transforms_through_memory():
    plain = (ts.Magnitude(),)
    for n_fft in (35, 1000, 8192, 65_536):
        assert matrix.supports(ts.STFT(n_fft), ti.f32, 1, 2**30, plain), n_fft
    for n_fft in (97, 1009, 7 * 521, 2**19):
        assert not matrix.supports(ts.STFT(n_fft), ti.f32, 1, 2**20, plain), n_fft
    for sizes in ((2, 2**30), (2, 2**29 + 1)):
        assert not matrix.supports(ts.STFT(1000), ti.f32, *sizes, plain)
    assert not matrix.supports(ts.STFT(1000), ti.f32, 1, 5000, (ts.Magnitude(),) * 17)
