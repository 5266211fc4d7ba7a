"""Numbers written to arrays on CUDA, none of which waits for the one before.

At each access Taichi reads the array's address from the kernel's arguments, and after a store no compiler knows that it
still stands there: each store would wait for its address, and each sum for a number from memory besides. A real function
has all its addresses, and all that it adds to, before it writes the first. Vulkan has no real functions, and no need.
"""

from functools import cache, wraps
from typing import Any

import taichi as ti

from taichi_spec.fft.pairs import KNOWN, element, hold
from taichi_spec.runtime import arch_name, runtime_token


def fours(places: list[Any]) -> list[list[Any]]:
    """Places four at a time. The last ones may be the same place: it is written the same number more than once."""
    groups = [places[i : i + 4] for i in range(0, len(places), 4)]
    return [group + group[-1:] * (4 - len(group)) for group in groups]


@cache
def four_writer(dtype: Any, adds: bool = False) -> Any:
    """The function (a, b, c, d) ← (p, q, r, s) for numbers of arrays a, b, c, d; with `adds`, it adds to them."""
    Place = ti.ref(dtype)

    @ti.real_func
    def write(a: Place, b: Place, c: Place, d: Place, p: dtype, q: dtype, r: dtype, s: dtype):
        a = p  # noqa: F841  a reference
        b = q  # noqa: F841
        c = r  # noqa: F841
        d = s  # noqa: F841

    @ti.real_func
    def add(a: Place, b: Place, c: Place, d: Place, p: dtype, q: dtype, r: dtype, s: dtype):
        t, u, v, w = a + p, b + q, c + r, d + s
        a = t
        b = u
        c = v
        d = w

    return _renewed(add if adds else write)


def _renewed(function: Any) -> Any:
    """A real function that is compiled anew after a `ti.init`, as kernels are. Taichi forgets that, and would crash."""
    compiled_in: list[Any] = [None]

    @wraps(function)
    def call(*arguments: Any) -> Any:
        if compiled_in[0] is not runtime_token():
            compiled_in[0] = runtime_token()
            function.func.compiled, function.func.taichi_functions = None, {}
        return function(*arguments)

    return call


@cache
def rows_writer(dtype: Any, adds: bool, width: int, count: int) -> Any:
    """The `ti.func` that writes a thread's numbers t, t + width, ... of `count` to arrays, from `at` - t in them on."""
    write_four, rows, whole = four_writer(dtype, adds), -(-count // width), count // width

    def in_order(signals):
        """The (signal, row), four at a time: first those of a row that is not whole, beside row 0."""
        partial = [(s, m) for s in range(signals) for m in (0, whole) if whole < rows]
        return fours(partial + [(s, m) for s in range(signals) for m in range(whole) if (s, m) not in partial])

    def chosen(m, reached, value, first):
        """What a thread writes in row m: where it does not reach it, what it writes in row 0, once more."""
        return value if m < whole else hold(ti.select(reached, value, first))

    @ti.func
    def write_rows(arrays: ti.template(), at: ti.template(), t: ti.template(), values: ti.template()):
        """values: of each array, a list of rows."""
        if ti.static(arch_name() == "cuda" and whole > 0):
            reached = t + ti.static(width * whole) < count
            for some in ti.static(in_order(len(arrays))):
                write_four(*ti.static([arrays[s][0, at + chosen(m, reached, width * m, 0)] for s, m in some]),
                           *ti.static([chosen(m, reached, values[s][m], values[s][0]) for s, m in some]))  # fmt: skip
        else:
            for s in ti.static(range(len(arrays))):
                for m in ti.static(range(rows)):
                    if ti.static(m < whole) or t + ti.static(width * m) < count:
                        value = values[s][m]
                        if ti.static(adds):
                            value = value + arrays[s][0, at + ti.static(width * m)]
                        arrays[s][0, at + ti.static(width * m)] = value

    return write_rows


@ti.func
def half(array: ti.template()):
    """How far apart the real and the imaginary parts are in an array that has all of the ones before the others."""
    return array.shape[0] >> 1


def read_planes(array, at, away, count):
    """Lists of array[at + q away], and of the same of the array's other half, for q < count."""
    other = hold((at + half(array)) & KNOWN)
    return tuple([hold(element(array, begin + q * away)) for q in range(count)] for begin in (at, other))


@cache
def planes_writer(dtype: Any) -> Any:
    """The `ti.func` array[at + q away] ← re[q], and the same in the array's other half ← im[q], for all q."""
    write = four_writer(dtype)

    @ti.func
    def write_planes(array: ti.template(), at, away: ti.template(), re: ti.template(), im: ti.template()):
        other = (at + half(array)) & KNOWN
        if ti.static(arch_name() == "cuda"):
            for some in ti.static(fours([(real, q) for real in (True, False) for q in range(len(re))])):
                write(*ti.static([element(array, (at if real else other) + q * away) for real, q in some]),
                      *ti.static([(re if real else im)[q] for real, q in some]))  # fmt: skip
        else:
            for q in ti.static(range(len(re))):
                array[at + ti.static(q * away)] = re[q]
                array[other + ti.static(q * away)] = im[q]

    return write_planes
