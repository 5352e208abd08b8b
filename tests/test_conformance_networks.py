"""The conformance suite on backbones and data sets: slabench's own keep every promise, and each check can fail."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from findings import calls as _calls
from findings import wrong
from torch import Tensor, nn
from torch.nn import functional

from slabench.backbones import Backbone, FoldingBlock
from slabench.conformance import backbones as of_backbones
from slabench.conformance import check
from slabench.conformance import datasets as of_datasets
from slabench.conformance.backbones import check_backbone
from slabench.conformance.datasets import check_dataset
from slabench.core import paths
from slabench.core.registry import BACKBONES, DATASETS
from slabench.data import load
from slabench.data.plugin_dataset import dataset
from slabench.data.sources.embedded import prepare

pytestmark = pytest.mark.usefixtures("registries")

# A forward and a backward pass of these take seconds on one core: the slow ones by themselves.
LARGE = {"wrn-28-10", "resnet50", "resnet18", "resnet18-cifar", "resnet12"}


@pytest.mark.parametrize("name", [name for name in BACKBONES.names() if name not in LARGE])
def test_slabenchs_own_backbones_conform(name: str) -> None:
    findings = check("backbones", name)
    assert wrong(findings) == {}
    assert all(finding.state == "ok" for finding in findings)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LARGE))
def test_slabenchs_large_backbones_conform(name: str) -> None:
    assert wrong(check("backbones", name)) == {}


def test_the_embedded_digits_conform() -> None:
    assert wrong(check("datasets", "digits")) == {}


def test_a_data_set_that_is_not_here_is_skipped() -> None:
    findings = check("datasets", "cub200")
    assert wrong(findings) == {}
    assert "slabench data import" not in findings[0].message
    assert findings[0].state == "skipped"


# --------------------------------------------------------------------------------------------- broken backbones


class Fine(Backbone):
    """A convolution, batch norm and a mean."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.feature_dim = 6

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)).relu().mean((2, 3))


class _Undersold(Fine):
    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.feature_dim = 5


class _Batchy(Fine):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features - features.mean(0)


class _Noisy(Fine):
    def forward(self, images: Tensor) -> Tensor:
        features = super().forward(images)
        return features + 1e-6 * torch.randn(features.shape)


class _Remembering(Fine):
    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(images)


class _BadBlock(FoldingBlock):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))

    def fold(self) -> None:
        self.norm = nn.Identity()  # type: ignore[assignment]  # and forgets what it did


class _BadFold(Backbone):
    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.block, self.feature_dim = _BadBlock(), 6

    def forward(self, images: Tensor) -> Tensor:
        return self.block(images).relu().mean((2, 3))


class _Strided(Fine):
    def forward(self, images: Tensor) -> Tensor:
        _, _, h, w = images.shape
        read = torch.as_strided(images, images.shape, (3 * h * w, h * w, w, 1))
        return super().forward(read)


class _Unused(Fine):
    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.spare = nn.Linear(6, 6)


class _Dropping(Fine):
    def forward(self, images: Tensor) -> Tensor:
        return functional.dropout(super().forward(images), 0.5, self.training)


class _Scribbling(Fine):
    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            images.mul_(0.5)
        return super().forward(images)


class _Unseeded(Fine):
    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        with torch.no_grad():
            self.conv.weight.copy_(
                torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(random.SystemRandom().randrange(2**31)))
            )


BROKEN_BACKBONES: list[tuple[str, type[Backbone], str]] = [
    ("shape", _Undersold, "by its feature_dim of 5"),
    ("images apart", _Batchy, "an image alone has other features"),
    ("same result twice", _Noisy, "two features"),
    ("eval keeps its state", _Remembering, "a forward pass changes calls"),
    ("folded", _BadFold, "folded() is another function"),
    ("memory format", _Strided, "channels-last"),
    ("training", _Unused, "no gradient reaches the parameter spare.weight"),
    ("training", _Dropping, "global generator of torch"),
    ("training", _Scribbling, "changes its input in place: images"),
    ("initialisation", _Unseeded, "differs in conv.weight"),
]


@pytest.mark.parametrize(
    ("name", "kind", "message"), BROKEN_BACKBONES, ids=lambda value: getattr(value, "__name__", None)
)
def test_each_check_of_backbones_can_fail(name: str, kind: type[Backbone], message: str) -> None:
    found = wrong(check_backbone(kind))  # type: ignore[arg-type]
    assert message in found.get(name, ""), found


def test_a_small_backbone_conforms() -> None:
    assert wrong(check_backbone(Fine)) == {}


# --------------------------------------------------------------------------------------------- broken data sets


def pictures(n: int = 40) -> tuple[Any, Any, Any]:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 2
    return generator.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), labels, np.arange(n) % 5 == 4


def broken(make: Callable[[], tuple[Any, Any, Any]] = pictures, **changes: Any) -> dict[str, str]:
    settings: dict[str, Any] = {"classes": ("a", "b"), "image_size": 8, "summary": "x"}
    entry = dataset("own", make, **(settings | changes))
    DATASETS.add("own", entry, "x")
    return wrong(check_dataset(entry))


def _restless() -> tuple[Any, Any, Any]:
    images, labels, test = pictures()
    _calls[0] += 1
    images[0] = _calls[0] % 251
    return images, labels, test


def _globally_random() -> tuple[Any, Any, Any]:
    np.random.rand(3)  # noqa: NPY002
    return pictures()


def _raising() -> tuple[Any, Any, Any]:
    raise FileNotFoundError("images.npz")


BROKEN_DATA: list[tuple[str, dict[str, Any], str]] = [
    ("makes a store", {"make": _raising}, "it raises FileNotFoundError: images.npz"),
    ("same digest twice", {"make": _globally_random}, "global generator of numpy"),
    ("images", {"image_size": 16}, "not (16, 16, 3)"),
    ("images", {"classes": ("a", "b", "c")}, "classes without images: c"),
    ("same digest twice", {"make": _restless}, "two digests"),
    ("splits", {"class_split": {"train": ["a"], "val": ["b"], "test": ["c"]}}, "class 'c' of 'test' is not a class"),
    ("splits", {"class_split": {"train": ["a"], "val": ["a"], "test": ["b"]}}, "class 'a' is in 'train' and again"),
    ("images", {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}, "away from 0 on average"),
    ("images", {"std": (1.0, 1.0, 0.0)}, "a channel without spread"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BROKEN_DATA)
def test_each_check_of_data_sets_can_fail(name: str, changes: dict[str, Any], message: str) -> None:
    found = broken(**changes)
    assert message in found.get(name, ""), found


def test_a_few_shot_data_set_conforms_and_loads_by_its_class_split(tmp_path: Path) -> None:
    def six() -> tuple[Any, Any, Any]:
        images, _, _ = pictures(60)
        return images, np.arange(60) % 6, np.zeros(60, bool)

    split = {"train": ["f", "a"], "val": ["b", "c"], "test": ["d", "e"]}
    assert broken(six, classes=tuple("abcdef"), class_split=split) == {}
    train = load("own", "train", tmp_path)
    assert train.class_names == ("f", "a")
    # Class f holds the images 5, 11, 17, ... of the maker, in whatever order the store gives them.
    expected = {image.tobytes() for image in six()[0][5::6]}
    assert {image.tobytes() for image in train.images[train.labels == 0]} == expected


def test_a_prepared_copy_of_other_images_is_found() -> None:
    def others() -> tuple[Any, Any, Any]:
        images, labels, test = pictures()
        return 255 - images, labels, test

    prepare(dataset("own", others, ("a", "b"), 8, "x"), paths.data() / "own")
    assert "the prepared store has digest" in broken()["prepared copy"]


def test_colours_that_do_not_fit_images_that_lie_here_are_found() -> None:
    """Of images that are made here, the maker's run is refused already ("images")."""
    prepare(dataset("own", pictures, ("a", "b"), 8, "x"), paths.data() / "own")
    entry = replace(dataset("own", pictures, ("a", "b"), 8, "x"), embedded=False, mean=(0.5,) * 3, std=(0.2,) * 3)
    DATASETS.add("own", entry, "x")
    found = check_dataset(entry)
    assert "away from 0 on average" in wrong(found).get("normalisation", ""), found


def test_a_published_digest_that_is_not_met_is_found() -> None:
    entry = replace(dataset("own", pictures, ("a", "b"), 8, "x"), digest="0" * 64)
    DATASETS.add("own", entry, "x")
    assert "is not that of the published own" in wrong(check_dataset(entry))["as published"]


def test_every_check_has_a_broken_example() -> None:
    shown = {
        of_backbones: {name for name, _, _ in BROKEN_BACKBONES},
        of_datasets: {name for name, _, _ in BROKEN_DATA} | {"prepared copy", "as published", "normalisation"},
    }
    for module, names in shown.items():
        assert {check.name for check in module.CHECKS} == names
        assert all(check.remedy for check in module.CHECKS)
