"""Which device, and in which precision the backbone runs on it."""

from __future__ import annotations

from pathlib import Path

import torch

from slabench.errors import UsageError

_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is a usable one, else the CPU; another name is taken at its word and checked."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name} is no device", "use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: slabench runs on cpu and cuda", "use --device auto")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices", "use --device auto")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast type of the backbone, None for float32.

    `auto` takes bfloat16 where the device multiplies it in hardware. A CPU that does not emulates it, twelve times slower
    than float32 on Conv4 (measured on an AVX2 machine), so its flags decide.
    """
    if name == "float32":
        return None
    if name == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return None
    return torch.bfloat16 if flags & _BF16_FLAGS else None
