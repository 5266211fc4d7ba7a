"""How a frame of `frames` lies in a block's shared memory, and how teams of threads share out all frames."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import itemsize
from taichi_spec.fft import blocks_layout
from taichi_spec.fft.blocks_layout import LAUNCHED
from taichi_spec.fft.compare_room import Room
from taichi_spec.fft.frames_chirp import chirp_table
from taichi_spec.fft.lines import line_table
from taichi_spec.fft.plan import Plan, is_smooth, smooth_size
from taichi_spec.fft.rows import bins_at, rest_of, rows_of
from taichi_spec.fft.runs import LEAST, Runs
from taichi_spec.fft.stages import Stages
from taichi_spec.runtime import cuda_multiprocessors, in_software, shared_bytes, warp_threads
from taichi_spec.stft import STFT

# Points of a frame that a thread has, at most, unless its team would have more threads than that. On Vulkan a multiprocessor
# has shared memory for few teams.
POINTS, LARGEST = {"cuda": 16, "vulkan": 8}, {"cuda": 128, "vulkan": 256}
# How many CUDA starts for each multiprocessor, at least and at most. By the registers they need 16 or 20 are at work at once,
# and of 80 none waits long for the last ones.
FEW_WARPS, MANY_WARPS = 16, 80


@dataclass(frozen=True)
class Line:
    """How a frame lies in shared memory, and the sizes that `blocks_seams` and `blocks_layout` ask for.

    The real parts, the imaginary parts, and the ring of both signals. The parts lie in rows, as many as the first radix has
    points: element n_fft / radix of a frame is the first one of row 1.
    """

    n_fft: int
    hop: int
    threads: int  # of a team
    plan: Plan  # how a frame is transformed
    row: int  # how far apart its rows lie
    cuda: bool
    least_blocks: int  # that have work, as far as there is some
    most_blocks: int  # that are launched
    warp: int = 0  # so many neighbouring threads compare their peaks without shared memory
    room: Room | None = None  # where the stages of a frame lie, behind all else
    teams: int = 1  # of a block
    first: int = 0  # the window's first row, of so many numbers as there are threads, that is not left out

    @property
    def block(self) -> int:
        """Threads of a block."""
        return self.threads

    @property
    def settlers(self) -> int:
        """As `blocks_layout.Layout`'s."""
        return blocks_layout.GRID

    @property
    def overlap(self) -> int:
        """How many of a frame's samples the next one sees again."""
        return max(self.n_fft - self.hop, 0)

    @property
    def chirped(self) -> bool:
        """Whether transforms are convolutions, which have more points than a frame."""
        return self.plan.n != self.n_fft

    @property
    def used(self) -> int:
        """Rows of the first pass, and the last one, that have samples of the frame."""
        return -(-self.n_fft // self.plan.spans[0])

    @cached_property
    def rest(self) -> Plan:
        """How its rows are transformed after the first pass, or before the last one."""
        return rest_of(self.plan)

    @property
    def plane(self) -> int:
        """From a number's real part to its imaginary part."""
        return self.plan.radices[0] * self.row

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the transform leaves each bin  # (N,)"""
        if self.chirped:
            row, place = np.divmod(np.arange(self.n_fft), self.plan.spans[0])
        else:
            place, row = bins_at(self.plan, np.arange(self.n_fft))
        places: NDArray[np.int64] = place + row * self.row
        return places

    @property
    def peaks(self) -> int:
        """Numbers that its threads compare, or their warps."""
        return 2 * self.threads // max(self.warp, 1)

    def numbers(self, rings: int) -> int:
        """Numbers of a block in shared memory: the frame, the rings, the peaks, the stages' cells; or its threads' sums."""
        cells = self.room.cells if self.room else 0
        return max(2 * self.plane + rings * self.n_fft + self.peaks + 2 * cells, self.threads)

    def table(self, window: NDArray[Any]) -> NDArray[Any]:
        """All constants of a frame: the window, with zeros to the end of a row; the twiddles; what a convolution takes."""
        window = np.pad(window, (0, self.used * self.plan.spans[0] - self.n_fft))
        chirp = [chirp_table(self.n_fft, self.plan)] if self.chirped else []
        return np.concatenate([window, line_table(self.plan), *chirp])


def choose(stft: STFT, dtype: Any, arch: str, stages: Stages | None, rows: int) -> Any:
    """The `Line` of a frame, or None where a block has too little shared memory for it.

    rows: how many numbers a quantity has, where there are stages.
    """
    if arch not in ("cuda", "vulkan") or (dtype == ti.f64 and arch == "vulkan"):
        return None
    points = stft.n_fft if is_smooth(stft.n_fft) else smooth_size(2 * stft.n_fft - 1)
    threads = 32
    while threads * POINTS[arch] < points and threads < LARGEST[arch]:
        threads *= 2
    least = most = blocks_layout.GRID
    if arch == "cuda" and cuda_multiprocessors()[0]:
        least, most = (cuda_multiprocessors()[0] * warps * 32 // threads for warps in (FEW_WARPS, MANY_WARPS))
    elif not in_software(arch):
        most = LAUNCHED // threads
    room = None if stages is None else Room.of(stages, stft.n_bins, rows, threads, 8)
    warp = warp_threads(arch) if arch == "vulkan" else 0
    # In one pass it needs as much memory; to find a long frame's plan takes seconds.
    whole = Plan(points, (points,))
    line = Line(stft.n_fft, stft.hop_length, threads, whole, 1, arch == "cuda", least, most, warp, room)
    free = shared_bytes(arch) // itemsize(dtype) - line.numbers(2)
    if free < 0:
        return None
    # Room between rows brings nothing on Vulkan, and less memory more teams.
    plan, row = rows_of(points, threads, free // 2 if arch == "cuda" else 0)
    return replace(line, plan=plan, row=row)


def teams_at_work(line: Line, transforms: int) -> int:
    """How many teams share so many transforms: as many as leave each a run of some length, within bounds."""
    return min(max(transforms // LEAST, line.least_blocks), line.most_blocks)


def runs_of(line: Line, stft: STFT, batch: int, n_samples: int, fixed: bool) -> Runs:
    """How the frames of signals (B, T) are shared out among teams."""
    pack = 1 + fixed  # frames that share a transform
    transforms = -(-stft.n_frames(n_samples) // pack)
    overlap = -(-line.overlap // (stft.hop_length * pack))
    return Runs.of(transforms, batch, teams_at_work(line, batch * transforms), overlap, 1)
