"""Who has a trial: an executor claims each one before it gives it out, so that it has one owner, queued or running.

    ROOT/checkpoints/<first letters of the key>.owner     who has it, as JSON

A claim is a file that is made whole or not at all (a hard link fails where there is one already), which every file system
shares between machines, also one that cannot lock. Unlike a lock it does not end with its process: it is stale when its owner is
known to be gone, and then the next one takes it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slabench.core.errors import DataError
from slabench.core.files import SHORT, read_json, write_json

SCHEMA = "slabench.owner/1"


@dataclass(frozen=True)
class Owner:
    """Who has a trial.

    Attributes:
        executor: its name.
        host: of the command that claimed it.
        pid: of that command.
        command: names it, whatever its number: a process number comes again.
        submission: what holds the trial when the command has ended, such as a SLURM job; "" where the command runs it.
    """

    executor: str
    host: str
    pid: int
    command: str
    submission: str = ""

    @classmethod
    def this_command(cls, executor: str) -> Owner:
        """A command of its own, in this process."""
        return cls(executor, socket.gethostname(), os.getpid(), uuid.uuid4().hex[:SHORT])

    def __str__(self) -> str:
        return f"SLURM job {self.submission}" if self.submission else f"process {self.pid} on {self.host}"


Lives = Callable[[Owner], bool]
"""Whether an owner still has what it claimed."""


def process_lives(owner: Owner) -> bool:
    """Whether the command of an owner may still run. One of another machine cannot be asked, and counts as living."""
    if owner.host != socket.gethostname():
        return True
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


class Claims:
    """The claims of one command in a folder of results.

    Args:
        root: the folder.
        owner: this command.
        lives: of the owners of other claims.
    """

    def __init__(self, root: Path, owner: Owner, lives: Lives = process_lives) -> None:
        self.root, self.owner, self._lives = Path(root), owner, lives

    def take(self, key: str) -> Owner | None:
        """Claim a trial. None: it is ours; else the living owner that has it."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            other = read(path)
            if other is not None and other.command != self.owner.command and self._lives(other):
                return other
            if other is None or other.command != self.owner.command:
                self._remove(path, other)
            else:
                return None
            new = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            write_json(new, {"schema": SCHEMA, **asdict(self.owner)})
            try:
                with contextlib.suppress(FileExistsError):  # another command was faster: look again
                    os.link(new, path)
            finally:
                new.unlink(missing_ok=True)

    def hand_over(self, key: str, submission: str) -> None:
        """From now on the submission has the trial, whatever becomes of this command."""
        write_json(self._path(key), {"schema": SCHEMA, **asdict(self.owner), "submission": submission})

    def release(self, keys: Iterable[str]) -> None:
        """Give up those that this command has, its submissions' with them."""
        for key in keys:
            own = read(self._path(key))
            if own is not None and own.command == self.owner.command:
                self._path(key).unlink(missing_ok=True)

    def submitted(self, key: str) -> bool:
        """Whether a submission of this command has the trial."""
        own = read(self._path(key))
        return own is not None and own.command == self.owner.command and bool(own.submission)

    def of_others(self, key: str) -> Owner | None:
        """The living owner of a trial, where it is not this command."""
        other = read(self._path(key))
        return other if other is not None and other.command != self.owner.command and self._lives(other) else None

    def _path(self, key: str) -> Path:
        return self.root / "checkpoints" / f"{key[:SHORT]}.owner"

    def _remove(self, path: Path, stale: Owner | None) -> None:
        """Take away a claim that is stale or damaged; what another command has put in its place meanwhile is put back."""
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return
        if (found := read(aside)) is not None and found != stale:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


def read(path: Path) -> Owner | None:
    """The owner that a claim names; None where there is no claim, or a damaged one."""
    try:
        says: Any = read_json(path)
        facts = {name: says[name] for name in Owner.__dataclass_fields__}
    except (DataError, KeyError, TypeError):
        return None
    texts = all(isinstance(facts[name], str) for name in facts if name != "pid")
    return Owner(**facts) if texts and isinstance(facts["pid"], int) else None


def finish(root: Path, key: str, submission: str) -> None:
    """Remove the claim of a submission that has come to its end, where it still has one."""
    path = Path(root) / "checkpoints" / f"{key[:SHORT]}.owner"
    own = read(path)
    if own is not None and own.submission == submission:
        path.unlink(missing_ok=True)
