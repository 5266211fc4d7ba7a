"""What `matrix` does to rows that teams of threads hold in registers, as `blocks` does whole frames.

A block has two teams, one for row c and one for row 16 − c; or for rows 0 and 8, whose pairs are in themselves. Thread t of a
team has bins t + T m in its registers m. Those with m >= 8 it lends, through shared memory, to the thread that has the other
bins of their pairs in its first registers: bin d of row c is compared with bin B − 1 − d of the other row, or of row 8; bin d
of row 0 with its bin B − d.
"""

from functools import cache
from typing import Any

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft import matrix_layout
from taichi_spec.fft.blocks_shared import shared_memory
from taichi_spec.fft.blocks_transform import transforms
from taichi_spec.fft.matrix_columns import Integers, nothing, whole_of
from taichi_spec.fft.matrix_layout import LEVELS, ROWS, Teams
from taichi_spec.fft.matrix_rows import adder
from taichi_spec.fft.pairs import KNOWN, add_distances, forces_of, hold, measures_of, two_bins, zeros
from taichi_spec.fft.together import planes_writer, read_planes


@cache
def team_rows_kernel(teams: Teams, dtype: Any, parts: Parts, coefficients: int, fixed: bool, gradient: bool) -> Any:
    """The kernel that compares a chunk's bins, between the rows' transforms there and back. Arguments: as `rows_kernel`'s."""
    layout = teams.layout
    N, B, T, R, BLOCK = teams.n_fft, layout.n_fft, layout.threads, layout.points, layout.block
    C, FRAMES, TASKS, GRID = len(parts), 1 + fixed, teams.tasks(dtype, len(parts)), matrix_layout.GRID
    HALF, MIDDLE, CELLS = R // 2, ROWS // 2, layout.cells
    LOG_T, LOG_BLOCK = T.bit_length() - 1, BLOCK.bit_length() - 1
    shared = shared_memory(layout, dtype, 2)
    ARRAY, fill, transform = shared.array, shared.fill, transforms(layout, dtype, shared).transform
    store, fetch_from, own_again = shared.store, shared.fetch_from, shared.nothing
    measures, write_planes = measures_of(parts, fixed, dtype, tuple(range(C))), planes_writer(dtype)
    add_up = adder(dtype, C, BLOCK)
    Array, Values = ti.types.ndarray(), ti.types.ndarray(dtype=dtype, ndim=1)

    @ti.func
    def compare(found: ti.template(), re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(), which, t,
                row, unit, y: ti.template(), integers: ti.template(), items: ti.template(), levels: ti.template(),
                account: ti.template()):  # fmt: skip
        """Adds the distances of two rows' bins, which become the gradients', real and imaginary parts exchanged.

        What it needs it reads here: it is not to wait in registers while rows are transformed.
        """
        b, f = whole_of(unit, integers[5], FRAMES)
        frames = items[b, 1]
        live, second = f < frames, f + 1 < frames
        scale = [levels[unit, ti.static(j)] for j in ti.static(range(LEVELS - 2))]
        factors = [account[b, ti.static(coefficients + parts[j][0])] for j in ti.static(range(C))]
        # The row's goals are there, or those of the row that it is compared with, from right to left.
        begin, step = row * B + t, T
        if row > MIDDLE:
            begin, step = (ROWS - row) * B + B - 1 - t, -T
        goal = [b * integers[6] + ti.min(f + k, frames - 1) * integers[7] + begin for k in ti.static(range(2))]
        goals = ti.static(goals_of(y, goal, step, forces_of(factors, scale)))
        wanted = ti.static([goals(m) for m in range(HALF)])  # asked for before they are needed
        first = row == 0 and t == 0
        lend(re, im, sm, team, t, first)
        there = ti.select(row % MIDDLE == 0, which, 1 - which) * CELLS
        at = (there + ti.static(B // 2 - (HALF - 1) * T) - t - ti.select(row == 0, 0, 1)) & KNOWN
        mirrors = ti.static([fetch_from(sm, at, (HALF - 1 - m) * T) for m in range(HALF)])
        for m in ti.static(range(HALF)):
            values, low, high = ti.static(two_bins([re[m], im[m]], mirrors[m], wanted[m], scale, fixed, dtype))
            add(found, values, live, second)
            if ti.static(gradient):
                twice = ti.cast(2, dtype) if first and m == 0 else ti.cast(1, dtype)
                re[m], im[m] = twice * low[1], twice * low[0]
                store(sm, at + ti.static((HALF - 1 - m) * T), high[1], high[0])
        middle = [re[HALF], im[HALF]]
        if first:
            values, low, _ = ti.static(two_bins(middle, middle, goals(HALF), scale, fixed, dtype))
            add(found, values, live, second)
            middle[0], middle[1] = 2 * low[1], 2 * low[0]
        if ti.static(gradient):
            take_back(re, im, sm, team, t)
            if first:
                re[HALF], im[HALF] = middle[0], middle[1]

    @ti.func
    def lend(re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(), t, first):
        """A team's cell j ← its bin B / 2 + j; behind them lies bin 0 of row 0, its own mirror. Bin B / 2 of that row, another
        one, thread 0 does alone."""
        ti.simt.block.sync()  # until all threads have read the last exchange
        for m in ti.static(range(HALF)):
            store(sm, team + t + ti.static(T * m), re[HALF + m], im[HALF + m])
        if first:
            store(sm, team + ti.static(B // 2), re[0], im[0])
        ti.simt.block.sync()

    @ti.func
    def take_back(re: ti.template(), im: ti.template(), sm: ti.template(), team: ti.template(), t):
        """What others have left in this team's cells."""
        ti.simt.block.sync()
        at = (team + t + own_again(t, 2)) & KNOWN
        back = ti.static([fetch_from(sm, at, T * m) for m in range(HALF)])
        for m in ti.static(range(HALF)):
            re[HALF + m], im[HALF + m] = ti.static(back)[m]

    def goals_of(y, goal, step, forces):
        """What measures a thread's bin m, by m: see `measures`."""
        at = measures(y, *goal, forces)
        return lambda m: at(hold(step * m) if fixed else 0)

    @ti.func
    def add(found: ti.template(), values: ti.template(), live, second):
        there = [ti.select(live, value, 0) for value in ti.static(values)]
        add_distances(found, there, second)

    @ti.func
    def row_of(task, which):
        """A task's transform, and which row a team has of it."""
        unit, c = whole_of(task, TASKS, 1)
        return unit, ti.select(which == 0, c, ti.select(c == 0, MIDDLE, ROWS - c))

    @ti.kernel
    def rows(Z: Values, y: Values, table: Values, integers: Integers, items: Array, levels: Array,
             account: Array, partial: Array, first: ti.i32, count: ti.i32):  # fmt: skip
        """partial[unit, task, j] ← the distances of a task's rows; Z ← G's transforms."""
        ti.loop_config(block_dim=BLOCK)
        for i in range(GRID * BLOCK):
            sm = ti.simt.block.SharedArray((ARRAY[0],), ARRAY[1])
            sums = ti.simt.block.SharedArray((BLOCK * C,), dtype)
            zero, at_work = nothing(integers), integers[9]
            t, which, task = ((i & (T - 1)) + zero) & KNOWN, (i >> LOG_T) & 1, i >> LOG_BLOCK
            team = which * CELLS
            if task < at_work:
                fill(sm, i, table, zero)
                while task < count * TASKS:
                    unit, row = row_of(task, which)
                    place = unit * N + row * B + t
                    unit += first
                    found = ti.static(zeros(C, dtype))
                    re, im = ti.static(read_planes(Z, hold(place & KNOWN), T, R))
                    for way in range(ti.static(1 + gradient) + zero):
                        if ti.static(gradient):  # noqa: SIM102  one is known when the kernel is compiled
                            if way == 1:
                                compare(found, re, im, sm, team, which, t, row, unit, y, integers, items, levels,
                                        account)  # fmt: skip
                        done = ti.static(transform(re, im, sm, team, t, None, table, zero))
                        for m in ti.static(range(R)):
                            re[m], im[m] = ti.static(done)[m]
                    if ti.static(gradient):
                        write_planes(Z, place & KNOWN, T, re, im)
                    else:
                        compare(found, re, im, sm, team, which, t, row, unit, y, integers, items, levels, account)
                    add_up(partial, sums, found, first * TASKS + task, i & (BLOCK - 1))
                    task += at_work

    return rows
