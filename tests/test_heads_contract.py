"""What every registered head keeps, whatever its mathematics: the contract of `slabench.heads`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from episode_tensors import episodes
from torch import Tensor

from slabench.backbones.fewshot import conv4
from slabench.core.registry import HEADS
from slabench.learners import with_head
from slabench.sla import joint_labels

Logits = Callable[[Tensor, Tensor, Tensor, int], Tensor]
NAMES = HEADS.names()
DIM = 64


def logits_of(name: str) -> Logits:
    """As a learner calls it, in float64, with the weights of a head that learns moved away from the start."""
    learner = with_head(conv4(16), HEADS.get(name), seed=0).double()
    assert learner.backbone.feature_dim == DIM
    return learner.logits


def relative(logits: Tensor) -> Tensor:
    """Without what all classes of a query share: neither softmax nor argmax sees it."""
    return logits - logits.mean(-1, keepdim=True)


@pytest.mark.parametrize("name", NAMES)
def test_shape_and_dtype(name: str) -> None:
    support, labels, query = episodes("shape", [3, 1, 2, 4], DIM, batch=3)
    logits = logits_of(name)(support, labels, query, 4)
    assert logits.shape == (3, 7, 4)
    assert logits.dtype == torch.float64
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name: str) -> None:
    support, labels, query = episodes("float32", [5] * 5, DIM)
    learner = with_head(conv4(16), HEADS.get(name), seed=0)
    single = learner.logits(support.float(), labels, query.float(), 5)
    assert single.dtype == torch.float32
    double = learner.double().logits(support, labels, query, 5)
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_episodes_and_queries_do_not_see_each_other(name: str) -> None:
    logits = logits_of(name)
    support, labels, query = episodes("alone", [2, 1, 3], DIM, batch=3)
    together = relative(logits(support, labels, query, 3))
    alone = [logits(support[b : b + 1], labels[b : b + 1], query[b : b + 1], 3) for b in range(3)]
    torch.testing.assert_close(relative(torch.cat(alone)), together, rtol=1e-6, atol=1e-7)
    if HEADS.get(name).transductive:
        return  # tests/test_transductive_heads.py: declared and measured agree
    one_by_one = [logits(support, labels, query[:, q : q + 1], 3) for q in range(query.shape[1])]
    torch.testing.assert_close(relative(torch.cat(one_by_one, 1)), together, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_classes_and_the_order_of_supports_do_not_matter(name: str) -> None:
    logits = logits_of(name)
    support, labels, query = episodes("names", [2, 1, 3], DIM)
    expected = relative(logits(support, labels, query, 3))
    names = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        relative(logits(support, names[labels], query, 3))[..., names], expected, rtol=1e-6, atol=1e-7
    )
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    torch.testing.assert_close(
        relative(logits(support[:, order], labels[:, order], query, 3)), expected, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    logits = logits_of(name)
    support, labels, query = episodes("gradient", [2, 1, 2], DIM, batch=1, queries=2)
    # In a plane of the features: 64 dimensions of finite differences would only take longer.
    basis = torch.linalg.qr(torch.randn((DIM, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    small = (support @ basis).requires_grad_()
    asked = (query @ basis).requires_grad_()
    offset = support - support @ basis @ basis.mT

    def f(s: Tensor, q: Tensor) -> Tensor:
        return relative(logits(s @ basis.mT + offset, labels, q @ basis.mT, 3))

    fast = HEADS.get(name).transductive  # many rounds: in one direction
    assert torch.autograd.gradcheck(f, (small, asked), atol=1e-6, rtol=1e-4, fast_mode=fast)


@pytest.mark.parametrize("name", NAMES)
def test_what_evaluation_assumes_of_decomposition_holds(name: str) -> None:
    """Another class's supports move no difference of the other classes' logits exactly where `decomposes` says so."""
    logits = logits_of(name)
    support, labels, query = episodes("decomposes", [3, 3, 3], DIM)
    changed = torch.where((labels == 2).unsqueeze(-1), support + 1, support)
    before, after = (logits(x, labels, query, 3) for x in (support, changed))
    same = torch.allclose(before[..., 0] - before[..., 1], after[..., 0] - after[..., 1], rtol=0, atol=1e-9)
    assert same == HEADS.get(name).decomposes


@pytest.mark.parametrize("name", NAMES)
def test_a_joint_episode_of_sla(name: str) -> None:
    """N*M classes, labels i*M + j, like any other episode."""
    support, labels, query = episodes("joint", [2] * 3, DIM)
    views = torch.stack([support, -support], 2).flatten(1, 2)  # copies interleaved
    joint = joint_labels(labels, 2).flatten(1)
    logits = logits_of(name)(views, joint, query, 6)
    assert logits.shape == (2, 7, 6)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", NAMES)
def test_well_separated_classes_are_told_apart(name: str) -> None:
    """All but the one that has to learn its comparison first."""
    support, labels, query = episodes("easy", [4] * 4, DIM, spread=0.05)
    query, truth = support, labels
    right = logits_of(name)(support, labels, query, 4).argmax(-1).eq(truth).double().mean()
    if HEADS.get(name).logits is None:
        assert 0 <= float(right) < 1
    else:
        assert float(right) == 1


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_the_global_generator_are_left_alone(name: str) -> None:
    support, labels, query = episodes("pure", [2, 2], DIM)
    copies = [x.clone() for x in (support, labels, query)]
    logits = logits_of(name)
    state = torch.random.get_rng_state()
    logits(support, labels, query, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    for before, now in zip(copies, (support, labels, query), strict=True):
        assert torch.equal(before, now)
