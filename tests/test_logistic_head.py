"""The logistic head against scikit-learn's solution of the same problem, and finite differences."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from episode_tensors import episodes
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads.logistic import LogisticConvergenceWarning, logistic_logits, logistic_solution


def sklearn_fit(x: np.ndarray, y: np.ndarray, C: float = 1.0) -> LogisticRegression:
    """Run to real convergence: at scikit-learn's own tolerance its coefficients are good to 1e-3."""
    return LogisticRegression(C=C, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(x, y)


@pytest.mark.parametrize(
    ("counts", "dim", "C"),
    [
        ([1] * 5, 64, 1.0),
        ([5] * 5, 64, 1.0),
        ([9, 5, 3, 1, 1], 40, 1.0),
        ([5] * 20, 64, 1.0),
        ([8] * 3, 6, 1.0),  # more supports than features
        ([5] * 5, 32, 100.0),
    ],
    ids=["1 shot", "5 shots", "unequal", "20 ways", "few features", "weak penalty"],
)
def test_weights_and_intercepts_are_scikit_learns(counts: list[int], dim: int, C: float) -> None:
    support, labels, _ = episodes("sklearn", counts, dim)
    found = logistic_solution(support, labels, len(counts), C, tolerance=1e-10)
    assert bool(found.converged.all())
    for b in range(2):
        model = sklearn_fit(support[b].numpy(), labels[b].numpy(), C)
        np.testing.assert_allclose(found.weights[b].numpy(), model.coef_, rtol=1e-5, atol=1e-6)
        # Intercepts are defined up to one constant.
        np.testing.assert_allclose(
            found.intercept[b].numpy(), model.intercept_ - model.intercept_.mean(), rtol=1e-5, atol=1e-5
        )


def test_logits_are_rfs() -> None:
    """Unit-length features, C = 1: the probabilities of scikit-learn's classifier, as the code of RFS calls it."""
    support, labels, query = episodes("rfs", [5] * 5, 64)
    got = logistic_logits(support, labels, query, 5).softmax(-1)
    for b in range(2):
        model = sklearn_fit(normalize(support[b].numpy()), labels[b].numpy())
        np.testing.assert_allclose(got[b].numpy(), model.predict_proba(normalize(query[b].numpy())), atol=1e-6)


def test_the_gradient_vanishes_at_the_solution() -> None:
    """By autograd on the objective as the docstring has it."""
    support, labels, _ = episodes("stationary", [3, 1, 4], 10)
    found = logistic_solution(support, labels, 3, C=2.0, tolerance=1e-11)
    w, b = found.weights.requires_grad_(), found.intercept.requires_grad_()
    logits = support @ w.mT + b.unsqueeze(1)
    (0.5 * w.square().sum() + 2.0 * functional.cross_entropy(logits.mT, labels, reduction="sum")).backward()
    assert w.grad is not None
    assert b.grad is not None
    assert float(w.grad.abs().max()) < 1e-9
    assert float(b.grad.abs().max()) < 1e-9


def test_gradients_through_the_normalisation_are_those_of_finite_differences() -> None:
    support, labels, query = episodes("gradient", [2, 1, 2], 4, batch=2, queries=2)
    support.requires_grad_()
    query.requires_grad_()

    def differences(s: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        logits = logistic_logits(s, labels, q, 3, C=3.0, tolerance=1e-12)
        return logits - logits.mean(-1, keepdim=True)

    assert torch.autograd.gradcheck(differences, (support, query), atol=1e-7)


def test_easy_and_hard_problems_of_a_batch_are_all_solved() -> None:
    support, labels, _ = episodes("mixed", [5] * 4, 16, batch=3)
    support[0] *= 0.01
    support[2] *= 30
    found = logistic_solution(support, labels, 4)
    assert bool(found.converged.all())
    alone = [logistic_solution(support[b : b + 1], labels[b : b + 1], 4).weights for b in range(3)]
    torch.testing.assert_close(torch.cat(alone), found.weights, rtol=1e-5, atol=1e-7)


def test_a_problem_that_is_not_solved_is_reported() -> None:
    support, labels, query = episodes("nan", [2, 2], 4)
    support[1, 0, 0] = torch.nan
    with pytest.warns(LogisticConvergenceWarning, match="1 of 2 logistic regressions"):
        logistic_logits(support, labels, query, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logistic_logits(support[:1], labels[:1], query[:1], 2)


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan")])
def test_c_is_positive(C: float) -> None:
    support, labels, query = episodes("refused", [2, 2], 4)
    with pytest.raises(UsageError, match="positive"):
        logistic_logits(support, labels, query, 2, C)


def test_a_class_without_supports_is_named() -> None:
    support, labels, query = episodes("absent", [2, 2], 4)
    with pytest.raises(UsageError, match="class 1 of episode 0"):
        logistic_logits(support, labels * 2, query, 3)
