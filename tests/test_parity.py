"""What a protocol claims to have from its authors' code, against formulas written out by hand (docs/parity.md)."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_recipes import tiny_classifier, tiny_fewshot
from torch import Tensor, nn
from torch.nn import functional

import slabench
from slabench.backbones.resnet import resnet32
from slabench.core.errors import UsageError
from slabench.learners import build_classifier
from slabench.losses.loss import build_loss, smoothing_as_torch
from slabench.recipes import load_recipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Recipe
from slabench.suites import classifier, fewshot
from slabench.training.schedule import build_optimizer

CPU = torch.device("cpu")

# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(("n", "own"), [(5, 0.9), (20, 0.9), (64, 0.9)])
def test_metaoptnets_smoothing_is_spread_over_the_other_classes(n: int, own: float) -> None:
    """Their target: one_hot * (1 - eps) + (1 - one_hot) * eps / (n - 1); torch's would keep 1 - eps + eps/n."""
    logits = torch.randn(9, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(9) % n
    one_hot = functional.one_hot(labels, n).double()
    target = one_hot * own + (1 - one_hot) * (1 - own) / (n - 1)
    theirs = -(target * logits.log_softmax(1)).sum(1)
    smoothing = smoothing_as_torch(1 - own, "others", n)
    got = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(got, theirs)
    loss = replace(build_loss("ce", [3] * n, smoothing=1 - own), smoothing_over="others")
    torch.testing.assert_close(loss(logits, labels).double(), theirs, rtol=1e-5, atol=1e-5)
    assert smoothing_as_torch(0.1, "all", n) == 0.1


def test_too_much_smoothing_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves the true class less"):
        smoothing_as_torch(0.9, "others", 5)
    changes = {"train__label_smoothing": 0.9, "train__smoothing_over": "others"}
    with pytest.raises(UsageError, match=r"label smoothing 0\.9 over the others of 5 classes"):
        fewshot.check(tiny_fewshot(**changes))
    fewshot.check(tiny_fewshot(**changes, model__learner="classifier"))  # of more classes than ways


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("learner", ["episodic", "classifier"])
def test_a_training_step_smooths_as_the_recipe_says(learner: str) -> None:
    """The loss of one step, with SLA's 5 * 4 or 64 * 4 joint classes, from the logits of the step itself."""
    recipe = tiny_fewshot(
        model__learner=learner,
        sla__objective="sla",
        train__label_smoothing=0.1,
        train__smoothing_over="others",
        train__batch_size=4,
        train__queries=1,
    )
    task: Any = fewshot.build_task(recipe, 0, fewshot.prepare(recipe), CPU, None)
    seen: list[Tensor] = []
    name = "logits" if learner == "episodic" else "outputs"
    whole = getattr(task.module, name)

    def spy(*args: Any) -> Any:
        found = whole(*args)
        seen.append(found[0] if learner == "episodic" else found["joint"])
        return found

    setattr(task.module, name, spy)
    got = task.step(0).loss.item()
    z = seen[0].detach().double()
    if learner == "episodic":
        labels = torch.arange(20)
    else:
        labels = (task.labels[task._rows(0)][:, None] * 4 + torch.arange(4)).flatten()
    log_p = z.log_softmax(1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    theirs = -(0.9 * own + 0.1 / (z.shape[1] - 1) * (log_p.sum(1) - own)).mean()
    assert got == pytest.approx(theirs.item(), rel=1e-5)


def test_probabilities_of_the_wrapper_have_ldams_scale() -> None:
    """Cosines of 1 and 0 under s = 30 are all but certain; without it softmax gives 0.58 against 0.21."""
    sla = slabench.SLA("rotation2", 3, loss="ldam", counts=[9, 3, 1])
    cosines = torch.zeros(2, 6)
    cosines[0, 0], cosines[1, 1] = 1.0, 1.0  # class 0 under both turns
    certain = 1 / (1 + 2 * math.exp(-30))
    for found in (sla.aggregate(cosines), sla.single_of_views(cosines), sla.single(cosines[:1])):
        assert found[0, 0].item() == pytest.approx(certain)
    plain = slabench.SLA("rotation2", 3)
    assert plain.aggregate(cosines)[0, 0].item() == pytest.approx(math.e / (math.e + 2))


# ---------------------------------------------------------------------------------------------- first weights and colours


def made(layer_init: Any, conv_init: Any, width: int) -> Any:
    return build_classifier(partial(resnet32), 32, {"joint": width}, False, 0, layer_init, conv_init)


def test_the_first_loss_of_slas_linear_layer_is_near_the_log_of_the_classes() -> None:
    """Over 400 joint classes: log 400 = 5.99, theirs some tenths above it, He's more than two."""
    images = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(128) * 3
    first = {}
    for init, conv in (("torch", "fan-out"), ("he-zero", "backbone")):
        model = made(init, conv, 400).train()
        with torch.no_grad():
            first[init] = float(functional.cross_entropy(model.outputs(model.embed(images))["joint"], labels))
    assert math.log(400) < first["torch"] < math.log(400) + 0.7
    assert first["he-zero"] > math.log(400) + 1.5


def test_linear_layers_are_initialised_as_asked() -> None:
    """Features of 64: torch's bound is 1/8 for weights and biases, He's standard deviation sqrt(2/64)."""
    layers = {init: made(init, "backbone", 4000).layers["joint"] for init in ("he-zero", "he", "torch")}
    for init, layer in layers.items():
        weight = layer.weight.detach()
        if init == "torch":
            assert 0.124 < float(weight.abs().max()) <= 0.125
        else:
            assert float(weight.std()) == pytest.approx(math.sqrt(2 / 64), rel=0.01)
        biases = float(layer.bias.detach().abs().max())
        assert biases == 0 if init == "he-zero" else 0.124 < biases <= 0.125


def test_convolutions_are_initialised_by_fan_out_where_asked() -> None:
    """Variance 2 / (9 outputs): where a stage doubles the channels, half of that by fan-in."""
    deviations = {}
    for conv in ("backbone", "fan-out"):
        wide = [m for m in made("torch", conv, 4).modules() if isinstance(m, nn.Conv2d) and m.out_channels == 64]
        doubling = next(m for m in wide if m.in_channels == 32)
        deviations[conv] = float(doubling.weight.detach().std())
    assert deviations["fan-out"] == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert deviations["backbone"] == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.02)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("ldam", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ],
)
def test_colours_are_normalised_as_asked_in_training_and_in_the_test(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_classifier(data__normalise=name, augment__crop=False, augment__flip=False)
    task = classifier.build_task(recipe, 0, classifier.prepare(recipe), CPU, None)
    seen: list[Tensor] = []
    embed = task.module.embed
    monkeypatch.setattr(task.module, "embed", lambda images: seen.append(images) or embed(images))
    task.step(0)
    images = task.images[torch.from_numpy(task._rows(0))].double() / 255
    expected = ((images - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-4, atol=1e-5)
    # In the test the folded copy of the backbone sees the same: its features are those of the same numbers.
    task.module.eval()
    some = task.images[:4]
    inputs = ((some.double() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        torch.testing.assert_close(task._features(some, None)[:, 0], embed(inputs), rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(("by", "objective", "first"), [
    ("distilled", "sla+sd", "distilled"),
    ("single", "sla+sd", "single"),
    ("distilled", "sla", "single"),
])  # fmt: skip
def test_the_student_decides_where_the_recipe_says_so(by: str, objective: str, first: str) -> None:
    """`fit` selects by the first accuracy of a validation, and the record shows that one."""
    recipe = tiny_classifier(select__rule="best_val", select__by=by, sla__objective=objective)
    task = classifier.build_task(recipe, 0, classifier.prepare(recipe), CPU, None)
    found = task.validate()
    assert next(iter(found)) == first
    with torch.no_grad():
        z = task._logits(task._features(torch.from_numpy(task.prepared.train.images[task.prepared.validation]), None))
    truth = task.prepared.train.labels[task.prepared.validation]
    right = z[first].argmax(1).numpy() == truth
    assert found[first] == pytest.approx(np.mean([right[truth == c].mean() for c in np.unique(truth)]))


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("suite", ["imbalanced", "supervised"])
def test_slas_protocol_is_its_authors(suite: str) -> None:
    (recipe,) = load_recipe(f"{suite}/sla")
    assert isinstance(recipe, ClassifierRecipe)
    t, m = recipe.train, recipe.model
    assert (t.steps, t.batch_size, t.batches) == (80_000, 128, "independent")
    assert (t.lr, t.momentum, t.nesterov, t.weight_decay) == (0.1, 0.9, False, 1e-4)
    assert (t.schedule, t.milestones, t.factors) == ("step", (0.5, 0.75), (0.1, 0.01))
    assert (m.backbone, m.layer_init, m.conv_init, recipe.data.normalise) == ("resnet32", "torch", "fan-out", "half")
    assert (recipe.select.rule, recipe.select.by, recipe.select.points) == ("best_val", "distilled", 80)


def test_ldams_protocol_is_its_authors() -> None:
    (recipe,) = load_recipe("imbalanced/ldam")
    assert isinstance(recipe, ClassifierRecipe)
    t, m = recipe.train, recipe.model
    assert (t.epochs, t.batch_size, t.batches, t.warmup_epochs) == (200, 128, "epochs", 5)
    assert (t.lr, t.momentum, t.nesterov, t.weight_decay) == (0.1, 0.9, False, 2e-4)
    assert (t.milestones, t.factors) == ((0.8, 0.9), (0.01, 0.0001))
    assert (m.backbone, m.layer_init, m.conv_init, recipe.data.normalise) == ("resnet32", "he", "backbone", "ldam")


def test_rfs_is_trained_without_nesterov_and_tested_with_five_copies() -> None:
    for recipe in load_recipe("fewshot/rfs"):
        assert isinstance(recipe, Recipe)
        t = recipe.train
        assert (t.lr, t.momentum, t.nesterov, t.weight_decay, t.batch_size) == (0.05, 0.9, False, 5e-4, 64)
        assert (t.milestones, t.factors, t.crop, t.flip, t.jitter) == ((0.6, 0.8), (0.1, 0.01), True, True, 0.4)
        assert (recipe.model.support_copies, recipe.model.head, recipe.model.backbone) == (5, "logistic", "resnet12")
        assert build_optimizer(t, nn.Linear(1, 1)).param_groups[0]["nesterov"] is False
    (standard,) = load_recipe("fewshot/paper")
    assert build_optimizer(standard.train, nn.Linear(1, 1)).param_groups[0]["nesterov"] is True
    # Without momentum the two are one; torch refuses the flag then.
    (plain,) = load_recipe("fewshot/paper", {"train.momentum": 0.0})
    assert build_optimizer(plain.train, nn.Linear(1, 1)).param_groups[0]["nesterov"] is False


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_of_parity_names_tests_that_there_are() -> None:
    tests = Path(__file__).parent
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (tests.parent / "docs" / "parity.md").read_text(encoding="utf-8"))
    assert len(named) > 25
    for file, name in named:
        assert f"def {name}(" in (tests / f"{file}.py").read_text(encoding="utf-8"), f"{file}::{name}"
