"""Every part on a CUDA device that is not there (`fake_cuda`): nothing mixes devices, no training step makes the host wait.

Where the host has to wait, it is named below with the reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from episode_tensors import episodes
from fake_cuda import CUDA, FakeCuda, values
from tiny_recipes import tiny_classifier, tiny_fewshot
from torch import Tensor

import slabench
from slabench.backbones.fewshot import Conv4, conv4
from slabench.core.registry import BACKBONES, HEADS, LOSSES
from slabench.core.seeding import numpy_generator, torch_generator
from slabench.core.uploads import upload
from slabench.data.augment import POLICIES, BatchAugment
from slabench.data.mixing import MIXINGS, mix
from slabench.heads.baseline_plus_plus import baseline_plus_plus_logits
from slabench.heads.metric import cosine_fitted_logits
from slabench.heads.pt_map import pt_map_logits
from slabench.heads.tim import tim_logits
from slabench.learners import with_head
from slabench.losses.loss import build_loss, class_weights
from slabench.sla.objectives import CLASSIFIER_OBJECTIVES, OBJECTIVES
from slabench.sla.transforms import TRANSFORM_SETS
from slabench.suites import classifier, fewshot
from slabench.training.checkpoint import Progress
from slabench.training.loop import fit

# Where a training step waits for the device, and why it must. A file alone stands for all of its functions.
WAITS = {
    "heads/svm_solver.py": "the solver stops at a tolerance, and goes on with the episodes that are not solved",
    "heads/metaoptnet.py:_report": "a warning says how many episodes were not solved",
    "heads/pt_map.py": "Newton steps stop at a tolerance; each solves a system of N unknowns an episode",
    "heads/logistic.py": "the solver stops at a tolerance; a class without supports is named",
    "backbones/learn2learn.py:_features": "learn2learn's DropBlock looks at what it has drawn; ours does not",
    "data/augment.py:<listcomp>": "torchvision's policies take image by image, count colours and upload matrices",
    "training/loop.py:fit": "twice a second, where somebody watches, and at validations: loss and accuracy as numbers",
    "training/loop.py:_require_finite_losses": "at validations, checkpoints and the end: a loss that diverged stops the run",
    "training/finite.py:require_finite_weights": "once, after the last step",
}
NEEDS_LEARN2LEARN = pytest.mark.skipif(importlib.util.find_spec("learn2learn") is None, reason="needs learn2learn")


@pytest.fixture(scope="module")
def glyph_episodes(_drawn_glyphs: Path) -> Any:
    return fewshot.prepare(few(), _drawn_glyphs)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return classifier.prepare(tiny_classifier(), tmp_path_factory.mktemp("digits"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conv4 at 4 channels, and one image a class for the mean of the training classes: every operation costs time here."""
    monkeypatch.setattr("slabench.backbones.fewshot.conv4", lambda image_size: Conv4(image_size, 4))
    monkeypatch.setattr("slabench.suites.fewshot.scoring.BASE_IMAGES", 1)


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with FakeCuda().running() as device:
        yield device


def unnamed(device: FakeCuda) -> list[tuple[str, str]]:
    """Where the host waited without being named in `WAITS`."""
    return [w for w in dict.fromkeys(device.waits) if w[1] not in WAITS and w[1].partition(":")[0] not in WAITS]


def images(count: int = 4, side: int = 16) -> Tensor:
    drawn = torch.randint(256, (count, side, side, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return upload(drawn, CUDA)


def on_cuda(values: Tensor) -> Tensor:
    return upload(values.detach(), CUDA).requires_grad_(values.is_floating_point())


# What the test itself can see


def test_a_cpu_operand_raises(cuda: FakeCuda) -> None:
    network = conv4(16).to(CUDA)
    features = network(torch.zeros(2, 3, 16, 16, device=CUDA))
    assert features.device == CUDA
    with pytest.raises(RuntimeError, match="same device"):
        features + torch.zeros(2, 64)
    with pytest.raises(RuntimeError, match="same device"):
        network(torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("why", "wait"),
    [
        ("value read", lambda x: x.sum().item()),
        ("value read", lambda x: bool((x > 0).any())),
        ("value read", lambda x: x.tolist()),
        ("value read", lambda x: torch.linalg.cholesky(torch.diag_embed(x + 1))),
        ("shape by data", lambda x: x[x > 0]),
        ("shape by data", lambda x: (x > 0).nonzero()),
        ("shape by data", lambda x: x.unique()),
        ("copy to the host", lambda x: x.cpu()),
        ("copy to the host", lambda x: torch.zeros(3).copy_(x)),
        ("index on the host", lambda x: x[torch.tensor([2, 0])]),
        ("blocking upload", lambda x: x[[2, 0]]),
        ("blocking upload", lambda x: torch.zeros(3).to(x.device)),
        ("blocking upload", lambda x: torch.zeros(3).to(x.device, non_blocking=True)),
        ("blocking upload", lambda x: torch.tensor([1.0], device=x.device)),
    ],
)
def test_waiting_is_seen(why: str, wait: Callable[[Tensor], object], cuda: FakeCuda) -> None:
    x = upload(torch.tensor([1.0, 0.0, 2.0]), CUDA)
    assert not cuda.waits
    wait(x)
    assert {found for found, _ in cuda.waits} == {why}


def test_values_and_gradients_are_those_of_the_cpu_and_of_the_engine() -> None:
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    network = conv4(16)
    network(x).square().sum().backward()
    expected = [weight.grad for weight in network.parameters()]
    network.zero_grad()
    with FakeCuda().running():
        network.to(CUDA)(upload(x, CUDA)).square().sum().backward()
        for found, gradient in zip(network.parameters(), expected, strict=True):
            assert found.grad is not None
            assert found.grad.device == CUDA
            torch.testing.assert_close(values(found.grad), gradient)


# Parts


@pytest.mark.parametrize("name", BACKBONES.names())
def test_backbones(name: str) -> None:
    if name.startswith("l2l-"):
        pytest.importorskip("learn2learn")
    side = 64 if name in ("resnet18", "resnet50") else 32
    with FakeCuda(with_values=name == "l2l-resnet12").running() as device:
        network = BACKBONES.get(name)(side).to(CUDA).to(memory_format=torch.channels_last).train()
        network.set_step(1)
        if not name.startswith("l2l-"):  # they draw from the device's own generator, which is not there
            network.set_noise(torch.Generator().manual_seed(0))
        device.waits.clear()  # building may
        features = network(torch.zeros(2, 3, side, side, device=CUDA))
        features.sum().backward()
        assert {features.device, *(w.grad.device for w in network.parameters() if w.grad is not None)} == {CUDA}
        assert network.folded()(torch.zeros(2, 3, side, side, device=CUDA)).device == CUDA
        assert unnamed(device) == []


# A hundred rounds of fitting would be a hundred times the same.
SHORT = {
    "tim": partial(tim_logits, rounds=2),
    "pt-map": partial(pt_map_logits, rounds=2),
    "baseline-plus-plus": partial(baseline_plus_plus_logits, epochs=2),
    "cosine-fitted": partial(cosine_fitted_logits, steps=2),
}


@pytest.mark.parametrize("shots", [[2, 2, 2], [3, 1, 2]], ids=["equal", "unequal"])
@pytest.mark.parametrize("name", HEADS.names())
def test_heads(name: str, shots: list[int], cuda: FakeCuda) -> None:
    learner = with_head(conv4(16), HEADS.get(name), seed=0).to(CUDA)
    drawn, labels, asked = episodes("fake", shots, learner.backbone.feature_dim, batch=2)
    cuda.waits.clear()
    support, query = on_cuda(drawn.float()), on_cuda(asked.float())
    logits = SHORT.get(name, learner.logits)(support, on_cuda(labels), query, 3)
    assert logits.device == CUDA
    logits.square().sum().backward()
    for x in (support, query):
        assert x.grad is not None
        assert x.grad.device == CUDA
    assert unnamed(cuda) == []


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("objective", CLASSIFIER_OBJECTIVES.values(), ids=list(CLASSIFIER_OBJECTIVES))
def test_losses_and_objectives(name: str, objective: Any, cuda: FakeCuda) -> None:
    m, counts = 4, [5, 3, 2]
    labels = on_cuda(torch.tensor([0, 2, 1]))
    rows = len(labels) * objective.n_copies(m)
    mixed = on_cuda(torch.tensor([1, 2, 0])), on_cuda(torch.tensor([0.5, 1.0, 0.2])).detach()
    for weights in (None, upload(class_weights("effective", counts), CUDA)):
        for pairs in (None, mixed):
            outputs = {
                layer: on_cuda(torch.linspace(-1, 1, rows * width).view(rows, width))
                for layer, width in objective.layers(3, m).items()
            }
            loss = objective.loss(outputs, labels, m, build_loss(name, counts).on(CUDA), weights=weights, mixed=pairs)
            loss.backward()
            assert {loss.device, *(z.grad.device for z in outputs.values() if z.grad is not None)} == {CUDA}
    views = {layer: torch.zeros(3 * m, width, device=CUDA) for layer, width in objective.layers(3, m).items()}
    assert {z.device for z in objective.predictors(views, m).values()} == {CUDA}
    assert unnamed(cuda) == []


@pytest.mark.parametrize("name", TRANSFORM_SETS)
def test_transformations(name: str, cuda: FakeCuda) -> None:
    chosen, batch = TRANSFORM_SETS[name], images().permute(0, 3, 1, 2)
    which = torch.arange(4) % chosen.M
    each, copies = chosen.apply_each(batch, which), chosen.apply(batch)
    assert {each.device, copies.device, chosen.undo(batch, chosen.M - 1).device} == {CUDA}
    assert unnamed(cuda) == []


@pytest.mark.parametrize("name", MIXINGS)
def test_mixing(name: str, cuda: FakeCuda) -> None:
    batch, labels = torch.zeros(4, 3, 8, 8, device=CUDA), on_cuda(torch.tensor([0, 1, 2, 0]))
    made = mix(name, batch, labels, numpy_generator(0, "mix"), counts=[3, 2, 1], partners=(batch, labels))
    assert {made.images.device, made.first.device, made.second.device, made.share.device} == {CUDA}
    assert mix("mixup", batch, labels, numpy_generator(0, "mix")).images.device == CUDA
    assert unnamed(cuda) == []


@pytest.mark.parametrize("policy", POLICIES)
def test_augmentation(policy: str, cuda: FakeCuda) -> None:
    colours = {"mean": (120.0, 120.0, 120.0), "std": (60.0, 60.0, 60.0)}
    augment = BatchAugment(crop_padding=2, flip=True, jitter=0.4, cutout=4, policy=policy, **colours)
    assert augment(images(), torch_generator(0, "augment")).device == CUDA
    photographs = BatchAugment(crop_padding=0, flip=True, jitter=0, resized_crop=8, **colours)
    assert photographs(images(), torch_generator(0, "augment")).device == CUDA
    assert unnamed(cuda) == []


def test_sla_in_a_loop_of_ones_own(cuda: FakeCuda) -> None:
    sla = slabench.SLA("rotation", n_classes=3, loss="ldam", counts=[5, 3, 2])
    x, y = sla.augment(torch.zeros(2, 3, 8, 8, device=CUDA), on_cuda(torch.tensor([0, 2])))
    logits = torch.zeros(8, 12, device=CUDA, requires_grad=True)
    sla.loss(logits, y).backward()
    assert {x.device, y.device, sla.aggregate(logits).device, sla.single_of_views(logits).device} == {CUDA}
    # A label out of range is named; the device's own assertion would end the process without saying which.
    assert unnamed(cuda) == [("value read", "sla/wrapper.py:augment")]


# Trials


def trained(suite: Any, recipe: Any, prepared: Any, device: FakeCuda) -> Any:
    """The task of a recipe after its updates, in which nobody waited who need not."""
    task = suite.build_task(recipe, 0, prepared, CUDA, None)
    device.waits.clear()  # images and weights may be waited for
    fit(task, task.optimisation, recipe.select.model_copy(update={"points": 0}), "key")
    assert unnamed(device) == []
    assert {weight.device for weight in task.module.parameters()} == {CUDA}
    return task


def few(**changes: Any) -> Any:
    sizes = {"train__steps": 1, "protocol__episodes": 2, "select__episodes": 1}
    return tiny_fewshot(**{**sizes, "protocol__ways": 3, "train__ways": 3, **changes})


def scored(task: Any) -> None:
    """Validation, watching and the test: they read what they are for, and mix no devices."""
    for accuracies in (task.validate(), task.watch()):
        assert all(0 <= value <= 1 for value in accuracies.values())
    assert all(0 <= score.value <= 1 for score in task.score(Progress()).scores)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_episodes(objective: str, glyph_episodes: Any, cuda: FakeCuda) -> None:
    task = trained(fewshot, few(sla__objective=objective, train__jitter=0.4), glyph_episodes, cuda)
    if objective == "baseline":
        scored(task)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "changes",
    [
        {"model__learner": "classifier", "sla__objective": "sla"},
        {"model__learner": "classifier", "model__head": "simpleshot", "model__support_copies": 2},
        {"model__head": "metaoptnet-rr", "sla__objective": "sla", "train__optimizer": "adam"},
        pytest.param({"model__learner": "maml", "maml__steps": 1, "maml__test_steps": 1}, marks=NEEDS_LEARN2LEARN),
        pytest.param({"model__learner": "anil"}, marks=NEEDS_LEARN2LEARN),
    ],
    ids=str,
)
def test_learners(changes: dict[str, Any], glyph_episodes: Any, cuda: FakeCuda) -> None:
    scored(trained(fewshot, few(**changes), glyph_episodes, cuda))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "changes",
    [
        *({"sla__objective": name} for name in CLASSIFIER_OBJECTIVES),
        {"loss__name": "ldam", "balance__reweight": "drw", "balance__switch": 0.5, "sla__objective": "sla"},
        {"mix__name": "cmo", "mix__skip_epochs": 0},
        {"mix__name": "remix", "augment__cutout": 4, "augment__jitter": 0.2},
    ],
    ids=str,
)
def test_classifiers(changes: dict[str, Any], digits: Any, cuda: FakeCuda) -> None:
    recipe = tiny_classifier(train__steps=1, train__batch_size=4, model__backbone="conv4", **changes)
    task = trained(classifier, recipe, digits, cuda)
    if recipe.sla.objective == "sla+sd":  # it has every predictor
        scored(task)
