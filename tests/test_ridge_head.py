"""The ridge head against scikit-learn, R2D2's published equation in its primal form, and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.core.registry import HEADS
from slabench.core.seeding import torch_generator
from slabench.heads.metaoptnet import METAOPTNET_RR, R2D2Module, ridge_logits


def episodes(name: str, counts: list[int], dim: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Support, labels in any order, and query, float64."""
    g = torch_generator(0, f"ridge {name}")
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = torch.stack([labels[torch.randperm(len(labels), generator=g)] for _ in range(batch)])
    support = 3 * torch.randn((*labels.shape, dim), generator=g, dtype=torch.float64)
    return support, labels, 3 * torch.randn((batch, 7, dim), generator=g, dtype=torch.float64)


@given(
    seed=st.integers(0, 2**31 - 1),
    counts=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    dim=st.integers(1, 40),
    penalty=st.sampled_from([0.5, 50.0, 300.0]),
)
@settings(deadline=None, max_examples=50)
def test_logits_are_scikit_learns(seed: int, counts: list[int], dim: int, penalty: float) -> None:
    """More samples than features and fewer; balanced and not."""
    support, labels, query = episodes(f"sklearn {seed}", counts, dim)
    got = ridge_logits(support, labels, query, len(counts), penalty)
    for b in range(len(support)):
        model = Ridge(alpha=penalty, fit_intercept=False)
        model.fit(support[b].numpy(), functional.one_hot(labels[b], len(counts)).numpy().astype(float))
        expected = model.predict(query[b].numpy())
        np.testing.assert_allclose(got[b].numpy(), expected, rtol=1e-8, atol=1e-10)


def test_the_default_penalty_is_metaoptnets() -> None:
    support, labels, query = episodes("default", [5] * 5, 20, batch=1)
    model = Ridge(alpha=50.0, fit_intercept=False)
    model.fit(support[0].numpy(), functional.one_hot(labels[0]).numpy().astype(float))
    np.testing.assert_allclose(ridge_logits(support, labels, query, 5)[0], model.predict(query[0].numpy()), rtol=1e-9)


def test_float32_is_close_to_float64() -> None:
    support, labels, query = episodes("float32", [5] * 20, 256)
    got = ridge_logits(support.float(), labels, query.float(), 20)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), ridge_logits(support, labels, query, 20), rtol=0, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    support, labels, query = episodes("gradient", [2, 1, 3], 4)
    support.requires_grad_()
    query.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, q: ridge_logits(s, labels, q, 3), (support, query))


def test_invariances() -> None:
    """Episodes do not see each other; names of classes and the order of supports do not matter."""
    support, labels, query = episodes("invariant", [4, 1, 2, 3], 12, batch=3)
    logits = ridge_logits(support, labels, query, 4)
    alone = [ridge_logits(support[b : b + 1], labels[b : b + 1], query[b : b + 1], 4) for b in range(3)]
    torch.testing.assert_close(torch.cat(alone), logits)
    names = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(ridge_logits(support, names[labels], query, 4)[..., names], logits)
    order = torch.randperm(10, generator=torch_generator(0, "order"))
    torch.testing.assert_close(ridge_logits(support[:, order], labels[:, order], query, 4), logits)


def test_it_is_registered_as_a_joint_problem() -> None:
    """Not `decomposes`: another class's supports move every class's weights."""
    assert HEADS.get("metaoptnet-rr") is METAOPTNET_RR
    assert not METAOPTNET_RR.decomposes
    support, labels, query = episodes("joint", [3] * 3, 6)
    changed = support.clone()
    changed[labels == 2] += 1
    before, after = (ridge_logits(x, labels, query, 3) for x in (support, changed))
    assert not torch.allclose(before[..., :2], after[..., :2])


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
def test_the_penalty_is_positive(penalty: float) -> None:
    support, labels, query = episodes("refused", [2, 2], 4)
    with pytest.raises(UsageError, match="positive"):
        ridge_logits(support, labels, query, 2, penalty)


def test_r2d2_is_ridge_with_three_learned_numbers() -> None:
    """alpha W q + beta, lambda learned: against scikit-learn's Ridge at these values, and all but beta get a gradient."""
    support, labels, query = episodes("r2d2", [3] * 4, 10, batch=1)
    module = R2D2Module(10).double()
    assert module.log_penalty.exp().item() == pytest.approx(50.0)
    with torch.no_grad():
        module.log_penalty.fill_(np.log(7.0))
        module.alpha.fill_(2.5)
        module.beta.fill_(-0.5)
    got = module(support, labels, query, 4)
    model = Ridge(alpha=7.0, fit_intercept=False).fit(
        support[0].numpy(), functional.one_hot(labels[0]).numpy().astype(float)
    )
    np.testing.assert_allclose(got[0].detach().numpy(), 2.5 * model.predict(query[0].numpy()) - 0.5, rtol=1e-8)
    functional.cross_entropy(got[0], torch.arange(7) % 4).backward()
    assert float(module.log_penalty.grad.abs()) > 0
    assert float(module.alpha.grad.abs()) > 0
    assert float(module.beta.grad.abs()) < 1e-12


def test_the_learned_penalty_has_the_gradient_of_finite_differences() -> None:
    support, labels, query = episodes("penalty", [2, 1], 4)
    penalty = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: ridge_logits(support, labels, query, 2, p), (penalty,))
