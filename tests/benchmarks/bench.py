"""How fast the loss and its gradients are, beside peers measured in the same run.

    python tests/benchmarks/bench.py --arch cpu --peers torch,jax,auraloss,fft

Prints Markdown tables, writes bench.json and bench.png to --out. Every figure is the median of at least seven runs
after some that are not counted; each run ends with a synchronisation. Ours is timed at the engine, on arrays that are
on the device already, as the peers' are; "tape" is the same through `SpectralLoss` on fields in a `ti.ad.Tape`, with
what the tape itself does. Memory, on CUDA, is what the driver has less of after a run than before its preparation.

On a GPU ours is timed twice, once as several calls in a row with one synchronisation, as in a loop that does not look at
each value: Taichi's takes 0.6 to 0.8 ms under Vulkan with nothing to wait for.

On the CPU it is too. Linux may have several of Taichi's threads on one core for a while, above all in a virtual machine;
"bound" is the same after `ts.init(bind_threads=True)`. And a core may be slower a minute later: runs of one n_fft are
timed in three rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import taichi as ti
from peers import PEERS, Auraloss

import taichi_spec as ts
from taichi_spec import runtime
from taichi_spec.arrays import upload
from taichi_spec.engines import Options, make_engine

KINDS = ("both", "fixed", "value")
TITLES = {"both": "value + both gradients", "fixed": "value + one gradient, fixed target", "value": "value only"}
# Seconds. A GPU that had little to do runs at a fraction of its clock at first, and for longer under Vulkan.
WARM_UP, WARM_UP_ON_VULKAN = 0.3, 2.0
RESOLUTIONS = (2048, 1024, 512)
LISTS = {
    "one term": [ts.Magnitude()],
    "three terms": [ts.Magnitude(), ts.LogMagnitude(), ts.Power()],
    "convergence, log, magnitude": [ts.SpectralConvergence(), ts.LogMagnitude(), ts.Magnitude()],
}
ROUNDS_ON_CPU = 3
IN_A_ROW = 4


def prepare(kind: str, x: np.ndarray, y: np.ndarray, calls: int = 1, **chosen: Any) -> Callable[[], None]:
    """A run of the library's engine on device arrays, so many calls."""
    target = ts.Target.from_signal(y) if kind == "fixed" else None
    engine = make_engine(Options.check(**chosen), ti.f32, False, 1, len(x), target)
    shape = (1, len(x))
    X = upload(x.reshape(shape), ti.f32)
    Y = upload(y.reshape(shape), ti.f32) if target is None else None
    grad_x = ti.ndarray(ti.f32, shape) if kind != "value" else None
    grad_y = ti.ndarray(ti.f32, shape) if kind == "both" else None
    total = ti.ndarray(ti.f32, 1)

    def run() -> None:
        for _ in range(calls):
            if kind == "value":
                engine.forward(X, Y, total, keep=False)
            else:
                engine.value_and_grad(X, Y, total, grad_x, grad_y)
        ti.sync()

    return run


class Threads:
    """Taichi's, which may be bound to cores."""

    def __init__(self, ids: set[int]) -> None:
        self.ids, self.bound = ids, False

    def bind(self, bound: bool) -> None:
        """Each to a core of its own, or to all of them again."""
        if bound != self.bound:
            runtime.bind(self.ids, bound)
            self.bound = bound


class Ours:
    """The library's engine on device arrays.

    bound: whether to keep each of Taichi's threads on one core. calls: how many in a row a run has.
    """

    kinds = KINDS

    def __init__(self, threads: Threads, bound: bool = False, calls: int = 1) -> None:
        self.threads, self.bound, self.calls = threads, bound, calls
        self.name = "taichi_spec" + ", bound" * bound + f", {calls} in a row" * (calls > 1)
        self.version = f"taichi_spec {ts.__version__} on taichi {'.'.join(map(str, ti.__version__))}"

    def prepare(self, kind: str, n_fft: int, x: np.ndarray, y: np.ndarray) -> Callable[[], None]:
        run = prepare(kind, x, y, self.calls, stft=ts.STFT(n_fft), terms=ts.Magnitude())

        def on_cores() -> None:
            self.threads.bind(self.bound)
            run()

        return on_cores


class OursOnATape:
    """The same through fields and a tape, its threads wherever they are."""

    name = "taichi_spec, tape"
    kinds = ("both", "fixed")
    version = ""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads
        self.trees: list[Any] = []  # of the fields of the run before

    def prepare(self, kind: str, n_fft: int, x: np.ndarray, y: np.ndarray) -> Callable[[], None]:
        while self.trees:  # a tape clears the gradients of all fields that there are
            self.trees.pop().destroy()
        X = self.field(x)
        target: Any = self.field(y) if kind == "both" else ts.Target.from_signal(y)
        loss = ts.SpectralLoss(X, target, ts.STFT(n_fft))

        def run() -> None:
            self.threads.bind(False)
            with ti.ad.Tape(loss.value):
                loss.compute()
            ti.sync()

        return run

    def field(self, values: np.ndarray) -> Any:
        """A field as `ti.field(ti.f32, shape, needs_grad=True)` makes it, but one that can be removed."""
        field = ti.field(ti.f32, needs_grad=True)
        builder = ti.FieldsBuilder()
        for part in (field, field.grad):
            builder.dense(ti.i, len(values)).place(part)
        self.trees.append(builder.finalize())
        field.from_numpy(values)
        return field


def measure(runs: list[Callable[[], None]], repeats: int) -> list[dict[str, float]]:
    """Median and spread (half of the range between the quartiles) in seconds of each.

    The runs take turns, so that what disturbs the machine for a while disturbs all of them.
    """
    return [median_of(times) for times in timed(runs, repeats)]


def measure_in_rounds(runs: list[Callable[[], None]], repeats: int) -> list[dict[str, float]]:
    """The same of runs that would disturb each other if they took turns, as threads that wait for work keep a core."""
    rounds = [[timed([run], -(-repeats // ROUNDS_ON_CPU))[0] for run in runs] for _ in range(ROUNDS_ON_CPU)]
    return [median_of(np.concatenate(times)) for times in zip(*rounds, strict=True)]


def median_of(times: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
    return dict(seconds=median, spread=(high - low) / 2)


def timed(runs: list[Callable[[], None]], repeats: int) -> np.ndarray:
    """Seconds of each run, in turns, after a warm-up that is not counted  # (runs, repeats)"""
    warm_up = WARM_UP_ON_VULKAN if ti.cfg.arch == ti.vulkan else WARM_UP
    began = time.perf_counter()
    for turn in count():
        if turn > 1 and time.perf_counter() - began > warm_up:
            break
        for run in runs:
            run()
    times = np.empty((len(runs), repeats))
    for repeat in range(repeats):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            run()
            times[i, repeat] = time.perf_counter() - began
    return times


def free_memory(device: str) -> int | None:
    """Bytes that the driver has left, on CUDA, as PyTorch knows."""
    if device != "cuda" or not find_spec("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info()[0])


def prepared(prepare_run: Callable[[], Callable[[], None]], device: str) -> tuple[Callable[[], None], dict[str, int]]:
    """A run, and the bytes that it needs: what memory pools keep was needed at the peak."""
    before = free_memory(device)
    run = prepare_run()
    if before is None:
        return run, {}
    import torch

    run()
    return run, dict(bytes=before - torch.cuda.mem_get_info()[0])


@lru_cache(maxsize=1)
def signals(n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(n_samples, dtype=np.float32) for _ in range(2))
    return x, y


def calls_of(runner: Any) -> int:
    """How many calls one of its runs has."""
    return getattr(runner, "calls", 1)


def rows_of(
    kind: str, n_fft: int, n_samples: int, runners: list[Any], repeats: int, device: str
) -> list[dict[str, Any]]:
    """Everybody's time for one workload."""
    x, y = signals(n_samples)
    rows: list[dict[str, Any]] = []
    runs = []
    for runner in runners:
        if kind not in runner.kinds:
            continue
        row = dict(kind=kind, n_fft=n_fft, n_samples=n_samples, name=runner.name, calls=calls_of(runner))
        try:
            run, memory = prepared(lambda runner=runner: runner.prepare(kind, n_fft, x, y), device)
            if device == "cuda":  # whose memory is for one of them at a time
                row |= measure([run], repeats)[0] | memory
            else:
                run()
                runs.append(run)
        except Exception as error:  # a peer that runs out of memory is a finding, not the end of the run
            print(f"| {runner.name} | {type(error).__name__}: {str(error).splitlines()[0][:60]} |", flush=True)
            continue
        rows.append(row)
        del run
    if runs:
        for row, result in zip(rows, measure_in_rounds(runs, repeats), strict=True):
            row |= result
    for row in rows:
        row |= {key: row[key] / row["calls"] for key in ("seconds", "spread")}
    first = f"n_fft {n_fft}, hop {n_fft // 4}, {n_samples} samples"
    print_table(f"{TITLES[kind]}, {first}", rows)
    return rows


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """One workload, with the ratio to the first row."""
    if not rows:
        return
    print(f"\n{title}\n\n| who | ms | ± | ps/sample | × first | MiB |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        ratio = row["seconds"] / rows[0]["seconds"]
        memory = f"{row['bytes'] / 2**20:.0f}" if "bytes" in row else ""
        print(f"| {row['name']} | {1e3 * row['seconds']:.3f} | {1e3 * row['spread']:.3f} "
              f"| {1e12 * row['seconds'] / row['n_samples']:.1f} | {ratio:.2f} | {memory} |")  # fmt: skip
    sys.stdout.flush()


def own_rows(
    title: str, n_samples: int, runs: dict[str, Callable[[], Callable[[], None]]], repeats: int, device: str
) -> list[dict[str, Any]]:
    """Rows of runs by name, of value and both gradients, which take turns."""
    ready = [prepared(run, device) for run in runs.values()]
    results = measure([run for run, _ in ready], repeats)
    rows = [
        dict(kind=title, n_fft=0, n_samples=n_samples, name=name, **result, **memory)
        for name, result, (_, memory) in zip(runs, results, ready, strict=True)
    ]
    print_table(f"{title}, {TITLES['both']}, {n_samples} samples", rows)
    return rows


def lists_of_terms(n_samples: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """What more terms cost, at n_fft 1024."""
    x, y = signals(n_samples)
    runs = {
        name: lambda terms=terms: prepare("both", x, y, stft=ts.STFT(1024), terms=terms)
        for name, terms in LISTS.items()
    }
    return own_rows("terms", n_samples, runs, repeats, device)


def auraloss_set(n_samples: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """auraloss's multi-resolution loss as its preset here, and its own."""
    x, y = signals(n_samples)
    peer = Auraloss(device)
    runs = {
        "taichi_spec's preset": lambda: prepare("both", x, y, **ts.presets.auraloss_multi_resolution()),
        peer.version: lambda: peer.prepare(x, y),
    }
    return own_rows("auraloss's multi-resolution loss", n_samples, runs, repeats, device)


def multi_resolution(n_samples: int, runners: list[Any], repeats: int) -> list[dict[str, Any]]:
    """Three sizes one after the other, the gradients of each."""
    x, y = signals(n_samples)
    rows = []
    for runner in runners:
        if "both" in runner.kinds and calls_of(runner) == 1 and not isinstance(runner, OursOnATape):
            runs = [runner.prepare("both", n_fft, x, y) for n_fft in RESOLUTIONS]
            (result,) = measure([lambda runs=runs: [run() for run in runs]], repeats)
            rows.append(dict(kind="both", n_fft=0, n_samples=n_samples, name=runner.name, **result))
    print_table(f"multi-resolution {RESOLUTIONS}, {TITLES['both']}, {n_samples} samples", rows)
    return rows


def accuracy(sizes: list[int], peers: list[Any]) -> list[dict[str, Any]]:
    """Relative L2 error of the float32 gradient against the float64 reference, ours and torch's."""
    rows = []
    torch = next((peer for peer in peers if hasattr(peer, "gradient")), None)
    print("\nfloat32 gradient against the float64 reference, relative L2\n")
    print("| n_fft | taichi_spec | torch |\n| --- | --- | --- |")
    for n_fft in sizes:
        x, y = signals(4 * n_fft + 4096)
        _, expected, _ = ts.reference.value_and_grad(x, y, ts.STFT(n_fft))
        norm = np.linalg.norm(expected)
        ours = float(np.linalg.norm(ts.value_and_grad(x, y, n_fft=n_fft)[1] - expected) / norm)
        theirs = float(np.linalg.norm(torch.gradient(n_fft, x, y) - expected) / norm) if torch else None
        rows.append(dict(n_fft=n_fft, ours=ours, torch=theirs))
        print(f"| {n_fft} | {ours:.2e} | {'' if theirs is None else f'{theirs:.2e}'} |", flush=True)
    return rows


FIRST_CALL = """
import time, sys
began = time.perf_counter()
import numpy as np, taichi_spec as ts
ts.init(arch=sys.argv[1])
x = np.random.default_rng(0).standard_normal((2, 65536)).astype("f4")
ready = time.perf_counter()
ts.value_and_grad(x[0], x[1], wrt="both")
print("seconds", ready - began, time.perf_counter() - ready)
"""


def first_call(arch: str) -> dict[str, float]:
    """Seconds of the first call of a process with an empty kernel cache; and with a filled one, the median of three."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "TI_OFFLINE_CACHE_FILE_PATH": cache}
        command = [sys.executable, "-c", FIRST_CALL, arch]
        cold, *warm = (
            float(
                subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()[-1]
            )
            for _ in range(4)
        )
    result = dict(cold=cold, warm=float(np.median(warm)))
    print(f"\nfirst call, n_fft 1024: {result['cold']:.2f} s cold, {result['warm']:.2f} s in a second process")
    return result


def draw(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """Time per sample against n_fft and against the length."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), constrained_layout=True)
    longest = max(row["n_samples"] for row in rows)
    both = [row for row in rows if row["kind"] == "both"]
    by_size = [row for row in both if row["n_samples"] == longest and row["n_fft"]]
    by_length = [row for row in both if row["n_fft"] == 1024]
    for ax, key, chosen, label in ((axes[0], "n_fft", by_size, "n_fft"), (axes[1], "n_samples", by_length, "samples")):
        for name in dict.fromkeys(row["name"] for row in chosen):
            points = sorted((r[key], 1e12 * r["seconds"] / r["n_samples"]) for r in chosen if r["name"] == name)
            ax.loglog(
                *zip(*points, strict=True), "o-", label=name, linewidth=2.5 if name.startswith("taichi") else 1.2
            )
        ax.set(xlabel=label, ylabel="time (ps per sample)")
        values = sorted({row[key] for row in chosen})
        ticks = [value for value in values if value & (value - 1) == 0] or values  # others are near these
        ax.set_xticks(ticks, [f"{tick:,}" if key == "n_fft" else f"$2^{{{tick.bit_length() - 1}}}$" for tick in ticks])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_title(f"value + both gradients, {longest:,} samples")
    axes[1].set_title("value + both gradients, n_fft 1024")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def device_name(arch: str) -> str:
    """What the figures were measured on."""
    if arch == "cpu":
        return f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}"
    devices = runtime.vulkan_devices()
    return devices[0].name if devices else arch


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="cpu", choices=("cpu", "cuda", "vulkan"))
    parser.add_argument(
        "--peers", default="torch,jax,auraloss,fft", help="comma-separated, of torch, jax, auraloss, fft"
    )
    parser.add_argument("--n-fft", default="64,256,512,1024,2048,4096,16384,65536", help="sizes, at hop n_fft / 4")
    parser.add_argument("--log2-samples", default=None, help="lengths at n_fft 1024; the longest serves every n_fft")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    args = parser.parse_args()
    sizes = [int(n) for n in args.n_fft.split(",")]
    default = "16,18,20" if args.arch == "cpu" else "16,20,24,26"
    lengths = [2 ** int(n) for n in (args.log2_samples or default).split(",")]

    args.out.mkdir(parents=True, exist_ok=True)
    started = first_call(args.arch)
    others = runtime.thread_ids()
    ts.init(arch=args.arch, log_level=ti.ERROR)
    threads = Threads(runtime.thread_ids() - others)
    device = "cpu" if args.arch == "cpu" else "cuda"
    named = args.peers.split(",")
    peers = [peer(device) for name in named if name and name != "auraloss" for peer in PEERS[name]]
    bound = [Ours(threads, True)] if args.arch == "cpu" and threads.ids else []
    in_a_row = [Ours(threads, calls=IN_A_ROW)] if args.arch != "cpu" else []
    runners = [Ours(threads), *bound, *in_a_row, OursOnATape(threads), *peers]
    versions = sorted({runner.version for runner in runners if runner.version})
    title = f"{args.arch}: {device_name(args.arch)}; {', '.join(versions)}; python {platform.python_version()}"
    print(f"{title}\nfloat32, hann, median of {args.repeats} ± half the quartiles' distance")

    rows = []
    for n_fft in sizes:
        for kind in KINDS if n_fft == 1024 else KINDS[:1]:
            rows += rows_of(kind, n_fft, lengths[-1], runners, args.repeats, device)
    for n_samples in lengths[:-1]:
        rows += rows_of("both", 1024, n_samples, runners, args.repeats, device)
    rows += multi_resolution(lengths[-1], runners, args.repeats)
    threads.bind(False)
    rows += lists_of_terms(lengths[-1], max(9, args.repeats), device)
    if "auraloss" in named:
        for n_samples in (2**20,) if args.arch == "cpu" else (2**20, 2**22, 2**24):
            rows += auraloss_set(n_samples, args.repeats, device)
    errors = accuracy(sizes, peers)
    report = dict(title=title, first_call=started, rows=rows, accuracy=errors)
    (args.out / "bench.json").write_text(json.dumps(report, indent=1))
    draw(rows, args.out / "bench.png", title)


if __name__ == "__main__":
    main()
