"""How `lanes` shares out frames: to segments, which are lanes of runs, and to their steps."""

from types import SimpleNamespace

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.stft import STFT
from taichi_spec.terms import Term

VECTOR_BYTES = 32  # with 64, 2^20 samples at n_fft 1024 take 7.3 ms instead of 5.8 even where there is AVX-512
# Work memory has no more vectors. An index & PLACES is one that LLVM knows not to wrap around when a little is added or it
# is multiplied by the lanes: see `lanes`.
PLACES = 2**27 - 1
NOTES = 7  # vectors that say how a step's frames are scaled; the coefficients of the sums follow
ARRAYS = 4  # of a quantity: q, r, ∂q, ∂r
SPARE = 4  # vectors before them, for what is needed lane by lane
# So many runs at least, where there are enough frames: what many cores can share. But a run begins and ends in the time
# that one and a half transforms take: there are no more than FEW where each would have less than LEAST of them.
RUNS, FEW, LEAST = 16, 4, 4
Size = ti.types.struct(
    n=ti.i32, inner=ti.i32, hop=ti.i32, samples=ti.i32, items=ti.i32, pad=ti.i32, reflect=ti.i32, total=ti.i32,
    frames=ti.i32, segments=ti.i32, runs=ti.i32, steps=ti.i32, shift=ti.i32, length=ti.i32, kept=ti.i32, gap=ti.i32,
    overhang=ti.i32, goal_run=ti.i32, goal_step=ti.i32, vectors=ti.i32, columns=ti.i32, rows=ti.i32, width=ti.i32,
    axis=ti.i32, scratch=ti.i32, zero=ti.i32,
)  # fmt: skip


def lane_count(dtype) -> int:
    """How many frames ride side by side."""
    return VECTOR_BYTES // (8 if dtype == ti.f64 else 4)


def keeps_vectors(terms: tuple[Term, ...]) -> bool:
    """Whether lanes stay vectors for LLVM: not if a term that is not one of ours may need what Taichi does with numbers."""
    return all(type(term).__module__.startswith("taichi_spec.terms.") for term in terms)


@ti.func
def size_of(sizes: ti.template()):
    """The sizes that a kernel is given  # (1, members)"""
    return Size(*[sizes[0, i] for i in ti.static(range(len(Size.members)))])


def layout(stft: STFT, inner: int, n_samples: int, batch: int, pack: int, lanes: int, threads: int,
           columns: int, rows: int, quantities: int, width: int) -> SimpleNamespace:  # fmt: skip
    """How the frames are shared out: a function of sizes alone, but for the slots, the runs worked at at once.

    Args:
        stft: the transform.
        inner: points of the plan's transform, n_fft or more.
        n_samples, batch: T and B.
        pack: frames of a segment in one transform: 2 with a fixed target, else 1.
        lanes: frames side by side.
        threads: how many runs can be worked at at once.
        columns: sums over the bins.
        rows: bins, or bands.
        quantities: how many quantities of them are kept in work memory.
        width: numbers in a frame of the goal.
    """
    n, hop, total = stft.n_fft, min(stft.hop_length, 2**30), stft.n_frames(n_samples)
    # A segment is long enough that its halo is small beside it, but there are RUNS runs if there are that many frames.
    most = max(32, -(-8 * n // hop))
    fair, fewer = (-(-total * batch // (number * lanes)) for number in (RUNS, FEW))
    fair = max(fair, min(fewer, LEAST * pack))
    segments = -(-total // max(pack, min(most, fair)))
    frames = -(-total // segments)
    segments = -(-total // frames)
    runs, steps = -(-batch * segments // lanes), -(-frames // pack)
    shift = min(hop, n) * (pack - 1)  # from one frame of a step to the next, in the ring
    # work memory of a slot: transform, notes and coefficients, rings, sums, quantities
    scratch = NOTES + columns + 2 * (3 - pack) * (n + shift)
    vectors = 2 * inner + scratch + SPARE + ARRAYS * pack * quantities * rows
    vectors += vectors % 2  # real and imaginary part in one line of cache
    if vectors > PLACES:
        raise ValueError(f"n_fft must be so small that a frame takes at most {PLACES} vectors of work memory, got {n}")
    return SimpleNamespace(
        n=n, inner=inner, hop=hop, samples=n_samples, items=batch, pad=stft.pad,
        reflect=int(stft.center and stft.pad_mode == "reflect"), total=total,
        frames=frames, segments=segments, runs=runs, steps=steps,
        shift=shift, length=n + shift,
        kept=max(0, n - hop),  # ring elements that the next step has too
        gap=max(0, hop - n) * (pack - 1),  # samples between the two frames of a step that the ring leaves out
        overhang=max(0, n - hop),
        goal_run=steps, goal_step=1,  # records of the goal from run to run, from step to step
        slots=min(threads, runs, PLACES // vectors), vectors=vectors, columns=columns,
        rows=rows, width=width,
        axis=n,  # steps of the frequency axis in a sampling rate
        scratch=scratch, zero=0,
    )  # fmt: skip


def seats(size: SimpleNamespace, lanes: int, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each lane of each run its segment: the item, its first sample, how many frames: (runs, 6, lanes).

    Then the item's samples and frames, which are the rows of `items`, and the first sample counted from the beginning
    of all items, one after the other. Where an item is short, its last segments have no frames.
    """
    table = np.zeros((size.runs, 6, lanes), np.int64)
    q = np.arange(size.items * size.segments)
    item, first_frame = q // size.segments, q % size.segments * size.frames
    samples, frames = items[item].T
    count = np.clip(frames - first_frame, 0, size.frames)
    first = first_frame * size.hop - size.pad
    for i, column in enumerate((item, first, count, samples, frames, item * size.samples + first)):
        table[q // lanes, i, q % lanes] = column
    return table
