"""Classifiers' outputs made of random numbers, for the tests of files, reports and post-hoc methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from slabench.learners import Classifier
from slabench.records.outputs import FeatureSplit, ModelOutputs
from slabench.sla.objectives import CLASSIFIER_OBJECTIVES


def make_outputs(**changes: Any) -> ModelOutputs:
    """SLA+SD with N = 3 and M = 2 on features of length 5: random numbers, nothing trained."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    values: dict[str, Any] = {
        "key": "ab" * 32,
        "objective": "sla+sd",
        "m": 2,
        "scale": 1.0,
        "cosine": False,
        "train_shift": False,
        "counts": (40, 20, 10),
        "class_names": ("ant", "bee", "Käfer"),
        "layers": {"joint": (normal(6, 5), normal(6)), "student": (normal(3, 5), None)},
        "splits": {
            name: FeatureSplit(normal(n, 2, 5), torch.arange(n) % 3)
            for name, n in (("train", 7), ("val", 6), ("test", 9))
        },
        "test_logits": {name: normal(9, 3) for name in ("single", "aggregated", "distilled")},
    }
    values.update(changes)
    return ModelOutputs(**values)


def make_model(
    objective: str = "sla", m: int = 3, c: int = 4, d: int = 6, cosine: bool = False, **changes: Any
) -> tuple[ModelOutputs, Classifier]:
    """A classifier with random layers, and its outputs on random features of which the labels can be told."""
    draw = torch.Generator().manual_seed(1)
    backbone = nn.Identity()
    backbone.feature_dim = d  # type: ignore[assignment]
    model = Classifier(backbone, CLASSIFIER_OBJECTIVES[objective].layers(c, m), cosine)  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    centres = torch.randn(c, m, d, generator=draw)
    splits = {}
    for name, n in (("train", 60), ("val", 200), ("test", 90)):
        labels = torch.randint(c, (n,), generator=draw)
        noise = torch.randn(n, m, d, generator=draw)
        splits[name] = FeatureSplit((centres[labels] + noise).half(), labels)
    layers = {}
    for name, layer in model.layers.items():
        bias = getattr(layer, "bias", None)
        layers[name] = (layer.weight.detach(), None if bias is None else bias.detach())
    values: dict[str, Any] = {
        "key": "k",
        "objective": objective,
        "m": m,
        "scale": 30.0 if cosine else 1.0,
        "cosine": cosine,
        "train_shift": False,
        "counts": tuple(10 * 2**i for i in reversed(range(c))),
        "class_names": tuple("abcdefgh"[:c]),
        "layers": layers,
        "splits": splits,
        "test_logits": predict(model, objective, splits["test"].features, m),
    }
    return ModelOutputs(**{**values, **changes}), model


def predict(model: Classifier, objective: str, features: Tensor, m: int) -> dict[str, Tensor]:
    """What the objective itself makes of the model's layers."""
    with torch.no_grad():
        outputs = model.outputs(features.float().flatten(0, 1))
    return CLASSIFIER_OBJECTIVES[objective].predictors(outputs, m)
