"""From a recipe to records: trials, what is missing, run it, record it.

>>> from slabench import load_recipe, plan, run                        # doctest: +SKIP
>>> for outcome in run(load_recipe("fewshot/controls"), seeds=[0]):    # doctest: +SKIP
...     print(outcome.record.name, outcome.record.scores)
"""

from __future__ import annotations

import contextlib
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch

from slabench import plugins
from slabench.backbones import n_parameters
from slabench.core import paths
from slabench.core.errors import SlabenchError, UsageError
from slabench.core.files import remove_abandoned
from slabench.core.locks import hold
from slabench.core.team import PeerLostError
from slabench.recipes import AnyRecipe
from slabench.records.agenda import Announcement, announce
from slabench.records.environment import describe, peak_memory_bytes
from slabench.records.reading import read_record
from slabench.records.record import Cost, CurvePoint, RunRecord, Selection
from slabench.records.store import ResultStore
from slabench.runner.one_trial import Done, checkpoint_of, follow, train_and_score
from slabench.runner.trials import Outcome, Trial, plan
from slabench.suites.dividing import UndividedError
from slabench.training.checkpoint import Progress
from slabench.training.crew import Crew, own_device
from slabench.training.device import choose_device, choose_precision, keep_heap, use_threads
from slabench.training.loop import Interrupted, Listener, Undisturbed, checkpoint_seconds

Resume = Literal["auto", "never", "force"]
RESUME: tuple[Resume, ...] = ("auto", "never", "force")


class RunListener(Listener, Protocol):
    """A training listener that is also told about trials."""

    def planned(self, trials: Sequence[Trial]) -> None:
        """These will be run, in this order, if no other process does it; told once, before the first."""
        ...

    def trial(self, trial: Trial, number: int, count: int) -> None:
        """Trial `number` of `count` begins."""
        ...

    def scoring(self) -> None:
        """Training is over; the test episodes are being scored."""
        ...

    def outcome(self, outcome: Outcome) -> None:
        """A trial has ended."""
        ...

    def note(self, text: str) -> None:
        """Something that a reader should know: this process waits for others, a folder cannot lock."""
        ...


def run(
    recipes: AnyRecipe | Sequence[AnyRecipe],
    seeds: Iterable[int] | None = None,
    *,
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    resume: str = "auto",
    wait: bool = True,
    owned: bool = False,
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
        wait: before it ends, wait for the trials that other processes run, and take over those whose process has died.
        owned: an executor has given these trials to this process alone, so that nothing is missing where the folder cannot lock.
        listener: told about progress; one that fails is not told any more, and the run goes on.
        argv: the command line, for the record.

    Returns:
        What became of each trial. Under torchrun the processes train each trial together: the first one has the outcomes, and
        tells its listener; the others return an empty list.

    Raises:
        Interrupted: with the state saved.
        PeerLostError: another process that torchrun started has gone; the state is saved.
        UsageError: the request cannot be served; nothing has been run.
        OSError: nothing can be written into the folder of records; nothing has been run.
    """
    if resume not in RESUME:
        raise UsageError(f"--resume {resume} is unknown", f"known: {', '.join(RESUME)}")
    crew = Crew.assemble()
    if crew is not None and crew.launch.follows:
        follow(crew, recipes, seeds, results, data_folder, lambda: _begin(device, threads, crew))
        return []
    with nullcontext() if crew is None else crew.dismissed():
        return _lead(crew, recipes, seeds, results, data_folder, device, threads, resume, wait, owned, listener, argv)


def _begin(device: str, threads: int | None, crew: Crew | None) -> torch.device:
    """Set up this process, and return its device."""
    where = choose_device(device if crew is None else own_device(device, crew.launch))
    checkpoint_seconds()  # a wrong one is an error before anything is run
    keep_heap()
    use_threads(threads)
    if where.type == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return where


def _lead(
    crew: Crew | None,
    recipes: AnyRecipe | Sequence[AnyRecipe],
    seeds: Iterable[int] | None,
    results: Path | None,
    data_folder: Path | None,
    device: str,
    threads: int | None,
    resume: str,
    wait: bool,
    owned: bool,
    listener: RunListener | None,
    argv: Sequence[str],
) -> list[Outcome]:
    where = _begin(device, threads, crew)
    store = ResultStore(paths.results(results))
    trials = plan(recipes, seeds, results, data_folder)
    if crew is not None:
        crew.tell(do="plan", keys=[trial.key for trial in trials])
        crew.require_ready()
    todo = [trial for trial in trials if trial.done is None or resume == "force"]
    for trial in todo:  # what cannot be saved is not trained
        _checkpoints(store).mkdir(parents=True, exist_ok=True)
        _check_writable(trial, store)
    told = None if listener is None else cast(RunListener, Undisturbed(listener))
    said: set[str] = set()

    def note(text: str) -> None:
        if text not in said:
            said.add(text)
            if told and hasattr(listener, "note"):
                told.note(text)
            else:
                warnings.warn(RunWarning(text), stacklevel=4)

    if told and hasattr(listener, "planned"):  # one that was written for version 0.1 has none
        told.planned(todo)
    numbered = list(enumerate(trials, 1))
    outcomes: dict[str, Outcome] = {}
    turn = numbered
    with announce(store.root, [trial.planned for trial in todo]) as agenda:
        while turn:
            for number, trial in turn:
                if told:
                    told.trial(trial, number, len(trials))
                if trial.done is not None and resume != "force":
                    outcome = Outcome(trial, "skipped", trial.done)
                    _tidy(trial, trial.done, store)
                else:
                    outcome = _run_trial(trial, store, where, resume, told, argv, note, agenda, owned, crew)
                    agenda.at(None)
                outcomes[trial.key] = outcome
                if told:
                    told.outcome(outcome)
                if crew is not None:
                    crew.require_whole()
            held = [(number, trial) for number, trial in numbered if outcomes[trial.key].state == "busy"]
            turn = _freed(held, store, note) if held and wait else []
    return [outcomes[trial.key] for trial in trials]


class RunWarning(UserWarning):
    """What a reader of a run without a listener should know of it."""


def _run_trial(
    trial: Trial,
    store: ResultStore,
    device: torch.device,
    resume: str,
    listener: RunListener | None,
    argv: Sequence[str],
    note: Callable[[str], None],
    agenda: Announcement,
    owned: bool,
    crew: Crew | None,
) -> Outcome:
    checkpoint = checkpoint_of(trial, store.root)
    started = datetime.now(UTC)
    with hold(checkpoint.with_suffix(".lock")) as state:
        if state == "busy":
            return Outcome(trial, "busy", None, "another process is running this trial")
        if isinstance(state, OSError) and not owned:
            note(
                f"{checkpoint.parent} cannot lock files ({state.strerror or state}): nothing keeps two processes from "
                "running the same trial. Run one process in this folder, or name one on a local disk with --results; "
                "what one command shares out (--jobs 2, --executor slurm) is safe here too"
            )
        # Another process may have finished it, and let go of the lock, since the trials were planned.
        finished = None if trial.untold else store.finished_among([trial.key]).get(trial.key)
        if finished is not None and (resume != "force" or finished != trial.done):
            return Outcome(trial, "skipped", finished)
        agenda.at(trial.key)
        try:
            _check_writable(trial, store)
            goes_on = resume == "auto" and not trial.untold  # else a checkpoint may be of other code
            if crew is not None:
                crew.tell(do="trial", key=trial.key, goes_on=goes_on)
            with nullcontext() if crew is None else crew.together(device):
                done = train_and_score(
                    trial, device, checkpoint, goes_on, listener, None if listener is None else listener.scoring
                )
            processes = _processes(crew, device, done.fitted.progress)
            record = _record(trial, done, device, started, argv, processes)
            saved = read_record(store.save(record, done.scored.per_unit, done.scored.outputs))
        except (Interrupted, KeyboardInterrupt, PeerLostError, UndividedError):
            raise
        except Exception as error:
            text = str(error) if isinstance(error, SlabenchError) else "".join(traceback.format_exception(error))
            with contextlib.suppress(Exception):  # what failed may be the saving itself
                store.save(_failed(trial, text, device, started, argv, _processes(crew, device)), {})
            kept = "\nthe result of an earlier run stays as it was" if finished is not None else ""
            return Outcome(trial, "failed", None, (str(error) or type(error).__name__) + kept)
        checkpoint.unlink(missing_ok=True)
        remove_abandoned(checkpoint)
    return Outcome(trial, "ran", saved)


def _checkpoints(store: ResultStore) -> Path:
    return store.root / "checkpoints"


def _check_writable(trial: Trial, store: ResultStore) -> None:
    store.check_writable(trial.recipe.suite, trial.prepared.protocol, trial.recipe.name)


def _tidy(trial: Trial, done: RunRecord, store: ResultStore) -> None:
    """Remove what a process left that was killed after it had written the record of a trial."""
    store.tidy(done)
    checkpoint = checkpoint_of(trial, store.root)
    if any(checkpoint.parent.glob(f"*{checkpoint.stem}.*")):
        with hold(checkpoint.with_suffix(".lock")) as state:
            if state == "held":  # else it is another process's, which runs the trial again
                checkpoint.unlink(missing_ok=True)
                remove_abandoned(checkpoint)


def _pause() -> None:
    """Between two looks at the locks of other processes."""
    time.sleep(1.0)


def _freed(held: list[tuple[int, Trial]], store: ResultStore, note: Callable[[str], None]) -> list[tuple[int, Trial]]:
    """Wait until other processes have let go of some of these trials, finished, failed or killed. Return those."""
    which = "a trial that another process runs" if len(held) == 1 else f"{len(held)} trials that other processes run"
    note(f"waiting for {which}: what is left open is run here (--no-wait ends at once)")
    while True:
        free = []
        for number, trial in held:
            with hold(checkpoint_of(trial, store.root).with_suffix(".lock")) as state:
                if state != "busy":
                    free.append((number, trial))
        if free:
            return free
        _pause()


def _processes(crew: Crew | None, device: torch.device, progress: Progress | None = None) -> dict[str, Any]:
    """What the environment says of several processes; nothing where one has done it all."""
    counts = {} if progress is None else progress.processes
    size = 1 if crew is None else crew.launch.size
    mixed = set(counts) - {str(size)}
    if crew is None and not mixed:
        return {}
    facts = {"count": 1} if crew is None else crew.facts(device)
    return {"processes": facts | ({"steps": dict(counts)} if mixed else {})}


def _record(
    trial: Trial, done: Done, device: torch.device, started: datetime, argv: Sequence[str], processes: Mapping[str, Any]
) -> RunRecord:
    task, fitted, scored = done.task, done.fitted, done.scored
    progress, recipe = fitted.progress, trial.recipe
    points = {point["step"]: point for point in progress.curve}
    at_selected = points.get(fitted.selected_step)
    return _base(trial, device, started, argv, processes).model_copy(
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
            "warnings": trial.warnings,
            "cost": Cost(
                train_seconds=round(progress.seconds, 3),
                eval_seconds=round(done.eval_seconds, 3),
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


def _base(
    trial: Trial, device: torch.device, started: datetime, argv: Sequence[str], processes: Mapping[str, Any]
) -> RunRecord:
    recipe = trial.recipe
    precision = choose_precision(recipe.train.precision, device)
    environment = describe(device) | {"precision": "bfloat16" if precision else "float32", **processes}
    return RunRecord(
        key=trial.key,
        name=recipe.name,
        # What its digest is of: a setting that came later is not in it, so that old and new records of one recipe are alike.
        recipe={"name": recipe.name, **recipe.resolved()},
        recipe_digest=plugins.bound(recipe.digest, trial.code),
        seed=trial.seed,
        suite=recipe.suite,
        dataset=recipe.data.dataset,
        **trial.prepared.facts(),
        limited=recipe.limited,
        environment=environment | ({"plugins": list(trial.code)} if trial.code else {}),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        status="failed",
        error="not finished",
        argv=list(argv),
    )


def _failed(
    trial: Trial, error: str, device: torch.device, started: datetime, argv: Sequence[str], processes: Mapping[str, Any]
) -> RunRecord:
    return _base(trial, device, started, argv, processes).model_copy(update={"error": error})
