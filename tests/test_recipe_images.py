"""Images of an update, counted by hand from the recipes, and the same from the tasks and estimates that ask."""

from __future__ import annotations

from typing import Any

import pytest

from slabench.recipes import load_recipe
from slabench.recipes.images import images_per_step, steps_of
from slabench.runner.workload import workload

GOLDEN: list[tuple[str, int, dict[str, Any], int]] = [
    # 5 ways of 5 shots and 10 queries; under SLA each image in 4 rotations.
    ("fewshot/standard", 0, {}, 75),
    ("fewshot/standard", 0, {"train.queries": 6}, 55),
    ("fewshot/standard", 0, {"sla.objective": "sla"}, 300),
    ("fewshot/standard", 0, {"sla.objective": "rotated-classes"}, 75),
    ("fewshot/standard", 0, {"train.episodes_per_step": 4, "protocol.shots": 1}, 220),
    # Batches of 64 images, whatever the episodes of the test are.
    ("fewshot/pretrained", 0, {}, 64),
    ("fewshot/pretrained", 1, {}, 256),
    ("fewshot/pretrained", 0, {"sla.objective": "mt"}, 256),
    ("fewshot/pretrained", 0, {"sla.objective": "sla+sd"}, 256),
    # The supports pass in the one inner step, and again with the queries that they normalise.
    ("fewshot/maml", 0, {}, 100),
    ("fewshot/maml", 0, {"maml.batch_norm": "batch", "maml.steps": 5}, 175),
    ("fewshot/maml", 1, {}, 75),
    ("imbalanced/standard", 0, {}, 128),
    ("imbalanced/standard", 0, {"sla.objective": "sla"}, 512),
    ("supervised/standard", 0, {"sla.objective": "mt", "sla.transforms": "rotation2"}, 256),
]


@pytest.mark.parametrize(("name", "variant", "overrides", "images"), GOLDEN)
def test_images_of_a_step(name: str, variant: int, overrides: dict[str, Any], images: int) -> None:
    recipe = load_recipe(name, overrides)[variant]
    assert images_per_step(recipe) == images_per_step(recipe, 30_000) == images
    assert workload(recipe).images_per_step == images


def test_a_batch_has_no_more_images_than_there_are() -> None:
    (classifier,) = load_recipe("imbalanced/standard", {"sla.objective": "sla", "train.epochs": 3})
    assert images_per_step(classifier, 100) == 400
    assert (steps_of(classifier, 100), steps_of(classifier, 129)) == (3, 6)
    pretrained = load_recipe("fewshot/pretrained")[0]
    assert images_per_step(pretrained, 50) == 50
    assert steps_of(pretrained, 50) == 9375


def test_copies_may_be_those_of_another_objective() -> None:
    assert images_per_step(load_recipe("fewshot/pretrained")[0], copies=4) == 256
