"""What runs in a SLURM job. submitit pickles it by the name of this class and three texts, none of our code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from slabench.core.files import SHORT, write_json
from slabench.executors.claims import finish
from slabench.executors.jobs import Job, Result, Settings
from slabench.executors.work import do
from slabench.progress import ConsoleListener
from slabench.training.loop import Interrupted

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

_PATIENCE = 600
"""Seconds that a job which was told to end waits for SLURM to end it: it may be about to be queued again."""


class ArrayTask:
    """One job of an array; submitit calls it, and its `checkpoint` when the job is to be queued again.

    Args:
        job: a `Job` as text.
        settings: `Settings` as text.
        logs: the folder where it says how it ended.
    """

    def __init__(self, job: str, settings: str, logs: str) -> None:
        self.job, self.settings, self.logs = job, settings, logs

    def __call__(self) -> str:
        """Run the job; its state."""
        job, settings = Job.read(self.job), Settings.read(self.settings)
        warned = _Warned()
        listener = ConsoleListener(Console(file=sys.stdout, width=120, color_system=None, highlight=False))
        try:
            result = do(job, settings, listener)
        except (Interrupted, KeyboardInterrupt):
            listener.close()
            if not warned.to_requeue:
                self._await_slurm()
            try:
                warned.requeue()  # submitit's: it ends the process
            except Exception as error:
                result = Result(job.key, "failed", f"its state is saved, and it cannot be queued again: {error}")
        says = {"key": result.key, "state": result.state, "error": result.error}
        write_json(Path(self.logs) / f"{job.key[:SHORT]}.json", says)
        finish(settings.results, job.key, _own_id())
        return result.state

    def checkpoint(self) -> DelayedSubmission:
        """The same job: what it has done lies in its checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _await_slurm(self) -> None:
        """Told to end by SIGTERM: cancelled, preempted or queued again by hand. SLURM knows which, and ends the job by itself."""
        sys.stdout.write("the state is saved; waiting for SLURM to end this job\n")
        sys.stdout.flush()
        time.sleep(_PATIENCE)
        sys.exit(130)


class _Warned:
    """The signal that submitit has SLURM send before the end is turned into the one that a training saves and stops at."""

    def __init__(self) -> None:
        self.to_requeue = False
        self._number = signal.SIGUSR2
        self._submitits: Any = signal.signal(self._number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        self.to_requeue = True
        os.kill(os.getpid(), signal.SIGINT)

    def requeue(self) -> None:
        """Have submitit queue the job again."""
        try:
            self._submitits(self._number, None)
        except subprocess.SubprocessError as error:
            raise RuntimeError(str(error)) from error


def _own_id() -> str:
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID", "")
