"""MAML and ANIL in the few-shot suite: every objective, what is counted, scores by their definition, and resumed runs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("learn2learn", reason="learn2learn could not be installed here: scripts/install_learn2learn.sh")

from slabench import runner
from slabench.core.errors import UsageError
from slabench.learners.maml import Inner, adapted_logits
from slabench.recipes import load_recipe
from slabench.recipes.fewshot import Recipe
from slabench.records.store import ResultStore
from slabench.suites import fewshot
from slabench.training.checkpoint import Progress
from slabench.training.loop import Interrupted, fit

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("narrow_conv4")


def small(learner: str = "maml", **overrides: Any) -> Recipe:
    keys = {
        "data.dataset": "glyphs",
        "model.learner": learner,
        "maml.steps": 2,
        "maml.test_steps": 2,
        "maml.lr": 0.1,
        "protocol.ways": 3,
        "protocol.shots": 2,
        "protocol.queries": 3,
        "protocol.episodes": 12,
        "sla.transforms": "rotation2",
        "train.queries": 2,
        "train.steps": 4,
        "train.episodes_per_step": 2,
        "train.precision": "float32",
        "select.points": 1,
        "select.episodes": 3,
    }
    recipe = load_recipe("fewshot/standard", keys | {k.replace("__", "."): v for k, v in overrides.items()})[0]
    assert isinstance(recipe, Recipe)
    return recipe


def record_of(recipe: Recipe, folder: Path) -> Any:
    (outcome,) = runner.run(recipe, results=folder, device="cpu")
    assert outcome.state == "ran", outcome.error
    return outcome.record


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("learner", ["maml", "anil"])
@pytest.mark.parametrize("objective", ["baseline", "da", "rotated-classes", "sla"])
def test_a_run_of_every_objective(tmp_path: Path, learner: str, objective: str) -> None:
    recipe = small(learner, sla__objective=objective)
    record = record_of(recipe, tmp_path)
    assert record.recipe["model"]["head"] == learner  # the leaderboard's column `head`
    assert [score.predictor for score in record.scores] == ["single", "aggregated"]
    assert not record.transductive
    outputs = 3 * 2 if objective == "sla" else 3
    plain = fewshot.build_task(small(learner), 0, fewshot.prepare(recipe), CPU, None)
    assert record.cost.parameters - runner.n_parameters(plain.module.backbone) == outputs * (32 + 1)
    values = ResultStore(tmp_path).episodes(record)
    assert {name: value.shape for name, value in values.items()} == {"single": (12,), "aggregated": (12,)}


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("learner", ["maml", "anil"])
@pytest.mark.parametrize("norm", ["support", "batch", "running"])
def test_image_passes_are_those_of_the_backbone(learner: str, norm: str) -> None:
    """Counted at the backbone's first convolution, whose copies in learn2learn's clones call the same hook."""
    recipe = small(learner, maml__batch_norm=norm, sla__objective="sla")
    task = fewshot.build_task(recipe, 0, fewshot.prepare(recipe), CPU, None)
    task.module.train()
    seen: list[int] = []
    task.module.backbone.blocks[0].conv.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    result = task.step(0)
    assert sum(seen) == result.images == task.images_per_step


@pytest.mark.usefixtures("glyphs")
def test_the_record_says_transductive_where_queries_share_their_statistics(tmp_path: Path) -> None:
    assert record_of(small(maml__batch_norm="batch"), tmp_path).transductive


@pytest.mark.usefixtures("glyphs")
def test_sla_scores_are_the_joint_episode_s() -> None:
    """`aggregated` by the definition: one adaptation to N*M classes, then the mean over copies of each one's own logits."""
    recipe = small("maml", sla__objective="sla")
    task = fewshot.build_task(recipe, 0, fewshot.prepare(recipe), CPU, None)
    task.module.eval()
    images = torch.from_numpy(np.array(task.prepared.val.images))
    episodes = task.prepared.val_episodes.episodes[:1]
    views = task._views(images, episodes.rows[0])  # [N, K+Q, M, ...]
    found = task._predict(views, 2)
    ways, m = 3, 2
    support, labels = [], []
    for i in range(ways):
        for k in range(2):
            for j in range(m):
                support.append(views[i, k, j])
                labels.append(i * m + j)
    inner = Inner(2, 0.1, True)
    for i in range(ways):
        for q in range(3):
            copies = torch.stack([views[i, 2 + q, j] for j in range(m)])
            joint = adapted_logits(task.module, torch.stack(support), torch.tensor(labels), copies, inner, True)
            mean = torch.stack([torch.stack([joint[j, c * m + j] for j in range(m)]).mean() for c in range(ways)])
            torch.testing.assert_close(found["aggregated"][i * 3 + q], mean.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("glyphs")
def test_anil_from_cached_features_scores_as_episode_by_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path against the loop over episodes, on a backbone in eval mode."""
    recipe = small("anil", maml__batch_norm="running", sla__objective="sla")
    task = fewshot.build_task(recipe, 0, fewshot.prepare(recipe), CPU, None)
    images = torch.from_numpy(np.array(task.prepared.val.images))
    episodes = task.prepared.val_episodes.episodes[:6]
    fast = task._score(images, episodes, task.prepared.val.n_classes, None)
    monkeypatch.setattr(Recipe, "from_features", False)
    slow = task._score(images, episodes, task.prepared.val.n_classes, None)
    for name in fast:
        # Folded batch norms round otherwise, which may turn a query of an untrained network.
        assert (fast[name][0].accuracy - slow[name][0].accuracy).abs().max() <= 1 / 9 + 1e-6


class _Stop:
    """A listener that asks for an end after some steps, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def start(self, done: int, steps: int) -> None: ...

    def point(self, point: dict[str, Any]) -> None: ...

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if done >= self.after:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize(("learner", "norm"), [("maml", "support"), ("maml", "running"), ("anil", "running")])
def test_a_resumed_run_is_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learner: str, norm: str
) -> None:
    monkeypatch.setattr("slabench.training.loop._REPORT_SECONDS", 0.0)
    recipe = small(learner, maml__batch_norm=norm, sla__objective="sla")
    prepared = fewshot.prepare(recipe)

    def train(checkpoint: Path, listener: Any = None) -> tuple[dict[str, Tensor], Progress]:
        task = fewshot.build_task(recipe, 0, prepared, CPU, None)
        fitted = fit(task, recipe.train, recipe.select, "k", checkpoint, True, listener)
        return task.module.state_dict(), fitted.progress

    whole, progress = train(tmp_path / "a.safetensors")
    with pytest.raises(Interrupted):
        train(tmp_path / "b.safetensors", _Stop(2))
    resumed, again = train(tmp_path / "b.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [replace_seconds(point) for point in progress.curve] == [replace_seconds(point) for point in again.curve]


def replace_seconds(point: dict[str, Any]) -> dict[str, Any]:
    return point | {"seconds": 0}


@pytest.mark.usefixtures("glyphs")
def test_it_learns() -> None:
    """Classes that differ in colour are told apart after adaptation: better than before training, far above chance."""
    recipe = small("maml", train__steps=60, train__lr=1e-2, train__flip=False)
    prepared = fewshot.prepare(recipe)
    colours = np.random.default_rng(0).integers(0, 256, (prepared.train.n_classes, 1, 1, 3))
    noise = np.random.default_rng(1).normal(0, 500, (len(prepared.train), 32, 32, 3))
    pictures = (colours[prepared.train.labels] + noise).clip(0, 255).astype(np.uint8)
    prepared = replace(prepared, train=replace(prepared.train, images=pictures))
    task = fewshot.build_task(recipe, 0, prepared, CPU, None)
    fitted = fit(task, recipe.train, recipe.select.model_copy(update={"points": 4}), "k")
    first, *_, last = (point["train_accuracy"] for point in fitted.progress.curve)
    assert last > 0.8
    assert last > first + 0.1


def test_what_maml_cannot_serve() -> None:
    with pytest.raises(UsageError, match="one output per way"):
        fewshot.check(small(train__ways=4))
    with pytest.raises(UsageError, match="has no effect with the learner maml"):
        small(model__head="protonet")
    assert "running statistics" in fewshot.warnings(small(maml__batch_norm="running"))[0]
    assert not fewshot.warnings(small())
