"""Cosine heads against scikit-learn, torch's own layers and optimiser, and the papers' equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from episode_tensors import episodes
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize
from torch import nn
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads.metric import (
    INITIAL_SCALE,
    SIMPLESHOT,
    MatchingModule,
    RelationModule,
    cosine_fitted_logits,
    cosine_logits,
    matching_logits,
    simpleshot_logits,
)


def test_cosines_are_scikit_learns() -> None:
    support, labels, query = episodes("cosine", [3, 1, 2], 10)
    got = cosine_logits(support, labels, query, 3)
    for b in range(2):
        means = np.stack([support[b][labels[b] == c].numpy().mean(0) for c in range(3)])
        np.testing.assert_allclose(got[b].numpy(), cosine_similarity(query[b].numpy(), means), rtol=1e-10)


def test_simpleshot_predicts_what_scikit_learns_nearest_centroid_does_on_unit_vectors() -> None:
    support, labels, query = episodes("simpleshot", [4, 2, 3, 5], 12, batch=4, queries=40)
    got = simpleshot_logits(support, labels, query, 4).argmax(-1)
    for b in range(4):
        reference = NearestCentroid().fit(normalize(support[b].numpy()), labels[b].numpy())
        np.testing.assert_array_equal(got[b].numpy(), reference.predict(normalize(query[b].numpy())))
    assert SIMPLESHOT.centred


def test_the_fitted_cosine_layer_is_torchs_sgd_on_the_same_layer() -> None:
    """The closed-form gradients of all episodes at once, against autograd and torch.optim.SGD on one."""
    support, labels, query = episodes("baseline++", [3, 2, 4], 16, batch=2)
    got = cosine_fitted_logits(support, labels, query, 3, steps=25, lr=0.3, weight_decay=0.01, scale=5.0)
    for b in range(2):
        x = functional.normalize(support[b], dim=-1)
        means = torch.stack([x[labels[b] == c].mean(0) for c in range(3)])
        weight = nn.Parameter(functional.normalize(means, dim=-1))
        optimiser = torch.optim.SGD([weight], lr=0.3, momentum=0.9, dampening=0.9, weight_decay=0.01)
        for _ in range(25):
            optimiser.zero_grad()
            logits = 5.0 * functional.cosine_similarity(x.unsqueeze(1), weight.unsqueeze(0), dim=-1)
            functional.cross_entropy(logits, labels[b]).backward()
            optimiser.step()
        expected = 5.0 * functional.cosine_similarity(query[b].unsqueeze(1), weight.unsqueeze(0), dim=-1)
        torch.testing.assert_close(got[b], expected.detach(), rtol=1e-8, atol=1e-10)


def test_the_fitted_cosine_layer_fits_its_supports() -> None:
    support, labels, _ = episodes("fit", [5] * 5, 64, batch=4)
    losses = [
        float(functional.cross_entropy(cosine_fitted_logits(support, labels, support, 5, steps=n).mT, labels))
        for n in (0, 10, 100)
    ]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("setting", [{"steps": -1}, {"lr": 0.0}, {"scale": -2.0}, {"lr": math.nan}])
def test_the_fitted_cosine_layer_refuses(setting: dict[str, float]) -> None:
    support, labels, query = episodes("refused", [1, 1], 4)
    with pytest.raises(UsageError, match="positive"):
        cosine_fitted_logits(support, labels, query, 2, **setting)  # type: ignore[arg-type]


@pytest.mark.parametrize("counts", [[3, 3, 3], [3, 1, 2]])
def test_matching_is_the_papers_attention(counts: list[int]) -> None:
    """Softmax over the supports of the cosines, summed by class (eq. 1 and 2)."""
    support, labels, query = episodes("matching", counts, 8)
    got = matching_logits(support, labels, query, 3, scale=4.0).softmax(-1)
    for b in range(2):
        attention = torch.softmax(4.0 * torch.from_numpy(cosine_similarity(query[b].numpy(), support[b].numpy())), -1)
        expected = attention @ functional.one_hot(labels[b], 3).double()
        torch.testing.assert_close(got[b], expected)


def test_matching_gives_a_class_without_supports_no_attention() -> None:
    support, labels, query = episodes("absent", [2, 2], 8)
    logits = matching_logits(support, labels * 2, query, 3)
    assert bool((logits[..., 1] == -math.inf).all())
    assert bool(torch.isfinite(logits[..., [0, 2]]).all())


def test_the_scale_of_matching_is_learned() -> None:
    support, labels, query = episodes("scale", [2, 2], 8)
    module = MatchingModule(8).double()
    torch.testing.assert_close(
        module(support, labels, query, 2), matching_logits(support, labels, query, 2, INITIAL_SCALE)
    )
    module(support, labels, query, 2).square().sum().backward()
    assert module.log_scale.grad is not None
    assert float(module.log_scale.grad) != 0


def test_relation_scores_are_two_layers_on_pairs() -> None:
    """Against one nn.Sequential on the concatenation of class mean and query, pair by pair."""
    support, labels, query = episodes("relation", [3, 1, 2], 6)
    module = RelationModule(6, hidden=11).double()
    pair = nn.Sequential(nn.Linear(12, 11), nn.ReLU(), nn.Linear(11, 1)).double()
    with torch.no_grad():
        pair[0].weight.copy_(torch.cat([module.support.weight, module.query.weight], 1))
        pair[0].bias.copy_(module.support.bias)
        pair[2].load_state_dict(module.score.state_dict())
    got = module(support, labels, query, 3)
    for b in range(2):
        for n in range(3):
            mean = support[b][labels[b] == n].mean(0)
            expected = torch.stack([pair(torch.cat([mean, q]))[0] for q in query[b]])
            torch.testing.assert_close(got[b, :, n], expected)


def test_relation_learns_to_compare() -> None:
    """From chance to nearly all of fresh episodes: the module can learn what it is for."""
    module = RelationModule(8)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)

    def batch(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        support, labels, _ = episodes(name, [2] * 3, 8, batch=64, spread=0.3)
        return support[:, ::2].float(), labels[:, ::2], support[:, 1::2].float()

    def queries(name: str) -> torch.Tensor:
        return episodes(name, [2] * 3, 8, batch=64, spread=0.3)[1][:, 1::2]

    for step in range(150):
        support, labels, query = batch(f"train {step}")
        loss = functional.cross_entropy(module(support, labels, query, 3).mT, queries(f"train {step}"))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    support, labels, query = batch("test")
    known = (
        functional.one_hot(labels, 3).sum(1).gt(0).gather(1, queries("test"))
    )  # the class of the query has a support
    right = module(support, labels, query, 3).argmax(-1).eq(queries("test"))
    assert float(right[known].double().mean()) > 0.8
