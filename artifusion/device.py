"""Where the denoiser runs and in which number format."""

from __future__ import annotations

import ctypes
import platform
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path

import torch

from artifusion.errors import DeviceError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4       # of glibc's malloc.h
KEPT_BYTES = 512 * 2**20


def resolve_device(name: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda" (also "cuda:1").

    Raises:
        DeviceError: an unknown name, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"{name or 'an empty name'}: unknown device; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"{name}: unsupported device; use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"{name}: this machine has no such CUDA device; use --device cpu")
    return device


def resolve_devices(names: str) -> tuple[torch.device, ...]:
    """The devices of a comma list such as "cuda:0,cuda:1"; "auto": every visible GPU like the first, or the CPU.

    Raises:
        DeviceError: as `resolve_device`, and for devices that are not alike, which would not paint alike.
    """
    if names == "auto" and torch.cuda.is_available():
        gpus = tuple(torch.device("cuda", number) for number in range(torch.cuda.device_count()))
        return tuple(gpu for gpu in gpus if model(gpu) == model(gpus[0]))
    devices = tuple(resolve_device(name.strip()) for name in names.split(","))
    if len({model(device) for device in devices}) > 1:
        raise DeviceError(f"{names}: these are not alike and would paint different pixels; name devices of one model")
    return devices


def model(device: torch.device) -> str:
    """The model of a device: devices of one model round alike."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def machine(device: torch.device) -> dict[str, str]:
    """What decides how a device rounds: torch, the kind of processor, and the number format inside the denoiser."""
    kind = model(device) if device.type == "cuda" else cpu_kind()
    return {"torch": torch.__version__, "processor": kind, "dtype": str(fast_dtype(device)).removeprefix("torch.")}


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA, on CPUs with AMX and on AMD's with AVX-512 BF16; elsewhere float32.

    AVX-512 BF16 alone is no sign of speed: matrix products reach 213 GFLOP/s in bfloat16 and 97 in float32 on a Zen 4,
    but 80 and 160 on an Emerald Rapids whose AMX is hidden, where bfloat16 would make the denoiser 14 % slower.
    """
    fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported() or (
        torch.cpu._is_avx512_bf16_supported() and made_by_amd())
    return torch.bfloat16 if fast else torch.float32


def threads_tell(device: torch.device) -> bool:
    """Whether the number of threads may change how a device rounds: products of MKL in float32, and of AMX, where three
    threads and more round otherwise than one and two, by a grey level."""
    return device.type == "cpu" and (fast_dtype(device) == torch.float32 or torch.cpu._is_amx_tile_supported())


def made_by_amd() -> bool:
    """Whether the CPU is AMD's by /proc/cpuinfo; False where that file is missing."""
    return "AuthenticAMD" in cpu_info()


def cpu_kind() -> str:
    """The CPU's name by /proc/cpuinfo, else what Python knows of it."""
    named = re.search(r"model name\s*: *(.+)", cpu_info())
    return named[1].strip() if named else platform.processor() or platform.machine()


@cache
def cpu_info() -> str:
    """The text of /proc/cpuinfo; empty where that file is missing."""
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def autocast(device: torch.device) -> AbstractContextManager:
    """The fast number format inside networks."""
    dtype = fast_dtype(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def keep_freed_memory() -> None:
    """Keep what tensors on the CPU free for the next ones, where the C library is glibc: KEPT_BYTES at the heap's end.

    By default glibc returns tensors above 32 MB to the kernel at once, which clears their pages when they are needed
    again: a fifth of the time of a canvas of 1,024 px.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def return_freed_memory() -> None:
    """Return freed memory to the kernel, which canvases of many sizes would leave in ever more pieces."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
