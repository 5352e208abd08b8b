"""What a number was made with: versions, commit, machine, device. It goes into every record, and into no digest."""

from __future__ import annotations

import hashlib
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# What a number depends on. Records and notes written meanwhile do not make a checkout dirty.
_SOURCES = ("slabench", "benchmarks", "episodes", "pyproject.toml")


def describe(device: torch.device | str) -> dict[str, Any]:
    """Versions and hardware behind a run on `device`; plain JSON values only.

    The host's name is hashed: two records tell whether they come from one machine, not which.
    """
    import numpy
    import torch

    from slabench.core.versions import __version__

    device = torch.device(device)
    commit, dirty = git_state()
    return {
        "slabench": __version__,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "numpy": numpy.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": device_name(device),
        "host": hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
    }


def device_name(device: torch.device | str) -> str:
    """The name a reader knows: "cpu", "mps", or the GPU's own, "NVIDIA H100 80GB HBM3"."""
    import torch

    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def git_state() -> tuple[str | None, bool | None]:
    """The commit of the checkout this package lies in, and whether its sources differ from it.

    (None, None) for an installed package, also when it was installed inside somebody else's repository.
    """
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None, None
    commit = _git(checkout, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _git(checkout, "status", "--porcelain", "--", *_SOURCES)
    return commit, None if changes is None else bool(changes)


def peak_memory_bytes(device: torch.device | str) -> int | None:
    """The largest memory so far: what torch allocated on a GPU, the resident set of the process elsewhere.

    A GPU's is counted from `torch.cuda.reset_peak_memory_stats`; the process's from its start. None where the system
    does not tell (Windows).
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def _git(checkout: Path, *arguments: str) -> str | None:
    # No optional locks: a `git status` of ours must not make the user's own `git commit` fail.
    command = ["git", "--no-optional-locks", "-C", str(checkout), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
