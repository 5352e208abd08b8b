"""What has diverged is never scored: losses, weights, features and logits that are not finite fail the trial, with the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from line_task import Line
from tiny_recipes import tiny_classifier, tiny_fewshot
from torch import Tensor

from slabench import runner
from slabench.core.registry import HEADS
from slabench.core.seeding import numpy_generator
from slabench.data.augment import normalise
from slabench.data.catalog import info
from slabench.episodes.sampler import EpisodeSampler
from slabench.evaluation.episodes import embed, embed_augmented, score_episodes
from slabench.heads import Head
from slabench.learners import build_learner
from slabench.recipes.fewshot import Model, Select, Train
from slabench.records.store import ResultStore
from slabench.sla.transforms import transform_set
from slabench.training.finite import NotFiniteError
from slabench.training.loop import StepResult, fit


class NanAt(Line):
    """A loss that is NaN from the eighth step on."""

    def step(self, step: int) -> StepResult:
        result = super().step(step)
        return StepResult(result.loss * (float("nan") if step == 7 else 1.0), result.accuracy, result.images)


@pytest.mark.parametrize("points", [0, 1, 20])
def test_the_first_step_that_is_not_finite_is_named(points: int) -> None:
    with pytest.raises(NotFiniteError) as caught:
        fit(NanAt(), Train(steps=20), Select(points=points), "k")
    assert caught.value.message.endswith("step 8")


class Steep(Line):
    """A finite loss whose gradient is not: the root of zero."""

    def step(self, step: int) -> StepResult:
        (weight, *_) = self.module.parameters()
        return StepResult((weight * 0).sum().abs().sqrt(), torch.tensor(0.0), 4)


def test_weights_that_are_not_finite_after_the_last_step() -> None:
    with pytest.raises(NotFiniteError, match=r"the weights are no longer finite at step 1 \(weight\)"):
        fit(Steep(), Train(steps=1), Select(points=0), "k")


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("tiny", [tiny_fewshot, tiny_classifier])
def test_a_trial_that_diverges_without_validations_is_recorded_as_failed(tiny: Any, tmp_path: Path) -> None:
    recipe = tiny(train__lr=1e30, train__steps=6, select__points=0)
    (outcome,) = runner.run(recipe, [0], results=tmp_path)
    assert outcome.state == "failed"
    (failed,) = ResultStore(tmp_path).records()
    assert (failed.status, failed.scores) == ("failed", [])
    assert "no longer finite at step" in (failed.error or "")


def _nan_beyond(n_queries: int) -> Head:
    """Prototypes, but NaN where an episode has so many queries: training does not see it, the test does."""

    def logits(support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        found = HEADS.get("protonet").logits(support, labels, query, n_classes)
        return found / 0 if query.shape[1] > n_queries else found

    return Head("nan", logits, decomposes=True)


@pytest.mark.usefixtures("registries", "glyphs")
def test_logits_of_the_test_that_are_not_finite_name_the_step_and_the_head(tmp_path: Path) -> None:
    HEADS.add("nan", _nan_beyond(12), "x")
    recipe = tiny_fewshot(model__head="nan", train__steps=3, select__points=0)
    (outcome,) = runner.run(recipe, [0], results=tmp_path)
    assert outcome.state == "failed"
    (failed,) = ResultStore(tmp_path).records()
    assert "logits of the head nan are not finite at step 3" in (failed.error or "")


def plain(images: Tensor) -> Tensor:
    return normalise(images, (127.5,) * 3, (60.0,) * 3)


def test_features_and_logits_are_refused_where_they_are_computed() -> None:
    images = torch.randint(0, 256, (24, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    learner = build_learner(Model(), info("fc100"), 0).eval()
    episodes = EpisodeSampler(list(torch.arange(24).view(4, 6).numpy()), 2, 1, 2, numpy_generator(0, "x")).sample(3)
    features = embed(learner, images, transform_set("rotation"), info("fc100"))
    score_episodes(learner, features, episodes, "single", 4)
    for value in (float("nan"), float("inf")):
        spoiled = features.clone()
        spoiled[int(episodes.rows[1, 0, 0])] = value
        with pytest.raises(NotFiniteError, match="logits of the head protonet are not finite"):
            score_episodes(learner, spoiled, episodes, "single", 4)
    with torch.no_grad():
        next(learner.backbone.parameters())[0] = float("inf")
    with pytest.raises(NotFiniteError, match=r"features are not finite"):
        embed(learner, images, transform_set("rotation"), info("fc100"))
    with pytest.raises(NotFiniteError, match=r"features of augmented copies are not finite"):
        embed_augmented(learner, images, transform_set("rotation"), lambda part, _: plain(part), copies=2, seed=0)
