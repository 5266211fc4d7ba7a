"""A pass over all frames, of `blocks` or of `frames`, as a kernel."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import taichi as ti

from taichi_spec.bins import Parts
from taichi_spec.fft.compare_room import BandPlaces
from taichi_spec.fft.stages import Stages
from taichi_spec.framing import annotation
from taichi_spec.terms import Term


@dataclass(frozen=True)
class Pass:
    """What of a pass over all frames is known when its kernel is compiled.

    Attributes:
        layout: how a frame lies on threads.
        dtype: ti.f32 or ti.f64.
        terms: what the loss is made of, for the functions of the sums.
        parts: what is summed, and in which column.
        before: of which parts a pass of the value alone before has the sums; or nothing.
        gradient: whether to make the gradients too.
        totals: whether to make the terms' values and the loss.
        is_field: whether the signals are fields or ndarrays; the gradients are ndarrays (B, T).
        fixed: whether y is not a signal but magnitudes in a flat array; two frames of x share a transform then.
        edges: "reflect", "constant" or "none".
        stages: how the quantities are made that are summed, or None for whole bins, a bin at a time.
        places: where the bands' matrix lies in `table` and `integers`.
        cut: whether items have lengths of their own.
        adds: whether total and gradients are added to what is there.
    """

    layout: Any
    dtype: Any
    terms: tuple[Term, ...]
    parts: Parts
    before: Parts
    gradient: bool
    totals: bool
    is_field: bool
    fixed: bool
    edges: str
    stages: Stages | None
    places: BandPlaces
    cut: bool
    adds: bool

    @property
    def wanted(self) -> Parts:
        """Those of the parts that this pass sums: by stages all again."""
        return tuple(part for part in self.parts if self.stages is not None or part not in self.before)

    @property
    def one_before(self) -> "Pass":
        """The pass of the value alone before."""
        return replace(self, parts=self.before, before=(), gradient=False, totals=False)


@cache
def fused_kernel(functions_of: Any, last: Pass) -> Any:
    """A pass as a kernel, and in it the one before, if there are sums to be known first.

    functions_of: what makes the functions of a pass, `blocks.one_pass` or `frames.one_pass`.
    """
    layout, dtype, fixed = last.layout, last.dtype, last.fixed
    passes = [functions_of(each) for each in ([last.one_before] if last.before else []) + [last]]
    BLOCK, BLOCKS = layout.block, layout.most_blocks
    Values = ti.types.ndarray(dtype=dtype, ndim=1)
    Matrix = ti.types.ndarray(dtype=dtype, ndim=2)
    Integers = ti.types.ndarray(dtype=ti.i32, ndim=1)
    Signal = annotation(last.is_field)

    @ti.kernel
    def fused(x: Signal, y: Values if fixed else Signal, gx: Matrix, gy: Matrix, table: Values, integers: Integers,
              scratch: Values, account: Matrix, total: Values):  # fmt: skip
        """Sums and totals, and gradients. scratch: see `scratch_of`.

        Each argument costs 2 µs a call, 4 where the processor's caches are cold: hence tables, and sizes among integers.
        """
        # The bounds of all loops are constants: others take a launch to find out.
        for one in ti.static(passes):
            # Every run of frames, by one team.
            ti.loop_config(block_dim=BLOCK)
            for i in range(BLOCKS * BLOCK):
                if i < one.threads(integers):
                    one.walk(i, x, y, gx, gy, table, integers, scratch, account)
            # The sums and the total of each item, by one block; by others, what runs left over is added to what the next
            # ones wrote, and what lies at padded positions to the samples that they mirror.
            ti.loop_config(block_dim=128)
            for i in range(ti.static(one.settling * 128)):
                one.settle(i, gx, gy, integers, scratch, account, total)

    return fused
