"""`--executor slurm`: job arrays through submitit, one job a trial.

A job that is told to end, by its time limit or for a more urgent one, saves its state and is queued again, and goes on from
there. The command waits for its jobs, and they do not need it: Ctrl-C leaves them in the queue, and the same command finds them
there.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from slabench.core.errors import SlabenchError, UsageError, did_you_mean
from slabench.executors.array_task import ArrayTask
from slabench.executors.claims import Claims, Owner, process_lives
from slabench.executors.jobs import Job, Resources, Result, Settings
from slabench.executors.resources import Request
from slabench.executors.submissions import Submission, Submitted, died, queue, standing, submissions
from slabench.training.loop import Interrupted

if TYPE_CHECKING:
    from slabench.executors.running import Say

_REQUEUES = 1000
"""Times that a job may reach its limit: each time it has got further."""
_WARNED_SECONDS = 90
"""Before its time limit a job is told to save: a step and the writing of a checkpoint have to fit in."""
_LARGEST_ARRAY = 1000
"""SLURM's own default for MaxArraySize is 1001."""
_GONE_LOOKS = 3
"""A job that the queue does not know, and that has left no word, is looked for so often: files may take a while to be seen."""


@dataclass(frozen=True)
class Partition:
    """What SLURM says of one: its name, whether it is the default, and the most minutes of a job (None: any)."""

    name: str
    default: bool
    minutes: int | None


@dataclass(frozen=True)
class Slurm:
    """Job arrays in one partition.

    Attributes:
        request: what the user said.
        partition: where to.
        jobs: at most so many run at a time; None: as many as SLURM lets.
        wait: for the jobs; else the command ends when they are in the queue.
        look_seconds: between two looks at the queue.
    """

    request: Request
    partition: Partition
    jobs: int | None = None
    wait: bool = True
    look_seconds: float = 10.0
    name = "slurm"

    @classmethod
    def here(cls, request: Request, jobs: int | None = None, wait: bool = True) -> Slurm:
        """For the SLURM of this machine.

        Raises:
            UsageError: submitit or SLURM is not here, does not answer, or has no such partition.
        """
        if importlib.util.find_spec("submitit") is None:
            raise UsageError(
                "--executor slurm needs the package submitit, which is not installed", "pip install 'slabench[slurm]'"
            )
        if shutil.which("sbatch") is None:
            raise UsageError(
                "--executor slurm: SLURM's command sbatch is not on this machine",
                "run it where SLURM's commands are, such as a login node; or --executor local",
            )
        request.only_for("slurm", ("partition", "account", "qos", "constraint", "minutes"))
        return cls(request, _partition(request.partition), jobs, wait)

    def lives(self, owner: Owner) -> bool:
        """Whether SLURM still has the job of a claim; without an answer it counts as living."""
        if not owner.submission:
            return process_lives(owner)
        words = queue()
        return words is None or standing(words.get(owner.submission)) != "ended"

    def plan(self, jobs: Sequence[Job]) -> list[str]:
        """Every array with its jobs, what each job asks for, and where the logs will be."""
        lines = []
        for number, (resources, own) in enumerate(self._arrays(jobs), 1):
            at_once = f", {self.jobs} at a time" if self.jobs is not None and self.jobs < len(own) else ""
            count = f"{len(own)} job{'' if len(own) == 1 else 's'}"
            lines.append(f"array {number}: {count}{at_once} in partition {self.partition.name}, each {resources}")
            lines += [f"  {place}. {job.label}" for place, job in enumerate(own)]
        if any(job.resources.minutes > (self.partition.minutes or job.resources.minutes) for job in jobs):
            lines.append(
                f"partition {self.partition.name} gives {self.partition.minutes:,} min at most: longer trials save, queue again "
                "and go on"
            )
        return lines

    def run(self, jobs: Sequence[Job], settings: Settings, say: Say, claims: Claims | None) -> list[Result]:
        """Submit jobs, and wait for them; without `wait` the results are `busy`.

        Raises:
            Interrupted: after Ctrl-C. What is in the queue goes on.
            SlabenchError: SLURM refused them; what it had taken goes on.
        """
        settings = replace(settings, results=Path(settings.results).resolve())
        submission = self._submit(jobs, settings, say, claims)
        if not self.wait:
            say("they go on without this command; see: slabench status")
            return [Result(job.key, "busy", f"SLURM job {job.id} has this trial") for job in submission.jobs]
        try:
            return list(self._results(submission, say))
        except KeyboardInterrupt:
            ids = sorted({job.id.partition("_")[0] for job in submission.jobs if submission.ended(job.key) is None})
            raise Interrupted(
                "stopped waiting; the jobs stay in SLURM's queue and go on",
                f"see them: slabench status; wait for them again: the same command; cancel them: scancel {' '.join(ids)}",
            ) from None

    def _arrays(self, jobs: Sequence[Job]) -> list[tuple[Resources, list[Job]]]:
        """Jobs that ask alike together. One array where `--jobs` bounds them, since SLURM bounds arrays one by one."""
        limit = self.partition.minutes
        asked = {job.key: job.resources for job in jobs}
        if limit is not None:
            asked = {key: replace(needs, minutes=min(needs.minutes, limit)) for key, needs in asked.items()}
        if self.jobs is not None:
            most = {name: max(getattr(needs, name) for needs in asked.values()) for name in vars(Resources())}
            asked = dict.fromkeys(asked, Resources(**most))
        together: dict[Resources, list[Job]] = {}
        for job in jobs:
            together.setdefault(asked[job.key], []).append(job)
        return [
            (resources, own[start : start + _LARGEST_ARRAY])
            for resources, own in together.items()
            for start in range(0, len(own), _LARGEST_ARRAY)
        ]

    def _submit(self, jobs: Sequence[Job], settings: Settings, say: Say, claims: Claims | None) -> Submission:
        submitit = _submitit()
        root = Path(settings.results)
        _forget(root)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        submission = Submission(uuid.uuid4().hex[:8], root, now, socket.gethostname(), os.getpid(), [])
        submission.logs.mkdir(parents=True, exist_ok=True)
        held = _later_interrupts()
        with held:
            for resources, own in self._arrays(jobs):
                tasks = [ArrayTask(job.text(), settings.text(), str(submission.logs)) for job in own]
                executor = submitit.SlurmExecutor(submission.logs, max_num_timeout=_REQUEUES)
                executor.update_parameters(**self._parameters(resources))
                try:
                    with executor.batch():
                        sent = [executor.submit(task) for task in tasks]
                except Exception as error:  # submitit's own, and those of the commands that it calls
                    raise SlabenchError(
                        f"SLURM took {len(submission.jobs)} of {len(jobs)} jobs, and then refused: {_reason(error)}",
                        "ask for less with --resource, for another --partition, or see: slabench status",
                    ) from error
                for job, one in zip(own, sent, strict=True):
                    submission.jobs.append(Submitted(str(one.job_id), job.key, job.label, job.planned))
                    if claims is not None:
                        claims.hand_over(job.key, str(one.job_id))
                submission.save()
                say(
                    f"SLURM job {str(sent[0].job_id).partition('_')[0]}: {len(own)} in {self.partition.name}, each {resources}"
                )
        say(f"logs: {submission.logs}")
        held.again()
        return submission

    def _parameters(self, resources: Resources) -> dict[str, Any]:
        """Those of submitit."""
        given: dict[str, Any] = {
            "job_name": "slabench",
            "partition": self.partition.name,
            "time": resources.minutes or self.partition.minutes or 60,
            "cpus_per_task": resources.cores,
            "ntasks_per_node": 1,
            "signal_delay_s": _WARNED_SECONDS,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True},
        }
        if resources.memory_mb:
            given["mem"] = f"{resources.memory_mb}MB"
        if resources.gpus:
            given["gpus_per_node"] = resources.gpus
        if self.jobs is not None:
            given["array_parallelism"] = self.jobs
        said = {name: getattr(self.request, name) for name in ("account", "qos", "constraint")}
        return given | {name: value for name, value in said.items() if value is not None}

    def _results(self, submission: Submission, say: Say) -> Iterator[Result]:
        """What becomes of each job, as it ends."""
        left, running, gone = {job.id: job for job in submission.jobs}, set[str](), dict[str, int]()
        looked = 0.0
        while left:
            words: Mapping[str, str] | None = None
            if time.monotonic() - looked >= self.look_seconds:
                words, looked = queue(), time.monotonic()
            for job in list(left.values()):
                end = submission.ended(job.key)
                if end is None and words is not None:
                    state = standing(words.get(job.id))
                    if state == "running" and job.id not in running:
                        running.add(job.id)
                        say(f"[{job.id}] runs: {job.label}")
                    elif state == "queued" and job.id in running:
                        running.remove(job.id)
                        say(f"[{job.id}] is queued again, its state saved: {job.label}")
                    gone[job.id] = gone.get(job.id, 0) + 1 if state == "ended" else 0
                if end is None and gone.get(job.id, 0) >= _GONE_LOOKS:
                    end = "failed", died(job, submission, None if words is None else words.get(job.id))
                if end is not None:
                    del left[job.id]
                    ended = len(submission.jobs) - len(left)
                    why = f": {end[1]}" if end[1] else ""
                    say(f"[{job.id}] {end[0]}: {job.label}{why}; {ended} of {len(submission.jobs)} have ended")
                    state_of: Any = end[0]
                    yield Result(job.key, state_of, end[1])
            if left:
                time.sleep(min(1.0, self.look_seconds))
        submission.path.unlink(missing_ok=True)


class _later_interrupts:
    """Ctrl-C waits until all jobs are told of: one that nobody knows of would be lost in the queue."""

    def __init__(self) -> None:
        self._asked = False
        self._before: Any = None

    def __enter__(self) -> None:
        try:
            self._before = signal.signal(signal.SIGINT, self._ask)
        except ValueError:  # not in the main thread, which gets it
            self._before = None

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def again(self) -> None:
        """Raise what came meanwhile."""
        if self._asked:
            raise KeyboardInterrupt


def _submitit() -> ModuleType:
    import submitit

    return submitit


def _partition(name: str | None) -> Partition:
    """The one of this name, or the default one."""
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%P|%l"], capture_output=True, text=True, timeout=60, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise UsageError(
            f"--executor slurm: SLURM does not answer: {_reason(error)}", "try: sinfo; or --executor local"
        ) from error
    found: dict[str, Partition] = {}
    for line in done.stdout.split():
        word, _, limit = line.partition("|")
        own = word.rstrip("*")
        found.setdefault(own, Partition(own, word.endswith("*"), _minutes(limit)))
    if name is not None:
        if name not in found:
            raise UsageError(f"SLURM has no partition '{name}'", did_you_mean(name, found))
        return found[name]
    default = next((one for one in found.values() if one.default), None)
    if default is None:
        raise UsageError(
            "--executor slurm: this SLURM has no default partition",
            f"name one: --partition {' or '.join(sorted(found)) or 'NAME'}",
        )
    return default


def _minutes(limit: str) -> int | None:
    """`1-12:00:00`, `30:00` or `infinite` in minutes, rounded down."""
    days, dash, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in parts):
        return None
    hours, minutes, _ = ([0, 0, 0] + [int(part) for part in parts])[-3:]
    return (int(days) if dash else 0) * 1440 + hours * 60 + minutes


def _reason(error: Exception) -> str:
    """The last line of what a command said, or of the error."""
    told = getattr(error, "stderr", None) or str(error)
    return (told.strip().splitlines() or [type(error).__name__])[-1]


def _forget(root: Path) -> None:
    """Remove what tells of jobs that have all ended."""
    found = submissions(root)
    words = queue() if found else None
    for one in found:
        if words is not None and all(standing(words.get(job.id)) == "ended" for job in one.jobs):
            one.path.unlink(missing_ok=True)
