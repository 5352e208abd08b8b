"""What this machine gives a command: cores, memory and devices, as far as it is told."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from slabench.training.device import choose_device

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _numbers(_CGROUP / "cpu.max")  # "max 100000", or microseconds in every so many
    return max(1, min(own, quota[0] // quota[1])) if len(quota) == 2 and quota[1] else own


def free_memory_mb() -> int | None:
    """MiB that can be had without swapping; None where the system does not say."""
    try:
        facts = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^MemAvailable: +(\d+) kB", facts, re.MULTILINE)
    free = None if found is None else int(found[1]) // 1024
    limit, used = _numbers(_CGROUP / "memory.max"), _numbers(_CGROUP / "memory.current")
    if free is not None and limit and used:
        free = min(free, (limit[0] - used[0]) >> 20)
    return free


def devices(device: str = "auto") -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may say of each device that `--device` allows: numbers or ids. Empty on a CPU."""
    where = choose_device(device)
    if where.type != "cuda":
        return []
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    ids = named[: torch.cuda.device_count()] or [str(number) for number in range(torch.cuda.device_count())]
    return ids if where.index is None else [ids[where.index]]


def _numbers(path: Path) -> list[int]:
    try:
        return [int(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):  # no such limit
        return []
