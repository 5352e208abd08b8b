"""What was submitted to SLURM and may outlive the command: files that tell of it, and what the queue says.

    ROOT/checkpoints/submission-<id>.json     its jobs, each with its trial and its log
    ROOT/logs/slurm/<id>/                     what each job printed, and how it ended: <first letters of its key>.json

Like an agenda, it is for `slabench status` and for who waits: nothing that decides a result is read from it. Light to import.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from slabench.core.errors import DataError
from slabench.core.files import SHORT, read_json, write_json
from slabench.records.agenda import Agenda, Planned

SCHEMA = "slabench.submission/1"

Standing = Literal["queued", "running", "ended"]

_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SUSPENDED", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_SECONDS = 60
"""That SLURM's commands may take to answer."""


@dataclass(frozen=True)
class Submitted:
    """A job in SLURM.

    Attributes:
        id: SLURM's, such as `12_0`.
        key: of what it does.
        label: what a person calls it.
        planned: the trial; None for a scoring.
    """

    id: str
    key: str
    label: str
    planned: Planned | None


@dataclass
class Submission:
    """The jobs of one command.

    Attributes:
        id: its name.
        root: the folder of results.
        started: when, ISO 8601 in UTC.
        host: where the command ran.
        pid: of the command.
        jobs: in their order.
    """

    id: str
    root: Path
    started: str
    host: str
    pid: int
    jobs: list[Submitted]

    @property
    def path(self) -> Path:
        """The file that tells of it."""
        return self.root / "checkpoints" / f"submission-{self.id}.json"

    @property
    def logs(self) -> Path:
        """What its jobs printed."""
        return logs(self.root, self.id)

    def log(self, job: Submitted) -> Path:
        """What a job printed, as submitit names it."""
        return self.logs / f"{job.id}_0_log.out"

    def save(self) -> None:
        """Write the file anew."""
        says = {name: getattr(self, name) for name in ("id", "started", "host", "pid")}
        write_json(self.path, {"schema": SCHEMA, **says, "jobs": [asdict(job) for job in self.jobs]})

    def ended(self, key: str) -> tuple[str, str | None] | None:
        """State and error that a job has left; None where it has not come to its end."""
        return ended(self.logs, key)


def logs(root: Path, submission: str) -> Path:
    """The folder of a submission's logs."""
    return Path(root) / "logs" / "slurm" / submission


def ended(folder: Path, key: str) -> tuple[str, str | None] | None:
    """State and error that a job has left in its folder of logs; None where there is nothing, or something else."""
    try:
        says = read_json(folder / f"{key[:SHORT]}.json")
        return (
            (str(says["state"]), None if says["error"] is None else str(says["error"])) if says["key"] == key else None
        )
    except (DataError, KeyError, TypeError):
        return None


def submissions(root: Path) -> list[Submission]:
    """All that are told of in a folder of results; a damaged file is passed over."""
    found = []
    for path in sorted((Path(root) / "checkpoints").glob("submission-*.json")):
        try:
            says = read_json(path)
            jobs = [_submitted(job) for job in says["jobs"]]
            found.append(Submission(says["id"], Path(root), says["started"], says["host"], says["pid"], jobs))
        except (DataError, KeyError, TypeError):
            continue
    return [one for one in found if all(isinstance(word, str) for word in (one.id, one.started, one.host))]


def _submitted(says: dict[str, Any]) -> Submitted:
    planned = None if says["planned"] is None else Planned(**says["planned"])
    return Submitted(says["id"], says["key"], says["label"], planned)


def queue() -> dict[str, str] | None:
    """SLURM's word for the state of each of this user's jobs, ended ones for some minutes; None: it does not answer."""
    if shutil.which("squeue") is None:
        return None
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--user={os.getuid()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return None
    rows = (line.strip().partition("|") for line in done.stdout.splitlines())
    return {job: state for job, _, state in rows if state}


def standing(word: str | None) -> Standing:
    """What a state of SLURM's means here; None, what the queue has forgotten, has ended."""
    return "queued" if word in _QUEUED else "running" if word in _RUNNING else "ended"


def told(root: Path) -> list[Agenda]:
    """Every submitted trial as an agenda of its own, for `slabench status`."""
    found = submissions(root)
    words = queue() if found else None
    agendas = []
    for one in found:
        for job in one.jobs:
            if job.planned is None:
                continue
            state = "queued" if words is None else standing(words.get(job.id))
            left = one.ended(job.key)
            failed = _why(left, job, one, words) if state == "ended" or left else None
            agendas.append(
                Agenda(
                    trials=(job.planned,),
                    current=job.key if state == "running" and left is None else None,
                    started=one.started,
                    pid=one.pid,
                    host=one.host,
                    alive=state != "ended" and left is None,
                    path=one.path,
                    failed=failed,
                )
            )
    return agendas


def _why(
    left: tuple[str, str | None] | None, job: Submitted, one: Submission, words: dict[str, str] | None
) -> str | None:
    """Why a job failed, where it did."""
    if left is not None:
        return left[1] or "failed" if left[0] == "failed" else None
    word = None if words is None else words.get(job.id)
    return None if word == "CANCELLED" else died(job, one, word)  # cancelled: it is stopped


def died(job: Submitted, submission: Submission, word: str | None) -> str:
    """Why a job is gone that has left no word."""
    says = {
        "OUT_OF_MEMORY": "it took more memory than it had asked for: --resource memory=...",
        "CANCELLED": "it was cancelled; its state is saved",
        "NODE_FAIL": "its node failed",
        "TIMEOUT": "it ran out of time before its state was saved: --resource minutes=...",
    }.get(word or "", f"it ended without a result{f' ({word})' if word else ''}")
    return f"SLURM job {job.id}: {says}; log: {submission.log(job)}"
