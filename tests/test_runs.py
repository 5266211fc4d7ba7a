"""How frames lie on the teams of a GPU, and how these share them out: none left out, none taken twice, and no team much
longer at work than others."""

import itertools

import numpy as np
import pytest
import taichi as ti

from taichi_spec import STFT
from taichi_spec.fft import blocks_layout, frames_layout, lanes_layout, lines, matrix_layout, rows
from taichi_spec.fft.matrix_layout import Lines
from taichi_spec.fft.plan import Plan
from taichi_spec.fft.runs import AHEAD, BEGINNING, LEAST, MOST, Runs
from taichi_spec.runtime import MOST_SHARED, VulkanDevice

SHAPES = [  # transforms, items, teams, overlap
    (1, 1, 792, 3),
    (257, 1, 792, 3),
    (4097, 1, 792, 3),
    (262_145, 1, 792, 3),
    (1_048_573, 1, 4224, 3),
    (4_194_305, 1, 792, 3),
    (8738, 3, 1056, 5),
    (64, 400, 792, 3),
    (60, 10_000, 792, 3),
    (5000, 2, 64, 4095),
]


BLOCKS = (1, 4, 32)  # teams of a block


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_transform_is_in_one_run(shape, block):
    transforms, batch, teams, overlap = shape
    runs = Runs.of(*shape, block)
    begins = [runs.begin(c) for c in range(runs.number + 1)]
    lengths = [end - begin for begin, end in itertools.pairwise(begins)]
    assert (begins[0], begins[-1]) == (0, transforms)
    assert lengths == [runs.short + 1] * runs.longs + [runs.short] * (runs.number - runs.longs)
    assert 1 <= min(lengths) <= max(lengths) <= max(min(MOST, max(LEAST, AHEAD // teams)), 2 * overlap)
    at_work, long_turns, turns = runs.turns(batch, block)
    assert long_turns % block == 0 and 0 <= long_turns - batch * runs.longs < block
    assert turns - long_turns == batch * (runs.number - runs.longs)
    assert min(turns, teams) <= at_work <= max(teams, turns + block - 1)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_teams_end_together(shape, block):
    """The time of all rounds is at most half more than if each team had the same, but for one transform."""
    transforms, batch, teams, _ = shape
    runs = Runs.of(*shape, block)
    assert runs.rounds(batch, block) * runs.short <= 1.5 * batch * transforms / teams + 1


@pytest.mark.parametrize("block", BLOCKS[1:])
@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)  # the last one has two blocks of 32 teams in all
def test_blocks_of_teams_take_no_round_more(shape, block):
    """Teams without a run, which make room for those of another length, cost no more than a tenth of the time."""

    def time(block):
        runs = Runs.of(*shape, block)
        return runs.rounds(shape[1], block) * (-(-shape[0] // runs.number) + BEGINNING)

    assert time(block) <= 1.1 * time(1) + 1


@pytest.mark.parametrize("n_fft,registers,teams", [
    (256, 128, 32), (1024, 168, 6), (1024, 144, 6), (1024, 128, 8), (1024, 200, 4), (2048, 168, 3), (4096, 128, 2)
])  # fmt: skip
def test_teams_fill_multiprocessors(n_fft, registers, teams, monkeypatch):
    """By registers where shared memory is plenty, and by shared memory where it is not; GRID where nothing is known."""
    layout = blocks_layout.choose(STFT(n_fft), ti.f32, "cuda")
    monkeypatch.setattr("taichi_spec.fft.blocks_layout.cuda_multiprocessors", lambda: (10, 228 * 1024))
    assert blocks_layout.teams_at_work(layout, ti.f32, registers, 10**6) == 10 * teams
    monkeypatch.setattr("taichi_spec.fft.blocks_layout.cuda_multiprocessors", lambda: (10, 64 * 1024))
    bytes_of_a_block = 8 * layout.block_cells + 1024
    assert blocks_layout.teams_at_work(layout, ti.f32, registers, 10**6) == 10 * min(
        teams, 64 * 1024 // bytes_of_a_block * layout.teams
    )
    monkeypatch.setattr("taichi_spec.fft.blocks_layout.cuda_multiprocessors", lambda: (0, 0))
    assert blocks_layout.teams_at_work(layout, ti.f32, registers, 10**6) == blocks_layout.GRID * layout.teams


@pytest.mark.parametrize("kind,warp,block,most", [(2, 32, 32, 6144), (2, 0, 64, 3072), (4, 8, 32, 2048)])
def test_more_teams_where_nothing_is_known_of_the_device(kind, warp, block, most, monkeypatch):
    """As many more as have whole runs to do, but not many more; on a device in software each takes its time to start."""
    devices = [VulkanDevice("", kind, True, 49_152, warp)]
    monkeypatch.setattr("taichi_spec.runtime.vulkan_devices", lambda: devices)
    layout = blocks_layout.choose(STFT(256), ti.f32, "vulkan")
    assert (layout.block, layout.most_blocks) == (block, most)
    for transforms, blocks in ((1, 2048), (2500 * LEAST * layout.teams, min(2500, most)), (10**9, most)):
        assert blocks_layout.teams_at_work(layout, ti.f32, 255, transforms) == blocks * layout.teams


def test_what_nothing_is_told_of_is_no_software(monkeypatch):
    monkeypatch.setattr("taichi_spec.runtime.vulkan_devices", lambda: [])
    assert blocks_layout.choose(STFT(256), ti.f32, "vulkan").most_blocks == 3072


@pytest.mark.parametrize("hop_length,block", [(128, 256), (100, 64)])
def test_frames_that_stray_lie_in_narrow_blocks(hop_length, block):
    assert blocks_layout.choose(STFT(512, hop_length), ti.f32, "cuda").block == block


def test_a_block_has_the_shared_memory_of_its_device(monkeypatch):
    """The first kind of devices is the one that Taichi takes; of two alike, nothing says which."""

    def layout(*devices):
        monkeypatch.setattr(
            "taichi_spec.runtime.vulkan_devices", lambda: [VulkanDevice(*device) for device in devices]
        )
        return blocks_layout.choose(STFT(4096), ti.f32, "vulkan")

    little, some, much = 16 * 1024, 32 * 1024, 64 * 1024
    assert layout(("discrete", 2, True, little, 32)) is None
    assert layout(("discrete", 2, True, some, 32)).by_halves
    wide = layout(("discrete", 2, True, much, 32), ("software", 4, True, little, 8))
    assert 8 * wide.block_cells <= MOST_SHARED and not wide.by_halves and wide.warp == 32
    assert layout(("discrete", 2, True, much, 32), ("discrete", 2, True, much, 0)).warp == 0
    assert layout(("discrete", 2, True, much, 32), ("discrete", 2, True, little, 32)) is None
    assert blocks_layout.choose(STFT(4096), ti.f32, "cpu") is None


def test_a_team_has_no_more_threads_than_most_devices_give_a_block():
    assert blocks_layout.choose(STFT(4096), ti.f32, "vulkan").threads == blocks_layout.MOST_THREADS
    assert blocks_layout.choose(STFT(8192), ti.f32, "vulkan") is None


@pytest.mark.parametrize("log2_samples,pack,runs", [
    (10, 1, 1), (12, 1, 2), (14, 1, 4), (15, 1, 4), (16, 1, 8), (18, 1, 16), (22, 1, 64), (14, 2, 4), (16, 2, 4), (18, 2, 16)
])  # fmt: skip
def test_runs_on_the_cpu_are_worth_their_beginning(log2_samples, pack, runs):
    """Of eight lanes; the shorter the signal, the fewer."""
    layout = lanes_layout.layout(STFT(1024), 1024, 2**log2_samples, 1, pack, 8, 2, 1, 513, 0, 0)
    assert layout.runs == runs
    assert layout.frames * layout.segments >= layout.total > layout.frames * (layout.segments - 1)


def test_work_memory_of_the_cpu_is_bounded(monkeypatch):
    arguments = (1024, 2**20, 1, 1, 8, 64, 1, 513, 0, 0)
    layout = lanes_layout.layout(STFT(1024), *arguments)
    assert layout.slots == layout.runs == 16  # of 64 threads
    monkeypatch.setattr(lanes_layout, "PLACES", 5 * layout.vectors)
    assert lanes_layout.layout(STFT(1024), *arguments).slots == 5
    monkeypatch.setattr(lanes_layout, "PLACES", layout.vectors - 1)
    with pytest.raises(ValueError, match=r"n_fft must be .*, got 1024"):
        lanes_layout.layout(STFT(1024), *arguments)


@pytest.mark.parametrize("transforms,teams", [(10, 100), (6400, 200), (10**6, 500)])
def test_teams_of_frames_in_shared_memory(transforms, teams):
    line = frames_layout.Line(1000, 250, 64, Plan(1000, (10, 10, 10)), 100, True, least_blocks=100, most_blocks=500)
    assert frames_layout.teams_at_work(line, transforms) == teams
    runs = frames_layout.runs_of(line, STFT(1000), 1, 1000 + 250 * (transforms - 1), fixed=False)
    assert runs.teams == teams and runs.begin(runs.number) == transforms


@pytest.mark.parametrize(
    "n,radices", [(50, (10, 5)), (144, (12, 12)), (96, (8, 12)), (64, (8, 8)), (7, (7,)), (1, ())]
)
def test_passes_of_lines(n, radices):
    assert lines.plan_of(n).radices == radices


@pytest.mark.parametrize("n,threads,radices,pitch", [
    (1000, 64, (10, 10, 10), 113), (400, 32, (8, 10, 5), 52), (1920, 128, (8, 16, 15), 244), (240, 32, (16, 15), 22),
    (7, 32, (7,), 1),
])  # fmt: skip
def test_passes_and_rows_of_frames(n, threads, radices, pitch):
    plan, row = rows.rows_of(n, threads, 10**6)
    assert (plan.radices, row) == (radices, pitch)
    assert row == rows.rows_of(n, threads, radices[0] * (row - plan.spans[0]))[1]  # as much room as it takes
    assert rows.rows_of(n, threads, 0)[1] == plan.n // rows.rows_of(n, threads, 0)[0].radices[0]


@pytest.mark.parametrize("step,accesses", [(1, 2), (2, 3), (8, 9), (32, 33), (33, 2)])
def test_accesses_that_meet_in_a_bank(step, accesses):
    """Of 33 threads, a warp and one more."""
    assert rows._wavefronts(np.arange(33) * step) == accesses


@pytest.mark.parametrize(
    "beside,n,count", [(True, 128, 32), (True, 256, 16), (True, 64, 8), (False, 128, 16), (False, 256, 16)]
)
def test_lines_of_matrices_meet_in_no_bank(beside, n, count):
    """Neighbouring threads have neighbouring lines, or neighbours on a line: in the first pass elements, then rows."""
    plan = matrix_layout.two_passes(n)
    lay = (Lines.beside if beside else Lines.behind)(plan, count)
    for here, apart, many in ((plan.spans[0], lay.step, plan.spans[0]), (lay.groups, lay.row, plan.spans[0])):
        t = np.arange(here * count)
        line, i = (t % count, t // count) if beside else (t // many % count, t % many + t // many // count * many)
        assert rows._wavefronts(line * lay.apart + i * apart) == here * count / 32
    assert len(np.unique(lay.places)) == n and lay.places.max() < (lay.plane if beside else lay.apart)


@pytest.mark.parametrize(
    "n,columns,pairs", [(16_384, (16, 8), 64), (64, (8, 1), 4), (675, (5, 5), 13), (16_807, (7, 7), 25)]
)
def test_frames_as_matrices(running_cpu, n, columns, pairs):
    """Of 25 rows 12 are compared with 12 others, and one with itself; of 128, two."""
    matrix = matrix_layout.nearest_to_a_square(n)
    assert matrix.columns.radices == columns and matrix.pairs == pairs
    A, B = matrix.columns.n, matrix.rows.n
    places = matrix.places(ti.f32)
    found = places[: 2 * pairs].reshape(pairs, 2) // B
    assert sorted(set(found.ravel())) == list(range(A))
    for c in range(1, pairs):
        assert list(found[c]) == list(matrix.columns.positions[[c, A - c]])


@pytest.mark.parametrize("n,fits", [(3000, True), (3072, False), (3125, False), (60_480, False)])
def test_frames_that_do_not_fit_have_no_plan(monkeypatch, n, fits):
    """Of the longest ones there are too many to count."""
    monkeypatch.setattr(frames_layout, "shared_bytes", lambda arch: 48 * 1024)
    monkeypatch.setattr(frames_layout, "in_software", lambda arch: False)
    known = rows.rows_of.cache_info().misses
    line = frames_layout.choose(STFT(n), ti.f32, "vulkan", None, 0)
    assert (line is not None) == fits
    assert n <= 3072 or rows.rows_of.cache_info().misses == known
