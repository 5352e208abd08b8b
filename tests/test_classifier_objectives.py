"""The objectives of a classifier against the paper's equations written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slabench.backbones.resnet import resnet20
from slabench.core.errors import UsageError
from slabench.core.seeding import fork_for_init
from slabench.learners import Classifier, CosineLayer
from slabench.losses.loss import build_loss, class_weights
from slabench.sla.objectives import CLASSIFIER_OBJECTIVES, classifier_objective

COUNTS = [50, 10, 2]


def outputs_of(name: str, batch: int, m: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    objective = classifier_objective(name)
    rows = batch * objective.n_copies(m)
    outputs = {
        layer: torch.randn((rows, width), generator=generator, dtype=torch.float64)
        for layer, width in objective.layers(3, m).items()
    }
    return outputs, torch.randint(3, (batch,), generator=generator)


def log_softmax(values: list[float]) -> list[float]:
    top = max(values)
    norm = top + math.log(sum(math.exp(v - top) for v in values))
    return [v - norm for v in values]


def ce(logits: torch.Tensor, label: int) -> float:
    return -log_softmax(logits.tolist())[label]


def by_hand(
    name: str, outputs: dict[str, torch.Tensor], labels: torch.Tensor, m: int, temperature: float, beta: float
) -> float:
    """The loss with plain cross-entropy, image by image and copy by copy."""
    total = 0.0
    for b, y in enumerate(labels.tolist()):
        if name == "baseline":
            total += ce(outputs["classes"][b], y)
            continue
        for j in range(m):
            row = b * m + j
            if name in ("da", "mt"):
                total += ce(outputs["classes"][row], y) / m
            if name == "mt":
                total += beta * ce(outputs["transforms"][row], j) / m
            if name in ("sla", "sla+sd"):
                total += ce(outputs["joint"][row], y * m + j) / m
        if name == "sla+sd":
            s = [sum(float(outputs["joint"][b * m + j, i * m + j]) for j in range(m)) / m for i in range(3)]
            u = outputs["student"][b * m].tolist()
            teacher = log_softmax([v / temperature for v in s])
            student = log_softmax([v / temperature for v in u])
            total += temperature**2 * sum(math.exp(t) * (t - v) for t, v in zip(teacher, student, strict=True))
            total += beta * ce(outputs["student"][b * m], y)
    return total / len(labels)


@pytest.mark.parametrize("name", sorted(CLASSIFIER_OBJECTIVES))
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31 - 1), st.floats(0.5, 4), st.sampled_from([0.0, 0.5, 1.0])
)
@settings(deadline=None, max_examples=20)
def test_losses_are_the_equations(name: str, batch: int, m: int, seed: int, temperature: float, beta: float) -> None:
    outputs, labels = outputs_of(name, batch, m, seed)
    got = classifier_objective(name).loss(
        outputs, labels, m, build_loss("ce", COUNTS), temperature=temperature, beta=beta
    )
    assert float(got) == pytest.approx(by_hand(name, outputs, labels, m, temperature, beta), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", ["ce", "focal", "ldam", "balanced-softmax", "logit-adjusted"])
@pytest.mark.parametrize("name", sorted(CLASSIFIER_OBJECTIVES))
def test_every_objective_takes_every_loss_with_weights(name: str, loss: str) -> None:
    outputs, labels = outputs_of(name, 4, 4)
    outputs = {layer: (value.tanh() if loss == "ldam" else value).requires_grad_() for layer, value in outputs.items()}
    weights = class_weights("effective", COUNTS)
    built = build_loss(loss, COUNTS)
    got = classifier_objective(name).loss(outputs, labels, 4, built, weights=weights)
    got.backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in outputs.values())
    if name in ("sla", "baseline", "da"):
        layer = "joint" if name == "sla" else "classes"
        copies = 1 if name == "baseline" else 4
        rows = labels.repeat_interleave(copies)
        own = built.joint(4) if name == "sla" else built
        target = rows * 4 + torch.arange(4).repeat(4) if name == "sla" else rows
        each = own(outputs[layer].detach(), target)
        torch.testing.assert_close(got.detach(), (weights[rows] * each).sum() / weights[rows].sum())


def test_the_sum_over_transformations_leaves_the_student_alone() -> None:
    outputs, labels = outputs_of("sla+sd", 3, 4)
    loss = build_loss("ce", COUNTS)
    sd, sla = classifier_objective("sla+sd"), classifier_objective("sla")
    joint = {"joint": outputs["joint"]}
    student = sd.loss(outputs, labels, 4, loss) - sla.loss(joint, labels, 4, loss)
    summed = sd.loss(outputs, labels, 4, loss, reduction="sum")
    torch.testing.assert_close(summed, 4 * sla.loss(joint, labels, 4, loss) + student)


def test_the_teacher_gets_no_gradient_from_its_student() -> None:
    outputs, labels = outputs_of("sla+sd", 3, 4)
    loss = build_loss("ce", COUNTS)
    gradients = []
    for name in ("sla", "sla+sd"):
        leaves = {layer: value.clone().requires_grad_() for layer, value in outputs.items()}
        classifier_objective(name).loss(leaves, labels, 4, loss).backward()
        gradients.append(leaves["joint"].grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_student_sees_plain_images_only() -> None:
    outputs, labels = outputs_of("sla+sd", 3, 4)
    outputs["student"].requires_grad_()
    classifier_objective("sla+sd").loss(outputs, labels, 4, build_loss("ce", COUNTS)).backward()
    gradient = outputs["student"].grad
    assert gradient is not None
    touched = gradient.abs().sum(1) > 0
    assert touched.tolist() == [row % 4 == 0 for row in range(12)]


@pytest.mark.parametrize("name", sorted(CLASSIFIER_OBJECTIVES))
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=20)
def test_predictors_are_the_loops(name: str, batch: int, m: int, seed: int) -> None:
    objective = classifier_objective(name)
    generator = torch.Generator().manual_seed(seed)
    outputs = {
        layer: torch.randn((batch * m, width), generator=generator, dtype=torch.float64)
        for layer, width in objective.layers(3, m).items()
    }
    got = objective.predictors(outputs, m)
    assert sorted(got) == sorted(["single", "aggregated"] + (["distilled"] if name == "sla+sd" else []))
    for b in range(batch):
        for i in range(3):
            if objective.joint:
                views = [float(outputs["joint"][b * m + j, i * m + j]) for j in range(m)]
            else:
                views = [float(outputs["classes"][b * m + j, i]) for j in range(m)]
            assert float(got["single"][b, i]) == pytest.approx(views[0])
            assert float(got["aggregated"][b, i]) == pytest.approx(sum(views) / m)
            if "distilled" in got:
                assert float(got["distilled"][b, i]) == float(outputs["student"][b * m, i])


def test_what_does_not_fit_is_named() -> None:
    outputs, labels = outputs_of("sla", 3, 4)
    loss = build_loss("ce", COUNTS)
    with pytest.raises(UsageError, match="gave 12 rows for 2 images in 4 copies"):
        classifier_objective("sla").loss(outputs, labels[:2], 4, loss)
    with pytest.raises(UsageError, match="reduction 'max'"):
        classifier_objective("sla").loss(outputs, labels, 4, loss, reduction="max")
    with pytest.raises(UsageError, match=r"did you mean 'sla\+sd'"):
        classifier_objective("sla-sd")


def test_cosine_layers_give_cosines() -> None:
    with fork_for_init(0, "test"):
        layer = CosineLayer(5, 7)
        features = torch.randn(4, 5)
    got = layer(features * 100)
    expected = torch.nn.functional.cosine_similarity(features[:, None], layer.weight[None], dim=-1)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(7))


@pytest.mark.parametrize("cosine", [False, True])
def test_a_classifier_has_the_layers_of_its_objective(cosine: bool) -> None:
    for name in CLASSIFIER_OBJECTIVES:
        layers = classifier_objective(name).layers(10, 4)
        with fork_for_init(0, "test"):
            learner = Classifier(resnet20(32), layers, cosine)
        outputs = learner.outputs(learner.embed(torch.zeros(2, 3, 32, 32)))
        assert {layer: value.shape for layer, value in outputs.items()} == {
            layer: (2, width) for layer, width in layers.items()
        }
        kinds = {layer: isinstance(part, CosineLayer) for layer, part in learner.layers.items()}
        assert kinds == {layer: cosine and layer != "transforms" for layer in layers}
