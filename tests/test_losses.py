"""Losses and weights against closed forms, torch's own functions, and the golden values of the published code."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slabench.core.errors import UsageError
from slabench.losses import BUILT_IN, LOSSES, REWEIGHTINGS, needs_cosine
from slabench.losses.loss import build_loss, class_weights, weighted_mean
from slabench.recipes.classifier import LossPart

CIFAR10_R100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
TOY = [100, 10, 1]


def batch(seed: int, classes: int, size: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((size, classes), generator=generator) * 3
    return logits, torch.randint(classes, (size,), generator=generator)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max())
    return e / e.sum()


def by_hand(name: str, z: np.ndarray, y: int, n: np.ndarray) -> float:
    """The loss of one sample in float64, written from the papers' equations."""
    if name == "ce":
        return -math.log(softmax(z)[y])
    if name == "focal":
        p = softmax(z)[y]
        return -((1 - p) ** 1.0) * math.log(p)
    if name == "ldam":
        margin = 0.5 * (n[y] ** -0.25) / (n.min() ** -0.25)
        shifted = z.copy()
        shifted[y] -= margin
        return -math.log(softmax(30 * shifted)[y])
    if name == "balanced-softmax":
        weighted = n * np.exp(z - z.max())
        return -math.log(weighted[y] / weighted.sum())
    p = n / n.sum()
    return -math.log(p[y] * math.exp(z[y] - z.max()) / (p * np.exp(z - z.max())).sum())


@pytest.mark.parametrize("name", sorted(LOSSES))
@given(st.integers(0, 2**31 - 1), st.lists(st.integers(1, 5000), min_size=2, max_size=8))
@settings(deadline=None, max_examples=30)
def test_losses_are_the_equations(name: str, seed: int, counts: list[int]) -> None:
    logits, labels = batch(seed, len(counts))
    if needs_cosine(name):
        logits = logits.tanh()  # cosines
    got = build_loss(name, counts)(logits, labels)
    n = np.array(counts, dtype=np.float64)
    for i, (z, y) in enumerate(zip(logits.double().numpy(), labels.tolist(), strict=True)):
        assert float(got[i]) == pytest.approx(by_hand(name, z, y, n), rel=1e-4, abs=1e-5)


def test_cross_entropy_is_torchs_with_smoothing() -> None:
    logits, labels = batch(0, 5)
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(build_loss("ce", [3] * 5, smoothing=0.1)(logits, labels), expected)


def test_focal_without_gamma_is_cross_entropy() -> None:
    logits, labels = batch(1, 4)
    torch.testing.assert_close(
        build_loss("focal", [1] * 4, gamma=0)(logits, labels), build_loss("ce", [1] * 4)(logits, labels)
    )


def test_margins_of_the_published_code() -> None:
    golden = [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5]
    margin = build_loss("ldam", CIFAR10_R100).margin
    assert margin is not None
    np.testing.assert_allclose(margin.numpy(), golden, atol=5e-5)


def test_balanced_softmax_is_logit_adjustment_at_tau_one() -> None:
    logits, labels = batch(2, 3)
    balanced, adjusted = build_loss("balanced-softmax", TOY), build_loss("logit-adjusted", TOY)
    torch.testing.assert_close(balanced(logits, labels), adjusted(logits, labels))
    none = build_loss("logit-adjusted", TOY, tau=0)
    torch.testing.assert_close(none(logits, labels), build_loss("ce", TOY)(logits, labels))


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("m", [1, 4])
def test_joint_classes_repeat_what_belongs_to_a_class(name: str, m: int) -> None:
    """Over i*M + j with n_(i,j) = n_i: the same as building the loss from the repeated counts."""
    logits, labels = batch(3, 3 * m)
    logits = logits.tanh() if name == "ldam" else logits
    joint = build_loss(name, TOY).joint(m)
    rebuilt = build_loss(name, [n for n in TOY for _ in range(m)])
    torch.testing.assert_close(joint(logits, labels), rebuilt(logits, labels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_finite_at_extreme_logits(name: str) -> None:
    logits = torch.tensor([[1.0, -1.0, 0.0]]) * (1 if name == "ldam" else 80)
    logits.requires_grad_()
    build_loss(name, TOY)(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits, labels = batch(4, 3)
    assert build_loss("ce", TOY)(logits.bfloat16(), labels).dtype == torch.float32


def test_effective_number_weights_of_the_published_code() -> None:
    golden = [0.0506, 0.0769, 0.1211, 0.1950, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]
    weights = class_weights("effective", CIFAR10_R100, 0.9999)
    np.testing.assert_allclose(weights.numpy(), golden, atol=5e-5)
    milder = class_weights("effective", CIFAR10_R100, 0.999)
    assert float(milder[0]) == pytest.approx(0.1812, abs=5e-5)
    assert float(milder[-1]) == pytest.approx(3.6883, abs=5e-5)
    assert float(milder.max() / milder.min()) == pytest.approx(20.4, abs=0.05)


@pytest.mark.parametrize("name", sorted(REWEIGHTINGS))
def test_weights_have_a_mean_of_one(name: str) -> None:
    weights = class_weights(name, CIFAR10_R100)
    assert float(weights.mean()) == pytest.approx(1, rel=1e-6)
    assert (weights.diff() >= 0).all()  # rarer classes never weigh less


def test_weights_in_closed_form() -> None:
    np.testing.assert_allclose(class_weights("inverse", [4, 1]).numpy(), [0.4, 1.6], rtol=1e-6)
    np.testing.assert_allclose(class_weights("sqrt-inverse", [4, 1]).numpy(), [2 / 3, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(class_weights("effective", [4, 1], beta=0.0).numpy(), [1, 1])
    # beta near 1 tends to 1 / n.
    np.testing.assert_allclose(
        class_weights("effective", [4, 1], beta=1 - 1e-12).numpy(), class_weights("inverse", [4, 1]).numpy(), rtol=1e-5
    )


def test_the_weighted_mean_is_torchs() -> None:
    logits, labels = batch(5, 3, 20)
    weights = class_weights("inverse", TOY)
    expected = torch.nn.functional.cross_entropy(logits, labels, weight=weights)
    torch.testing.assert_close(weighted_mean(build_loss("ce", TOY)(logits, labels), labels, weights), expected)
    plain = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(weighted_mean(build_loss("ce", TOY)(logits, labels), labels, None), plain)


def test_what_makes_no_sense_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'balanced-softmax'"):
        build_loss("balanced_softmax", TOY)
    with pytest.raises(UsageError, match="class 1 has 0 training images"):
        build_loss("ce", [3, 0])
    with pytest.raises(UsageError, match="gamma -1"):
        build_loss("focal", TOY, gamma=-1)
    with pytest.raises(UsageError, match="max margin 0"):
        build_loss("ldam", TOY, max_margin=0)
    with pytest.raises(UsageError, match="beta 1"):
        class_weights("effective", TOY, beta=1)
    with pytest.raises(UsageError, match="unknown re-weighting 'inv'"):
        class_weights("inv", TOY)
    with pytest.raises(UsageError, match=r"built for 3 classes and got logits \[2, 12\]"):
        build_loss("ce", TOY)(torch.zeros(2, 12), torch.tensor([0, 1]))


def test_a_recipe_can_set_every_parameter_and_has_the_same_defaults() -> None:
    declared = {key: value for loss in BUILT_IN.values() for key, value in loss.parameters.items()}
    assert LossPart().parameters == {"smoothing": 0.0, **declared}
    for name in BUILT_IN:
        logits, labels = batch(0, len(TOY))
        from_recipe = build_loss(name, TOY, **LossPart(name=name).parameters)
        assert torch.equal(from_recipe(logits, labels), build_loss(name, TOY)(logits, labels))
        assert from_recipe.cosine == needs_cosine(name)
    with pytest.raises(UsageError, match="parameter of a loss 'gama'"):
        build_loss("focal", TOY, gama=2.0)


def test_what_a_loss_needs_is_known_without_torch() -> None:
    code = "import sys; from slabench.losses import needs_cosine; print(needs_cosine('ldam'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
