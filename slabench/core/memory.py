"""What memory this process may still take, as far as the system says."""

from __future__ import annotations

import re
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def free_memory_mb() -> int | None:
    """MiB that can be had without swapping, and within the limits of this process; None where the system does not say.

    Its limits are those of its container and of the shell (`ulimit -v`, `ulimit -d`).
    """
    free = [*_machine(), *_container(), *_process()]
    return max(0, min(free)) if free else None


def _machine() -> list[int]:
    found = re.search(r"^MemAvailable: +(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    return [int(found[1]) // 1024] if found else []


def _container() -> list[int]:
    limit, used = numbers(CGROUP / "memory.max"), numbers(CGROUP / "memory.current")
    return [(limit[0] - used[0]) >> 20] if limit and used else []


def _process() -> list[int]:
    try:
        import resource  # not on Windows
    except ImportError:
        return []
    found = []
    for limit, line in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        allowed = resource.getrlimit(limit)[0]
        used = re.search(rf"^{line}:\s+(\d+) kB", _text(Path("/proc/self/status")), re.MULTILINE)
        if allowed != resource.RLIM_INFINITY and used:
            found.append((allowed >> 20) - int(used[1]) // 1024)
    return found


def numbers(path: Path) -> list[int]:
    """The whole numbers in a small file of the system; none where there is no such file, or another word in it."""
    try:
        return [int(word) for word in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
