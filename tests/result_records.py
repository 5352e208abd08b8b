"""Records made by hand, for the tests of results: every number in them is chosen, none is measured."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from slabench.records.record import Chosen, ClassScores, Cost, CurvePoint, RunRecord, Score, Selection, protocol_digest


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make_recipe(**values: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "name": "fewshot/baseline",
        "suite": "fewshot",
        "data": {"dataset": "fc100"},
        "protocol": {"ways": 5, "shots": 5, "queries": 15, "episodes": 2000},
        "model": {"backbone": "conv4", "head": "protonet"},
        "sla": {"objective": "baseline", "transforms": "rotation"},
        "train": {"steps": 100},
        "select": {"rule": "last"},
    }
    for path, value in values.items():
        *folders, name = path.split("__")
        target = recipe
        for folder in folders:
            target = target[folder]
        target[name] = value
    return recipe


def make_record(
    objective: str = "baseline",
    seed: int = 0,
    accuracies: dict[str, ArrayLike] | None = None,
    *,
    name: str | None = None,
    episodes_digest: str = "e" * 64,
    images_seen: int = 1_000_000,
    **changes: Any,
) -> RunRecord:
    """A finished record whose scores are the plain mean, t interval left out, of `accuracies` (one per episode)."""
    accuracies = {"single": [0.5, 0.7]} if accuracies is None else accuracies
    name = name or f"fewshot/{objective}"
    recipe = make_recipe(name=name, sla__objective=objective)
    values: dict[str, Any] = {
        "key": digest(name, recipe, seed, episodes_digest, changes.get("dataset_digest")),
        "name": name,
        "recipe": recipe,
        "recipe_digest": digest(recipe),
        "seed": seed,
        "suite": "fewshot",
        "protocol": "fewshot/fc100/5w5s15q",
        "protocol_version": 1,
        "dataset": "fc100",
        "dataset_digest": "d" * 64,
        "split_digest": "c" * 64,
        "episodes": "fc100-5w5s15q",
        "episodes_digest": episodes_digest,
        "train_classes": 60,
        "test_classes": 20,
        "images_per_class": 600,
        "scores": [
            Score(predictor=predictor, value=float(np.mean(array)), n=np.size(array), ci95=0.01)
            for predictor, array in accuracies.items()
        ],
        "curve": [CurvePoint(step=50, images_seen=images_seen // 2, seconds=6.0, loss=1.0, val={"single": 0.4})],
        "selection": Selection(rule="last", step=100),
        "cost": Cost(
            train_seconds=60.0, eval_seconds=1.0, images_seen=images_seen, steps=100, episodes=100, parameters=113_088
        ),
        "environment": {"device": "cpu"},
        "started": "2026-01-01T00:00:00+00:00",
        "finished": f"2026-01-01T00:0{seed}:00+00:00",
        "status": "done",
    }
    values.update(changes)
    values.setdefault(
        "protocol_digest",
        protocol_digest(
            values["protocol"],
            values["protocol_version"],
            dataset_digest=values["dataset_digest"],
            split_digest=values["split_digest"],
            episodes_digest=values["episodes_digest"],
        ),
    )
    return RunRecord.model_validate(values)


def classifier_record(
    *,
    per_class: dict[str, float],
    counts: dict[str, int],
    predictor: str = "single",
    name: str = "imbalanced/ce",
    loss: str = "ce",
    few: float | None = None,
    **changes: Any,
) -> RunRecord:
    """A finished record of a classifier whose classes have as many test images each."""
    value = float(np.mean(list(per_class.values())))
    metrics = ClassScores(
        balanced=value,
        many=value,
        medium=value,
        few=few,
        macro_f1=value,
        g_mean=0,
        g_mean_corrected=0,
        nll=1.5,
        ece=0.1,
    )
    scores = [
        Score(
            predictor=predictor,
            value=value,
            n=4,
            ci95=0.01,
            per_class=per_class,
            metrics=metrics,
            best_val=Chosen(step=50, value=value - 0.01),
            oracle=Chosen(step=70, value=value + 0.01),
        )
    ]
    recipe = {
        "name": name,
        "suite": "imbalanced",
        "data": {"dataset": "cifar100", "profile": "exp", "ratio": 100},
        "protocol": {"training": "standard"},
        "model": {"backbone": "resnet20", "layer": "auto"},
        "loss": {"name": loss},
        "balance": {"reweight": "none", "sampler": "none"},
        "mix": {"name": "none"},
        "sla": {"objective": "baseline", "transforms": "rotation"},
    }
    settings: dict[str, Any] = {
        "recipe": recipe,
        "recipe_digest": digest(recipe),
        "suite": "imbalanced",
        "protocol": "imbalanced/cifar100/exp-r100/standard",
        "dataset": "cifar100",
        "episodes": None,
        "episodes_digest": None,
        "images_per_class": counts,
        "training_set": {"images": sum(counts.values()), "groups": {"many": 1, "medium": 2, "few": 0}},
        "scores": scores,
        **changes,
    }
    return make_record(name=name, **settings)
