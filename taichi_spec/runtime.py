"""The backend: which one, what it can do, and whether it is still the one that an object was made for."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import taichi as ti
from taichi.lang import impl, misc

# Of Taichi's `impl` and `misc` this package takes no functions, but the modules. A function that outlives its module at the
# end of a process keeps Taichi's program from ending, which writes then what it has compiled for the next process.

ARCHS = {"cpu": ti.cpu, "cuda": ti.cuda, "metal": ti.metal, "vulkan": ti.vulkan}
NVIDIA, MESA = 0x10DE, 0x10005  # Vulkan's numbers of them; Mesa's is its devices' in software
MOST_SHARED = 48 * 1024  # bytes of shared memory in a block, wherever the device has more


def init(arch: str = "auto", *, bind_threads: bool = False, **options: Any) -> str:
    """Starts Taichi on a backend, and never on another one than was asked for.

    Args:
        arch: ``"cpu"``, ``"cuda"``, ``"vulkan"``, ``"metal"``, or ``"auto"``: cuda, else metal, else vulkan if a
            real GPU is behind it (not a software device), else cpu.
        bind_threads: keep each of Taichi's threads on one core, those of a CPU under Linux: it may have several of them
            on one core for a while, above all in a virtual machine, and a call takes up to twice as long then.
        **options: passed to `ti.init`.

    Returns:
        The backend's name.

    Raises:
        ValueError: arch is not one of these names.
        RuntimeError: the backend is not there, or the environment variable TI_ARCH asks for another; threads are to be
            bound, and the system cannot do it.

    Example:
        >>> init(arch="cpu")  # doctest: +ELLIPSIS
        [Taichi] Starting on arch=...
        'cpu'
    """
    if arch not in ("auto", *ARCHS):
        raise ValueError(f"arch must be one of {('auto', *ARCHS)}, got {arch!r}")
    name = _best_arch() if arch == "auto" else arch
    if not _is_available(name):
        raise RuntimeError(f"arch={name!r} is not available on this machine; use arch='auto' or arch='cpu'")
    others = thread_ids() if bind_threads else set()
    if bind_threads and not others:
        raise RuntimeError("bind_threads=True needs Linux: this system does not bind threads to cores")
    ti.init(arch=ARCHS[name], enable_fallback=False, **options)
    if bind_threads:
        bind(thread_ids() - others)
    if arch_name() != name and arch != "auto":
        ti.reset()
        raise RuntimeError(f"arch={name!r} was asked for, but the environment variable TI_ARCH asks for another")
    return arch_name()


def thread_ids() -> set[int]:
    """Of this process; none where they cannot be bound to cores."""
    tasks = "/proc/self/task"
    return set(map(int, os.listdir(tasks))) if hasattr(os, "sched_setaffinity") and os.path.isdir(tasks) else set()


def bind(threads: set[int], to_one: bool = True) -> None:
    """Each thread to one of the process's cores in turn, or to all of them again.

    Taichi starts its threads one after the other, those that compile and those that run kernels: in turn, no two of a kind
    share a core if there are enough.
    """
    cores = sorted(os.sched_getaffinity(0))
    for i, thread in enumerate(sorted(threads)):
        with suppress(ProcessLookupError):  # one of somebody else's, which has ended meanwhile
            os.sched_setaffinity(thread, {cores[i % len(cores)]} if to_one else cores)


def bounds_checked() -> bool:
    """Whether indices must lie within their array's shape, as `ti.init(debug=True)` checks; else within its memory."""
    return bool(impl.current_cfg().debug)


def _is_available(name: str) -> bool:
    ti.set_logging_level(ti.ERROR)  # a backend that is not there is no news; ti.init sets the level again
    return name == "cpu" or misc.is_arch_supported(ARCHS[name])


def _best_arch() -> str:
    if _is_available("cuda"):
        return "cuda"
    if _is_available("metal"):
        return "metal"
    if _is_available("vulkan") and any(not device.is_software for device in vulkan_devices()):
        return "vulkan"
    return "cpu"


def arch_name() -> str:
    """The current backend's name, as `init` takes it."""
    arch = ti.cfg.arch
    return next((name for name, known in ARCHS.items() if name != "cpu" and known == arch), "cpu")


def runtime_token() -> object:
    """What stands for the current `ti.init`; another one after `ti.reset` or a second `ti.init`.

    Raises:
        RuntimeError: Taichi is not initialised.
    """
    runtime = impl.get_runtime()
    if runtime.prog is None:
        raise RuntimeError("Taichi is not initialised: call taichi_spec.init() or ti.init() first")
    return runtime


def check_alive(token: object, what: str) -> None:
    """Refuses to use an object whose Taichi memory is gone.

    Raises:
        RuntimeError: Taichi is not initialised, or was initialised anew after `token` was taken.
    """
    if runtime_token() is not token:
        raise RuntimeError(f"{what} was made before ti.reset() or another ti.init(): its memory is gone, make it anew")


def current_tape() -> Any:
    """The `ti.ad.Tape` whose body is running, or None."""
    return impl.get_runtime().target_tape


def check_float64(name: str) -> None:
    """Refuses float64 on a device that has none.

    Raises:
        ValueError: naming the argument and the device.
    """
    if not has_float64():
        raise ValueError(
            f"{name} has dtype float64, which this {arch_name()} device does not support; use float32 or arch='cpu'"
        )


def has_float64() -> bool:
    """Whether the current device computes in float64."""
    name = arch_name()
    if name == "vulkan":
        return all(device.float64 for device in _first_devices())
    return name != "metal"


@cache
def cuda_multiprocessors() -> tuple[int, int]:
    """How many the CUDA device has that Taichi takes, the first one, and the bytes of shared memory of each; 0 if none is.

    Taichi itself does not tell.
    """
    cuda = cuda_driver()
    if cuda is None:
        return 0, 0
    found = [ctypes.c_int(), ctypes.c_int()]
    # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    for value, asked in zip(found, (16, 81), strict=True):
        cuda.cuDeviceGetAttribute(ctypes.byref(value), asked, 0)
    return found[0].value, found[1].value


@cache
def cuda_driver() -> Any:
    """NVIDIA's driver, which Taichi runs CUDA through, as ctypes takes it; None where there is none with a device."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            cuda = ctypes.CDLL(library)
        except OSError:
            continue
        if cuda.cuInit(0) == 0:
            return cuda
    return None


def shared_bytes(arch: str) -> int:
    """How much shared memory a kernel's block may have on this backend's device; 0 where kernels have none."""
    if arch == "cuda":
        return MOST_SHARED
    if arch == "vulkan":
        return min([MOST_SHARED, *(device.shared_bytes for device in _first_devices())])
    return 0


def in_software(arch: str) -> bool:
    """Whether this backend's device may be a CPU that poses as a GPU."""
    return arch == "vulkan" and any(device.is_software for device in _first_devices())


def warp_threads(arch: str) -> int:
    """How many neighbouring threads surely work as one and can compare numbers; 0 where that is not known."""
    if arch == "cuda":
        return 32
    if arch == "vulkan":
        return min((device.warp for device in _first_devices()), default=0)
    return 0


class VulkanDevice(NamedTuple):
    """A physical device as Vulkan lists it."""

    name: str
    kind: int
    float64: bool
    shared_bytes: int  # of a block
    warp: int  # see `warp_threads`

    @property
    def is_software(self) -> bool:
        """A CPU that poses as a GPU, such as llvmpipe."""
        return self.kind == 4  # VK_PHYSICAL_DEVICE_TYPE_CPU

    @property
    def rank(self) -> int:
        """Taichi takes a discrete GPU before an integrated one, before any other."""
        return {2: 0, 1: 1}.get(self.kind, 2)


@cache
def vulkan_devices() -> list[VulkanDevice]:
    """The machine's Vulkan devices, the one that Taichi takes first. Taichi itself does not tell."""
    library = ctypes.util.find_library("vulkan") or "libvulkan.so.1"
    try:
        vk = ctypes.CDLL(library)
    except OSError:
        return []
    # VkApplicationInfo asks for Vulkan 1.1; VkInstanceCreateInfo has its type tag, and that.
    application = (ctypes.c_uint64 * 6)(0, 0, 0, 0, 0, (1 << 22 | 1 << 12) << 32)
    create_info = (ctypes.c_uint64 * 8)(1, 0, 0, ctypes.addressof(application))
    instance = ctypes.c_void_p()
    if vk.vkCreateInstance(create_info, None, ctypes.byref(instance)) != 0:
        return []
    count = ctypes.c_uint32()
    vk.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    vk.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    devices = [_describe(vk, ctypes.c_void_p(handle)) for handle in handles]
    vk.vkDestroyInstance(instance, None)
    return sorted(devices, key=lambda device: device.rank)


def _first_devices() -> list[VulkanDevice]:
    """Those that Taichi may have taken: of several of one rank, nothing says which."""
    devices = vulkan_devices()
    return [device for device in devices if device.rank == devices[0].rank]


def _describe(vk: Any, handle: ctypes.c_void_p) -> VulkanDevice:
    # VkPhysicalDeviceSubgroupProperties: size at 16, operations at 24, of which 4 are reductions
    subgroup = (ctypes.c_uint32 * 8)(1_000_094_000)
    # VkPhysicalDeviceProperties2, in it from byte 16 on VkPhysicalDeviceProperties, 824 bytes: vendor at 8, type at 16, name
    # at 20, maxComputeSharedMemorySize at 512
    properties = (ctypes.c_uint32 * 512)(1_000_059_001)
    ctypes.c_uint64.from_buffer(properties, 8).value = ctypes.addressof(subgroup)
    features = (ctypes.c_uint32 * 64)()  # VkPhysicalDeviceFeatures, 55 flags: shaderFloat64 is the 39th
    vk.vkGetPhysicalDeviceProperties2(handle, properties)
    vk.vkGetPhysicalDeviceFeatures(handle, features)
    name = bytes(properties)[36:292].split(b"\0")[0].decode(errors="replace")
    vendor, kind, shared = (int(properties[4 + at // 4]) for at in (8, 16, 512))
    # Others' drivers may run fewer threads together than they say.
    warp = int(subgroup[4]) if vendor in (NVIDIA, MESA) and subgroup[6] & 4 else 0
    return VulkanDevice(name, kind, bool(features[39]), shared, warp)
