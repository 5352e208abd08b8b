"""Prototypes against scikit-learn, a naive loop, and learn2learn's own class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from slabench.data.catalog import info
from slabench.heads.metric import PROTONET, class_means, prototype_logits
from slabench.learners import build_learner
from slabench.recipes.fewshot import Model


def episode(seed: int, batch: int, ways: int, shots: int, queries: int, dim: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    support = torch.randn((batch, ways * shots, dim), generator=generator, dtype=torch.float64)
    query = torch.randn((batch, ways * queries, dim), generator=generator, dtype=torch.float64)
    order = torch.stack([torch.randperm(ways * shots, generator=generator) for _ in range(batch)])
    labels = torch.arange(ways).repeat_interleave(shots)[order]  # supports in any order
    return support, labels, query


sizes = {
    "seed": st.integers(0, 2**31 - 1),
    "batch": st.integers(1, 3),
    "ways": st.integers(2, 6),
    "shots": st.integers(1, 4),
    "queries": st.integers(1, 3),
    "dim": st.integers(1, 9),
}


@given(**sizes)
@settings(deadline=None, max_examples=40)
def test_logits_are_the_naive_loop(seed: int, batch: int, ways: int, shots: int, queries: int, dim: int) -> None:
    support, labels, query = episode(seed, batch, ways, shots, queries, dim)
    got = prototype_logits(support, labels, query, ways)
    for b in range(batch):
        for n in range(ways):
            mean = support[b][labels[b] == n].numpy().mean(0)
            for q in range(ways * queries):
                distance = ((query[b, q].numpy() - mean) ** 2).sum()
                np.testing.assert_allclose(float(got[b, q, n]), -distance / dim, rtol=1e-9, atol=1e-12)


# scikit-learn also computes the spread within classes, which one-shot episodes have none of.
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")
@given(**sizes)
@settings(deadline=None, max_examples=40)
def test_predictions_and_prototypes_are_scikit_learns(
    seed: int, batch: int, ways: int, shots: int, queries: int, dim: int
) -> None:
    support, labels, query = episode(seed, batch, ways, shots, queries, dim)
    predicted = prototype_logits(support, labels, query, ways).argmax(-1)
    means = class_means(support, labels, ways)
    for b in range(batch):
        reference = NearestCentroid().fit(support[b].numpy(), labels[b].numpy())
        np.testing.assert_allclose(means[b].numpy(), reference.centroids_, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(predicted[b].numpy(), reference.predict(query[b].numpy()))


def test_unequal_shots() -> None:
    support = torch.tensor([[[0.0], [2.0], [4.0], [10.0]]])
    labels = torch.tensor([[0, 0, 0, 1]])
    assert class_means(support, labels, 2).tolist() == [[[2.0], [10.0]]]
    assert prototype_logits(support, labels, torch.tensor([[[3.0]]]), 2).tolist() == [[[-1.0, -49.0]]]


def test_learn2learn_agrees() -> None:
    pytest.importorskip("learn2learn", reason="learn2learn could not be installed here")
    from learn2learn.nn import PrototypicalClassifier

    support, labels, query = (x.float() if x.is_floating_point() else x for x in episode(0, 1, 5, 5, 15, 256))
    reference = PrototypicalClassifier(support=support[0], labels=labels[0], distance="euclidean", normalize=False)
    expected = reference(query[0]) / 256  # theirs is the plain squared distance
    torch.testing.assert_close(prototype_logits(support, labels, query, 5)[0], expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    support, labels, query = episode(1, 2, 3, 2, 1, 4)
    support.requires_grad_()
    query.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, q: prototype_logits(s, labels, q, 3), (support, query))


def test_episodes_of_a_batch_do_not_see_each_other() -> None:
    support, labels, query = episode(2, 3, 4, 2, 3, 5)
    together = prototype_logits(support, labels, query, 4)
    alone = torch.cat([prototype_logits(support[b : b + 1], labels[b : b + 1], query[b : b + 1], 4) for b in range(3)])
    torch.testing.assert_close(together, alone)


def test_what_evaluation_assumes_of_the_head_holds() -> None:
    """`decomposes`: the logit of a class depends on no support image of another class."""
    assert PROTONET.decomposes
    support, labels, query = episode(3, 1, 3, 2, 2, 4)
    before = prototype_logits(support, labels, query, 3)
    changed = support.clone()
    changed[labels == 2] += 5
    after = prototype_logits(changed, labels, query, 3)
    torch.testing.assert_close(after[..., :2], before[..., :2])
    assert not torch.allclose(after[..., 2], before[..., 2])


def test_the_scale_starts_at_one_and_is_learned() -> None:
    learner = build_learner(Model(), info("fc100"), 0)
    assert learner.scale.item() == 1.0
    support, labels, query = (x.float() if x.is_floating_point() else x for x in episode(4, 1, 5, 1, 1, 256))
    plain = prototype_logits(support, labels, query, 5)
    with torch.no_grad():
        learner.scale.fill_(2.5)
    torch.testing.assert_close(learner.logits(support, labels, query, 5), 2.5 * plain)
    learner.logits(support, labels, query, 5).sum().backward()
    assert learner.scale.grad is not None
    assert learner.scale.grad.item() == pytest.approx(float(plain.sum()), rel=1e-5)
