"""One training loop for every kind of learner.

A task knows what a step is; the loop knows updates, learning rates, validations, checkpoints and interruptions. Each step
draws its random numbers from seeds derived from its number, so a run that goes on from a checkpoint ends bit for bit where an
uninterrupted one would.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from slabench.core.errors import IntegrityError, SlabenchError, UsageError
from slabench.core.team import PeerLostError, any_of, as_leader, average, current, reduce
from slabench.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from slabench.training.finite import at_step, diverged, require_finite_weights
from slabench.training.schedule import Optimisation, build_optimizer, learning_rate

if TYPE_CHECKING:
    from slabench.recipes.classifier import ClassifierSelect
    from slabench.recipes.fewshot import Select


class Interrupted(SlabenchError):
    """The run was asked to stop and has saved its state."""

    exit_code = 130


@dataclass(frozen=True)
class StepResult:
    """What a task did in one step: the loss to descend, the training accuracy, and the images seen (copies counted)."""

    loss: Tensor
    accuracy: Tensor
    images: int


class Task(Protocol):
    """What `fit` trains; see `slabench.suites.SuiteTask`."""

    @property
    def module(self) -> nn.Module:
        """The weights to train."""
        ...

    def step(self, step: int) -> StepResult:
        """Forward pass of update number `step`; draws only from seeds derived from it."""
        ...

    def validate(self) -> dict[str, float]:
        """Accuracy on the validation set by predictor; the first one decides a `best_val` selection.

        Empty where there is no validation set.
        """
        ...

    def watch(self) -> dict[str, float]:
        """Accuracy on the test set by predictor, for curves and the `oracle` column: it decides nothing.

        Empty where the test is not used before the end.
        """
        ...


class Listener(Protocol):
    """Who is told how a run goes; see `slabench.progress`."""

    def start(self, done: int, steps: int) -> None:
        """The run begins at update `done` of `steps`."""
        ...

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Update `done` is finished; loss and accuracy are means since the last validation."""
        ...

    def point(self, point: dict[str, Any]) -> None:
        """A validation has been made: `point` is one of the record's curve."""
        ...


class Undisturbed:
    """Tells a listener what it is told, until the listener fails: what only shows a run neither stops it nor fails it.

    Args:
        listener: with any of the methods that are called here.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener: Listener | None = listener

    def __getattr__(self, name: str) -> Callable[..., None]:
        def tell(*arguments: Any) -> None:
            if self._listener is None:
                return
            try:
                getattr(self._listener, name)(*arguments)
            except Interrupted:
                raise
            except Exception as error:
                self._listener = None
                warnings.warn(f"progress is not shown any more, and the run goes on: {error!r}", stacklevel=2)

        return tell


@dataclass
class Fitted:
    """A finished training: the weights in `task.module` are the selected ones."""

    progress: Progress
    selected_step: int
    resumed_at: int


_REPORT_SECONDS = 0.5


def checkpoint_seconds() -> float:
    """Time between two savings: 30 s, or what `SLABENCH_CHECKPOINT_SECONDS` says (0 saves after every update)."""
    text = os.environ.get("SLABENCH_CHECKPOINT_SECONDS", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UsageError(
            f"SLABENCH_CHECKPOINT_SECONDS={text} is not a number of seconds", "unset it, or give 0 or more"
        )
    return seconds


def fit(
    task: Task,
    train: Optimisation,
    select: Select | ClassifierSelect,
    key: str,
    checkpoint: Path | None = None,
    resume: bool = True,
    listener: Listener | None = None,
) -> Fitted:
    """Train `task.module` by the recipe and leave the selected weights in it.

    Args:
        task: see `Task`.
        train: see `slabench.training.schedule.Optimisation`.
        select: when to validate, and which weights to keep.
        key: the trial's key; a checkpoint of another trial is refused.
        checkpoint: where to save on the way; None saves nothing. Of several processes (`slabench.core.team`) the first saves.
        resume: go on from `checkpoint` if it is there.
        listener: told about progress.

    Raises:
        Interrupted: after SIGINT or SIGTERM, with the state saved.
        PeerLostError: another process has gone; the state before the step at hand is saved.
        NotFiniteError: the loss, the weights, or what validation computes of them are no longer finite; names the step.
    """
    module, team = task.module, current()
    optimizer = build_optimizer(train, module)
    progress, best = Progress(), None
    if checkpoint is not None and resume and checkpoint.is_file():
        progress, best = load_checkpoint(checkpoint, key, module, optimizer)
    _require_same_start(progress.step)
    resumed_at, interval = progress.step, checkpoint_seconds()
    counted = progress.processes.get(str(team.size), 0)
    if resumed_at and not progress.processes:
        progress.processes["1"] = resumed_at  # from before there were several
        counted = resumed_at if team.size == 1 else 0
    validations = _validation_steps(train.steps, select.points)

    def validate() -> None:
        nonlocal best
        point = _validate(task, progress)
        if listener:
            listener.point(point)
        if _is_best(point, progress):
            best = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def save() -> None:
        if checkpoint is not None and team.leads:
            progress.processes[str(team.size)] = counted + progress.step - resumed_at
            save_checkpoint(checkpoint, key, module, optimizer, progress, best)

    if listener:
        listener.start(progress.step, train.steps)
    if select.start and not progress.curve:
        validate()
    module.train()
    # Loss and accuracy stay on the device until someone reads them: asking every step would stop a GPU's queue.
    sums = torch.tensor([progress.loss_sum, progress.accuracy_sum], device=next(module.parameters()).device)
    finite_steps = torch.tensor(progress.step, device=sums.device)
    begin = saved = reported = time.perf_counter()
    before, last_images = progress.seconds, progress.images_seen

    statistics = _Statistics(module) if team.size > 1 else None
    with stop_requests(patient=team.size > 1) as stop:
        stopping = False

        def stops() -> bool:
            """A process alone ends after the step at hand, whenever it is asked; several agreed in the middle of it."""
            return stopping or (team.size == 1 and stop.is_set())

        while progress.step < train.steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(train, progress.step)
            try:
                result = task.step(progress.step)
                optimizer.zero_grad(set_to_none=True)
                result.loss.backward()
                average([weight.grad for weight in module.parameters() if weight.grad is not None])
                stopping = any_of(stop.is_set())  # all stop after the same step
            except PeerLostError as error:
                progress.seconds = before + time.perf_counter() - begin
                progress.loss_sum, progress.accuracy_sum = sums.tolist()
                if statistics is not None:
                    statistics.put_back()
                save()
                raise PeerLostError(
                    f"{error.message}; stopped at step {progress.step} of {train.steps}, and the state is saved",
                    "run the same command again to go on from there",
                ) from error
            optimizer.step()
            if statistics is not None:
                statistics.keep()
            sums += torch.stack([result.loss.detach().float(), result.accuracy.float()])
            finite_steps += torch.isfinite(sums).all()
            progress.step += 1
            progress.since += 1
            progress.images_seen += result.images

            now = time.perf_counter()
            if listener and now - reported >= _REPORT_SECONDS:
                rate = (progress.images_seen - last_images) / (now - reported)
                loss, accuracy = (sums / progress.since).tolist()
                listener.step(progress.step, loss, accuracy, rate)
                reported, last_images = now, progress.images_seen
            due = progress.step in validations
            if due or stops() or now - saved >= interval:
                progress.seconds = before + now - begin
                progress.loss_sum, progress.accuracy_sum = sums.tolist()
                _require_finite_losses(finite_steps, progress)
                if due:
                    validate()
                    sums.zero_()
                    # Validation does not count as training time.
                    begin, before = time.perf_counter(), progress.seconds
                    reported, last_images = begin, progress.images_seen
                save()
                saved = time.perf_counter()
                if stops() and progress.step < train.steps:
                    raise Interrupted(
                        f"stopped at step {progress.step} of {train.steps}; the state is saved",
                        "run the same command again to go on from there",
                    )
    _require_finite_losses(finite_steps, progress)
    progress.processes[str(team.size)] = counted + progress.step - resumed_at
    selected = train.steps
    if select.rule == "best_val" and best is not None and progress.best_step is not None:
        module.load_state_dict(best)
        selected = progress.best_step
    require_finite_weights(module, selected)
    return Fitted(progress, selected, resumed_at)


def _require_finite_losses(finite_steps: Tensor, progress: Progress) -> None:
    """Losses stay on the device until now; `finite_steps` counts the steps up to the first that is not finite."""
    if (finite := int(finite_steps)) < progress.step:
        raise diverged(f"the loss is no longer finite at step {finite + 1}")


def _validation_steps(steps: int, points: int) -> frozenset[int]:
    return frozenset(max(1, round(steps * (i + 1) / points)) for i in range(points))


def _validate(task: Task, progress: Progress) -> dict[str, Any]:
    with at_step(progress.step):
        accuracies, watched = _agreed(task.validate()), task.watch()
    task.module.train()
    point: dict[str, Any] = {
        "step": progress.step,
        "images_seen": progress.images_seen,
        "seconds": round(progress.seconds, 3),
        "loss": progress.loss_sum / progress.since if progress.since else None,
        "train_accuracy": progress.accuracy_sum / progress.since if progress.since else None,
        "val": accuracies,
    }
    if watched:
        point["test"] = watched
    progress.curve.append(point)
    progress.loss_sum = progress.accuracy_sum = 0.0
    progress.since = 0
    return point


def _agreed(accuracies: dict[str, float]) -> dict[str, float]:
    """As the first process has them: they choose the weights, and must choose the same ones everywhere."""
    values = as_leader(torch.tensor(list(accuracies.values()), dtype=torch.float64))
    return dict(zip(accuracies, values.tolist(), strict=True))


def _require_same_start(step: int) -> None:
    """Refuse processes that do not all find the same checkpoint."""
    team = current()
    if team.size == 1:
        return
    ends = reduce(torch.tensor([step, -step]), largest=True).tolist()
    if ends[0] != -ends[1]:
        raise IntegrityError(
            f"processes of one trial would go on from steps {-ends[1]} and {ends[0]}",
            "all of them need the same folder of results: --results on a shared disk",
        )


class _Statistics:
    """Buffers (of batch norms) as they were after the last whole step: a step that breaks off half-way has changed some."""

    def __init__(self, module: nn.Module) -> None:
        self._buffers = list(module.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def keep(self) -> None:
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            kept.copy_(buffer)

    @torch.no_grad()
    def put_back(self) -> None:
        for kept, buffer in zip(self._kept, self._buffers, strict=True):
            buffer.copy_(kept)


def _is_best(point: dict[str, Any], progress: Progress) -> bool:
    accuracy = next(iter(point["val"].values()), None)
    if accuracy is None:
        return False
    if progress.best_accuracy is not None and accuracy <= progress.best_accuracy:
        return False
    progress.best_step, progress.best_accuracy = progress.step, accuracy
    return True


@contextmanager
def stop_requests(patient: bool = False) -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second SIGINT stops at once, as without this.

    `patient`: it does not. torchrun passes on the signal that the terminal has sent to everyone already.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and not patient:
            raise KeyboardInterrupt
        stop.set()

    before: list[tuple[int, Callable[..., Any] | int | None]] = [
        (number, signal.signal(number, handle)) for number in (signal.SIGINT, signal.SIGTERM)
    ]
    try:
        yield stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)
