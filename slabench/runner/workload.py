"""What a trial does, in counts: steps, and images that its backbone embeds in training and in scoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from slabench.core.registry import HEADS
from slabench.data.catalog import info
from slabench.data.longtail import profile_counts
from slabench.data.splits import load_split
from slabench.episodes.files import VALIDATION_IMAGES
from slabench.episodes.sampler import Episodes
from slabench.recipes import AnyRecipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import ADAPTED, Recipe
from slabench.recipes.images import images_per_step, steps_of
from slabench.runner.trials import Trial
from slabench.sla.objectives import objective
from slabench.sla.transforms import transform_set
from slabench.suites.classifier.data import ClassifierPrepared
from slabench.suites.fewshot.data import Prepared as FewshotPrepared
from slabench.suites.fewshot.scoring import BASE_IMAGES, base_rows


@dataclass(frozen=True)
class Workload:
    """What one trial does, in counts.

    Attributes:
        steps: updates.
        images_per_step: images of an update, copies counted.
        scored: images embedded once for all validations and the test, views counted.
        episodes: few-shot episodes scored.
        episode_images: images that every scored episode embeds anew, views counted: for learners that adapt the backbone to
            an episode, or normalise by it. 0 where episodes are scored from the features of `scored`.
    """

    steps: int
    images_per_step: int
    scored: int
    episodes: int = 0
    episode_images: int = 0

    @property
    def images(self) -> int:
        """Images seen in training."""
        return self.steps * self.images_per_step


def workload(recipe: AnyRecipe, trial: Trial | None = None) -> Workload:
    """The counts of a trial: of its prepared data, or by the catalog where the data is not here."""
    m = transform_set(recipe.sla.transforms).M
    if isinstance(recipe, ClassifierRecipe):
        n_train, n_val, n_test = _classifier_sizes(recipe, trial)
        scored = (recipe.select.points + 1) * (n_val + n_test) + n_train  # at last the outputs of all three are kept
        return Workload(steps_of(recipe, n_train), images_per_step(recipe, n_train), m * scored)
    n_train, n_base, n_val, n_test = _fewshot_sizes(recipe, trial)
    points, p = recipe.select.points, recipe.protocol
    steps, seen = steps_of(recipe, n_train), images_per_step(recipe, n_train)
    episodes = p.episodes + points * recipe.select.episodes
    if not recipe.from_features:
        return Workload(steps, seen, 0, episodes, _adapted_images(recipe, m))
    base = n_base if recipe.model.learner not in ADAPTED and HEADS.get(recipe.model.head).centred else 0
    scored = (1 + recipe.model.support_copies) * (points * n_val + n_test) + (points + 1) * base
    return Workload(steps, seen, m * scored, episodes)


def _adapted_images(recipe: Recipe, m: int) -> int:
    """Images that one scored episode embeds, over both predictors; see `slabench.suites.fewshot.maml`."""
    p = recipe.protocol
    supports, queries = p.ways * p.shots, p.ways * p.queries
    # MAML: the supports at every inner step, and once more with queries that they normalise. ANIL: everything once.
    again = recipe.maml.test_steps + (recipe.batch_norm == "support") if recipe.model.learner == "maml" else 1
    views = 1 + m if objective(recipe.sla.objective).joint else m  # joint: the plain views, then all at once
    return views * (again * supports + queries)


def _fewshot_sizes(recipe: Recipe, trial: Trial | None) -> tuple[int, int, int, int]:
    """Images to train on, to centre features by, and of a validation and the test."""
    if trial is not None:
        prepared = cast(FewshotPrepared, trial.prepared)
        val = prepared.val_episodes
        used = (_used(val.episodes[: recipe.select.episodes]) if val else 0), _used(prepared.test_episodes.episodes)
        return len(prepared.train), len(base_rows(prepared.train)), *used
    classes, per_class = load_split(recipe.data.dataset).classes, sum(info(recipe.data.dataset).per_class)
    train, test = (len(classes[split]) * per_class for split in ("train", "test"))
    base = len(classes["train"]) * min(BASE_IMAGES, per_class)
    return train, base, len(classes["val"]) * VALIDATION_IMAGES, test


def _used(episodes: Episodes) -> int:
    rows = episodes.rows
    return len(rows[rows >= 0].unique())  # places of unequal episodes that hold no image are -1


def _classifier_sizes(recipe: ClassifierRecipe, trial: Trial | None) -> tuple[int, int, int]:
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
