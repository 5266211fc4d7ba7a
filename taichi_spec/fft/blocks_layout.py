"""How frames lie on a GPU's threads, and how many teams of threads share out all frames: the sizes of `blocks`."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import itemsize
from taichi_spec.bins import columns_of, quantities_of, transport_parts
from taichi_spec.fft.compare_room import Room
from taichi_spec.fft.runs import LEAST, Runs
from taichi_spec.fft.stages import Stages
from taichi_spec.runtime import cuda_multiprocessors, in_software, shared_bytes, warp_threads
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

REGISTERS = 65_536  # of a multiprocessor, 32 bits each
LAUNCHED = 3 * 2**16  # threads that are launched on Vulkan, at most: some three times what a large GPU has at work
GRID = 2048  # blocks that are launched on CUDA and in software: more than a large GPU has at work side by side
MOST_THREADS = 256  # of a team


def fused_twiddles(fractions: NDArray[Any], r: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """For each entry of a radix, cosines and tangents as `fused_dft` takes them for DFTs whose bins are k + fraction."""
    angles = [
        2 * np.pi * (fractions + q) / size
        for size in 2 ** np.arange(1, r.bit_length())
        for q in range(max(1, size // 4))
    ]
    return [(np.cos(angle), np.tan(angle)) for angle in angles]


@dataclass(frozen=True)
class Layout:
    """How n_fft points lie on threads: `points` a thread, passes of the given radices, `teams` frames side by side.

    Row m is the points that threads have in their registers m. The window may be 0 on all of the first rows and of the
    last: what is read, windowed, and waits for other frames is `rows` of them, from row `first` on.
    """

    n_fft: int
    hop: int
    points: int
    first: int
    rows: int
    radices: tuple[int, ...]
    teams: int = 1
    cuda: bool = False
    resident: int = 0  # so many of the table's first entries a block keeps in shared memory
    warp: int = 0  # so many neighbouring threads compare their peaks without shared memory
    room: Room | None = None  # what `compare_stages` needs of shared memory, where it takes part
    most_blocks: int = GRID  # how many blocks are launched: see `teams_at_work`
    by_halves: bool = False  # whether real and imaginary parts are exchanged one after the other: see `_vulkan_blocks`

    @property
    def threads(self) -> int:
        """Threads that share a frame."""
        return self.n_fft // self.points

    @property
    def block(self) -> int:
        """Threads that share a block."""
        return self.threads * self.teams

    @property
    def settlers(self) -> int:
        """Blocks that add up what runs left over: more than a large GPU has at work side by side."""
        return GRID

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Per pass: the product of the radices before it."""
        return tuple(prod(self.radices[:p]) for p in range(len(self.radices)))

    @property
    def span(self) -> int:
        """Samples of a frame in rows on which the window is not 0."""
        return self.rows * self.threads

    @property
    def overlap(self) -> int:
        """How many of them the next frame sees again."""
        return max(self.span - self.hop, 0)

    @property
    def waiting(self) -> int:
        """Registers of a thread, for each signal, whose sums wait for the next frame's share."""
        return self.rows - self.hop // self.threads if self.overlap else 0

    @property
    def stray(self) -> int:
        """How many threads the next frame is away from where this one lies on them: see `role_at` in `blocks_window`."""
        return self.hop % self.threads if self.overlap else 0

    @property
    def cells(self) -> int:
        """Shared memory of one team, in complex values."""
        return self.frame_cells + self.peak_cells

    @property
    def frame_cells(self) -> int:
        """Shared memory of a team for what is done to a frame, exchanges or stages, in complex values."""
        exchange: int = max(self.pad(self.n_fft, p) for p in range(len(self.radices) - 1))
        if self.room:
            return max(exchange, self.room.cells)
        # Of the bins, half and one row meet there.
        return max(-(-exchange // 2), self.n_fft // 2 + self.threads) if self.by_halves else exchange

    @property
    def block_cells(self) -> int:
        """Shared memory of a block, in complex values."""
        return self.cells * self.teams + self.resident

    @property
    def log_pad(self) -> int:
        """After 2^log_pad values one stays free, so that strided access meets all 32 banks of 4 bytes."""
        return 5 if self.by_halves else 4

    @property
    def mirrored(self) -> bool:
        """Whether a thread has its bins' mirrors too: see `radices_of` and `blocks_transform`."""
        return 2 * self.radices[0] == 2 * self.radices[-1] == self.points

    def pad(self, i: Any, p: int) -> Any:
        """Where value i lies in shared memory after pass p. As all sizes are powers of two, pad(i + j) is pad(i) + pad(j).

        Of mirrors, threads side by side take cells that do not begin at a multiple of the banks: wherever they begin, they
        meet all banks once.
        """
        if not self.mirrored:
            return i + (i >> self.log_pad)
        if p == 0:
            return i + ((i >> self.log_pad) & 7) + (i >> self.log_pad + 3 << self.log_pad)
        return i + 8 * (i >> self.strides[-1].bit_length() - 1)

    @property
    def group(self) -> int:
        """Threads that compare their peaks, before the groups do."""
        return min(self.threads, self.warp) if self.warp else 1 << self.threads.bit_length() // 2

    @property
    def peak_cells(self) -> int:
        """Shared memory of a team for peaks of its groups, if it is not a frame's: see `blocks_levels`."""
        groups = self.threads // self.group
        return 2 * groups if groups > 1 and self.warp else 0

    def halved(self, p: int) -> bool:
        """Whether pass p's DFT number j > stride / 2 takes the twiddles of number stride - j, see `factors_of`.

        It takes no instruction more, and half the memory: on Vulkan more blocks are at work. On CUDA n_fft 512, where a
        thread has four such DFTs and not two, took up to 1.03 times as long.
        """
        pays = self.strides[p] == 2 * self.threads if self.cuda else self.strides[p] > self.threads
        return p == len(self.radices) - 1 and pays

    def turns(self, p: int) -> int:
        """Of how many of pass p's DFTs the table has the twiddles."""
        return self.strides[p] // 2 + 1 if self.halved(p) else self.strides[p]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Per pass: where its twiddles begin in `table`; last, where the window begins."""
        sizes = [max(1, r // 2) * self.turns(p + 1) for p, r in enumerate(self.radices[1:])]
        return (0, *(sum(sizes[:p]) for p in range(len(sizes) + 1)))

    @property
    def entries(self) -> int:
        """Pairs in `table`."""
        return self.offsets[-1] + self.n_fft // 2

    def windowed(self, registers: list[Any]) -> list[Any]:
        """Those of a thread on whose rows the window is not 0."""
        return registers[self.first : self.first + self.rows]

    def table(self, window: NDArray[Any]) -> NDArray[Any]:
        """All constants of a frame in pairs, the first of each pair in one row, the second in another: (2, entries).

        For each pass but the first, each entry of its radix and the first `turns` of its DFTs: cosine and tangent of a
        twiddle. Then half of the window, as a bin and its mirror are added up: its samples t + T m and t + T (m + 1) for even
        m.
        """
        pairs: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for p, r in enumerate(self.radices[1:], start=1):
            pairs += fused_twiddles(np.arange(self.turns(p)) / self.strides[p], r)
        rows = window.reshape(self.points, self.threads) / 2
        return np.concatenate(pairs + list(zip(rows[0::2], rows[1::2])), axis=1)


class Head(NamedTuple):
    """Where a kernel's table of integers has what a pass begins with; a pass of the value alone comes first.

    Attributes:
        zero: 0, which the compiler is not to know.
        items, samples, frames: how many; samples and frames of an item.
        runs, longs, short: of `Runs`.
        at_work, long_turns, turns: of `Runs.turns`.
        item_stride, frame_stride: numbers of a fixed target from one item and frame to the next.
        padded: where in `scratch` padded positions begin.
    """

    zero: int
    items: int
    samples: int
    frames: int
    runs: int
    longs: int
    short: int
    at_work: int
    long_turns: int
    turns: int
    item_stride: int
    frame_stride: int
    padded: int

    @staticmethod
    def of(gradient: bool) -> "Head":
        """Of a pass with gradients or of one without."""
        count = len(Head._fields)
        return Head(*range(count * gradient, count * (gradient + 1)))


def choose(stft: STFT, dtype: Any, arch: str, stages: Stages | None = None, width: int = 0,
           columns: int = 1) -> Layout | None:  # fmt: skip
    """The layout for a power of two from 64 on, or None where a block has too little shared memory for it.

    width: how many numbers a quantity has, by stages. columns: how many sums there are.
    """
    n_fft = stft.n_fft
    if n_fft < 64 or n_fft & (n_fft - 1) or not shared_bytes(arch):
        return None
    points = min(16, n_fft // 8)  # with 32 the program would be too long, see `blocks`
    threads = n_fft // points
    if threads > MOST_THREADS:
        return None
    cuda, warp = arch == "cuda", warp_threads(arch) * (dtype == ti.f32)
    room = None if stages is None else Room.of(stages, stft.n_bins, width, threads, 1 << threads.bit_length() // 2)
    own = stages is None and columns == 1 and dtype == ti.f32  # for more there are not registers enough
    # Float64 needs more registers than there are in a wide block, and where frames stray it is slower: at 512 and a hop of
    # 100, 2^20 samples took a sixth longer, 2^26 a fortieth.
    wide = dtype == ti.f32 and threads <= 32 and stft.hop_length % threads == 0
    tries = _cuda_blocks(wide) if cuda else _vulkan_blocks(threads, warp, room is not None)
    for wanted, by_halves in tries:
        block = max(threads, wanted)
        # In software each block takes its time to start.
        most = GRID if cuda or in_software(arch) else LAUNCHED // block
        shape = Layout(n_fft, stft.hop_length, points, *_rows(stft, threads), radices_of(n_fft, points, own),
                       block // threads, cuda, 0, warp, room, most, by_halves)  # fmt: skip
        free = shared_bytes(arch) // (2 * itemsize(dtype)) - shape.block_cells
        if free >= 0:
            needed = shape.entries if cuda else shape.offsets[-1]  # on Vulkan the window has a better place
            return replace(shape, resident=min(free, needed))
    return None


def _cuda_blocks(wide: bool) -> list[tuple[int, bool]]:
    """Threads of a block, and whether it exchanges real and imaginary parts one after the other, in order of preference.

    Taichi has a program of blocks of 256 threads fit 128 registers, a smaller one 255. More warps at work make up for fewer
    registers where a team is within a warp, and no others have to wait for it. Else a block is a team: two of them wait for
    each other, and where one needs 170 registers fewer fit.
    """
    return [(block, False) for block in [256] * wide + [64, 32]]


def _vulkan_blocks(threads: int, warp: int, by_stages: bool) -> list[tuple[int, bool]]:
    """The same on Vulkan. No block is smaller than a warp, of which there are some of 64 threads.

    By halves it takes twice as many barriers and half the memory. NVIDIA's Vulkan has some 48 KiB for all blocks of a
    multiprocessor, a fourth of what CUDA has, and registers for six of 64 threads: at n_fft 1024 there is memory for six
    too, if by halves. Of 256 threads there is one at work, which may have all the memory. And a block of a single warp takes
    0.93 to 0.97 times as long as one of two, as its barriers cost nothing.
    """
    block = max(32, warp or 64)
    whole = by_stages or threads == MOST_THREADS
    return [(block, False)] * whole + [(block, True)] * (not by_stages)


def _rows(stft: STFT, threads: int) -> tuple[int, int]:
    """The first of the rows of so many points on which the window is not 0, and how many there are from it on.

    No rows are left out that lie in the signal before all others: these samples have a gradient too, if only 0.
    """
    used = np.flatnonzero(stft.window_table.reshape(-1, threads).any(axis=1))
    first, last = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
    first = min(first, stft.pad // threads)
    return first, last + 1 - first


def radices_of(n_fft: int, points: int, mirrors: bool) -> tuple[int, ...]:
    """The first pass as wide as can be, then as few and as even ones as can be.

    mirrors: whether a thread is to have its bins' mirrors too, where that takes no pass more: two DFTs half as wide in the
    first pass and in the last, which lie in the way that `seconds` says.
    """
    rest, width = (n_fft // points).bit_length() - 1, points.bit_length() - 1
    count = -(-rest // width)
    if mirrors and 4 * n_fft == points**3:
        return points // 2, points, points // 2
    return (points, *(1 << (rest // count + (i < rest % count)) for i in range(count)))


def registers_of(layout: Layout, stft: STFT, terms: tuple[Term, ...], fixed: bool, gradient: bool) -> int:
    """How many registers a thread has on CUDA, 128, 168 or more: up to these, four or three warps share a fourth of them.

    These are ptxas's choice for compute capability 9.0.
    """
    if not layout.warp:
        return 255  # float64
    if layout.block >= 256:
        return 128
    if layout.room is not None:
        transports = any(transport_parts(terms, quantity) for quantity in quantities_of(terms))
        if gradient and (transports or (layout.room.arrays and layout.stray)):
            return 255
        return 168 if gradient or transports else 128
    bare = not (fixed or stft.center or layout.stray or layout.mirrored or columns_of(terms)[-1] > 1)
    return 168 if gradient and not bare else 128


def teams_at_work(layout: Layout, dtype: Any, registers: int, transforms: int) -> int:
    """How many the device has at work side by side: as many as its multiprocessors have registers and shared memory for.

    Where that is not known, some more: when the last ones are at work, much of the device has nothing to do, but each run has
    its beginning and its end. By Vulkan 2^27 samples took an H200 1.05 to 1.1 times as long with a third as many, but for
    n_fft 4096, and up to 1.06 times with three to five times as many.

    transforms: how many there are in all.
    """
    multiprocessors, shared = cuda_multiprocessors() if layout.cuda else (0, 0)
    if not multiprocessors:
        blocks = transforms // (LEAST * layout.teams)
        return min(max(blocks, GRID), layout.most_blocks) * layout.teams
    needed = layout.block_cells * 2 * itemsize(dtype) + 1024  # bytes, 1024 of them the driver's
    # Each of a multiprocessor's four parts has a fourth of the registers, for whole warps.
    warps = 4 * (REGISTERS // 4 // (32 * registers))
    blocks = max(1, min(32 * warps // layout.block, shared // needed)) * multiprocessors
    return min(blocks, GRID) * layout.teams


def runs_of(layout: Layout, stft: STFT, dtype: Any, batch: int, n_samples: int, terms: tuple[Term, ...],
            fixed: bool) -> list[Runs]:  # fmt: skip
    """How the frames of signals (B, T) are shared out among the device's teams, without gradients and with them."""
    pack = 1 + fixed  # frames that share a transform
    transforms = -(-stft.n_frames(n_samples) // pack)
    overlap = -(-layout.overlap // (stft.hop_length * pack))
    registers = [registers_of(layout, stft, terms, fixed, gradient) for gradient in (False, True)]
    teams = [teams_at_work(layout, dtype, count, batch * transforms) for count in registers]
    return [Runs.of(transforms, batch, at_work, overlap, layout.teams) for at_work in teams]


def record_of(layout: Layout, sums: int, fixed: bool, gradient: bool) -> int:
    """How many numbers a run leaves in `scratch`: its sums, then what is left over behind it  # (1 or 2, overlap)"""
    return sums + layout.overlap * (2 - fixed) * gradient


def scratch_of(layout: Layout, stft: STFT, batch: int, both: list[Runs], columns: int, fixed: bool) -> tuple[int, int]:
    """What passes leave for the end, in one array: where in it padded positions begin, and its size.

    First each run's record  # (B, runs, record), then the gradients at padded positions  # (B, 2, n_fft)
    """
    records = [both[gradient].number * record_of(layout, columns, fixed, gradient) for gradient in (False, True)]
    padded = batch * max(records)
    return padded, padded + 2 * batch * stft.n_fft * (stft.center and stft.pad_mode == "reflect")


def goal_width(rows: int, bins: int, stages: Stages | None) -> int:
    """How many numbers a frame of a fixed target has."""
    if stages is None:
        return bins
    arrays = len(stages.quantities) if stages.banded else 1
    return arrays * rows + 2 * bins * stages.needs_phase
