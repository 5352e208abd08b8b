"""Locks between processes, by the package filelock. The system ends them with the process that holds them, killed or not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

Hold = Literal["held", "busy"] | OSError
"""`held` by this process; `busy`: another one holds it; an error: this folder cannot lock, and nobody is kept out."""


@contextlib.contextmanager
def hold(path: Path, *, seconds: float = 0) -> Iterator[Hold]:
    """Hold the lock file `path`, which is made now and removed afterwards, as is one that a killed process left.

    Args:
        path: of the lock file.
        seconds: to wait for another process; 0 does not wait.
    """
    # Not filelock's own stand-in for locks, a file that a killed process leaves behind as if it were still there.
    lock = FileLock(path, fallback_to_soft=False)
    state: Hold = "held"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds, blocking=seconds > 0)
    except Timeout:
        state = "busy"
    except OSError as error:  # as on NFS without its lock service (ENOLCK), or where there are no locks at all (ENOSYS)
        state = error
    try:
        yield state
    finally:
        if state == "held":
            # While it is held: a process that has opened it meanwhile finds it gone when its turn comes, and makes a new one.
            with contextlib.suppress(OSError):
                path.unlink()
            with contextlib.suppress(OSError):
                lock.release()
