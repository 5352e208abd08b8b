"""How long trials take on this machine, from a few steps on a few images: the one estimate that every command asks.

A trial whose data is not here has an estimate too: noise of the right size stands in for it. Steps that would take long are
measured on fewer images and scaled by their number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch

from slabench.data.catalog import DatasetInfo, info
from slabench.data.imageset import ImageSet
from slabench.data.splits import load_split
from slabench.episodes.files import EpisodeFile
from slabench.episodes.sampler import Episodes
from slabench.evaluation.episodes import PREDICTORS, embed, score_episodes
from slabench.recipes import AnyRecipe
from slabench.recipes.fewshot import ADAPTED, Recipe
from slabench.recipes.images import copies_per_image, images_per_step
from slabench.runner.trials import Trial
from slabench.runner.workload import workload
from slabench.sla.transforms import transform_set
from slabench.suites import SuiteTask, suite_of
from slabench.suites.classifier.data import ClassifierPrepared
from slabench.suites.fewshot.data import Prepared as FewshotPrepared
from slabench.suites.fewshot.scoring import EpisodeScoring
from slabench.suites.on_features import identity_of
from slabench.training.device import choose_device, choose_precision

LONG_STEP = 1.5
"""Seconds; a step that is shorter is measured as it is, a longer one on fewer images."""
MEASURED = 1.0
"""Seconds for which steps of a kind are measured, three steps at least."""
SCALED = 1.5
"""A time that is scaled from smaller steps may be this factor off, either way: small batches use a processor otherwise."""
_BUSY = 0.8
_SCORED_IMAGES = 128
_EPISODES = 8


@dataclass(frozen=True)
class Seconds:
    """A measured time: `typical`, and how sure it is, as the `low` and `high` that are likely too."""

    typical: float
    low: float
    high: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.typical + other.typical, self.low + other.low, self.high + other.high)

    def __mul__(self, factor: float) -> Seconds:
        return Seconds(self.typical * factor, self.low * factor, self.high * factor)

    def scaled(self) -> Seconds:
        """The same, less sure: it stands for something larger than what was measured."""
        return Seconds(self.typical, self.low / SCALED, self.high * SCALED)

    def told(self, duration: Callable[[float], str]) -> str:
        """`about 12 min (9 min to 17 min)`; the range is left out where it says the same."""
        typical, low, high = (duration(value) for value in (self.typical, self.low, self.high))
        return f"about {typical}" if low == high else f"about {typical} ({low} to {high})"


NOTHING = Seconds(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Estimate:
    """Of one trial: `training` with everything that a step does, `scoring` with validations and the test."""

    training: Seconds
    scoring: Seconds

    @property
    def total(self) -> Seconds:
        """Both."""
        return self.training + self.scoring


class Estimator:
    """Measured speeds of this machine; each kind of step is measured once.

    Args:
        device: where the trials would run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._known: dict[str, Seconds] = {}
        self._wall = self._cpu = 0.0
        self._scaled = False

    @property
    def share(self) -> float:
        """Of the CPU threads that it asked for, how much this process had while it was measured: 1 on an idle machine.

        Times shrink to about this part of themselves when whatever else the machine does has ended. 1 for a GPU.
        """
        if self.device.type != "cpu" or not self._wall:
            return 1.0
        return min(1.0, self._cpu / self._wall / torch.get_num_threads())

    def remarks(self, total: float, duration: Callable[[float], str]) -> list[str]:
        """How sure the times are, in sentences; `total` seconds of everything that is open."""
        lines = ["Times are scaled from a few steps on a few images, in one process; the range is that of the steps."]
        if self._scaled:
            lines.append(f"Some steps take too long to be tried whole: their times may be a factor of {SCALED:g} off.")
        if self.share < _BUSY:
            lines.append(
                f"The machine is busy: this process had {100 * self.share:.0f} % of the CPU time it asked for. Alone on "
                f"it, all that is open would take about {duration(total * self.share)}."
            )
        return lines

    def estimate(self, recipe: AnyRecipe, trial: Trial | None = None) -> Estimate:
        """Training, validations and test of one trial."""
        work, images = workload(recipe, trial), _Images.of(recipe, trial)
        scoring = NOTHING
        if work.scored:
            scoring += self._per_view(recipe, images) * work.scored
        if isinstance(recipe, Recipe):
            scoring += self._per_episode(recipe, images) * work.episodes
        return Estimate(self._per_image(recipe, images) * work.images if work.images else NOTHING, scoring)

    def _per_image(self, recipe: AnyRecipe, images: _Images) -> Seconds:
        """An image in training, each copy counted."""
        small = self._probe(recipe, images)
        if isinstance(recipe, Recipe) and recipe.model.learner != "classifier":
            own: AnyRecipe = _with(recipe, train={"episodes_per_step": 1})
            if small.typical * images_per_step(own) <= LONG_STEP:
                return self._step(own, images)
            self._scaled = True
            return small.scaled()
        whole = recipe.train.batch_size
        batch = max(2, min(whole, int(LONG_STEP / (small.typical * copies_per_image(recipe)))))
        measured = self._step(_with(recipe, train={"batch_size": batch, "steps": 50}), images)
        if batch > whole / 2:
            return measured
        self._scaled = True
        return measured.scaled()

    def _probe(self, recipe: AnyRecipe, images: _Images) -> Seconds:
        """An image in training, on a step of some images without copies."""
        changes: dict[str, Any] = {"batch_size": 16, "steps": 50}
        if isinstance(recipe, Recipe):
            changes = {"episodes_per_step": 1, "shots": 1, "queries": 4}
        own = _with(recipe, train=changes, sla={"objective": "baseline"})
        if (
            isinstance(own, Recipe) and own.model.learner not in ADAPTED
        ):  # an inner loop is what such a step consists of
            own = _with(own, model={"head": "protonet", "learner": "episodic"})
        return self._step(own, images)

    def _step(self, recipe: AnyRecipe, images: _Images) -> Seconds:
        """An image of a step, copies counted, from a few steps on a task that is thrown away afterwards."""
        key = f"step {_measured_alike(recipe)} {images.shape}"
        if key not in self._known:
            task = self._task(recipe, images)
            task.module.train()
            measured = self._timed(lambda step: task.step(step).loss.backward(), MEASURED)
            self._known[key] = measured * (1 / task.images_per_step)
        return self._known[key]

    def _per_view(self, recipe: AnyRecipe, images: _Images) -> Seconds:
        """An image under one transformation, in eval mode."""
        key = f"view {recipe.model.model_dump_json(include={'backbone'})} {images.shape}"
        if key not in self._known:
            forward = self._probe(recipe, images) * (1 / 3)  # the backward pass costs about two forward ones
            if _SCORED_IMAGES * forward.typical > 5 * LONG_STEP:
                self._scaled = True
                return forward.scaled()
            task: Any = self._task(_with(recipe, sla={"objective": "baseline"}), images)
            places = torch.arange(_SCORED_IMAGES, device=self.device) % len(task.images)
            sample = task.images.index_select(0, places).cpu()
            found = self._timed(lambda _: embed(task.module, sample, identity_of(recipe), task.info), 0.0)
            self._known[key] = found * (1 / _SCORED_IMAGES)
        return self._known[key]

    def _per_episode(self, recipe: Recipe, images: _Images) -> Seconds:
        """An episode scored with both predictors: from features, or with all that it embeds anew."""
        p, m = recipe.protocol, transform_set(recipe.sla.transforms).M
        adapted = recipe.model.learner in ADAPTED
        parts = [_measured_alike(recipe)] if adapted else [recipe.model.head, recipe.model.backbone]
        key = f"episode {parts} {images.shape} {p.ways} {p.shots} {p.queries} {m}"
        if key not in self._known:
            # A head scores features alike, whatever trained the backbone.
            own = recipe if adapted else _with(recipe, model={"learner": "episodic"}, sla={"objective": "baseline"})
            task = cast(EpisodeScoring, self._task(own, images))
            episodes = _episodes(p.ways, p.shots, p.queries)
            shape = (p.ways * (p.shots + p.queries), m, task.learner.backbone.feature_dim)
            features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)

            def from_features(_: int) -> None:
                for predictor in PREDICTORS:
                    score_episodes(task.learner, features, episodes, predictor, p.ways)

            found = self._timed(from_features if recipe.from_features else lambda _: task.test(), 0.0)
            self._known[key] = found * (1 / _EPISODES)
        return self._known[key]

    def _timed(self, work: Callable[[int], object], seconds: float) -> Seconds:
        """`work(0)`, `work(1)`, ... for some seconds, three times at least and fifty at most: the median, least and most.

        The first one pays for allocation and the choice of kernels, and is left out.
        """
        times: list[float] = []
        begin, cpu = time.perf_counter(), time.process_time()
        while len(times) < 3 or (time.perf_counter() - begin < seconds and len(times) < 50):
            start = time.perf_counter()
            work(len(times))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - start)
        self._cpu, self._wall = self._cpu + time.process_time() - cpu, self._wall + time.perf_counter() - begin
        return Seconds(float(np.median(times[1:])), min(times[1:]), max(times[1:]))

    def _task(self, recipe: AnyRecipe, images: _Images) -> SuiteTask:
        precision = choose_precision(recipe.train.precision, self.device)
        return suite_of(recipe).build_task(recipe, 0, images.stand_in(recipe), self.device, precision)


def seconds_of(estimator: Estimator | None = None) -> Callable[[Trial], float]:
    """Seconds of a trial, for the executors; without an estimator, of what this machine is best at."""

    def seconds(trial: Trial) -> float:
        nonlocal estimator
        if estimator is None:
            estimator = Estimator(choose_device())
        return estimator.estimate(trial.recipe, trial).total.typical

    return seconds


_SCHEDULE = ("steps", "epochs", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs", "milestones", "factors")


def _measured_alike(recipe: AnyRecipe) -> str:
    """Equal for recipes whose steps take equally long, as a baseline's and the one's that sees more images.

    Without data, loss and selection: their part of a step is small.
    """
    settings = recipe.resolved()
    kept: dict[str, Any] = {
        name: settings[name] for name in ("suite", "model", "sla", "maml", "augment", "mix") if name in settings
    }
    kept["train"] = {name: value for name, value in settings["train"].items() if name not in _SCHEDULE}
    if isinstance(recipe, Recipe):
        kept["episodes"] = [recipe.train_ways, recipe.train_shots, recipe.protocol.ways]
    return json.dumps(kept, sort_keys=True)


def _with(recipe: AnyRecipe, **parts: dict[str, Any]) -> Any:
    """A copy with some settings changed."""
    update = {name: getattr(recipe, name).model_copy(update=values) for name, values in parts.items()}
    return recipe.model_copy(update=update)


@dataclass(frozen=True)
class _Images:
    """The few images that stand in for the data of a trial: the first of each class, or noise where the data is not here.

    Attributes:
        entry: of the data set.
        n_classes: that are trained on.
        prepared: the data of the trial, if it is here.
    """

    entry: DatasetInfo
    n_classes: int
    prepared: FewshotPrepared | ClassifierPrepared | None

    @classmethod
    def of(cls, recipe: AnyRecipe, trial: Trial | None) -> _Images:
        """By the prepared data of a trial, or by the catalog where it is not here."""
        if trial is not None:
            prepared = cast(FewshotPrepared | ClassifierPrepared, trial.prepared)
            return cls(prepared.info, prepared.train.n_classes, prepared)
        entry = info(recipe.data.dataset)
        fewshot = isinstance(recipe, Recipe)
        return cls(entry, len(load_split(entry.name).classes["train"]) if fewshot else entry.n_classes, None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        size = self.entry.image_size
        return (size, size, 3) if self.prepared is None else self.prepared.train.images.shape[1:]

    def stand_in(self, recipe: AnyRecipe) -> FewshotPrepared | ClassifierPrepared:
        """Prepared data for a task of `recipe`."""
        batch = recipe.train.batch_size
        if isinstance(recipe, Recipe):
            p = recipe.protocol
            if recipe.model.learner == "classifier":
                train = self._few("train", self.n_classes, 1, batch)
            else:
                train = self._few("train", self.n_classes, recipe.train_shots + recipe.train.queries)
            test = self._few("test", p.ways, p.shots + p.queries)
            file = cast(Any, EpisodeFile)("stand-in", _episodes(p.ways, p.shots, p.queries), None, "", Path())
            if self.prepared is None:
                return FewshotPrepared(self.entry, train, test, test, file, file)
            here: dict[str, Any] = {"val_episodes": file, "test_episodes": file}
            return replace(cast(FewshotPrepared, self.prepared), train=train, val=test, test=test, **here)
        train, test = self._few("train", self.n_classes, 1, batch), self._few("test", self.n_classes, 1)
        rows, none = np.arange(len(train)), np.zeros(0, dtype=np.int64)
        if self.prepared is None:
            return ClassifierPrepared(self.entry, train, test, rows, none, "stand-in", None)
        return replace(cast(ClassifierPrepared, self.prepared), train=train, test=test, rows=rows, validation=none)

    def _few(self, part: Literal["train", "test"], n_classes: int, each: int, batch: int = 1) -> ImageSet:
        """`each` images of each of the first classes, or so many more that all batches are full; some occur several times."""
        labels = np.repeat(np.arange(n_classes), each)
        if self.prepared is None:
            noise = np.random.Generator(np.random.PCG64(0))
            images = noise.integers(0, 256, (len(labels), *self.shape), dtype=np.uint8)
        else:
            whole = self.prepared.train if part == "train" else self.prepared.test
            rows = np.concatenate([np.resize(rows[:each], each) for rows in whole.class_rows()[:n_classes]])
            images = whole.images[rows]
        places = np.resize(np.arange(len(labels)), -(-len(labels) // batch) * batch)
        names = tuple(str(label) for label in range(n_classes))
        parts, positions = np.zeros(len(places), np.uint8), np.full(len(places), -1, np.int32)
        return ImageSet("stand-in", images[places], labels[places], names, "", "", parts, positions)


def _episodes(ways: int, shots: int, queries: int) -> Episodes:
    rows = torch.arange(ways * (shots + queries)).view(1, ways, -1).expand(_EPISODES, -1, -1).contiguous()
    return Episodes(rows, torch.arange(ways).expand(_EPISODES, -1).contiguous(), shots)
