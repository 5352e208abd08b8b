"""The ways of scoring on a CUDA device that is not there (`fake_cuda`): nothing mixes devices, and scores are those of the CPU.

Scores are numbers of the host, so that it has to wait for them; only the training of adapters is asked where it waits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, FakeCuda
from tiny_recipes import tiny_classifier, tiny_fewshot
from torch import nn

from slabench import runner
from slabench.backbones.fewshot import Conv4
from slabench.embedders import open_features
from slabench.embedders.embedding import embed_images, plan_embedding
from slabench.embedders.networks import Network
from slabench.sla.transforms import transform_set
from slabench.suites import suite_of
from slabench.suites.fewshot.all_classes import score_all_classes
from slabench.suites.fewshot.export_features import export_features
from slabench.suites.fewshot.score_features import score_features
from slabench.suites.fewshot.score_heads import score_heads
from slabench.training.checkpoint import Progress
from slabench.training.loop import fit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("pool")]
SMALL: dict[str, Any] = {"ways": [3], "shots": [2], "queries": 3, "episodes": 2}
WAYS_TO_SCORE = [
    {"heads": ["metaoptnet-rr"], "head_selection": "validation"},
    {"heads": ["metaoptnet-rr"], "head_selection": "ensemble"},
    {"heads": ["protonet", "simpleshot"], "calibrate": True},
    {"heads": ["protonet"], "open_set": 2},
    {"heads": ["metaoptnet-svm"], "support_profile": "exp:3", "query_profile": "exp:3"},
]

Scores = list[tuple[str, float]]


@pytest.fixture
def on_both(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Scores a second time on the device, and asks for the same scores."""

    def scores(ask: Callable[[], Any]) -> Scores:
        return [(f"{found.head} {one.predictor}", one.value) for found in ask().results for one in found.record.scores]

    monkeypatch.setattr("slabench.suites.fewshot.validation.EPISODES", 2)

    def ask_twice(ask: Callable[[], Any]) -> None:
        expected = scores(ask)
        assert expected
        for module in ("score_features", "score_heads", "all_classes", "export_features"):
            monkeypatch.setattr(f"slabench.suites.fewshot.{module}.choose_device", lambda name: CUDA)
        monkeypatch.setattr("slabench.records.environment.device_name", lambda device: "none")
        with FakeCuda().running():
            found = scores(ask)
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-6)

    return ask_twice


@pytest.mark.parametrize("way", WAYS_TO_SCORE, ids=str)
def test_stored_features(way: dict[str, Any], on_both: Callable[..., None], tmp_path: Path) -> None:
    on_both(lambda: score_features("pool", "glyphs", **way, **SMALL, results=tmp_path))


def test_all_classes(on_both: Callable[..., None], tmp_path: Path) -> None:
    on_both(lambda: score_all_classes("pool", "glyphs", ["simpleshot"], [2], seeds=[0], results=tmp_path))


def test_a_finished_run(on_both: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slabench.backbones.fewshot.conv4", lambda image_size: Conv4(image_size, 4))
    monkeypatch.setattr("slabench.suites.fewshot.scoring.BASE_IMAGES", 1)
    (outcome,) = runner.run(tiny_fewshot(train__steps=1, select__points=1), [0], results=tmp_path)
    assert outcome.record is not None, outcome.error
    key = outcome.record.key[:12]
    way = {"heads": ["simpleshot"], "calibrate": True}
    on_both(lambda: score_heads(key, **way, **SMALL, results=tmp_path))
    with FakeCuda().running():
        n, m, _ = export_features(key, tmp_path / "features.npz", results=tmp_path)
    assert np.load(tmp_path / "features.npz")["features"].shape[:2] == (n, m)


@pytest.mark.parametrize(
    "recipe",
    [
        tiny_fewshot(
            **{"model.embedder": "pool", "model.adapter": "linear", "model.learner": "classifier"},
            **{"train.flip": False, "train.steps": 1, "protocol.episodes": 2, "select.episodes": 1},
            **{"sla.objective": "sla"},
        ),
        tiny_classifier(
            data={"dataset": "glyphs", "profile": "exp", "ratio": 2, "val_images": 2},
            model={"backbone": "conv4", "embedder": "pool", "adapter": "mlp"},
            augment={"crop": False, "flip": False},
            train={"steps": 1, "batch_size": 4, "precision": "float32", "lr": 0.05},
            sla={"objective": "sla+sd"},
        ),
    ],
    ids=["few-shot", "classes"],
)
def test_adapters(recipe: Any) -> None:
    suite = suite_of(recipe)
    prepared = suite.prepare(recipe)
    with FakeCuda().running() as device:
        task = suite.build_task(recipe, 0, prepared, CUDA, None)
        device.waits.clear()
        fit(task, task.optimisation, recipe.select.model_copy(update={"points": 0, "start": False}), "key")
        assert {where.partition(":")[0] for _, where in device.waits} <= {"training/loop.py", "training/finite.py"}
        assert all(0 <= score.value <= 1 for score in task.score(Progress()).scores)


def test_embedding() -> None:
    """A network of pictures on the device gives the features that it gives on the CPU."""
    made = []
    for name in ("on-cpu", "on-cuda"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(
                nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            ).eval()
        colours = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
        network = Network(
            "test:tiny",
            module,
            module,
            40,
            6,
            **colours,
            interpolation="bicubic",
            weights_sha256="0" * 64,
            licence="none",
        )
        views = transform_set("rotation")
        plan = plan_embedding(network, name, "glyphs", splits=["test"], transforms=views)
        if name == "on-cpu":
            embed_images(network, plan, views, batch=100)
        else:
            with FakeCuda().running():
                embed_images(network, plan, views, device=CUDA, batch=100)
        made.append(open_features(name, "glyphs", "test").features())
    assert np.abs(made[0]).max() > 0.1
    np.testing.assert_allclose(made[1], made[0], atol=2e-3)
