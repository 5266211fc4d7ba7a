"""The fused pass on a GPU through memory: products of 2, 3, 5 and 7 that are too large for a block.

A frame of N = A B points is a matrix, point n = B a + b in row a and column b; and so are its bins, k = c + A d:

    columns     U[c, b]      = e^(−2πi b c / N) Σ_a z[B a + b] e^(−2πi a c / A)        A points, B times
    rows        Z[c + A d]   = Σ_b U[c, b] e^(−2πi b d / B)                            B points, A times
    compare     G[k], G[N−k] from Z[k], Z[N−k], which lie in rows c and A − c: see `pairs`
    rows        V[c, b]      = e^(−2πi b c / N) Σ_d G[c + A d] e^(−2πi b d / B)
    columns     v[B a + b]   = Σ_c V[c, b] e^(−2πi a c / A)
    gather      ∂x[s]       += Σ_f w[n] v[f, n]                                        all frames that contain s

z = x + i y are the windowed frames of both signals or, where the target is fixed, two frames of x. The way back has the
real and the imaginary part exchanged, so that it is the same transform.

Frames of 8,192 to 32,768 points, a power of two, in float32 have 16 rows. A thread has a column in registers, and adds up a
run of frames there before it writes their gradients (`matrix_registers`); a team of threads has a row (`matrix_teams`).

Where a loss is more than a sum over whole bins, rows are transformed there, compared and transformed back by a kernel each:
see `matrix_stages`.

Of other frames a line (a column or a row) is transformed in shared memory, in place: its elements end in the digit-reversed
order of its `Plan` and the way back takes them from there, so nothing is ever sorted. Its first pass takes it from memory to
registers, its last one from registers to memory; a block has several lines of a frame, so that both meet memory in
neighbouring numbers (`matrix_columns`, `matrix_rows`, `matrix_lines`). A run is one transform there. See `matrix_layout` for
where things lie.

Only a chunk of frames is in memory at once, 8 bytes a point, however long the signal: all real parts, then all imaginary
ones. A chunk that the H200's cache could hold takes longer: its kernels are too short for so large a device.
"""

from functools import cache
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import taichi as ti
from numpy.typing import NDArray

from taichi_spec.arrays import MAX_INDEX, itemsize, new_array, upload, upload_integers
from taichi_spec.bins import Account, Parts, columns_of, finish_function
from taichi_spec.fft import matrix_layout
from taichi_spec.fft.blocks_layout import goal_width
from taichi_spec.fft.fused import GPUEngine, run_sums
from taichi_spec.fft.matrix_columns import Integers, column_kernels, levels_kernel
from taichi_spec.fft.matrix_layout import BLOCK, HEAD, LEVELS, LONGEST_RUN, Matrix, Teams, choose
from taichi_spec.fft.matrix_registers import place_of, register_kernels
from taichi_spec.fft.matrix_rows import rows_kernel
from taichi_spec.fft.matrix_stages import FrameStages, row_kernels, stages_kernel
from taichi_spec.fft.matrix_teams import team_rows_kernel
from taichi_spec.fft.pairs import MAX_KNOWN
from taichi_spec.fft.stages import stages_of
from taichi_spec.fft.together import half
from taichi_spec.framing import IMAGES, framing, framing_of, item_sizes, touched
from taichi_spec.launch import Launch
from taichi_spec.runtime import arch_name
from taichi_spec.stft import STFT
from taichi_spec.terms import Term

MOST_POINTS = 2**28  # of a chunk: `known` keeps so many bits of an index
MOST_SUMS = 16  # for which a block has shared memory too
MOST_AT_ONCE = 4  # runs whose numbers a thread asks for together


@cache
def gather_kernel(dtype: Any, turn: int | None, at_once: int) -> Any:
    """The kernel that adds a chunk's runs of frames to the gradients.

    turn: as `place_of` takes it, N for a fixed target. at_once: runs whose number at a position a thread asks for before it
    waits for the first.
    """
    fixed = turn is not None
    Values = ti.types.ndarray(dtype=dtype, ndim=1)
    Array, GRID = ti.types.ndarray(), matrix_layout.GRID

    @ti.func
    def add_runs(total: ti.template(), V: ti.template(), own, q, start, end, apart):
        """Adds what all of a chunk's runs have at position q, the last one first."""
        f, least = ti.min(ti.raw_div(q, own.hop), own.n_frames - 1, end - 1), ti.max(start, 0)
        p = q - f * own.hop
        while f >= least and p < own.n_fft:
            there = [f - e >= least and p + e * own.hop < own.n_fft for e in ti.static(range(at_once))]
            before = [ti.select(there[e], e, 0) for e in ti.static(range(at_once))]
            some = [at_run(V, f - start, p, before[e], own.hop, apart) for e in ti.static(range(at_once))]
            for e in ti.static(range(at_once)):
                if there[e]:
                    total += some[e]
            f -= at_once
            p += at_once * own.hop

    @ti.func
    def at_run(V: ti.template(), f, p, before, hop, apart):
        """What the run has, so many before the chunk's run f, where that one has position p; of x and, unless the target is
        fixed, of y."""
        value = ti.Vector.zero(dtype, 2)
        at = ti.static([place_of(V, (f - before) * apart + p + before * hop, turn)])[0]
        value[0] = V[at]
        if ti.static(not fixed):
            value[1] = V[at + half(V)]
        return value

    @ti.kernel
    def gather(V: Values, gx: Array, gy: Array, sizes: Integers, items: Array, first: ti.i32, count: ti.i32,
               low: ti.i32, high: ti.i32, fresh: ti.i32):  # fmt: skip
        """gx[s] += Σ V over the runs that read sample s, of samples low ... high - 1 of all items in a row.

        From sample `fresh` on it is =: there is nothing there yet. first, count: the chunk's runs. sizes: samples of an item;
        samples of a run and from one to the next; padding, whether it mirrors; runs of an item, numbers of V for a run.
        """
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            samples, n_run, hop, pad, reflect, runs, apart = [sizes[k] for k in ti.static(range(7))]
            at = low + i
            while at < high:
                b = 0
                if at >= samples:
                    b = ti.raw_div(at, samples)
                s, start = at - b * samples, first - b * runs
                own = framing_of(items, b, n_run, hop, pad, reflect)
                total = ti.Vector.zero(dtype, 2)
                if s < own.n_samples:
                    add_runs(total, V, own, s + pad, start, start + count, apart)
                    if (reflect == 1) & ((s <= pad) | (s + pad >= own.n_samples - 1)):
                        for image in range(1, IMAGES):
                            q = own.position(s, image)
                            if q >= 0:
                                add_runs(total, V, own, q, start, start + count, apart)
                gx[0, at] = total[0] + (gx[0, at] if at < fresh else 0)
                if ti.static(not fixed):
                    gy[0, at] = total[1] + (gy[0, at] if at < fresh else 0)
                at += GRID * BLOCK

    return gather


@cache
def sums_kernels(tasks: int, dtype: Any, terms: tuple[Term, ...], parts: Parts, adds: bool) -> SimpleNamespace:
    """The kernels that sum over a transform's tasks, and then over transforms."""
    C = len(parts)
    finish, add_runs = finish_function(terms, dtype, Account.of(terms)), run_sums(parts, len(parts), dtype)
    Array, Values = ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.kernel
    def over_rows(partial: Values, totals: Values, units: ti.i32):
        """totals[unit, j] ← Σ partial over its tasks."""
        for unit in range(units):
            for j in ti.static(range(C)):
                total = ti.cast(0, dtype)
                for task in range(tasks):
                    total += partial[(unit * tasks + task) * C + j]
                totals[unit * C + j] = total

    @ti.kernel
    def over_frames(totals: Values, integers: Integers, account: Array, total: Array):
        """The sums and the total of each item, by one block."""
        ti.loop_config(block_dim=128)
        for i in range(128 * 128):
            shared = ti.simt.block.SharedArray((128 * C,), dtype)
            t, b = i & 127, i >> 7
            while b < account.shape[0]:
                add_runs(totals, account, shared, b, integers[5], t)
                if t == 0:
                    item = finish(account, account, account, account, b)
                    total[b] = (total[b] if ti.static(adds) else 0) + item
                b += 128

    return SimpleNamespace(over_rows=over_rows, over_frames=over_frames)


def supports(stft: STFT, dtype: Any, batch: int, n_samples: int, terms: tuple[Term, ...], fixed: Any = None,
             bands: Any = None, bin_weights: Any = None, toward_target: bool = False) -> bool:  # fmt: skip
    """Whether `MatrixEngine` can do this on this device, and no index leaves its range. Arguments: as it takes them."""
    if arch_name() not in ("cuda", "vulkan") or (dtype == ti.f64 and arch_name() == "vulkan"):
        return False
    sums = columns_of(terms)[-1]
    stages = stages_of(terms, bands, bin_weights, toward_target)
    matrix = choose(stft.n_fft, dtype, sums, stages is not None)
    if matrix is None or sums > MOST_SUMS:
        return False
    lacking = LONGEST_RUN - 1 if isinstance(matrix, Teams) else 0  # transforms of an item's last run, at most
    units = batch * (-(-stft.n_frames(n_samples) // (1 if fixed is None else 2)) + lacking)
    numbers = units * max(LEVELS, matrix.tasks(dtype, sums) * sums)
    rows = stft.n_bins if bands is None else len(bands)
    width = matrix.goals if stages is None else goal_width(rows, stft.n_bins, stages)
    target = 0 if fixed is None else prod(fixed.shape[:2]) * width
    return max(numbers, target) <= MAX_INDEX and batch * n_samples <= MAX_KNOWN


class MatrixEngine(GPUEngine):
    """Loss and gradients of signals of one shape, on a GPU, a chunk of frames at a time.

    Args:
        stft: the transform.
        dtype: ti.f32 or ti.f64, of the signals.
        is_field: whether signals are fields or ndarrays.
        batch, n_samples: B and T.
        terms: what is summed over bins.
        weights: what each term of each item is multiplied by  # (B, terms)
        fixed, bands, bin_weights, toward_target: as `BlocksEngine`'s.
        lengths: samples of each item, T by default; nothing beyond is read.
        scratch_bytes: the most memory that a chunk may take.
    """

    def __init__(self, stft: STFT, dtype: Any, is_field: bool, batch: int, n_samples: int,
                 terms: tuple[Term, ...], weights: NDArray[np.float64], fixed: NDArray[Any] | None,
                 bands: NDArray[np.float64] | None, bin_weights: NDArray[np.float64] | None, toward_target: bool,
                 lengths: tuple[int, ...] | None, scratch_bytes: int) -> None:  # fmt: skip
        super().__init__(dtype, is_field, batch, n_samples, terms, weights, fixed is not None)
        stages = stages_of(terms, bands, bin_weights, toward_target)
        matrix = choose(stft.n_fft, dtype, columns_of(terms)[-1], stages is not None)
        assert matrix is not None  # as `supports` said
        self.matrix, self.stft, pack = matrix, stft, 1 + self.fixed
        self.lengths = lengths or (n_samples,) * batch
        table, places = matrix.table(stft.window_table), matrix.places(dtype)
        self.stages: FrameStages | None = None
        if isinstance(matrix, Matrix) and stages is not None:
            self.stages = FrameStages(matrix, stft, dtype, stages, bands, bin_weights, len(table), HEAD + len(places))
        numbers = 2 * stft.n_fft + (self.stages.numbers_of_a_frame if self.stages else 0)
        # Transforms of a chunk, at most.
        most = max(1, min(scratch_bytes // (numbers * itemsize(dtype)), MOST_POINTS // stft.n_fft))
        self.run, self.units = self._runs(-(-stft.n_frames(n_samples) // pack), most)
        units = batch * self.units
        runs, most = units // self.run, max(1, most // self.run)
        self.chunk = -(-runs // -(-runs // most)) * self.run
        self.work = new_array(dtype, 2 * self.chunk * stft.n_fft)  # real parts, then imaginary parts
        self.levels = new_array(dtype, (units, LEVELS))
        if self.stages:
            self.stages.make_room(self.chunk)
        goals_of = self.stages.goals_of if self.stages else matrix.goals_of
        whole, strides = framing(stft, n_samples), self._keep_goal(None if fixed is None else goals_of(fixed))
        head = (n_samples, whole.n_fft, whole.hop, whole.pad, whole.reflect, self.units, *strides, self.run,
                matrix.at_work(self.chunk, self.fixed), 0)  # fmt: skip
        behind = (self.stages.numbers, self.stages.integers) if self.stages else ((), ())
        self.table = upload(np.concatenate([table, behind[0]]), dtype)
        self.integers = upload_integers(np.concatenate([head, places, behind[1]]))
        self.items = item_sizes(stft, self.lengths)  # (B, 2)
        self._prepare_to_gather(whole)

    def _prepare_to_gather(self, whole: Any) -> None:
        """What `gather` needs. Frames that are added up are gathered as if they were one, as long as they all."""
        pack = 1 + self.fixed
        self.merged = merged = self.run * pack if isinstance(self.matrix, Teams) and whole.hop < whole.n_fft else 1
        length, apart = whole.n_fft + (merged - 1) * whole.hop, merged * whole.hop
        sizes = (
            self.n_samples,
            length,
            apart,
            whole.pad,
            whole.reflect,
            self.units * pack // merged,
            merged * whole.n_fft,
        )
        items = [(length, -(-self.stft.n_frames(length) // merged)) for length in self.lengths]  # (B, 2)
        self.gathered, self.gathered_items = upload_integers(np.array(sizes)), upload_integers(np.array(items))
        meeting = -(-length // apart)  # runs at a sample, at most
        at_once = min(meeting, MOST_AT_ONCE) if meeting > 2 else 1
        self.gather = gather_kernel(self.dtype, whole.n_fft if self.fixed else None, at_once)

    def _runs(self, units: int, most: int) -> tuple[int, int]:
        """How many transforms a run has; and how many an item, those included that its last run lacks.

        units: of an item, most: of a chunk.
        """
        if not isinstance(self.matrix, Teams) or self.stft.hop_length >= self.stft.n_fft:
            return 1, units
        length = max(1, min(self.matrix.run_of(min(most, self.batch * units)), units, most))
        runs = -(-units // length)
        length = -(-units // runs)
        return length, runs * length

    def _evaluation(self, grad_x: Any, grad_y: Any, parts: Parts, total: Any, adds: bool) -> list[Launch]:
        units, backward = self.batch * self.units, grad_x is not None
        tasks = 1 if self.stages else self.matrix.tasks(self.dtype, len(parts))
        partial = new_array(self.dtype, units * tasks * len(parts))
        totals = new_array(self.dtype, units * len(parts))
        measure = levels_kernel(self.matrix.n_fft, self.matrix.window, self.dtype, self.is_field, self.fixed)
        columns = self._columns()
        sums = sums_kernels(tasks, self.dtype, self.terms, parts, adds)
        signals = ("x", "x" if self.fixed else "y", self.table, self.integers, self.items, self.levels)
        second = self.levels if grad_y is None else grad_y  # one that is not written
        launches = [Launch(measure, (*signals, units))]
        end = self.batch * self.n_samples
        fresh = end if adds else 0  # from which sample on nothing is in the gradients
        for first in range(0, units, self.chunk):
            part = first, min(self.chunk, units - first)
            launches.append(Launch(columns.columns, (*signals, self.work, *part)))
            launches += self._rows(parts, backward, partial, part)
            if backward:
                low, high = self._touched(*part)
                if not adds:  # what no frame touches belongs to the chunk before it
                    low, high = min(low, fresh), end if first + self.chunk >= units else max(high, fresh)
                runs = [n * (1 + self.fixed) // self.merged for n in part]
                gather = self.work, grad_x, second, self.gathered, self.gathered_items, *runs, low, high, fresh
                launches.append(
                    Launch(columns.columns_back, (self.table, self.integers, self.levels, self.work, *part))
                )
                launches.append(Launch(self.gather, gather))
                fresh = max(high, fresh)
        return [
            *launches,
            Launch(sums.over_rows, (partial, totals, units)),
            Launch(sums.over_frames, (totals, self.integers, self.account, total)),
        ]

    def _columns(self) -> SimpleNamespace:
        """The kernels of columns."""
        kinds = self.dtype, self.is_field, self.fixed
        if isinstance(self.matrix, Teams):
            return register_kernels(self.matrix, *kinds)
        return column_kernels(self.matrix, *kinds, self.stages is not None)

    def _rows(self, parts: Parts, backward: bool, partial: Any, part: tuple[int, int]) -> list[Launch]:
        """What is done to a chunk's rows, the comparison in it. part: its first transform, and how many it has."""
        goal = self.goal if self.fixed else self.table  # one that is not read
        tables = self.table, self.integers
        others = goal, *tables, self.items, self.levels, self.account, partial
        kinds = self.dtype, parts, self.at.coefficients, self.fixed, backward
        if isinstance(self.matrix, Teams):
            return [Launch(team_rows_kernel(self.matrix, *kinds), (self.work, *others, *part))]
        if self.stages is None:
            return [Launch(rows_kernel(self.matrix, *kinds), (self.work, *others, *part))]
        of = self.stages
        rows, transformed = row_kernels(self.matrix, of.rows, self.dtype), (self.work, of.bins, *tables, part[1])
        kernel = stages_kernel(self.matrix.n_fft, *kinds, *of.kinds)
        compare = Launch(kernel, (of.bins, *others, of.cells, of.fences, *part))
        return [Launch(rows.there, transformed), compare, *([Launch(rows.back, transformed)] if backward else [])]

    def _touched(self, first: int, count: int) -> tuple[int, int]:
        """The samples that a chunk's frames read, of all items in a row, from the first one to the one after the last."""
        (b, unit), (c, last) = divmod(first, self.units), divmod(first + count - 1, self.units)
        low, _ = self._touched_of(b, unit, last if b == c else self.units - 1)
        _, high = self._touched_of(c, unit if b == c else 0, last)
        return b * self.n_samples + low, c * self.n_samples + high

    def _touched_of(self, b: int, unit: int, last: int) -> tuple[int, int]:
        """The samples of item b that its transforms `unit` ... `last` read, those beyond its frames none."""
        pack, length = 1 + self.fixed, self.lengths[b]
        frames = min((last + 1) * pack, self.stft.n_frames(length)) - unit * pack
        return touched(self.stft, length, unit * pack, frames) if frames > 0 else (length, 0)
