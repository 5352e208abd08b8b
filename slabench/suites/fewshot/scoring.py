"""How every few-shot learner is scored: frozen episodes of the validation and test classes, from features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from slabench.core.team import largest
from slabench.core.uploads import upload
from slabench.data.augment import Augment, BatchAugment
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import ImageSet
from slabench.episodes.sampler import Episodes
from slabench.evaluation.episodes import (
    PREDICTORS,
    EpisodeScores,
    HasBackbone,
    embed,
    embed_augmented,
    embed_episodes,
    in_place_of_supports,
    score_episodes,
    used_rows,
)
from slabench.evaluation.intervals import finite_or_none, t_interval
from slabench.evaluation.open_set import OpenScores
from slabench.heads import watch_residuals
from slabench.heads.apart import query_gap
from slabench.learners import EpisodicLearner
from slabench.records.record import AUROC, OpenSet, Score
from slabench.sla.transforms import TransformSet
from slabench.suites import on_device
from slabench.suites.on_features import identity_of, transforms_of, unaugmented

if TYPE_CHECKING:
    from slabench.recipes.fewshot import Recipe
    from slabench.suites.fewshot.data import Prepared

BASE_IMAGES = 100
"""Training images a class, the first in canonical order (which is arbitrary), whose mean feature centres (SimpleShot)."""


class EpisodeScoring:
    """The part of a few-shot task that has nothing to do with how it is trained.

    Args:
        recipe: the resolved recipe.
        seed: the trial's seed.
        prepared: its data.
        device: where images, learner and features live.
        autocast: precision of the backbone, None for float32.
    """

    divides = True

    def __init__(
        self, recipe: Recipe, seed: int, prepared: Prepared, device: torch.device, autocast: torch.dtype | None
    ) -> None:
        self.recipe, self.seed, self.prepared = recipe, seed, prepared
        self.device, self.autocast = device, autocast
        self.transforms: TransformSet = transforms_of(recipe)
        self.info: DatasetInfo = prepared.info
        self._val_images: Tensor | None = None

    @property
    def learner(self) -> EpisodicLearner:
        """What scores episodes."""
        raise TypeError(f"{type(self).__name__} defines no learner")

    @property
    def _val_episodes(self) -> Episodes:
        file = self.prepared.val_episodes
        assert file is not None  # `check_data`: a recipe with validations has them
        return file.episodes[: self.recipe.select.episodes]

    def validate(self) -> dict[str, float]:
        """Accuracy of both predictors on the first `select.episodes` frozen validation episodes."""
        if self._val_images is None:
            self._val_images = on_device(self.prepared.val.images, torch.device("cpu"))
        episodes = self._val_episodes
        scores = self._score(self._val_images, episodes, self.prepared.val.n_classes, self.autocast)
        return {name: float(score.accuracy.mean()) for name, (score, _) in scores.items()}

    def watch(self) -> dict[str, float]:
        """Nothing: the test classes are not used before the end."""
        return {}

    def test(self) -> dict[str, tuple[EpisodeScores, float | None]]:
        """Scores of both predictors on the frozen test episodes, in float32 whatever the training precision."""
        images = on_device(self.prepared.test.images, torch.device("cpu"))
        return self._score(images, self.prepared.test_episodes.episodes, self.prepared.test.n_classes, None)

    def transductive(self) -> bool:
        """Whether the head looks at other queries of an episode, or at their order: declared, or measured on a few episodes."""
        if self.learner.head.transductive:
            return True
        images, few = on_device(self.prepared.test.images, torch.device("cpu")), self.prepared.test_episodes.episodes
        features, rows = embed_episodes(
            self.learner, images, few[:MEASURED_EPISODES], identity_of(self.recipe), self.info
        )
        return looks_at_queries(self.learner, features, rows)

    def _score(
        self, images: Tensor, episodes: Episodes, n_classes: int, autocast: torch.dtype | None
    ) -> dict[str, tuple[EpisodeScores, float | None]]:
        learner = self.learner
        used, rows = used_rows(episodes)
        images = images[used.to(images.device)]
        features = embed(learner, images, self.transforms, self.info, autocast=autocast)
        if self.recipe.model.support_copies:
            augment, count = train_augment(self.recipe, self.info), self.recipe.model.support_copies
            copies = embed_augmented(learner, images, self.transforms, augment, count, self.seed, autocast)
            features, rows = in_place_of_supports(features, rows, copies)
        if learner.head.centred:
            features = features - base_mean(learner, self.prepared.train, self.transforms, self.info, autocast)
        return {name: score_watched(learner, features, rows, name, n_classes) for name in PREDICTORS}


MEASURED_EPISODES = 3
LOGIT_NOISE = 1e-3
"""Logits in float32 of a solver that stops at a tolerance change by less than this where only the batch is another."""


@torch.inference_mode()
def looks_at_queries(learner: EpisodicLearner, features: Tensor, episodes: Episodes) -> bool:
    """Whether a head predicts queries from each other.

    Args:
        learner: only its head and scale are used.
        features: `[n, M, D]`, of which view 0 is used.
        episodes: a few, of rows of `features`.
    """
    (rows, labels), (query_rows, _) = episodes.flat(query=False), episodes.flat(query=True)
    plain = features[:, 0]
    support, query = (plain[upload(r, plain.device)] for r in (rows, query_rows))
    return query_gap(learner.logits, support, upload(labels, plain.device), query, episodes.ways) > LOGIT_NOISE


def train_augment(recipe: Recipe, entry: DatasetInfo) -> Augment:
    """Crop, flip and colours of a recipe, where the data set allows them; nothing on features."""
    train = recipe.train
    if recipe.model.embedder:
        return unaugmented
    return BatchAugment(
        crop_padding=entry.crop_padding if train.crop else 0,
        flip=train.flip and entry.mirror,
        jitter=train.jitter,
        mean=entry.mean,
        std=entry.std,
    )


def score_watched(
    learner: EpisodicLearner,
    features: Tensor,
    episodes: Episodes,
    predictor: str,
    n_classes: int,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> tuple[EpisodeScores, float | None]:
    """`score_episodes`, and the largest residual of the head's solver; None for a head that solves nothing."""
    with watch_residuals() as residuals:
        scores = score_episodes(learner, features, episodes, predictor, n_classes, watch)
    return scores, largest(max(residuals, default=None))


def base_rows(train: ImageSet) -> Sequence[int]:
    """Rows of the first `BASE_IMAGES` images of every training class."""
    return [int(row) for rows in train.class_rows() for row in rows[:BASE_IMAGES]]


def base_mean(
    learner: HasBackbone,
    train: ImageSet,
    transforms: TransformSet,
    info: DatasetInfo,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Mean feature of the training classes under each transformation, `[M, D]`: a view is centred by its own mean."""
    images = on_device(train.images, torch.device("cpu"), base_rows(train))
    return embed(learner, images, transforms, info, autocast=autocast).mean(0)


def open_score(predictor: str, scores: OpenScores, unknown: int, residual: float | None = None) -> Score:
    """The scores of one predictor on open episodes as a record keeps them: their value is the AUROC."""
    auroc, fpr95, accuracy = (t_interval(part.numpy()) for part in (scores.auroc, scores.fpr95, scores.accuracy))
    return Score(
        predictor=predictor,
        metric=AUROC,
        value=auroc.mean,
        ci95=finite_or_none(auroc.half_width),
        std=finite_or_none(auroc.std),
        n=auroc.n,
        solver_residual=None if residual is None else finite_or_none(residual),
        open_set=OpenSet(
            unknown=unknown,
            fpr95=fpr95.mean,
            fpr95_ci95=finite_or_none(fpr95.half_width),
            accuracy=accuracy.mean,
            accuracy_ci95=finite_or_none(accuracy.half_width),
        ),
    )


def episode_score(
    predictor: str, scores: EpisodeScores, class_names: Sequence[str], residual: float | None = None
) -> Score:
    """The scores of one predictor as a record keeps them."""
    interval = t_interval(scores.accuracy.numpy())
    tested = [(c, int(n)) for c, n in enumerate(scores.total.tolist()) if n]
    per_class = {class_names[c]: int(scores.correct[c]) / n for c, n in tested}
    made = Score(
        predictor=predictor,
        value=interval.mean,
        ci95=finite_or_none(interval.half_width),
        std=finite_or_none(interval.std),
        n=interval.n,
        worst_class=min(per_class.values()),
        per_class={label: round(value, 6) for label, value in per_class.items()},
        solver_residual=None if residual is None else finite_or_none(residual),
    )
    if torch.allclose(scores.balanced, scores.accuracy, rtol=0, atol=1e-5):
        return made  # as many queries of each class: there is nothing else to say
    balanced = t_interval(scores.balanced.numpy())
    return made.model_copy(update={"balanced": balanced.mean, "balanced_ci95": finite_or_none(balanced.half_width)})
