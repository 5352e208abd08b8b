"""One trial, trained and scored: by a process alone, or by several of which the first leads and records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from slabench.core import paths
from slabench.core.errors import SlabenchError
from slabench.core.files import SHORT
from slabench.core.team import PeerLostError
from slabench.recipes import AnyRecipe
from slabench.runner.trials import Trial, plan
from slabench.suites import Scored, SuiteTask, suite_of
from slabench.suites.dividing import divide
from slabench.training.crew import Crew, same_plan
from slabench.training.device import choose_precision, exact_float32
from slabench.training.finite import at_step
from slabench.training.loop import Fitted, Interrupted, Listener, fit


@dataclass(frozen=True)
class Done:
    """A trial that has been trained and scored."""

    task: SuiteTask
    fitted: Fitted
    scored: Scored
    eval_seconds: float


def train_and_score(
    trial: Trial,
    device: torch.device,
    checkpoint: Path,
    goes_on: bool,
    listener: Listener | None = None,
    scoring: Callable[[], None] | None = None,
) -> Done:
    """This process's part of a trial, which is all of it where it is alone.

    Args:
        trial: which one.
        device: of this process.
        checkpoint: its file.
        goes_on: from the checkpoint, if there is one.
        listener: told about progress.
        scoring: called when training is over.
    """
    autocast = choose_precision(trial.recipe.train.precision, device)
    task = suite_of(trial.recipe).build_task(trial.recipe, trial.seed, trial.prepared, device, autocast)
    divide(task)
    fitted = fit(task, task.optimisation, trial.recipe.select, trial.key, checkpoint, goes_on, listener)
    if scoring:
        scoring()
    begin = time.perf_counter()
    with at_step(fitted.selected_step), exact_float32():
        scored = task.score(fitted.progress)
    return Done(task, fitted, scored, time.perf_counter() - begin)


def checkpoint_of(trial: Trial, root: Path) -> Path:
    """The file of its checkpoint in a folder of results."""
    return root / "checkpoints" / f"{trial.key[:SHORT]}.safetensors"


def follow(
    crew: Crew,
    recipes: AnyRecipe | Sequence[AnyRecipe],
    seeds: Iterable[int] | None,
    results: Path | None,
    data_folder: Path | None,
    begin: Callable[[], torch.device],
) -> None:
    """Do a process's part of every trial that the leader names, until it names no more.

    A trial that fails is the leader's to record; whoever fails alone tells it why.

    Args:
        crew: this process's side.
        recipes: as of `slabench.run`, as are `seeds`, `results` and `data_folder`.
        begin: sets the process up, and returns its device.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
        PeerLostError: the leader or another process has gone.
    """
    said = crew.listen()  # the leader has prepared the data by then
    if said["do"] == "end":
        return
    try:
        device, trials = begin(), plan(recipes, seeds, results, data_folder)
        problem = same_plan(said["keys"], [trial.key for trial in trials])
    except (SlabenchError, OSError) as error:
        problem = str(error)
    crew.ready(problem)
    if problem:
        return
    by_key = {trial.key: trial for trial in trials}
    while (said := crew.listen())["do"] == "trial":
        trial = by_key[said["key"]]
        try:
            with crew.together(device):
                train_and_score(trial, device, checkpoint_of(trial, paths.results(results)), said["goes_on"])
        except (Interrupted, PeerLostError):
            raise
        except Exception:
            pass  # told to the leader by `together`
        crew.require_whole()
