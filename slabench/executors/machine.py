"""What this machine gives a command: cores and devices, as far as it is told; memory is told by `slabench.core.memory`."""

from __future__ import annotations

import os

import torch

from slabench.core.memory import CGROUP, numbers
from slabench.training.device import choose_device


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = numbers(CGROUP / "cpu.max")  # "max 100000", or microseconds in every so many
    return max(1, min(own, quota[0] // quota[1])) if len(quota) == 2 and quota[1] else own


def devices(device: str = "auto") -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may say of each device that `--device` allows: numbers or ids. Empty on a CPU."""
    where = choose_device(device)
    if where.type != "cuda":
        return []
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    ids = named[: torch.cuda.device_count()] or [str(number) for number in range(torch.cuda.device_count())]
    return ids if where.index is None else [ids[where.index]]
