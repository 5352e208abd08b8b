"""Which device, in which precision the backbone runs on it, and how memory is kept between steps."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from slabench.core.errors import UsageError

_MATRIX_FLAGS = {"amx_bf16", "bf16"}
"""Matrix tiles of x86, and the multiplications of Arm."""


def use_threads(threads: int | None) -> None:
    """Let torch use so many CPU threads; None leaves its own choice.

    Raises:
        UsageError: not a positive number.
    """
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"--threads {threads} is not positive", "give --threads 1 or more")
    torch.set_num_threads(threads)


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is a usable one, else the CPU; another name is taken at its word and checked."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name} is not a device", "use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: slabench runs on cpu and cuda", "use --device auto")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices", "use --device auto")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of the backbone, None for float32.

    `auto` takes bfloat16 where the device multiplies it faster than float32. A CPU that has no such multiplication emulates
    it, twelve times slower than float32 on Conv4 (measured on an AVX2 machine), so its flags decide.
    """
    if name == "float32":
        return None
    if name == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    try:
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return None
    return torch.bfloat16 if bfloat16_pays(facts) else None


@contextmanager
def exact_float32() -> Iterator[None]:
    """Within the block float32 is multiplied as float32: no TF32 (10 bits of mantissa) on CUDA, no bfloat16 tricks on a CPU.

    torch lets cuDNN's convolutions use TF32 unless told otherwise. Scores are computed within such a block; what was set before
    holds again after it.
    """
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def bfloat16_pays(cpuinfo: str) -> bool:
    """Whether a CPU with this `/proc/cpuinfo` trains faster in bfloat16.

    AVX-512's own bfloat16 multiplies twice as many numbers a cycle as float32 on AMD, and as many on Intel, which has one unit
    for it where it has two for float32: there, what the casts cost is lost (docs/speed.md).
    """
    words = set(cpuinfo.split())
    return bool(words & _MATRIX_FLAGS) or {"avx512_bf16", "AuthenticAMD"} <= words


# From malloc.h.
_M_TRIM_THRESHOLD = -1


_M_TOP_PAD = -2


_M_MMAP_MAX = -4


_TOP_PAD_BYTES = 256 << 20


_NEVER = 2**31 - 1


def keep_heap() -> bool:
    """Serve large blocks from the heap and never trim it, for this process.

    Returns:
        Whether it was set: only on Linux with glibc, and not where `SLABENCH_KEEP_HEAP=0`. Calling it twice is harmless.
    """
    if os.environ.get("SLABENCH_KEEP_HEAP") == "0" or platform.system() != "Linux":
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018 - another libc has no such symbol
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD_BYTES))
        return all(libc.mallopt(name, value) == 1 for name, value in settings)
    except (OSError, AttributeError):
        return False
