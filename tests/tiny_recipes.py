"""Recipes of a few steps on the embedded data, in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slabench.recipes import load_recipe, parse_recipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Recipe

TINY = {
    "data.dataset": "glyphs",
    "protocol.shots": 1,
    "protocol.queries": 3,
    "protocol.episodes": 20,
    "train.queries": 2,
    "train.steps": 6,
    "train.precision": "float32",
    "select.points": 2,
    "select.episodes": 6,
}


def tiny_fewshot(**changes: object) -> Recipe:
    (recipe,) = load_recipe(
        "fewshot/standard", TINY | {key.replace("__", "."): value for key, value in changes.items()}
    )
    return recipe


def tiny_classifier(**changes: Any) -> ClassifierRecipe:
    """A few steps on digits, in float32; `loss__name="ldam"` sets a key of a section."""
    table: dict[str, Any] = {
        "name": "tiny",
        "suite": "imbalanced",
        "data": {"dataset": "digits", "profile": "exp", "ratio": 10, "val_images": 5},
        "model": {"backbone": "resnet20"},
        "train": {"steps": 4, "batch_size": 32, "precision": "float32", "lr": 0.05},
        "select": {"points": 2},
    }
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        if leaf:
            table[section] = {**table.get(section, {}), leaf: value}
        else:
            table[section] = value
    recipe = parse_recipe(table)
    assert isinstance(recipe, ClassifierRecipe)
    return recipe


class StopsAtAPoint:
    """A listener of a run that interrupts it where its first point of validation is reached, as Ctrl-C would."""

    def point(self, point: object) -> None:
        raise KeyboardInterrupt

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None
