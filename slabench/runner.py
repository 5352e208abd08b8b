"""From a recipe to records: trials, what is missing, run it, record it.

>>> from slabench import load_recipe, plan, run                        # doctest: +SKIP
>>> for outcome in run(load_recipe("fewshot/controls"), seeds=[0]):    # doctest: +SKIP
...     print(outcome.record.name, outcome.record.scores)
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from filelock import FileLock, Timeout

from slabench import plugins
from slabench.backbones import n_parameters
from slabench.core import paths
from slabench.core.errors import SlabenchError, UsageError
from slabench.recipes import AnyRecipe
from slabench.records.environment import describe, peak_memory_bytes
from slabench.records.record import Cost, CurvePoint, RunRecord, Selection
from slabench.records.store import ResultStore, read_record
from slabench.suites import Prepared, Scored, SuiteTask, suite_of
from slabench.training.device import choose_device, choose_precision, exact_float32, keep_heap
from slabench.training.loop import Fitted, Interrupted, Listener, checkpoint_seconds, fit

Resume = Literal["auto", "never", "force"]
RESUME: tuple[Resume, ...] = ("auto", "never", "force")


@dataclass(frozen=True)
class Trial:
    """A recipe and a seed, on prepared data.

    Attributes:
        recipe: resolved.
        seed: the trial's.
        key: digest of all that decides the result.
        prepared: opened data and episodes.
        done: the finished record, if there is one already.
    """

    recipe: AnyRecipe
    seed: int
    key: str
    prepared: Prepared
    done: RunRecord | None

    @property
    def label(self) -> str:
        """What a person calls it: `fc100 5w5s protonet/conv4 sla 4,000 steps seed 0`."""
        return suite_of(self.recipe).label(self.recipe, self.seed)

    @property
    def notes(self) -> list[str]:
        """What a reader should know beforehand: the training set where it is chosen, and what is doubtful."""
        return [*self.prepared.notes(), *(f"warning: {text}" for text in suite_of(self.recipe).warnings(self.recipe))]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: `ran`, `skipped` (finished before), `failed`, or `busy` (another process runs it)."""

    trial: Trial
    state: Literal["ran", "skipped", "failed", "busy"]
    record: RunRecord | None
    error: str | None = None


class RunListener(Listener, Protocol):
    """A training listener that is also told about trials."""

    def trial(self, trial: Trial, number: int, count: int) -> None:
        """Trial `number` of `count` begins."""
        ...

    def scoring(self) -> None:
        """Training is over; the test episodes are being scored."""
        ...

    def outcome(self, outcome: Outcome) -> None:
        """A trial has ended."""
        ...


def plan(
    recipes: AnyRecipe | Sequence[AnyRecipe],
    seeds: Sequence[int] | None = None,
    results: Path | None = None,
    data_folder: Path | None = None,
) -> list[Trial]:
    """The trials of some recipes, seed by seed, each with its finished record if there is one.

    Args:
        recipes: one or several.
        seeds: overrides the recipes' own.
        results: the folder of records.
        data_folder: of prepared data; missing data is prepared now.
    """
    recipes = list(recipes) if isinstance(recipes, Sequence) else [recipes]
    prepared: dict[str, Any] = {}
    trials: dict[str, tuple[AnyRecipe, int, Any]] = {}
    for recipe in recipes:
        suite_of(recipe).check(recipe)
    depth = max((len(seeds or recipe.seeds) for recipe in recipes), default=0)
    for place in range(depth):  # all recipes at the first seed, then all at the next: comparable early
        for recipe in recipes:
            own = list(seeds or recipe.seeds)
            if place >= len(own):
                continue
            suite = suite_of(recipe)
            task = f"{recipe.suite} {suite.task_id(recipe)}"
            if task not in prepared:
                prepared[task] = suite.prepare(recipe, data_folder)
            key = plugins.bound(suite.trial_key(recipe, own[place], prepared[task]), plugins.used(recipe))
            trials.setdefault(key, (recipe, own[place], prepared[task]))
    done = ResultStore(paths.results(results)).finished_among(trials)
    return [Trial(recipe, seed, key, data, done.get(key)) for key, (recipe, seed, data) in trials.items()]


def run(
    recipes: AnyRecipe | Sequence[AnyRecipe],
    seeds: Sequence[int] | None = None,
    *,
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    resume: str = "auto",
    listener: RunListener | None = None,
    argv: Sequence[str] = (),
) -> list[Outcome]:
    """Run what is missing, one record a trial.

    Args:
        recipes: one or several.
        seeds: overrides the recipes' own.
        results: the folder of records.
        data_folder: of prepared data.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: CPU threads; None leaves torch's choice.
        resume: `auto` skips finished trials and continues interrupted ones; `never` restarts interrupted ones;
            `force` runs finished ones again too.
        listener: told about progress.
        argv: the command line, for the record.

    Raises:
        Interrupted: with the state saved.
        UsageError: the request cannot be served; nothing has been run.
    """
    if resume not in RESUME:
        raise UsageError(f"--resume {resume} is unknown", f"known: {', '.join(RESUME)}")
    where = choose_device(device)
    checkpoint_seconds()  # a wrong one is an error before anything is run
    keep_heap()
    if threads is not None:
        torch.set_num_threads(threads)
    if where.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    store = ResultStore(paths.results(results))
    trials = plan(recipes, seeds, results, data_folder)
    outcomes = []
    for number, trial in enumerate(trials, 1):
        if listener:
            listener.trial(trial, number, len(trials))
        if trial.done is not None and resume != "force":
            outcome = Outcome(trial, "skipped", trial.done)
        else:
            outcome = _run_trial(trial, store, where, resume, listener, argv)
        outcomes.append(outcome)
        if listener:
            listener.outcome(outcome)
    return outcomes


def _run_trial(
    trial: Trial,
    store: ResultStore,
    device: torch.device,
    resume: str,
    listener: RunListener | None,
    argv: Sequence[str],
) -> Outcome:
    checkpoint = store.root / "checkpoints" / f"{trial.key[:12]}.safetensors"
    started = datetime.now(UTC)
    with _lock(checkpoint.with_suffix(".lock")) as free:
        if not free:
            return Outcome(trial, "busy", None, "another process is running this trial")
        # Another process may have finished it, and let go of the lock, since the trials were planned.
        if resume != "force" and (finished := store.finished_among([trial.key])):
            return Outcome(trial, "skipped", finished[trial.key])
        try:
            autocast = choose_precision(trial.recipe.train.precision, device)
            task = suite_of(trial.recipe).build_task(trial.recipe, trial.seed, trial.prepared, device, autocast)
            fitted = fit(
                task,
                task.optimisation,
                trial.recipe.select,
                trial.key,
                checkpoint,
                resume == "auto",
                listener,
            )
            if listener:
                listener.scoring()
            begin = time.perf_counter()
            with exact_float32():
                scored = task.score(fitted.progress)
            seconds = time.perf_counter() - begin
            record = _record(trial, task, fitted, scored, seconds, device, started, argv)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            text = str(error) if isinstance(error, SlabenchError) else "".join(traceback.format_exception(error))
            store.save(_failed(trial, text, device, started, argv), {})
            return Outcome(trial, "failed", None, str(error) or type(error).__name__)
        saved = read_record(store.save(record, scored.per_unit, scored.outputs))
        checkpoint.unlink(missing_ok=True)
    return Outcome(trial, "ran", saved)


def _record(
    trial: Trial,
    task: SuiteTask,
    fitted: Fitted,
    scored: Scored,
    eval_seconds: float,
    device: torch.device,
    started: datetime,
    argv: Sequence[str],
) -> RunRecord:
    progress, recipe = fitted.progress, trial.recipe
    points = {point["step"]: point for point in progress.curve}
    at_selected = points.get(fitted.selected_step)
    return _base(trial, device, started, argv).model_copy(
        update={
            "status": "done",
            "error": None,
            "scores": scored.scores,
            "transductive": scored.transductive,
            "curve": [CurvePoint(**point) for point in progress.curve],
            "selection": Selection(
                rule=recipe.select.rule,
                step=fitted.selected_step,
                val_accuracy=next(iter(at_selected["val"].values()), None) if at_selected else None,
                candidates=len(points) if recipe.select.rule == "best_val" else 1,
            ),
            "warnings": suite_of(recipe).warnings(recipe),
            "cost": Cost(
                train_seconds=round(progress.seconds, 3),
                eval_seconds=round(eval_seconds, 3),
                images_seen=progress.images_seen,
                steps=progress.step,
                episodes=progress.step * task.episodes_per_step,
                parameters=n_parameters(task.module),
                peak_memory_bytes=peak_memory_bytes(device),
                images_per_second=round(progress.images_seen / progress.seconds, 1) if progress.seconds else None,
                effective_batch=task.images_per_step,
            ),
        }
    )


def _base(trial: Trial, device: torch.device, started: datetime, argv: Sequence[str]) -> RunRecord:
    recipe = trial.recipe
    precision = choose_precision(recipe.train.precision, device)
    used = plugins.used(recipe)
    environment = describe(device) | {"precision": "bfloat16" if precision else "float32"}
    return RunRecord(
        key=trial.key,
        name=recipe.name,
        # What its digest is of: a setting that came later is not in it, so that old and new records of one recipe are alike.
        recipe={"name": recipe.name, **recipe.resolved()},
        recipe_digest=plugins.bound(recipe.digest, used),
        seed=trial.seed,
        suite=recipe.suite,
        dataset=recipe.data.dataset,
        **trial.prepared.facts(),
        limited=recipe.limited,
        environment=environment | ({"plugins": used} if used else {}),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        status="failed",
        error="not finished",
        argv=list(argv),
    )


def _failed(trial: Trial, error: str, device: torch.device, started: datetime, argv: Sequence[str]) -> RunRecord:
    return _base(trial, device, started, argv).model_copy(update={"error": error})


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold `path` for this process; False, at once, if another one holds it.

    The file stays behind, empty: removed, it could be locked anew by one process while another still waits on the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
