"""What a number was made with, and records made of a finished trial without training.

Versions, commit, machine and device go into every record, and into no digest. Derived records are those of post-hoc methods on a
classifier and of heads on a few-shot run.
"""

from __future__ import annotations

import hashlib
import platform
import resource
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slabench.core.files import digest_json
from slabench.core.versions import __version__
from slabench.plugins import bound
from slabench.records.record import RunRecord

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


_VERSIONS = ("slabench", "commit", "dirty", "torch", "numpy")
"""Of the machine that derived it: the rest of the environment is the trial's."""


def derive(
    record: RunRecord,
    kind: str,
    method: str,
    given: Mapping[str, Any],
    started: datetime,
    argv: Sequence[str],
    changes: Mapping[str, Any],
    code: list[dict[str, str]] | None = None,
) -> RunRecord:
    """The record of `method` on a trial: the trial's own, with what the method changes and without the trial's files.

    Args:
        record: of the trial.
        kind: `posthoc` or `score`: what the digests and the environment call it.
        method: ends the name.
        given: what decides the result, apart from the trial; equal over seeds.
        started: when.
        argv: the command line.
        changes: the fields that differ, `recipe`, `scores`, `derived` and `cost` among them; `derived` is given the digest of the
            trial's weights here.
        code: what the method takes from plug-ins (`slabench.plugins.used`).
    """
    here = describe("cpu")
    environment = {**record.environment, **{f"{kind}_{name}": here[name] for name in _VERSIONS}}
    common = {
        "key": derived_key(record.key, kind, given, code),
        "name": f"{record.name}+{method}",
        "recipe_digest": derived_key(record.recipe_digest, kind, given, code),
        "curve": [],
        "environment": environment | ({f"{kind}_plugins": code} if code else {}),
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "side_file": None,
        "side_sha256": None,
        "outputs_file": None,
        "outputs_sha256": None,
        "argv": list(argv),
    }
    # The key stays one for all weights: what is made of new ones takes the place of what was made of the old ones.
    of = {"derived": {**changes["derived"], "weights": record.outputs_sha256}}
    return RunRecord.model_validate(record.model_copy(update={**common, **changes, **of}).model_dump(by_alias=True))


def derived_key(of: str, kind: str, given: Mapping[str, Any], code: list[dict[str, str]] | None = None) -> str:
    """The key of what is derived from the trial (or recipe) with the digest `of`; see `derive`."""
    return bound(digest_json({"of": of, kind: given}), code or [])
