"""The SVM head against liblinear, finite differences, learn2learn's own class, and the conditions of optimality."""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.core.seeding import torch_generator
from slabench.data.catalog import info
from slabench.heads.metaoptnet import METAOPTNET_SVM, SvmConvergenceWarning, svm_logits, svm_solution
from slabench.heads.svm_solver import factorise, project
from slabench.learners import build_learner
from slabench.recipes import load_recipe
from slabench.recipes.fewshot import Model
from slabench.suites import fewshot


def episodes(
    name: str, counts: list[int], dim: int, queries: int = 3, batch: int = 2, length: float = 8.0, spread: float = 0.7
) -> tuple[Tensor, Tensor, Tensor]:
    """Support, labels and query, float64, supports in an order of their own; `length` is about the norm of a feature."""
    g = torch_generator(0, f"svm {name}")
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = torch.randn((batch, len(counts), dim), generator=g, dtype=torch.float64)
    order = torch.stack([torch.randperm(len(labels), generator=g) for _ in range(batch)])
    noise = torch.randn((batch, len(labels), dim), generator=g, dtype=torch.float64)
    support = spread * centres[:, labels] + noise
    query = spread * centres.repeat_interleave(queries, 1)
    query = query + torch.randn(query.shape, generator=g, dtype=torch.float64)
    scale = length / dim**0.5
    return scale * support.gather(1, order.unsqueeze(-1).expand_as(support)), labels[order], scale * query


def liblinear(support: Tensor, labels: Tensor, query: Tensor, C: float, ridge: float) -> np.ndarray:
    """Logits of scikit-learn's Crammer-Singer SVM on the features with a coordinate of its own for every support."""
    n, dim = support.shape
    x = np.hstack([support.numpy(), ridge**0.5 * np.eye(n)])
    # At 1e-9 liblinear has converged: a stricter bound is below its rounding, so that it runs to its own cap of 100,000
    # rounds for the same figures.
    model = LinearSVC(
        multi_class="crammer_singer", fit_intercept=False, C=C, tol=1e-9, max_iter=1_000_000, random_state=0
    ).fit(x, labels.numpy())
    assert model.n_iter_ < 100_000
    return query.numpy() @ model.coef_[:, :dim].T  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "counts", "C", "ridge"),
    [
        ("5-way 1-shot", [1] * 5, 0.1, 1.0),
        ("5-way 5-shot", [5] * 5, 0.1, 1.0),
        ("5-way 5-shot, hard margin", [5] * 5, 10.0, 1.0),
        ("5-way 5-shot, other ridge", [5] * 5, 0.1, 7.0),
        ("imbalanced", [9, 5, 3, 1, 1], 0.1, 1.0),
        ("20-way 5-shot joint", [5] * 20, 0.1, 1.0),
        ("20-way imbalanced joint", [8, 2, 1, 4, 5] * 4, 0.1, 1.0),
    ],
)
@pytest.mark.parametrize("length", [1.0, 12.0])
def test_logits_are_liblinears(name: str, counts: list[int], C: float, ridge: float, length: float) -> None:
    support, labels, query = episodes(name, counts, 160, length=length)
    got = svm_logits(support, labels, query, len(counts), C, ridge).numpy()
    for b in range(len(support)):
        expected = liblinear(support[b], labels[b], query[b], C, ridge)
        np.testing.assert_allclose(got[b], expected, rtol=0, atol=1e-6 * abs(expected).max())


@given(
    seed=st.integers(0, 2**31 - 1),
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    dim=st.integers(1, 12),
    log_C=st.floats(-2, 1),
    log_ridge=st.floats(-1, 1),
    length=st.sampled_from([0.3, 3.0, 40.0]),  # few dimensions and long features are what needs the interior point
)
@settings(deadline=None, max_examples=50)
def test_the_conditions_of_optimality_hold(
    seed: int, counts: list[int], dim: int, log_C: float, log_ridge: float, length: float
) -> None:
    """Feasible, and no gap between the primal and the dual value: written here from the paper, not from the solver."""
    C, ridge, n_classes = 10**log_C, 10**log_ridge, len(counts)
    support, labels, _ = episodes(f"kkt {seed}", counts, dim, length=length)
    solution = svm_solution(support, labels, n_classes, C, ridge)
    assert bool(solution.converged.all())
    own = functional.one_hot(labels, n_classes).double()
    assert float((solution.alpha - C * own).max()) <= 1e-9 * C
    assert float(solution.alpha.sum(-1).abs().max()) <= 1e-9 * C
    weights = solution.alpha.mT @ support
    slack = ridge * solution.alpha  # what the sample's own coordinate adds to its scores
    scores = support @ weights.mT + slack
    loss = (scores + 1 - own).amax(-1) - (scores * own).sum(-1)
    square = weights.square().sum((1, 2)) + ridge * solution.alpha.square().sum((1, 2))
    primal = 0.5 * square + C * loss.sum(1)
    dual = (solution.alpha * own).sum((1, 2)) - 0.5 * square
    torch.testing.assert_close(primal, dual, rtol=1e-8, atol=1e-9 * C)


def test_the_interior_point_is_reached_and_solves() -> None:
    """More classes than dimensions: ADMM and corrections do not finish in all of these; the residual is the proof."""
    support, labels, _ = episodes("low rank", [5] * 6, 3, batch=6, length=60.0)
    solution = svm_solution(support, labels, 6)
    assert int(solution.iterations.max()) == 120  # ADMM was given up
    assert float(solution.residual.max()) < 1e-11


def test_rows_are_projected_as_bisection_would() -> None:
    z = torch.randn((40, 7), generator=torch_generator(0, "project"), dtype=torch.float64)
    got, _ = project(z, 0.3)
    low, high = z.amin(-1, keepdim=True), z.amax(-1, keepdim=True) + 0.3
    for _ in range(80):
        middle = (low + high) / 2
        enough = (middle - z).clamp(min=0).sum(-1, keepdim=True) > 0.3
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    torch.testing.assert_close(got, (z - low).clamp(max=0), rtol=0, atol=1e-12)


def test_the_factorised_system_is_the_dense_one() -> None:
    g = torch_generator(0, "system")
    x = torch.randn((2, 6, 6), generator=g, dtype=torch.float64)
    A = x @ x.mT + torch.eye(6, dtype=torch.float64)
    free = torch.rand((2, 6, 3), generator=g) < 0.6
    free[..., 0] = True
    rhs = torch.randn((2, 6, 3), generator=g, dtype=torch.float64)
    got = factorise(A, free, torch.arange(2)).solve(rhs, row_sums=-0.2)
    for b in range(2):
        cells = free[b].T.flatten().nonzero().squeeze(1)  # class by class
        dense = torch.zeros((18 + 6, 18 + 6), dtype=torch.float64)
        dense[:18, :18] = torch.kron(torch.eye(3, dtype=torch.float64), A[b])
        dense[:18, 18:] = torch.eye(6, dtype=torch.float64).repeat(3, 1)
        dense[18:, :18] = dense[:18, 18:].T
        use = torch.cat([cells, torch.arange(18, 24)])
        right = torch.cat([rhs[b].T.flatten()[cells], torch.full((6,), -0.2, dtype=torch.float64)])
        expected = torch.zeros(18, dtype=torch.float64)
        expected[cells] = torch.linalg.solve(dense[use][:, use], right)[: len(cells)]
        torch.testing.assert_close(got[b].T.flatten(), expected)


@pytest.mark.parametrize(
    ("counts", "C", "ridge"), [([3, 3, 3, 3], 0.1, 1.0), ([4, 1, 2], 1.0, 0.1), ([2, 2, 2, 2, 2], 0.01, 1.0)]
)
def test_gradients_are_those_of_finite_differences(counts: list[int], C: float, ridge: float) -> None:
    support, labels, query = episodes("gradient", counts, 6, queries=1, length=2.5)
    alpha = svm_solution(support, labels, len(counts), C, ridge).alpha
    free = alpha < C * functional.one_hot(labels, len(counts)) - 1e-9 * C
    assert 0.05 < float(free.double().mean()) < 0.95  # bounds are in play
    support.requires_grad_()
    query.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, q: svm_logits(s, labels, q, len(counts), C, ridge), (support, query))


def test_the_gradient_of_a_joint_episode_is_a_central_difference() -> None:
    support, labels, query = episodes("joint gradient", [5] * 20, 64, queries=1, batch=1, length=12.0)
    support.requires_grad_()
    svm_logits(support, labels, query, 20).logsumexp(-1).sum().backward()
    assert support.grad is not None
    direction = torch.randn(support.shape, generator=torch_generator(0, "direction"), dtype=torch.float64)
    with torch.no_grad():
        up, down = (
            svm_logits(support + step * direction, labels, query, 20).logsumexp(-1).sum() for step in (1e-6, -1e-6)
        )
    assert float((support.grad * direction).sum()) == pytest.approx(float(up - down) / 2e-6, rel=1e-6)


def test_learn2learn_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("learn2learn", reason="learn2learn could not be installed here")
    # qpth imports cvxpy for a solver that nothing here asks for.
    monkeypatch.setitem(sys.modules, "cvxpy", sys.modules.get("cvxpy", types.ModuleType("cvxpy")))
    qp = pytest.importorskip("qpth.qp", reason="learn2learn's SVM head needs qpth, which is not installed")
    from learn2learn.nn import SVClassifier, metaoptnet

    # learn2learn looked for it when it was first imported, which may have been before cvxpy had its stand-in.
    monkeypatch.setattr(metaoptnet, "QPFunction", qp.QPFunction)

    support, labels, query = episodes("learn2learn", [5] * 5, 64, batch=1, length=8.0)
    support, query = support.float(), query.float()
    # Its solver stops at 1e-4 to 5e-4 of the solution with the 15 iterations it takes by default; 40 bring it closer.
    reference = SVClassifier(support[0], labels[0], ways=5, max_iters=40)(query[0])
    got = svm_logits(support, labels, query, 5)[0]
    torch.testing.assert_close(got, reference, rtol=0, atol=1e-3 * float(reference.abs().max()))


def test_float32_features_lose_nothing_in_the_solver() -> None:
    support, labels, query = (
        x.float() if x.is_floating_point() else x for x in episodes("f32", [5] * 20, 160, length=18.0)
    )
    got = svm_logits(support, labels, query, 20)
    assert got.dtype == torch.float32
    exact = svm_logits(support.double(), labels, query.double(), 20)
    assert float((got - exact).abs().max() / exact.abs().max()) < 1e-6
    support.requires_grad_()
    svm_logits(support, labels, query, 20).square().sum().backward()
    assert support.grad is not None
    assert support.grad.dtype == torch.float32
    assert bool(support.grad.isfinite().all())


def test_episodes_of_a_batch_do_not_see_each_other() -> None:
    """Also their gradients; episodes of unlike difficulty finish at different times in the solver."""
    parts = [episodes(f"batch {i}", [3] * 4, 3, batch=1, length=length) for i, length in enumerate((0.5, 3.0, 30.0))]
    support, labels, query = (torch.cat([part[i] for part in parts]) for i in range(3))
    steps = svm_solution(support, labels, 4).systems
    assert len(steps.unique()) > 1

    def logits_and_gradient(s: Tensor, y: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        s = s.clone().requires_grad_()
        logits = svm_logits(s, y, q, 4)
        (gradient,) = torch.autograd.grad(logits.square().sum(), s)
        return logits.detach(), gradient

    together = logits_and_gradient(support, labels, query)
    order = torch.tensor([2, 0, 1])
    turned = logits_and_gradient(support[order], labels[order], query[order])
    alone = [logits_and_gradient(*part) for part in parts]
    for which in range(2):
        expected = torch.cat([part[which] for part in alone])
        torch.testing.assert_close(together[which], expected, rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(turned[which], expected[order], rtol=1e-8, atol=1e-11)


def test_names_of_classes_and_order_of_supports_do_not_matter() -> None:
    support, labels, query = episodes("invariant", [5, 3, 2, 4, 1], 20)
    logits = svm_logits(support, labels, query, 5)
    names = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(svm_logits(support, names[labels], query, 5)[..., names], logits, rtol=1e-9, atol=1e-11)
    order = torch.randperm(labels.shape[1], generator=torch_generator(0, "order"))
    torch.testing.assert_close(svm_logits(support[:, order], labels[:, order], query, 5), logits, rtol=1e-9, atol=1e-11)


def test_scaled_features_with_scaled_constants_give_the_same_logits() -> None:
    support, labels, query = episodes("scaled", [3] * 5, 20)
    scaled = svm_logits(4 * support, labels, 4 * query, 5, C=0.1 / 16, ridge=16.0)
    torch.testing.assert_close(scaled, svm_logits(support, labels, query, 5), rtol=1e-9, atol=1e-11)


def test_the_ridge_changes_the_answer() -> None:
    """Ours is MetaOptNet's, 1; the plain machine is another one."""
    support, labels, query = episodes("ridge", [5] * 5, 40, length=1.0)
    with_ridge, without = svm_logits(support, labels, query, 5), svm_logits(support, labels, query, 5, ridge=1e-3)
    assert float((with_ridge - without).abs().max() / without.abs().max()) > 1e-2


def test_a_class_without_supports() -> None:
    support, labels, query = episodes("absent", [2, 2, 2], 8)
    logits = svm_logits(support, labels, query, 4)
    assert bool(logits.isfinite().all())
    assert bool(svm_solution(support, labels, 4).converged.all())


def test_a_problem_that_was_not_solved_is_reported() -> None:
    support, labels, query = episodes("report", [5] * 5, 20)
    with pytest.warns(
        SvmConvergenceWarning, match=r"2 of 2 SVM problems .* KKT residual is \d\.\de-1\d, the tolerance"
    ):
        svm_logits(support, labels, query, 5, tolerance=0.0)
    solution = svm_solution(support, labels, 5, tolerance=0.0)
    assert not bool(solution.converged.any())
    assert float(solution.residual.max()) < 1e-9  # the best point is handed back all the same
    support[1, 0, 0] = torch.nan
    with pytest.warns(SvmConvergenceWarning, match=r"1 of 2 SVM problems .* inf"):
        logits = svm_logits(support, labels, query, 5)
    assert bool(logits[0].isfinite().all())
    assert bool(logits[1].isnan().any())


def test_solved_problems_are_not_reported() -> None:
    support, labels, query = episodes("silent", [5] * 20, 64, length=20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svm_logits(support, labels, query, 20)


@pytest.mark.parametrize(("C", "ridge"), [(0.0, 1.0), (0.1, 0.0), (float("nan"), 1.0)])
def test_constants_are_positive(C: float, ridge: float) -> None:
    support, labels, query = episodes("refused", [2, 2], 4)
    with pytest.raises(UsageError, match="positive"):
        svm_logits(support, labels, query, 2, C, ridge)
    with pytest.raises(UsageError, match="labels"):
        svm_logits(support, labels[0], query, 2)


def test_what_evaluation_assumes_of_the_head_holds() -> None:
    """Not `decomposes`: another class's supports move every class's weights."""
    assert not METAOPTNET_SVM.decomposes
    support, labels, query = episodes("joint", [3] * 3, 6)
    changed = support.clone()
    changed[labels == 2] += 1
    before, after = (svm_logits(x, labels, query, 3) for x in (support, changed))
    assert not torch.allclose(before[..., :2], after[..., :2])


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("objective", ["baseline", "sla"])
def test_episodic_training_with_the_head(objective: str) -> None:
    """Steps through the suite, SLA as one problem of N*M classes; the loss of a repeated episode falls."""
    (recipe,) = load_recipe(
        "fewshot/standard",
        {
            "data.dataset": "glyphs",
            "model.head": METAOPTNET_SVM.name,
            "sla.objective": objective,
            "protocol.shots": 1,
            "protocol.queries": 3,
            "protocol.episodes": 10,
            "train.queries": 2,
            "train.precision": "float32",
            "select.episodes": 4,
        },
    )
    task = fewshot.EpisodicTask(recipe, 0, fewshot.prepare(recipe), torch.device("cpu"), None)
    optimizer = torch.optim.Adam(task.module.parameters(), lr=1e-3)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", SvmConvergenceWarning)
        for _ in range(6):
            optimizer.zero_grad()
            loss = task.step(0).loss
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        assert set(task.validate()) == {"single", "aggregated"}
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in task.module.parameters())
    assert losses[-1] < losses[0]


def test_the_learner_builds_it_by_name() -> None:
    learner = build_learner(Model(head="metaoptnet-svm"), info("fc100"), 0)
    support, labels, query = (
        x.float() if x.is_floating_point() else x for x in episodes("learner", [1] * 5, 256, batch=1)
    )
    torch.testing.assert_close(
        learner.logits(support, labels, query, 5), svm_logits(support, labels, query, 5), rtol=1e-6, atol=1e-7
    )
