"""One job, in the process that runs it, whichever executor started that."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from slabench import plugins
from slabench.core.errors import SlabenchError
from slabench.core.files import SHORT
from slabench.executors.jobs import Job, Result, Settings
from slabench.recipes import parse_recipe
from slabench.runner import RunListener, run
from slabench.training.loop import Interrupted


def do(job: Job, settings: Settings, listener: RunListener | None = None, *, wait: bool = True) -> Result:
    """Run a job; what fails in it is said in the result.

    Args:
        job: what to do.
        settings: see `Settings`.
        listener: told about the progress of a trial.
        wait: for a process that holds the trial's lock, such as a lost one that is not yet gone; else the result is `busy`.

    Raises:
        Interrupted: it was asked to stop; the state of a trial is saved.
    """
    try:
        for file in job.plugins:
            plugins.load_plugin(Path(file))
        if job.kind == "scoring":
            _score(job, settings)
            return Result(job.key, "ran")
        (outcome,) = run(
            parse_recipe(dict(job.given["recipe"])),
            [job.given["seed"]],
            results=settings.results,
            data_folder=settings.data_folder,
            device=settings.device,
            threads=settings.threads or _threads(job),
            resume=settings.resume,
            wait=wait,
            owned=True,
            listener=listener,
            argv=settings.argv,
        )
        if outcome.trial.key != job.key:
            # Its record is good, and of another trial than was asked for.
            raise SlabenchError(
                f"this machine made the trial {outcome.trial.key[:SHORT]} of what is {job.key[:SHORT]} where it was planned: "
                "its data, plug-ins or version of slabench differ",
                "install the same slabench, and point SLABENCH_DATA at the same folder, on every machine",
            )
        return Result(job.key, outcome.state, outcome.error)
    except (Interrupted, KeyboardInterrupt):
        raise
    except Exception as error:  # the other jobs go on
        return Result(job.key, "failed", str(error) or type(error).__name__)


def _threads(job: Job) -> int | None:
    """As many as the job has cores, unless the user has said it in the environment."""
    return None if os.environ.get("OMP_NUM_THREADS") else job.resources.cores


def _score(job: Job, settings: Settings) -> None:
    from slabench.suites.fewshot.score_heads import score_heads

    arguments: dict[str, Any] = dict(job.given)
    scoring = score_heads(
        arguments.pop("run"),
        arguments.pop("heads"),
        arguments.pop("ways", None),
        arguments.pop("shots", None),
        results=settings.results,
        data_folder=settings.data_folder,
        device=settings.device,
        threads=settings.threads or _threads(job),
        argv=settings.argv,
        **arguments,
    )
    for _ in scoring.results:
        pass
