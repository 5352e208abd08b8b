"""The few-shot suite: what a trial trains on, and how it is scored."""

from __future__ import annotations

import torch

from slabench.recipes.fewshot import ADAPTED, Recipe
from slabench.suites import SuiteTask
from slabench.suites.fewshot.data import PROTOCOL_VERSION, Prepared, check_data, prepare, task_id, trial_key
from slabench.suites.fewshot.episodic import EpisodicTask
from slabench.suites.fewshot.rules import check, label, warnings

__all__ = [
    "PROTOCOL_VERSION",
    "build_task",
    "check",
    "check_data",
    "label",
    "prepare",
    "task_id",
    "trial_key",
    "warnings",
]


def build_task(
    recipe: Recipe, seed: int, prepared: Prepared, device: torch.device, autocast: torch.dtype | None
) -> SuiteTask:
    """The task of the recipe's learner; arguments as of `slabench.suites.fewshot.scoring.EpisodeScoring`."""
    if recipe.model.learner == "classifier":
        from slabench.suites.fewshot.pretraining import PretrainingTask

        return PretrainingTask(recipe, seed, prepared, device, autocast)
    if recipe.model.learner in ADAPTED:
        from slabench.suites.fewshot.maml import AdaptedTask

        return AdaptedTask(recipe, seed, prepared, device, autocast)
    return EpisodicTask(recipe, seed, prepared, device, autocast)
