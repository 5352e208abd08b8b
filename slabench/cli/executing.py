"""What `run`, `reproduce` and `score` have in common where something else than their own process runs the trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from slabench.core.errors import UsageError
from slabench.core.torchrun import launched

if TYPE_CHECKING:
    from slabench.executors.jobs import Job
    from slabench.executors.running import Executor
    from slabench.runner.trials import Outcome

EXECUTOR = "local (processes), slurm or ray; default: this process, or local with --jobs."
JOBS = "Trials at a time, each in a process of its own. Default: as the executor sees fit."
PARTITION = "Of SLURM. Default: its own default."
RESOURCE = (
    "Of each job: cores=2, memory=8G, gpus=1, minutes=240, account=..., qos=..., constraint=..., address=... (ray)."
)
"""The help of the four options."""


def executor_of(
    name: str | None,
    jobs: int | None,
    partition: str | None,
    resources: Sequence[str] | None,
    *,
    device: str,
    resume: str = "auto",
    wait: bool = True,
) -> Executor | None:
    """The executor that the options name; None: this process runs everything itself. Raises UsageError."""
    if name is None and jobs in (None, 1) and partition is None and not resources:
        return None  # and torch is not imported before it has to be
    if (launch := launched()) is not None:
        raise UsageError(
            f"torchrun started {launch.size} processes that train one trial together, and an executor starts its own",
            "give torchrun without --executor and --jobs, or the executor without torchrun",
        )
    from slabench.executors.choose import choose
    from slabench.executors.resources import Request

    request = Request.parse(resources or (), partition)
    return choose(name, jobs, request, device=device, resume=resume, wait=wait)


def measured_on(executor: Executor | None, device: str) -> str:
    """The device whose speed is measured here: that of the jobs may be on another machine."""
    return device if executor is None or executor.name == "local" else "auto"


def show_jobs(console: Console, executor: Executor, jobs: Sequence[Job], results: Path) -> None:
    """What `--dry-run` says of them: nothing is started or submitted."""
    if not jobs:
        return
    for line in executor.plan(jobs):
        console.print(line, markup=False, soft_wrap=True)
    if executor.name == "slurm":
        console.print(f"logs: {results}/logs/slurm", markup=False, soft_wrap=True)


def submitted_alone(executor: Executor | None, wait: bool, outcomes: Sequence[Outcome]) -> bool:
    """Whether the command has done its part: its jobs are in SLURM's queue, and it was not to wait for them."""
    states = {outcome.state for outcome in outcomes}
    return executor is not None and executor.name == "slurm" and not wait and states <= {"busy", "ran", "skipped"}
