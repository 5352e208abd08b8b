"""Baseline++ against torch's own weight normalisation and SGD, and the revision that keeps its records apart from older ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from episode_tensors import episodes
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from slabench.core.errors import UsageError
from slabench.core.seeding import torch_generator
from slabench.heads.baseline_plus_plus import baseline_plus_plus_logits
from slabench.heads.metric import cosine_fitted_logits
from slabench.recipes import load_recipe, parse_recipe
from slabench.records.reading import read_record

RUNS = Path(__file__).parents[1] / "results" / "runs" / "fewshot"


def by_hand(support: Tensor, labels: Tensor, query: Tensor, n: int, epochs: int) -> Tensor:
    """One episode: `distLinear` under torch's weight_norm, CrossEntropyLoss, SGD(0.01, 0.9, 0.9, 0.001), batches of four."""
    samples, dim = support.shape
    x, q = (t / (t.norm(dim=1, keepdim=True) + 1e-5) for t in (support, query))
    generator = torch_generator(0, "baseline-plus-plus", n, samples, dim)
    direction = torch.randn(dim, generator=generator, dtype=torch.float64)
    first = (2 * torch.rand((n, dim), generator=generator, dtype=torch.float64) - 1) / math.sqrt(dim)
    # The class whose mean lies lowest along the direction gets the first vector, and so on.
    heights = [float(x[labels == c].mean(0) @ direction) for c in range(n)]
    layer = nn.Linear(dim, n, bias=False, dtype=torch.float64)
    with torch.no_grad():
        for vector, c in zip(first, sorted(range(n), key=lambda c: heights[c]), strict=True):
            layer.weight[c] = vector
    layer = weight_norm(layer, "weight", dim=0)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
    ranked = sorted(range(samples), key=lambda i: float(x[i] @ direction))
    for _ in range(epochs):
        drawn = [ranked[i] for i in torch.randperm(samples, generator=generator).tolist()]
        for start in range(0, samples, 4):
            rows = drawn[start : start + 4]
            optimiser.zero_grad()
            functional.cross_entropy(2 * layer(x[rows]), labels[rows]).backward()
            optimiser.step()
    return 2 * layer(q).detach()


@pytest.mark.parametrize("counts", [[1] * 5, [3, 2, 4]])
def test_it_is_weight_normalisation_under_torchs_sgd(counts: list[int]) -> None:
    support, labels, query = episodes("weight norm", counts, 16)
    got = baseline_plus_plus_logits(support, labels, query, len(counts), epochs=30)
    for b in range(2):
        expected = by_hand(support[b], labels[b], query[b], len(counts), 30)
        torch.testing.assert_close(got[b], expected, rtol=1e-8, atol=1e-10)


def test_with_one_shot_it_is_another_method_than_the_fitted_cosine_layer() -> None:
    """200 steps of 0.01 hardly leave the random start, where the other begins at the supports themselves (docs/parity.md)."""
    support, labels, query = episodes("one shot", [1] * 5, 64, batch=300, queries=15, spread=4.0)
    truth = cosine_fitted_logits(support, labels, query, 5).argmax(-1)
    theirs = baseline_plus_plus_logits(support, labels, query, 5)
    assert 0.3 < float(theirs.argmax(-1).eq(truth).double().mean()) < 0.95
    # The length is learned: cosines of vectors of length one would be within -2 .. 2 and none of them short.
    at_first = baseline_plus_plus_logits(support, labels, support, 5, epochs=0)
    assert float(at_first.abs().max()) < 2 / math.sqrt(3) * 1.2


@pytest.mark.parametrize("setting", [{"epochs": -1}, {"batch": 0}, {"lr": 0.0}, {"scale": -2.0}, {"lr": math.nan}])
def test_it_refuses(setting: dict[str, Any]) -> None:
    support, labels, query = episodes("refused", [1, 1], 4)
    with pytest.raises(UsageError, match="must be positive"):
        baseline_plus_plus_logits(support, labels, query, 2, **setting)


def test_a_recipe_says_which_revision_it_means() -> None:
    (recipe,) = load_recipe("fewshot/standard", {"model.head": "baseline-plus-plus"})
    assert recipe.resolved()["model"]["head_revision"] == 2
    assert parse_recipe({"name": "kept", **recipe.resolved()}).digest == recipe.digest
    (other,) = load_recipe("fewshot/standard", {"model.head": "cosine-fitted"})
    assert "head_revision" not in other.resolved()["model"]
    with pytest.raises(UsageError, match="is at revision 2 here"):
        load_recipe("fewshot/standard", {"model.head": "baseline-plus-plus", "model.head_revision": 1})


def test_records_of_the_first_revision_are_of_the_head_that_it_was() -> None:
    models = {path: json.loads(path.read_text(encoding="utf-8"))["recipe"]["model"] for path in RUNS.rglob("*.json")}
    found = [path for path, m in models.items() if m["head"] == "baseline-plus-plus" and "head_revision" not in m]
    assert len(found) == 62  # there will be no more of them: records made since say their revision
    for path in found[::20]:
        record = read_record(path)
        assert record.setting("model", "head") == "cosine-fitted"
        assert (record.derived or {})["head"] == "cosine-fitted"
        assert record.key == json.loads(path.read_text())["key"]
