"""MAML and ANIL against gradients by hand, learn2learn's example loops, and the invariances of inductive evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("learn2learn", reason="learn2learn could not be installed here: scripts/install_learn2learn.sh")

import learn2learn as l2l

from slabench.backbones import Backbone
from slabench.backbones.fewshot import Conv4
from slabench.core.seeding import fork_for_init
from slabench.learners.maml import AdaptedLearner, EpisodeNorm, Inner, _Reference, adapted_logits

CPU = torch.device("cpu")
PIXELS = 3 * 4 * 4


class Tiny(Backbone):
    """Features F = X W^T of images of 4 x 4 pixels."""

    feature_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(PIXELS, self.feature_dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def tiny_learner(n: int = 3, stride: int = 1, inner: Inner | None = None) -> AdaptedLearner:
    with fork_for_init(0, "tiny"):
        learner = AdaptedLearner(Tiny(), n, stride, inner or Inner(1, 0.5), running=True)
        nn.init.normal_(learner.layer.bias)
    return learner


def data(n: int = 3, shots: int = 4, queries: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dice = torch.Generator().manual_seed(7)
    labels = torch.arange(n)
    support = torch.randn(n * shots, 3, 4, 4, generator=dice)
    query = torch.randn(n * queries, 3, 4, 4, generator=dice)
    return support, labels.repeat_interleave(shots), query, labels.repeat_interleave(queries)


def by_hand(
    learner: AdaptedLearner, episode: tuple[Tensor, ...], inner: Inner, whole: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Query logits, loss and its gradient in (W, V, b), in float64, with the inner gradients of softmax regression written out.

    Of L = CE(F V^T + b) with F = X W^T: E = (softmax - Y)/S, dV = E^T F, db = 1^T E, dW = (E V)^T X.
    """
    support, labels, query, truth = episode
    x, q = support.flatten(1).double(), query.flatten(1).double()
    y = functional.one_hot(labels).double()
    start = [
        weight.detach().double().requires_grad_()
        for weight in (learner.backbone.linear.weight, learner.layer.weight, learner.layer.bias)
    ]
    w, v, b = start
    for _ in range(inner.steps):
        features = x @ w.T
        error = ((features @ v.T + b).softmax(1) - y) / len(x)
        inner_gradients = [(error @ v).T @ x, error.T @ features, error.sum(0)]
        if inner.first_order:
            inner_gradients = [gradient.detach() for gradient in inner_gradients]
        w = w - inner.lr * inner_gradients[0] if whole else w
        v, b = v - inner.lr * inner_gradients[1], b - inner.lr * inner_gradients[2]
    logits = q @ w.T @ v.T + b
    loss = functional.cross_entropy(logits, truth)
    return logits.detach(), loss.detach(), list(torch.autograd.grad(loss, start))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_inner_loop_and_the_outer_gradient_by_hand(whole: bool, first_order: bool, steps: int) -> None:
    learner, episode, inner = tiny_learner(), data(), Inner(steps, 0.5, first_order)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    logits = adapted_logits(learner, *episode[:3], inner, whole)
    loss = functional.cross_entropy(logits, episode[3])
    loss.backward()
    expected_logits, expected_loss, gradients = by_hand(learner, episode, inner, whole)
    torch.testing.assert_close(logits.double(), expected_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-5, atol=1e-6)
    found = (learner.backbone.linear.weight.grad, learner.layer.weight.grad, learner.layer.bias.grad)
    for own, theirs in zip(found, gradients, strict=True):
        assert own is not None
        torch.testing.assert_close(own.double(), theirs, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())


def test_second_order_is_not_first_order() -> None:
    """The two gradients that the test above tells apart do differ."""
    learner, episode = tiny_learner(), data()
    second = by_hand(learner, episode, Inner(1, 0.5), True)[2][0]
    first = by_hand(learner, episode, Inner(1, 0.5, True), True)[2][0]
    assert (second - first).norm() > 0.05 * second.norm()


def test_anil_adapts_the_layer_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted: list[nn.Module] = []
    original = l2l.algorithms.MAML.adapt
    monkeypatch.setattr(
        l2l.algorithms.MAML, "adapt", lambda self, loss: (original(self, loss), adapted.append(self.module))[0]
    )
    learner, (support, labels, query, _) = tiny_learner(), data()
    logits = adapted_logits(learner, support, labels, query, Inner(2, 0.5), whole=False)
    assert len(adapted) == 2
    assert all(isinstance(module, nn.Linear) for module in adapted)
    # What the adapted layer says of features of the untouched backbone is what came out.
    torch.testing.assert_close(adapted[-1](learner.embed(query)), logits)
    assert not torch.equal(adapted[-1].weight, learner.layer.weight)


@pytest.mark.parametrize(("n", "stride", "classes"), [(5, 1, 5), (12, 4, 12), (12, 4, 3)])
def test_the_batched_layer_is_learn2learn_s_loop(n: int, stride: int, classes: int) -> None:
    """12 outputs of 3 classes under 4 transformations; 3 of them, the plain ones, serve the predictor `single`."""
    inner = Inner(6, 0.3)
    learner = tiny_learner(n, stride, inner)
    dice = torch.Generator().manual_seed(1)
    support, query = (torch.randn(4, classes * k, 6, generator=dice) for k in (3, 5))
    labels = torch.arange(classes).repeat_interleave(3)
    found = learner.logits(support, labels.expand(4, -1), query, classes)
    for e in range(4):
        clone = l2l.algorithms.MAML(learner.layer, lr=inner.lr).clone()
        columns = torch.arange(0, n, n // classes)
        for _ in range(inner.steps):
            clone.adapt(functional.cross_entropy(clone(support[e])[:, columns], labels))
        torch.testing.assert_close(found[e], clone(query[e])[:, columns], rtol=1e-4, atol=1e-5)


def examples_loop(
    learner: Any, features: nn.Module, task: tuple[Tensor, Tensor], steps: int, shots: int, ways: int
) -> Tensor:
    """What learn2learn's examples do with a task: every second row is a support; loss of the others after adaptation."""
    images, labels = task
    embedded = features(images)
    is_support = np.zeros(len(images), dtype=bool)
    is_support[np.arange(shots * ways) * 2] = True
    for _ in range(steps):
        learner.adapt(functional.cross_entropy(learner(embedded[is_support]), labels[is_support]))
    return functional.cross_entropy(learner(embedded[~is_support]), labels[~is_support])


@pytest.mark.parametrize("whole", [True, False])
def test_as_learn2learn_s_examples(whole: bool) -> None:
    """`maml_miniimagenet.py` and `anil_fc100.py`, with batch norm as there, give the same loss and the same gradient."""
    from learn2learn.vision.models import CNN4Backbone

    from slabench.backbones.learn2learn import CNN4

    ways, shots, steps, lr = 3, 2, 2, 0.1
    with fork_for_init(0, "example"):
        ours = AdaptedLearner(CNN4(32), ways, 1, Inner(1, lr), running=False)
        theirs = nn.Sequential(CNN4Backbone(hidden_size=64, channels=3, max_pool=True), nn.Linear(256, ways))
        pictures = torch.randn(2 * ways * shots, 3, 32, 32)
    weights = {name.removeprefix("backbone.net."): value for name, value in ours.state_dict().items()}
    missing = theirs[0].load_state_dict({k: v for k, v in weights.items() if not k.startswith("layer.")}, strict=False)
    assert all("running" in name or "tracked" in name for name in missing.missing_keys)
    theirs[1].load_state_dict({"weight": weights["layer.weight"], "bias": weights["layer.bias"]})
    labels = torch.arange(ways).repeat_interleave(2 * shots)
    if whole:
        learner = l2l.algorithms.MAML(theirs, lr=lr).clone()
        loss = examples_loop(learner, nn.Identity(), (pictures, labels), steps, shots, ways)
    else:
        learner = l2l.algorithms.MAML(theirs[1], lr=lr).clone()
        loss = examples_loop(learner, theirs[0], (pictures, labels), steps, shots, ways)
    loss.backward()

    inner = Inner(steps, lr, support_statistics=False)
    logits = adapted_logits(ours, pictures[::2], labels[::2], pictures[1::2], inner, whole)
    own_loss = functional.cross_entropy(logits, labels[1::2])
    own_loss.backward()
    torch.testing.assert_close(own_loss, loss, rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        scale = float(other.grad.norm()) or 1.0
        if scale > 1e-4:  # a bias before a batch norm has no gradient but rounding
            assert float((mine.grad - other.grad).norm()) < 2e-3 * scale


def test_the_norm_takes_statistics_of_the_supports_alone() -> None:
    """In one pass, as torch's own layer gives in two: from the supports in training mode, then with these for the queries."""
    own = nn.BatchNorm2d(5, momentum=1.0)
    reference = _Reference()
    dice = torch.Generator().manual_seed(0)
    own.weight.data, own.bias.data = torch.rand(5, generator=dice), torch.rand(5, generator=dice)
    norm = EpisodeNorm(own, reference)
    support, query = torch.randn(6, 5, 3, 3, generator=dice), 2 + torch.randn(8, 5, 3, 3, generator=dice)
    expected_support = own.train()(support)
    own.running_var.mul_((6 * 9 - 1) / (6 * 9))  # torch keeps the unbiased variance and normalises by the biased one
    expected_query = own.eval()(query)
    reference.rows = len(support)
    found = norm(torch.cat([support, query]))
    torch.testing.assert_close(found, torch.cat([expected_support, expected_query]), rtol=1e-5, atol=1e-5)
    reference.rows = None
    torch.testing.assert_close(norm(query), own.train()(query))


def conv_learner(running: bool) -> AdaptedLearner:
    with fork_for_init(0, "conv"):
        return AdaptedLearner(Conv4(16, width=8), 3, 1, Inner(2, 0.1), running)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("statistics", "depends"), [("support", False), ("running", False), ("batch", True)])
def test_only_batch_statistics_let_queries_see_each_other(whole: bool, statistics: str, depends: bool) -> None:
    learner = conv_learner(statistics == "running").eval()
    inner = Inner(2, 0.1, True, statistics == "support")
    dice = torch.Generator().manual_seed(3)
    support, query = torch.randn(6, 3, 16, 16, generator=dice), torch.randn(9, 3, 16, 16, generator=dice)
    labels = torch.arange(3).repeat_interleave(2)
    full = adapted_logits(learner, support, labels, query, inner, whole)
    part = adapted_logits(learner, support, labels, query[[4, 0]], inner, whole)
    assert torch.allclose(full[[4, 0]], part, atol=1e-4) is not depends
