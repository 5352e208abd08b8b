"""How long the trials of a table take on this machine, from a few steps on stand-in images.

Noise of the right size takes the place of the data, so that a table whose data is not here has an estimate too, and nothing
of 150 MB is loaded to measure a second. Steps that would take long are measured on fewer images and scaled by their number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from slabench.data.catalog import DatasetInfo, info
from slabench.data.imageset import ImageSet
from slabench.data.loading import input_size
from slabench.data.longtail import profile_counts
from slabench.data.splits import load_split
from slabench.episodes.files import VALIDATION_IMAGES, EpisodeFile
from slabench.episodes.sampler import Episodes
from slabench.evaluation.episodes import PREDICTORS, score_episodes
from slabench.recipes import AnyRecipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Recipe
from slabench.recipes.images import copies_per_image, images_per_step, steps_of
from slabench.runner.trials import Trial
from slabench.sla.transforms import transform_set
from slabench.suites import SuiteTask, estimate, estimate_scoring, suite_of
from slabench.suites.classifier.data import ClassifierPrepared
from slabench.suites.fewshot.data import Prepared as FewshotPrepared
from slabench.suites.fewshot.episodic import EpisodicTask
from slabench.training.device import choose_device, choose_precision

_STEP_SECONDS = 1.5
"""A step is measured as it is if it is shorter; `estimate` takes three of them."""
_SCORING_IMAGES = 128
"""Images that `estimate_scoring` embeds."""
_EPISODES = 8


@dataclass(frozen=True)
class Workload:
    """What one trial does, in counts.

    Attributes:
        steps: updates.
        images_per_step: images of an update, copies counted.
        scored: images embedded by all validations and the test, views counted.
        episodes: few-shot episodes scored.
    """

    steps: int
    images_per_step: int
    scored: int
    episodes: int = 0

    @property
    def images(self) -> int:
        """Images seen in training."""
        return self.steps * self.images_per_step


def workload(recipe: AnyRecipe, trial: Trial | None = None) -> Workload:
    """The counts of a trial: of its prepared data, or by the catalog where the data is not here."""
    m = transform_set(recipe.sla.transforms).M
    if isinstance(recipe, Recipe):
        p, prepared = recipe.protocol, cast(FewshotPrepared, trial.prepared) if trial else None
        if prepared is not None:
            n_train = len(prepared.train)
            n_test = len(prepared.test_episodes.episodes.rows.unique())
            val = prepared.val_episodes
            n_val = len(val.episodes[: recipe.select.episodes].rows.unique()) if val else 0
        else:
            classes, per_class = load_split(recipe.data.dataset).classes, sum(info(recipe.data.dataset).per_class)
            n_train, n_test = (len(classes[split]) * per_class for split in ("train", "test"))
            n_val = len(classes["val"]) * VALIDATION_IMAGES
        points = recipe.select.points
        scored, episodes = points * n_val + n_test, p.episodes + points * recipe.select.episodes
        return Workload(steps_of(recipe, n_train), images_per_step(recipe, n_train), m * scored, episodes)
    n_train, n_val, n_test = _sizes(recipe, trial)
    scored = recipe.select.points * (n_val + n_test) + n_test + n_train
    return Workload(steps_of(recipe, n_train), images_per_step(recipe, n_train), m * scored)


def _sizes(recipe: ClassifierRecipe, trial: Trial | None) -> tuple[int, int, int]:
    """Images to train, validate and test on."""
    if trial is not None:
        prepared = cast(ClassifierPrepared, trial.prepared)
        return len(prepared.rows), len(prepared.validation), len(prepared.test)
    entry, d = info(recipe.data.dataset), recipe.data
    train, test = entry.totals if sum(entry.totals) else tuple(n * entry.n_classes for n in entry.per_class)
    if d.profile == "counts":
        return sum(d.counts or ()), 0, test
    each = train // entry.n_classes
    if d.profile == "full":
        held = round(d.val_fraction * train)
        return (train - held if d.per_class is None else d.per_class * entry.n_classes), held, test
    counts = [int(n) for n in profile_counts(each, entry.n_classes, d.ratio, d.profile)]
    return sum(counts), sum(min(d.val_images, each - n) for n in counts), test


class Estimator:
    """Measured speeds of this machine; each kind of step is measured once.

    Args:
        device: where the trials would run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._known: dict[tuple[Any, ...], float] = {}
        self._wall = self._cpu = 0.0

    @property
    def share(self) -> float:
        """Of the CPU threads that it asked for, how much this process had while it was measured: 1 on an idle machine.

        Times shrink to about this part of themselves when whatever else the machine does has ended. 1 for a GPU.
        """
        if self.device.type != "cpu" or not self._wall:
            return 1.0
        return min(1.0, self._cpu / self._wall / torch.get_num_threads())

    def seconds(self, recipe: AnyRecipe, trial: Trial | None = None) -> float:
        """Training, validations and test of one trial."""
        work = workload(recipe, trial)
        total = work.images * self._per_image(recipe) + work.scored * self._per_view(recipe)
        return total + (work.episodes * self._per_episode(recipe) if isinstance(recipe, Recipe) else 0.0)

    def _per_image(self, recipe: AnyRecipe) -> float:
        """Seconds of an image in training, each copy counted."""
        small = self._probe(recipe)
        size, copies = input_size(info(recipe.data.dataset)), copies_per_image(recipe)
        if isinstance(recipe, Recipe) and recipe.model.learner != "classifier":
            own: AnyRecipe = _with(recipe, train={"episodes_per_step": 1})
            if small * images_per_step(own) > _STEP_SECONDS:
                return small
            kind: tuple[Any, ...] = (recipe.train_ways, recipe.train_shots, recipe.train.queries, recipe.model.head)
        else:
            batch = max(2, min(recipe.train.batch_size, int(_STEP_SECONDS / (small * copies))))
            own = _with(recipe, train={"batch_size": batch, "steps": 50})
            kind = (batch, None if isinstance(recipe, Recipe) else recipe.mix.name)
        key = (recipe.suite, recipe.model.backbone, size, recipe.sla.objective, copies, recipe.train.precision, *kind)
        return self._measure(key, own)

    def _probe(self, recipe: AnyRecipe) -> float:
        """Seconds of an image in training, on a step of some images without copies."""
        changes: dict[str, Any] = {"batch_size": 16, "steps": 50}
        if isinstance(recipe, Recipe):
            changes = {"episodes_per_step": 1, "shots": 1, "queries": 4}
        key = ("probe", recipe.suite, recipe.model.backbone, input_size(info(recipe.data.dataset)))
        own = _with(recipe, train=changes, sla={"objective": "baseline"})
        if isinstance(own, Recipe):
            own = _with(own, model={"head": "protonet", "learner": "episodic"})
        return self._measure((*key, recipe.train.precision), own, 3)

    def _measure(self, key: tuple[Any, ...], recipe: AnyRecipe, times: int = 1) -> float:
        """The least of up to `times` measurements: short steps are at the mercy of whatever else the machine does."""
        if key not in self._known:
            task, start, found = self._task(recipe), time.perf_counter(), math.inf
            cpu = time.process_time()
            while times and time.perf_counter() - start < 2 * _STEP_SECONDS:
                found, times = min(found, estimate(task, 0.3)["seconds_per_step"]), times - 1
            self._cpu, self._wall = self._cpu + time.process_time() - cpu, self._wall + time.perf_counter() - start
            self._known[key] = found / task.images_per_step
        return self._known[key]

    def _per_view(self, recipe: AnyRecipe) -> float:
        """Seconds of an image under one transformation, in eval mode."""
        key = ("view", recipe.model.backbone, input_size(info(recipe.data.dataset)))
        if key not in self._known:
            forward = self._probe(recipe) / 3  # the backward pass costs about two forward ones
            if 2 * _SCORING_IMAGES * forward > 5 * _STEP_SECONDS:
                return forward
            task = self._task(_with(recipe, sla={"objective": "baseline", "transforms": "rotation2"}))
            self._known[key] = estimate_scoring(task) / task.scored_images / 2
        return self._known[key]

    def _per_episode(self, recipe: Recipe) -> float:
        """Seconds of scoring a test episode with both predictors, from features."""
        p, m = recipe.protocol, transform_set(recipe.sla.transforms).M
        size = info(recipe.data.dataset).image_size
        key = ("episode", recipe.model.head, recipe.model.backbone, size, p.ways, p.shots, p.queries, m)
        if key not in self._known:
            # A head scores features alike, whatever trained the backbone.
            task = cast(EpisodicTask, self._task(_with(recipe, model={"learner": "episodic"})))
            episodes = _episodes(p.ways, p.shots, p.queries)
            shape = (p.ways * (p.shots + p.queries), m, task.module.backbone.feature_dim)
            features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.device)
            start = time.perf_counter()
            for predictor in PREDICTORS:
                score_episodes(task.module, features, episodes, predictor, p.ways)
            self._known[key] = (time.perf_counter() - start) / _EPISODES
        return self._known[key]

    def _task(self, recipe: AnyRecipe) -> SuiteTask:
        precision = choose_precision(recipe.train.precision, self.device)
        return suite_of(recipe).build_task(recipe, 0, _stand_in(recipe), self.device, precision)


def seconds_of(estimator: Estimator | None = None) -> Callable[[Trial], float]:
    """Seconds of a trial, for the executors; without an estimator, of what this machine is best at."""

    def seconds(trial: Trial) -> float:
        nonlocal estimator
        if estimator is None:
            estimator = Estimator(choose_device())
        return estimator.seconds(trial.recipe, trial)

    return seconds


def _with(recipe: AnyRecipe, **parts: dict[str, Any]) -> Any:
    """A copy with some settings changed."""
    update = {name: getattr(recipe, name).model_copy(update=values) for name, values in parts.items()}
    return recipe.model_copy(update=update)


def _stand_in(recipe: AnyRecipe) -> FewshotPrepared | ClassifierPrepared:
    """Noise in place of the data: as many classes, as few images as a step needs."""
    entry = info(recipe.data.dataset)
    if isinstance(recipe, Recipe):
        p = recipe.protocol
        n_classes = len(load_split(entry.name).classes["train"])
        train = _noise(entry, n_classes, recipe.train_shots + recipe.train.queries)
        test = _noise(entry, p.ways, p.shots + p.queries)
        file = cast(Any, EpisodeFile)("stand-in", _episodes(p.ways, p.shots, p.queries), None, "", Path())
        return FewshotPrepared(entry, train, test, test, file, file)
    each = -(-recipe.train.batch_size // entry.n_classes)
    train, test = _noise(entry, entry.n_classes, each), _noise(entry, entry.n_classes, 1)
    none = np.zeros(0, dtype=np.int64)
    return ClassifierPrepared(entry, train, test, np.arange(len(train)), none, "stand-in", None)


def _noise(entry: DatasetInfo, n_classes: int, each: int) -> ImageSet:
    labels = np.repeat(np.arange(n_classes), each)
    shape = (len(labels), entry.image_size, entry.image_size, 3)
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, shape, dtype=np.uint8)
    names = tuple(str(label) for label in range(n_classes))
    parts, positions = np.zeros(len(labels), np.uint8), np.full(len(labels), -1, np.int32)
    return ImageSet("stand-in", images, labels, names, "", "", parts, positions)


def _episodes(ways: int, shots: int, queries: int) -> Episodes:
    rows = torch.arange(ways * (shots + queries)).view(1, ways, -1).expand(_EPISODES, -1, -1).contiguous()
    return Episodes(rows, torch.arange(ways).expand(_EPISODES, -1).contiguous(), shots)
