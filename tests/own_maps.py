"""A small network with a last block, feature sets with its maps, and recipes on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_recipes import tiny_classifier, tiny_fewshot
from torch import nn

from slabench import runner
from slabench.data.loading import ensure
from slabench.embedders.embedding import embed_images, plan_embedding
from slabench.embedders.last_block import Cut
from slabench.embedders.networks import Network
from slabench.records.record import RunRecord
from slabench.sla.transforms import transform_set

VIEWS = transform_set("rotation")


class Tail(nn.Module):
    """A convolution with a batch norm, rectified, and the mean of the map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(maps)).relu().mean((2, 3))


class Own(nn.Module):
    """A network of two parts that timm does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tail = nn.Conv2d(3, 4, 3, stride=3), Tail()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.stem(x).relu())


def own_network() -> Network:
    torch.manual_seed(0)
    module = Own().eval()
    norm = module.tail.norm  # statistics that are not those of a batch
    for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        assert values is not None
        values.uniform_(0.2, 0.9)
    half = (0.5, 0.5, 0.5)

    def cutting() -> Cut:
        return Cut("tail", module.tail, module.tail)

    return Network("own:net", module, module, 16, 6, half, half, "bilinear", "0" * 64, "none", cutting)


def embed_set(
    dataset: str,
    name: str = "own",
    maps: bool = True,
    dtype: str = "float16",
    splits: list[str] | None = None,
    data_folder: Path | None = None,
    done: Callable[[int], None] = lambda n: None,
) -> None:
    net, where = own_network(), {"data_folder": data_folder}
    ensure(dataset, data_folder)
    plan = plan_embedding(net, name, dataset, transforms=VIEWS, maps=maps, dtype=dtype, splits=splits, **where)
    embed_images(net, plan, VIEWS, batch=500, done=done, **where)


def few_shot(**changes: Any) -> Any:
    base = {"model__embedder": "own", "model__adapter": "last-block", "model__learner": "classifier"}
    return tiny_fewshot(**base | {"train__flip": False, "train__optimizer": "sgd", "train__lr": 0.05} | changes)


def classifier(suite: str = "imbalanced", **changes: Any) -> Any:
    data = {"dataset": "digits", "per_class": 20} if suite == "supervised" else None
    base: dict[str, Any] = {"suite": suite, "model": {"embedder": "own", "adapter": "last-block"}}
    return tiny_classifier(
        **base | {"augment__crop": False, "augment__flip": False} | ({"data": data} if data else {}) | changes
    )


def ran(recipe: Any, results: Path) -> RunRecord:
    (outcome,) = runner.run(recipe, results=results)
    assert outcome.record is not None, outcome.error
    return outcome.record
