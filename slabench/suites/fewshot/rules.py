"""Which few-shot recipes make sense, which are doubtful, and why."""

from __future__ import annotations

from slabench.core.errors import UsageError
from slabench.core.registry import BACKBONES, HEADS
from slabench.data.catalog import DATASETS, info
from slabench.episodes.files import profile_suffix
from slabench.episodes.learn2learn import require_learn2learn
from slabench.episodes.profiles import BALANCED
from slabench.heads import Head
from slabench.losses.loss import smoothing_as_torch
from slabench.recipes.fewshot import ADAPTED, Recipe
from slabench.sla.objectives import classifier_objective, objective
from slabench.sla.transforms import transform_set
from slabench.suites.on_features import refuse_idle

VALIDATION_FILE_EPISODES = 2000
"""Frozen validation files hold so many; a recipe uses the first `select.episodes` of them."""


def check(recipe: Recipe) -> None:
    """Refuse what no data could serve: unknown names, and combinations that make no sense. Loads nothing.

    Raises:
        UsageError: names the setting, the reason and the remedy.
    """
    entry = info(recipe.data.dataset)
    if not entry.fewshot:
        raise UsageError(
            f"'{entry.name}' has no few-shot class split",
            f"few-shot datasets: {', '.join(other.name for other in DATASETS.values() if other.fewshot)}",
        )
    _check_network(recipe)
    if recipe.model.learner in ADAPTED:
        check_adapted(recipe)
        objective(recipe.sla.objective)
    elif recipe.model.learner == "classifier":
        classifier_objective(recipe.sla.objective)
        head: Head = HEADS.get(recipe.model.head)
        if head.module is not None:
            raise UsageError(
                f"the head {head.name} learns from episodes, and --learner classifier trains on none",
                "choose another --head (logistic, simpleshot, protonet, ...), or --learner episodic",
            )
    else:
        HEADS.entry(recipe.model.head)
        objective(recipe.sla.objective)
    transform_set(recipe.sla.transforms)
    train = recipe.train
    if recipe.model.learner != "classifier":  # how many classes that one has, only the data says
        smoothing_as_torch(train.label_smoothing, train.smoothing_over, recipe.train_ways)
    if train.schedule == "step" and (len(train.milestones) != len(train.factors) or not train.milestones):
        raise UsageError(
            f"train.milestones has {len(train.milestones)} values and train.factors {len(train.factors)}",
            "the step schedule needs equally many of both, at least one",
        )
    if recipe.select.rule == "best_val" and recipe.select.points == 0:
        raise UsageError("select.rule = best_val needs validations", "set select.points to 1 or more")
    if recipe.select.episodes > VALIDATION_FILE_EPISODES:
        raise UsageError(
            f"select.episodes = {recipe.select.episodes}: validation files hold {VALIDATION_FILE_EPISODES}",
            f"use {VALIDATION_FILE_EPISODES} or fewer",
        )


def _check_network(recipe: Recipe) -> None:
    """Refuse a backbone that nobody knows; on features, what they cannot serve."""
    model, train = recipe.model, recipe.train
    idle = {
        f"train.{name}": (getattr(train, name), off) for name, off in (("crop", False), ("flip", False), ("jitter", 0))
    }
    refuse_idle(recipe, {**idle, "model.support_copies": (model.support_copies, 0)})
    if not model.embedder:
        BACKBONES.entry(model.backbone)
        if not train.steps:
            raise UsageError("train.steps = 0: nothing would train the backbone", "give 1 or more")
        return
    if model.learner in ADAPTED:
        raise UsageError(
            f"the learner {model.learner} on features: it adapts a backbone to each episode, and has no part here",
            "choose --learner classifier or episodic",
        )


def warnings(recipe: Recipe) -> list[str]:
    """What is legal and doubtful about a recipe."""
    if recipe.model.learner == "maml" and recipe.batch_norm == "running":
        return [
            "maml adapts weights whose running statistics are of other weights: maml.batch_norm = support tests better"
        ]
    found: list[str] = []
    if recipe.model.support_copies and not (recipe.train.crop or recipe.train.flip or recipe.train.jitter):
        found.append("model.support_copies without crop, flip or jitter: all copies of a support are the image itself")
    if recipe.model.learner == "classifier":
        return found
    if recipe.train_shots != recipe.protocol.shots and recipe.model.head == "protonet":
        found.append(
            f"trained at {recipe.train_shots} shots and tested at {recipe.protocol.shots}: prototypes lose by that"
        )
    if recipe.model.head in ("simpleshot", "baseline-plus-plus", "cosine-fitted"):
        found.append(f"{recipe.model.head} was made for features of a classifier: see --learner classifier")
    if recipe.model.head == "simpleshot":
        found.append("training episodes are not centred; the test is, by the mean of the training classes")
    return found


def label(recipe: Recipe, seed: int) -> str:
    """What a person calls the trial: `fc100 5w5s protonet/conv4 sla 8,000 steps seed 0`."""
    p = recipe.protocol
    learner = "classifier+" if recipe.model.learner == "classifier" else ""
    return (
        f"{recipe.data.dataset} {p.ways}w{p.shots}s{profile_suffix(p.support_profile, p.query_profile)}"
        f" {learner}{recipe.model.head}/{recipe.model.backbone} {recipe.sla.objective}"
        f" {recipe.train.steps:,} steps seed {seed}"
    )


def check_adapted(recipe: Recipe) -> None:
    """Refuse what MAML and ANIL cannot serve: no learn2learn, or episodes of other ways than the layer has."""
    require_learn2learn()
    if recipe.model.support_copies:
        raise UsageError(
            f"model.support_copies = {recipe.model.support_copies} has no effect with the learner {recipe.model.learner}: "
            "it adapts to the supports themselves",
            "leave it out, or choose another learner",
        )
    for what in ("support_profile", "query_profile"):
        if getattr(recipe.protocol, what) != BALANCED:
            raise UsageError(
                f"--{what.replace('_', '-')} {getattr(recipe.protocol, what)} with {recipe.model.learner}: "
                "the inner loop does not support unequal episodes",
                "leave it out, or choose another learner",
            )
    if recipe.train_ways != recipe.protocol.ways:
        raise UsageError(
            f"{recipe.model.learner} is trained at {recipe.train_ways} ways and tested at {recipe.protocol.ways}: "
            "its layer has one output per way",
            "leave train.ways out",
        )
