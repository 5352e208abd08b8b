"""A head that looks at other queries is found out by `run` and `score`, which record what they have measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_recipes import tiny_fewshot
from torch import Tensor

from slabench import runner
from slabench.core.registry import HEADS
from slabench.core.seeding import torch_generator
from slabench.heads import Head
from slabench.heads.apart import query_gap
from slabench.suites.fewshot.score_heads import score_heads

pytestmark = pytest.mark.usefixtures("registries")


def plain(support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    means = torch.stack(
        [support[labels == c].view(len(support), -1, support.shape[-1]).mean(1) for c in range(n_classes)], 1
    )
    return -(query.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1)


def centred(support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """By the mean of the queries, as many transductive methods begin."""
    return plain(support - support.mean(1, keepdim=True), labels, query - query.mean(1, keepdim=True), n_classes)


def by_place(support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """Frozen episodes have their queries class by class: the place gives the class away."""
    logits = plain(support, labels, query, n_classes)
    place = torch.arange(query.shape[1]) * n_classes // query.shape[1]
    return logits + 100 * torch.nn.functional.one_hot(place, n_classes)


def after_the_first(support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """Each query with the one before it: the first of all is like one alone."""
    before = torch.cat([query[:, :1], query[:, :-1]], 1)
    return plain(support, labels, (query + before) / 2, n_classes)


def shared_summand(support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """Something of the other queries that all classes share: it changes no decision, and no probability."""
    return plain(support, labels, query, n_classes) + query.mean((1, 2), keepdim=True)


@pytest.mark.parametrize(
    ("head", "looks"),
    [(plain, False), (shared_summand, False), (centred, True), (by_place, True), (after_the_first, True)],
)
def test_the_gap_of_heads_by_hand(head: object, looks: bool) -> None:
    generator = torch_generator(0, "gap")
    support, query = (torch.randn(2, n, 16, generator=generator).abs() for n in (10, 15))
    labels = torch.arange(5).repeat_interleave(2).expand(2, -1)
    gap = query_gap(head, support, labels, query, 5)  # type: ignore[arg-type]
    assert (gap > 1e-3) == looks
    assert looks or gap < 1e-5


@pytest.mark.parametrize("name", [name for name in HEADS.names() if HEADS.get(name).module is None])
def test_no_head_of_slabench_is_taken_for_transductive(name: str) -> None:
    """In float32, on features of another scale, solvers with a tolerance among them."""
    generator = torch_generator(0, "own", name)
    means = 3 * torch.randn(3, 5, 32, generator=generator).abs()
    support = means.repeat_interleave(5, 1) + torch.randn(3, 25, 32, generator=generator).abs()
    query = means.repeat_interleave(15, 1) + torch.randn(3, 75, 32, generator=generator).abs()
    labels = torch.arange(5).repeat_interleave(5).expand(3, -1)
    logits = HEADS.get(name).logits
    assert query_gap(logits, support, labels, query, 5) < 3e-4


@pytest.mark.usefixtures("glyphs", "narrow_conv4")
def test_run_and_score_record_what_they_measure(tmp_path: Path) -> None:
    for name, function in (("sees", centred), ("places", by_place), ("plain", plain)):
        HEADS.add(name, Head(name, function, decomposes=False), "x")
    records = {}
    for name in ("places", "protonet"):
        recipe = tiny_fewshot(
            model__head=name, train__steps=1, select__points=0, protocol__queries=4, protocol__episodes=5
        )
        (outcome,) = runner.run(recipe, [0], results=tmp_path)
        records[name] = outcome.record
    assert records["places"] is not None
    assert records["protonet"] is not None
    assert records["places"].transductive
    assert not records["protonet"].transductive
    scoring = score_heads(records["protonet"].key[:12], ["sees", "plain"], results=tmp_path, predictors=["single"])
    assert {result.head: result.record.transductive for result in scoring.results} == {"sees": True, "plain": False}
