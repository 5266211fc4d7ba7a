"""A block's shared memory: a cell of two numbers for each of its teams' points, and behind them the table's first entries.

A cell is a vector on CUDA and two numbers elsewhere: Taichi has no shared vectors there.
"""

from types import SimpleNamespace
from typing import Any

import taichi as ti

from taichi_spec.fft.blocks_layout import Layout
from taichi_spec.fft.pairs import element, hold


def shared_memory(layout: Layout, dtype: Any, at_once: int) -> SimpleNamespace:
    """The functions that put numbers into it and find them again.

    Args:
        layout: how much there is.
        dtype: ti.f32 or ti.f64.
        at_once: entries of the table that a thread asks for before it puts any into shared memory.

    array: how it is declared.
    """
    CUDA, T, BLOCK = layout.cuda, layout.threads, layout.block
    WITHIN_WARP = CUDA and T <= 32  # whether a team is
    ENTRIES, RESIDENT = layout.entries, layout.resident
    TOTAL, TABLE = layout.block_cells, layout.cells * layout.teams
    array = (TOTAL, ti.types.vector(2, dtype)) if CUDA else (2 * TOTAL, dtype)

    @ti.func
    def sync():
        if ti.static(WITHIN_WARP and BLOCK > 32):
            ti.simt.warp.sync(ti.u32(0xFFFFFFFF))
        else:
            ti.simt.block.sync()

    @ti.func
    def uniform(condition):
        """A condition that all threads of a team share, told to the compiler where a team fills warps."""
        if ti.static(CUDA and T >= 32):
            return ti.simt.warp.all_nonzero(ti.u32(0xFFFFFFFF), ti.cast(condition, ti.i32)) != 0
        else:
            return condition

    @ti.func
    def nothing(t: ti.template(), p: ti.template()):
        """0, as LLVM knows and Taichi does not: another one for each p of 0, 1, 2.

        Taichi takes shared memory for the thread's own and would reuse what it read there a pass before.
        """
        return t >> ti.static(29 + p)  # t < 2^29

    @ti.func
    def store(sm: ti.template(), at: ti.template(), a: ti.template(), b: ti.template()):
        if ti.static(CUDA):
            sm[at] = ti.Vector([a, b])
        else:
            sm[2 * at] = a
            sm[2 * at + 1] = b

    @ti.func
    def fetch(sm: ti.template(), at: ti.template()):
        if ti.static(CUDA):
            value = sm[at]
            return value[0], value[1]
        else:
            return sm[2 * at], sm[2 * at + 1]

    def fetch_from(sm, base, away):
        """Cell base + away, of many that have one base. Counted from that cell as numbers, which lie one behind the other,
        they have one address; LLVM would find that too, but not before it has decided what to inline."""
        if CUDA:
            cell = element(sm, base)
            return element(cell, 2 * away), element(cell, 2 * away + 1)
        return element(sm, 2 * base + 2 * away), element(sm, 2 * base + (2 * away + 1))

    @ti.func
    def store_one(sm: ti.template(), at: ti.template(), a: ti.template()):
        """Of numbers: on CUDA a cell for each, elsewhere two of them."""
        if ti.static(CUDA):
            store(sm, at, a, a)
        else:
            sm[at] = a

    @ti.func
    def fetch_one(sm: ti.template(), at: ti.template()):
        if ti.static(CUDA):
            return sm[at][0]
        else:
            return sm[at]

    def entry(table, at):
        """A pair of the table in memory."""
        return element(table, at), element(table, at + ENTRIES)

    def constants(sm, table, base, away, end):
        """Pair base + away of the table, each thread's own. end: behind all of theirs."""
        return fetch_from(sm, base, away + TABLE) if end <= RESIDENT else entry(table, base + away)

    def entries_at(table, n):
        """Entries that a thread puts into shared memory, all asked for before any is awaited; the last one for none."""
        places = [hold(ti.min(n + BLOCK * e, RESIDENT - 1)) for e in range(at_once)]
        return [(at, *map(hold, entry(table, at))) for at in places]

    @ti.func
    def fill(sm: ti.template(), i: ti.template(), table: ti.template(), zero: ti.template()):
        """The table's first entries, by the threads of a block."""
        if ti.static(RESIDENT):
            n = i & ti.static(BLOCK - 1)
            while n < RESIDENT + zero:  # + 0 keeps LLVM from unrolling it
                for at, first, second in ti.static(entries_at(table, n)):
                    store(sm, TABLE + at, first, second)
                n += ti.static(at_once * BLOCK)
            ti.simt.block.sync()

    return SimpleNamespace(array=array, sync=sync, uniform=uniform, nothing=nothing, store=store, fetch=fetch,
                           fetch_from=fetch_from, store_one=store_one, fetch_one=fetch_one, constants=constants,
                           fill=fill)  # fmt: skip
