"""What a process is about to run: a small file beside the checkpoints, for `slabench status`, and for nothing else.

    ROOT/checkpoints/agenda-<id>.json     the trials, in order, and the one that is being run
    ROOT/checkpoints/agenda-<id>.lock     held for as long as the process is at it, however it ends

Nothing that decides a result is in it or read from it: a trial is guarded by its own lock, goes on from its own checkpoint and
is done when its record is there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slabench.core.errors import DataError
from slabench.core.files import SHORT, read_json, remove_abandoned, write_json
from slabench.core.locks import hold

SCHEMA = "slabench.agenda/1"


@dataclass(frozen=True)
class Planned:
    """A trial that is to be run.

    Attributes:
        key: of the trial.
        name: of its recipe.
        objective: what it trains on: baseline, sla ...
        protocol: readable id.
        seed: the trial's.
        steps: updates of its training.
        images: seen in training, copies counted.
    """

    key: str
    name: str
    objective: str
    protocol: str
    seed: int
    steps: int
    images: int


@dataclass(frozen=True)
class Agenda:
    """What one process has told of itself.

    Attributes:
        trials: in the order in which they are run.
        current: the key of the one that is being run; None between two, and for a process whose children run them.
        started: when, ISO 8601 in UTC.
        pid: of the process.
        host: where it runs.
        alive: whether the process still holds the agenda.
        path: of the file.
        failed: why its trial failed, where it left no record that says so.
    """

    trials: tuple[Planned, ...]
    current: str | None
    started: str
    pid: int
    host: str
    alive: bool
    path: Path
    failed: str | None = None


class Announcement:
    """The agenda of this process; see `announce`."""

    def __init__(self, path: Path | None, trials: Sequence[Planned]) -> None:
        self._path = path
        self._says: dict[str, Any] = {
            "schema": SCHEMA,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "current": None,
            "trials": [asdict(trial) for trial in trials],
        }

    def at(self, key: str | None) -> None:
        """The trial `key` is being run now; None: no one is. What cannot be written is not worth a trial."""
        self._says["current"] = key
        if self._path is not None:
            with contextlib.suppress(OSError):
                write_json(self._path, self._says)


@contextlib.contextmanager
def announce(root: Path, trials: Sequence[Planned]) -> Iterator[Announcement]:
    """Tell `slabench status` of `trials` for as long as the block runs; where it ends in an exception, what it was at stays told.

    Args:
        root: the folder of results.
        trials: to be run; without any, nothing is written.
    """
    _forget(root, {trial.key for trial in trials})
    if not trials:
        yield Announcement(None, trials)
        return
    folder = root / "checkpoints"
    path = folder / f"agenda-{uuid.uuid4().hex[:SHORT]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    own = Announcement(path, trials)
    # Another process may take it for a moment (see _forget). Where the folder cannot lock, this one looks as if it were gone.
    with hold(path.with_suffix(".lock"), seconds=1):
        own.at(None)
        yield own
        path.unlink(missing_ok=True)


def agendas(root: Path) -> list[Agenda]:
    """Every agenda in a folder of results, the oldest first; one that cannot be read is passed over."""
    found = []
    for path in (root / "checkpoints").glob("agenda-*.json"):
        try:
            says = read_json(path)
            trials = tuple(Planned(**trial) for trial in says["trials"])
            found.append(Agenda(trials, says["current"], says["started"], says["pid"], says["host"], held(path), path))
        except (OSError, DataError, KeyError, TypeError):
            continue
    return sorted(found, key=lambda agenda: (agenda.started, agenda.path.name))


def held(path: Path) -> bool:
    """Whether a process holds the lock beside `path`. It is taken for a moment, so ask only for locks that nobody waits for."""
    lock = path.with_suffix(".lock")
    if not lock.is_file():
        return False
    with hold(lock) as state:
        return state == "busy"


def _forget(root: Path, again: set[str]) -> None:
    """Remove what processes that are gone have left: agendas where all is run again now, or has a record; files of no agenda."""
    gone = [agenda for agenda in agendas(root) if not agenda.alive]
    recorded = {path.stem.rpartition("-")[2] for path in (root / "runs").rglob("seed*-*.json")} if gone else set()
    for agenda in gone:
        rest = (trial.key for trial in agenda.trials if trial.key not in again)
        if all(key[:SHORT] in recorded for key in rest):
            agenda.path.unlink(missing_ok=True)
            agenda.path.with_suffix(".lock").unlink(missing_ok=True)
    folder = root / "checkpoints"
    for unfinished in folder.glob(".agenda-*.json.*.tmp"):  # its name never comes again, so nothing else removes it
        remove_abandoned(unfinished.with_name(unfinished.name[1:].rsplit(".", 2)[0]))
    for lock in folder.glob("agenda-*.lock"):
        if not lock.with_suffix(".json").is_file():
            with hold(lock):  # which removes it, unless a process holds it
                pass
