"""Which backends the tests run on: those that are there, or exactly those named with --arch."""

import os

os.environ.setdefault("TI_LOG_LEVEL", "error")

import pytest
import taichi as ti

import taichi_spec as ts
from taichi_spec import runtime, tracing


def pytest_addoption(parser):
    parser.addoption(
        "--arch",
        action="append",
        choices=["cpu", "cuda", "vulkan", "metal"],
        help="run on this backend, and fail if it is not there; may be repeated (default: every one that is there)",
    )


def pytest_generate_tests(metafunc):
    if "arch" in metafunc.fixturenames:
        named = metafunc.config.getoption("--arch")
        there = [name for name in ("cpu", "cuda", "vulkan", "metal") if runtime._is_available(name)]
        metafunc.parametrize("arch", named or there, indirect=True, scope="session")


@pytest.fixture(scope="session", autouse=True)
def repeats_kept():
    """All of the tests' kernels are traced in half the time."""
    with tracing.repeats_kept():
        yield


@pytest.fixture(scope="session")
def arch(request):
    """A running backend; pytest groups the tests by it, so that each is started once."""
    ts.init(arch=request.param, log_level=ti.ERROR)
    return request.param


@pytest.fixture
def cpu():
    """The CPU, in a fresh state, for tests that make fields or reset Taichi."""
    ts.init(arch="cpu", log_level=ti.ERROR)
    yield
    ti.reset()


@pytest.fixture
def running_cpu():
    """The CPU, as an earlier test left it, for tests on NumPy arrays: nothing is compiled again."""
    _run_on("cpu")


@pytest.fixture
def restarted(arch):
    """The backend, started anew if an earlier test reset Taichi."""
    _run_on(arch)
    return arch


@pytest.fixture
def direct(monkeypatch):
    """engine="auto" takes the direct DFT: a fused kernel for each set of terms and sizes would take seconds to compile."""
    monkeypatch.setattr("taichi_spec.engines.DIRECT_BELOW", 2**20)


@pytest.fixture(autouse=True)
def staged_on_gpus(request, monkeypatch):
    """The GPU's fused engines are compiled anew for each n_fft and field: only the tests that ask for them have them.

    The others, the grid above all, run on the engine that takes every size.
    """
    if "gpu_engines" not in request.fixturenames:
        for engine in ("blocks", "frames", "matrix"):
            monkeypatch.setattr(f"taichi_spec.fft.{engine}.supports", lambda *sizes: False)


@pytest.fixture
def gpu_engines(monkeypatch):
    """For tests that are to run on the GPU's fused engines, where they take their sizes.

    A device in software takes a second a call to start as many teams as a large GPU has at work: fewer do all there, but
    not so few that a thread would loop more often than llvmpipe lets it.
    """
    if not runtime._is_available("cuda"):
        monkeypatch.setattr("taichi_spec.fft.blocks_layout.GRID", 256)


def _run_on(arch):
    if ti.lang.impl.get_runtime().prog is None or runtime.arch_name() != arch:
        ts.init(arch=arch, log_level=ti.ERROR)
