"""What an executor is given, and what it gives back: jobs as plain data, with what each of them needs.

A job crosses to another process or machine as JSON: a recipe and a seed, or the arguments of a scoring, and the plug-in files
that it takes from. No code of ours is pickled, and what a job means does not depend on who runs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slabench import plugins
from slabench.core.files import digest_json
from slabench.records.agenda import Planned
from slabench.records.store import ResultStore
from slabench.runner.trials import Outcome, Trial

State = Literal["ran", "skipped", "failed", "busy"]
"""As of `slabench.runner.trials.Outcome`."""


@dataclass(frozen=True)
class Resources:
    """What one job needs. 0 where nothing is known, and nothing is asked for.

    Attributes:
        cores: CPU cores, each with a thread of its own.
        memory_mb: of the machine, not of its devices, in MiB.
        gpus: devices that nobody else has meanwhile.
        minutes: of time, margin included; a job that needs more is stopped with its state saved, and goes on.
    """

    cores: int = 1
    memory_mb: int = 0
    gpus: int = 0
    minutes: int = 0

    def __str__(self) -> str:
        parts = [f"{self.cores} core{'' if self.cores == 1 else 's'}"]
        parts += [f"{self.gpus} GPU{'' if self.gpus == 1 else 's'}"] if self.gpus else []
        parts += [f"{self.memory_mb / 1024:.1f} GiB"] if self.memory_mb else []
        parts += [f"{self.minutes:,} min"] if self.minutes else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Job:
    """One piece of work that nobody shares.

    Attributes:
        kind: `trial`, or `scoring` of a finished one.
        key: of the trial; of a scoring, a digest of `given`.
        label: what a person calls it.
        given: `{"recipe": ..., "seed": ...}` of a trial; the arguments of `score_heads`.
        plugins: files to load first.
        resources: what it needs.
        planned: what `slabench status` tells of a trial; None for a scoring.
    """

    kind: Literal["trial", "scoring"]
    key: str
    label: str
    given: Mapping[str, Any]
    plugins: tuple[str, ...] = ()
    resources: Resources = Resources()
    planned: Planned | None = None

    @property
    def images(self) -> int:
        """Seen in training; 1 where nothing is trained, so that jobs count alike."""
        return 1 if self.planned is None else self.planned.images

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Job:
        """What `text` gave."""
        says = json.loads(text)
        planned = None if says["planned"] is None else Planned(**says["planned"])
        changes = {"resources": Resources(**says["resources"]), "planned": planned, "plugins": tuple(says["plugins"])}
        return cls(**(says | changes))


@dataclass(frozen=True)
class Settings:
    """What all jobs of a command have in common.

    Attributes:
        results: the folder of records.
        data_folder: of prepared data; None: where `SLABENCH_DATA` says, or the cache.
        device: as in `slabench.run`.
        threads: CPU threads of each job; None: as many as it has cores.
        resume: as in `slabench.run`.
        argv: the command line, for the records.
    """

    results: Path
    data_folder: Path | None = None
    device: str = "auto"
    threads: int | None = None
    resume: str = "auto"
    argv: tuple[str, ...] = ()

    def text(self) -> str:
        """As JSON, with folders that mean the same in any process."""
        folders = {"results": str(Path(self.results).resolve())}
        folders |= {"data_folder": str(Path(self.data_folder).resolve())} if self.data_folder else {}
        return json.dumps(asdict(replace(self, results=Path(), data_folder=None)) | folders, default=str)

    @classmethod
    def read(cls, text: str) -> Settings:
        """What `text` gave."""
        says = json.loads(text)
        says["data_folder"] = None if says["data_folder"] is None else Path(says["data_folder"])
        return cls(**(says | {"results": Path(says["results"]), "argv": tuple(says["argv"])}))


@dataclass(frozen=True)
class Result:
    """What became of a job: of `key`, in a `State`; `error` says why it failed."""

    key: str
    state: State
    error: str | None = None


def trial_jobs(trials: Sequence[Trial], resources: Mapping[str, Resources] | None = None) -> list[Job]:
    """A job for each trial, in their order.

    Args:
        trials: to run.
        resources: of each, by key; None asks for nothing.
    """
    files = tuple(str(Path(file).resolve()) for file in plugins.files())
    return [
        Job(
            "trial",
            trial.key,
            trial.label,
            {"recipe": trial.recipe.model_dump(mode="json"), "seed": trial.seed},
            files,
            (resources or {}).get(trial.key, Resources()),
            trial.planned,
        )
        for trial in trials
    ]


def scoring_jobs(run: str, heads: Sequence[str], arguments: Mapping[str, Any], resources: Resources) -> list[Job]:
    """A job for each head.

    Args:
        run: the key of the trial that is scored.
        heads: registered names.
        arguments: further ones of `slabench.suites.fewshot.score_heads.score_heads`, as plain data.
        resources: of each.
    """
    files = tuple(str(Path(file).resolve()) for file in plugins.files())
    jobs = []
    for head in heads:
        given = {"run": run, "heads": [head], "save": True, **arguments}
        jobs.append(Job("scoring", digest_json(given), f"{run[:8]} under {head}", given, files, resources))
    return jobs


def outcomes(trials: Sequence[Trial], results: Sequence[Result], store: ResultStore) -> list[Outcome]:
    """What became of trials, with their records; those of no result are left out."""
    of = {trial.key: trial for trial in trials}
    found = []
    for result in results:
        record = store.find(result.key) if result.state in ("ran", "skipped") else None
        found.append(Outcome(of[result.key], result.state, record, result.error))
    return found
