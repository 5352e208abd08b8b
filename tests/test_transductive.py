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


@pytest.mark.usefixtures("glyphs")
def test_run_and_score_record_what_they_measure(tmp_path: Path) -> None:
    for name, function in (("sees", centred), ("places", by_place), ("plain", plain)):
        HEADS.add(name, Head(name, function, decomposes=False), "x")
    HEADS.add("says", Head("says", plain, decomposes=False, transductive=True), "x")  # what is declared counts, too
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
    scoring = score_heads(
        records["protonet"].key[:12], ["sees", "plain", "says"], results=tmp_path, predictors=["single"]
    )
    found = {result.head: result.record.transductive for result in scoring.results}
    assert found == {"sees": True, "plain": False, "says": True}
