"""The one estimate: its counts against the images that real tasks embed, its sums on a machine whose speed is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_recipes import tiny_classifier, tiny_fewshot
from torch import Tensor

import slabench
from slabench.backbones.fewshot import Conv4
from slabench.progress import duration
from slabench.recipes import AnyRecipe, load_recipe
from slabench.runner import estimate as estimates
from slabench.runner.estimate import Estimator, Seconds
from slabench.runner.workload import workload
from slabench.suites import suite_of
from slabench.training.checkpoint import Progress

CPU = torch.device("cpu")
NEEDS_LEARN2LEARN = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None, reason="learn2learn could not be installed here"
)
FEW = {"protocol__episodes": 2, "select__episodes": 2, "protocol__ways": 3, "train__steps": 3}
MAML = {"model__learner": "maml", "maml__steps": 2, "maml__test_steps": 3}
ANIL = MAML | {"model__learner": "anil"}


class Machine:
    """A clock that 1 ms passes on for every image that goes through a Conv4, and nothing else; and their number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        forward = Conv4.forward

        def counted(network: Conv4, images: Tensor) -> Tensor:
            self.images += len(images)
            return forward(network, images)

        monkeypatch.setattr(Conv4, "forward", counted)
        monkeypatch.setattr("slabench.backbones.fewshot.conv4", lambda image_size: Conv4(image_size, 4))
        monkeypatch.setattr("slabench.suites.fewshot.scoring.BASE_IMAGES", 2)
        monkeypatch.setattr(estimates, "time", SimpleNamespace(perf_counter=self.now, process_time=self.now))
        monkeypatch.setattr(estimates, "MEASURED", 0.0)

    def now(self) -> float:
        return 1e-3 * self.images


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


RECIPES: dict[str, Any] = {
    "episodic": {},
    "episodic sla": {"sla__objective": "sla", "train__episodes_per_step": 2, "train__shots": 2},
    "color-perm3": {"sla__objective": "da", "sla__transforms": "color-perm3"},
    "centred": {"model__learner": "classifier", "model__head": "simpleshot", "sla__objective": "sla"},
    "support copies": {"model__learner": "classifier", "model__support_copies": 2, "sla__transforms": "rotation2"},
    "unequal": {"protocol__support_profile": "linear:3", "protocol__shots": 2},
    "no validations": {"select__points": 0},
    "maml": MAML,
    "maml sla": MAML | {"sla__objective": "sla", "sla__transforms": "rotation2"},
    "maml batch": MAML | {"maml__batch_norm": "batch"},
    "anil": ANIL | {"sla__objective": "sla", "sla__transforms": "rotation2"},
    "anil support": ANIL | {"maml__batch_norm": "support", "sla__objective": "da"},
    "mt": {"sla__objective": "mt", "model__backbone": "conv4"},
    "sla+sd": {"sla__objective": "sla+sd", "model__backbone": "conv4", "sla__transforms": "rotation2"},
}


def made(name: str) -> AnyRecipe:
    changes = RECIPES[name]
    return tiny_classifier(**changes) if "model__backbone" in changes else tiny_fewshot(**FEW | changes)


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=NEEDS_LEARN2LEARN) if n[:4] in ("maml", "anil") else n for n in RECIPES]
)
def test_the_workload_is_what_the_real_task_embeds(name: str, machine: Machine, tmp_path: Path) -> None:
    recipe = made(name)
    (trial,) = slabench.plan(recipe, [0], results=tmp_path)
    task: Any = suite_of(recipe).build_task(recipe, 0, trial.prepared, CPU, None)
    work = workload(recipe, trial)
    assert work.steps == task.optimisation.steps

    def embedded(what: Any) -> int:
        before = machine.images
        what()
        return machine.images - before

    assert embedded(lambda: task.step(0)) == work.images_per_step == task.images_per_step
    points = recipe.select.points
    validation = embedded(lambda: (task.validate(), task.watch())) if points else 0
    test = embedded(task.test if hasattr(task, "test") else lambda: task.score(Progress()))
    assert points * validation + test == work.scored + work.episodes * work.episode_images


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("name", ["mt", "episodic sla", pytest.param("maml", marks=NEEDS_LEARN2LEARN)])
def test_the_estimate_is_that_of_a_machine_of_known_speed(name: str, machine: Machine, tmp_path: Path) -> None:
    """1 ms an image, whatever is done with it: the sum is that of the images. MAML's episodes embed theirs anew."""
    recipe = made(name)
    (trial,) = slabench.plan(recipe, [0], results=tmp_path)
    work, estimator = workload(recipe, trial), Estimator(CPU)
    found = estimator.estimate(recipe, trial)
    assert found.training.typical == pytest.approx(1e-3 * work.images)
    assert found.scoring.typical == pytest.approx(1e-3 * (work.scored + work.episodes * work.episode_images))
    assert (found.total.low, found.total.high) == pytest.approx((found.total.typical,) * 2)  # all steps were as long
    measured = machine.images
    assert estimator.estimate(recipe, trial) == found
    assert machine.images == measured  # each speed is measured once


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("name", ["mt", "episodic sla"])
def test_a_step_that_would_take_long_is_measured_on_less_and_is_less_sure(
    name: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made(name)
    (trial,) = slabench.plan(recipe, [0], results=tmp_path)
    work, estimator = workload(recipe, trial), Estimator(CPU)
    monkeypatch.setattr(estimates, "LONG_STEP", 0.02)  # 20 images
    training = estimator.estimate(recipe, trial).training
    typical = 1e-3 * work.images
    assert (training.low, training.typical, training.high) == pytest.approx((typical / 1.5, typical, typical * 1.5))
    assert any("1.5" in line for line in estimator.remarks(typical, duration))


def test_how_sure_it_is_is_told() -> None:
    assert Seconds(60, 60, 60).told(duration) == "about 60 s"
    assert (Seconds(60, 50, 80) * 60 + Seconds(0, 0, 0)).told(duration) == "about 60 min (50 min to 80 min)"


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Estimator, "share", 0.25)
    lines = Estimator(CPU).remarks(7200, duration)
    assert any("25 %" in line and "30 min" in line for line in lines)


def test_speeds_are_measured_without_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "MEASURED", 0.0)
    (recipe,) = load_recipe("fewshot/quick", {"data.dataset": "mini-imagenet", "train.steps": 1, "protocol.shots": 1})
    assert 0 < Estimator(CPU).estimate(recipe).total.typical < float("inf")
