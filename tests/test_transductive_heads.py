"""Transductive heads against slow code written from the papers' equations, one episode and one query at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from episode_tensors import episodes
from numpy.typing import NDArray
from scipy.optimize import linprog
from sklearn.neighbors import kneighbors_graph
from torch import Tensor

from slabench.core.errors import UsageError
from slabench.core.registry import HEADS
from slabench.core.seeding import torch_generator
from slabench.heads.apart import query_gap
from slabench.heads.laplacian_shot import bd_cspn_logits, laplacian_shot_logits
from slabench.heads.pt_map import pt_map_logits, transport_plan
from slabench.heads.tim import class_vectors, tim_logits

Array = NDArray[np.float64]
TRANSDUCTIVE = [name for name in HEADS.names() if HEADS.get(name).transductive]
COUNTS = [[1, 1, 1], [3, 1, 2, 4]]


def one_episode(name: str, counts: list[int], queries: int = 11) -> tuple[Tensor, Tensor, Tensor, Array, Array, Array]:
    """A batch of two as the heads get it, features not negative, and its second episode as arrays."""
    support, labels, query = episodes(name, counts, 6, queries=queries)
    support, query = support.abs(), query.abs()
    return support, labels, query, support[1].numpy(), labels[1].numpy(), query[1].numpy()


def unit(x: Array) -> Array:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def relative(x: Array) -> Array:
    return x - x.mean(-1, keepdims=True)


def softmax(x: Array) -> Array:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def rectified_by_hand(s: Array, y: Array, q: Array, n: int) -> tuple[Array, Array]:
    """BD-CSPN image by image: shift, pseudo-labels by cosine, weighted means."""
    q = q + s.mean(0) - q.mean(0)
    means = [s[y == c].mean(0) for c in range(n)]
    members: list[list[Array]] = [[] for _ in range(n)]
    for x in [*s, *q]:
        cosines = np.array([x @ m / np.linalg.norm(x) / np.linalg.norm(m) for m in means])
        c = int(cosines.argmax())
        members[c].append(softmax(10 * cosines)[c] * x)
    return np.array([np.mean(own, 0) if own else means[c] for c, own in enumerate(members)]), q


@pytest.mark.parametrize("counts", COUNTS)
def test_rectified_prototypes_are_those_of_a_loop_over_images(counts: list[int]) -> None:
    support, labels, query, s, y, q = one_episode("rectified", counts)
    prototypes, moved = rectified_by_hand(unit(s), y, unit(q), len(counts))
    expected = -((moved[:, None] - prototypes) ** 2).sum(-1)
    found = bd_cspn_logits(support, labels, query, len(counts))[1].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("rectify", [False, True])
def test_laplacian_shot_is_the_bound_update_of_each_query(counts: list[int], rectify: bool) -> None:
    """Algorithm 1, the neighbours by scikit-learn."""
    n, smoothness = len(counts), 0.9
    support, labels, query, s, y, q = one_episode("laplacian", counts)
    s, q = unit(s), unit(q)
    prototypes = np.array([s[y == c].mean(0) for c in range(n)])
    if rectify:
        prototypes, q = rectified_by_hand(s, y, q, n)
    affinity = kneighbors_graph(q, 2, include_self=False).toarray()
    unary = ((q[:, None] - prototypes) ** 2).sum(-1)
    state = np.array([softmax(-a) for a in unary])
    for _ in range(20):
        state = np.array([softmax(-a + smoothness * (w @ state)) for a, w in zip(unary, affinity, strict=True)])
    found = laplacian_shot_logits(support, labels, query, n, smoothness=smoothness, rectify=rectify)[1]
    np.testing.assert_allclose(found.softmax(-1).numpy(), state, atol=1e-12)


def test_laplacian_shot_lowers_its_energy_and_is_the_nearest_centroid_without_smoothness() -> None:
    support, labels, query, s, y, q = one_episode("energy", [2, 2, 2])
    s, q = unit(s), unit(q)
    unary = ((q[:, None] - np.array([s[y == c].mean(0) for c in range(3)])) ** 2).sum(-1)
    affinity = kneighbors_graph(q, 2, include_self=False).toarray()

    def energy(rounds: int) -> float:
        logits = laplacian_shot_logits(support, labels, query, 3, smoothness=0.5, rounds=rounds, rectify=False)[1]
        state = logits.softmax(-1).numpy()
        bound = (affinity + affinity.T) / 2
        return float((state * np.log(state) + state * unary).sum() - 0.25 * (state * (bound @ state)).sum())

    assert energy(20) < energy(0)
    plain = laplacian_shot_logits(support, labels, query, 3, smoothness=0.0, rectify=False)[1].numpy()
    np.testing.assert_allclose(plain, -unary, atol=1e-12)


@pytest.mark.parametrize("counts", COUNTS)
def test_tim_is_the_alternating_updates_of_its_proposition(counts: list[int]) -> None:
    """Proposition 1, sums over images one at a time."""
    n, lam, alpha, tau = len(counts), 0.1, 0.1, 15.0
    support, labels, query, s, y, q = one_episode("tim", counts)
    s, q = unit(s), unit(q)
    w = np.array([s[y == c].mean(0) for c in range(n)])

    def posterior(x: Array) -> Array:
        return softmax(-tau / 2 * ((x - w) ** 2).sum(-1))

    for _ in range(7):
        p_s, p_q = np.array([posterior(x) for x in s]), np.array([posterior(x) for x in q])
        soft = p_q ** (1 + alpha) / np.sqrt((p_q ** (1 + alpha)).sum(0))
        soft = soft / soft.sum(1, keepdims=True)
        new = np.empty_like(w)
        for k in range(n):
            above, below = np.zeros(w.shape[1]), 0.0
            for i in range(len(s)):
                above += lam / (1 + alpha) * ((y[i] == k) * s[i] + p_s[i, k] * (w[k] - s[i]))
                below += lam / (1 + alpha) * (y[i] == k)
            for i in range(len(q)):
                above += len(s) / len(q) * (soft[i, k] * q[i] + p_q[i, k] * (w[k] - q[i]))
                below += len(s) / len(q) * soft[i, k]
            new[k] = above / below
        w = new
    expected = -tau / 2 * ((q[:, None] - w) ** 2).sum(-1)
    found = tim_logits(support, labels, query, n, rounds=7)[1].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("rounds", [1, 40])
def test_a_round_of_tim_is_a_step_down_the_gradient_of_its_cross_entropies(rounds: int) -> None:
    """By autograd: each class vector moves by the gradient over the weight of its images, the labels q held."""
    _, _, _, s, y, q = one_episode("step", [2, 1, 3])
    x, z, truth = torch.from_numpy(unit(s)), torch.from_numpy(unit(q)), torch.from_numpy(y)
    before, after = (
        class_vectors(x[None], truth[None], z[None], 3, 0.1, 1.0, 0.1, 15.0, count)[0] for count in (rounds - 1, rounds)
    )
    w = before.clone().requires_grad_()

    def log_p(points: Tensor) -> Tensor:
        return (-7.5 * torch.cdist(points, w).square()).log_softmax(-1)

    p = log_p(z).exp().detach()
    soft = p**1.1 / (p**1.1).sum(0).sqrt()
    soft = soft / soft.sum(1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(truth, 3).double()
    loss = -0.1 * (one_hot * log_p(x)).sum() / len(x) - 1.1 * (soft * log_p(z)).sum() / len(z)
    (gradient,) = torch.autograd.grad(loss, w)
    weight = 0.1 * one_hot.mean(0) + 1.1 * soft.mean(0)
    torch.testing.assert_close(after, before - gradient / (15 * weight[:, None]), rtol=0, atol=1e-12)


def test_a_plan_is_the_optimum_of_entropic_transport() -> None:
    """Marginals; and near no entropy the linear programme's optimum."""
    logits = 3 * torch.randn(4, 9, 3, generator=torch_generator(0, "plan"), dtype=torch.float64)
    plan, _ = transport_plan(logits)
    np.testing.assert_allclose(plan.exp().sum(2), 1, atol=1e-5)
    np.testing.assert_allclose(plan.exp().sum(1), 3, atol=1e-5)
    # log P - logits is a sum of a row's and a column's number: no mixed difference is left.
    rest = (plan - logits)[:, 1:] - (plan - logits)[:, :1]
    torch.testing.assert_close(rest - rest[..., :1], torch.zeros_like(rest), rtol=0, atol=1e-9)
    rows = np.kron(np.eye(9), np.ones(3))
    columns = np.kron(np.ones(9), np.eye(3))
    cost = -logits[0].numpy().ravel()
    best = linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=[1] * 9 + [3] * 3)
    sharp, _ = transport_plan(20 * logits[:1])
    assert float((sharp[0].exp().numpy().ravel() * cost).sum()) == pytest.approx(best.fun, abs=0.02 * abs(best.fun))


@pytest.mark.parametrize("counts", COUNTS)
def test_pt_map_is_its_algorithm_with_plain_sinkhorn_loops(counts: list[int]) -> None:
    n = len(counts)
    support, labels, query, s, y, q = one_episode("pt-map", counts, queries=12)

    def prepared(x: Array) -> Array:
        x = unit((x + 1e-6) ** 0.5)
        return unit(x - x.mean(0))

    s, q = prepared(s), prepared(q)
    w = np.array([s[y == c].mean(0) for c in range(n)])

    def plan() -> Array:
        p = np.exp(-10 * ((q[:, None] - w) ** 2).sum(-1))
        for _ in range(3000):
            p = p / p.sum(1, keepdims=True)
            p = p / p.sum(0) * len(q) / n
        return p

    for _ in range(4):
        p = plan()
        for k in range(n):
            mine = (s[y == k].sum(0) + (p[:, k : k + 1] * q).sum(0)) / ((y == k).sum() + p[:, k].sum())
            w[k] = w[k] + 0.2 * (mine - w[k])
    found = pt_map_logits(support, labels, query, n, rounds=4)[1].exp().numpy()
    np.testing.assert_allclose(found, plan(), atol=1e-7)


def test_pt_map_takes_features_of_either_sign() -> None:
    support, labels, query = episodes("signs", [3, 3], 6)
    logits = pt_map_logits(support, labels, query, 2)
    assert bool(torch.isfinite(logits).all())
    torch.testing.assert_close(pt_map_logits(-support, labels, -query, 2), logits)  # the sign is kept


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_one_query_of_one_class(name: str) -> None:
    support, labels, query = episodes("lonely", [1, 2], 6, queries=1)
    logits = HEADS.get(name).logits(support, labels, query, 2)
    assert logits.shape == (2, 1, 2)
    assert bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_queries_help_where_they_form_clusters(name: str) -> None:
    """One support between two clusters of its class's queries and the other's: the queries say where the border is."""
    g = torch_generator(0, "clusters")
    centres = 4 * torch.eye(2, 8)
    query = (centres.repeat_interleave(20, 0) + 0.5 * torch.randn(100, 40, 8, generator=g)).abs()
    support = (centres + 2.0 * torch.randn(100, 2, 8, generator=g)).abs()
    labels, truth = torch.arange(2).expand(100, -1), torch.arange(2).repeat_interleave(20)

    def accuracy(head: str) -> float:
        return float(HEADS.get(head).logits(support, labels, query, 2).argmax(-1).eq(truth).float().mean())

    assert accuracy(name) > accuracy("cosine") + 0.01


@pytest.mark.parametrize("name", [name for name in HEADS.names() if HEADS.get(name).module is None])
def test_declared_and_measured_agree(name: str) -> None:
    """In float32, on features of another scale, solvers with a tolerance among them."""
    generator = torch_generator(0, "own", name)
    means = 3 * torch.randn(3, 5, 32, generator=generator).abs()
    support = means.repeat_interleave(5, 1) + torch.randn(3, 25, 32, generator=generator).abs()
    query = means.repeat_interleave(15, 1) + torch.randn(3, 75, 32, generator=generator).abs()
    labels = torch.arange(5).repeat_interleave(5).expand(3, -1)
    gap = query_gap(HEADS.get(name).logits, support, labels, query, 5)
    assert gap > 1e-2 if HEADS.get(name).transductive else gap < 3e-4


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        (laplacian_shot_logits, {"smoothness": -1.0}),
        (laplacian_shot_logits, {"neighbours": 0}),
        (tim_logits, {"temperature": 0.0}),
        (tim_logits, {"rounds": -1}),
        (pt_map_logits, {"rate": 2.0}),
        (pt_map_logits, {"power": 0.0}),
    ],
)
def test_settings_that_make_no_sense(function: object, settings: dict[str, float]) -> None:
    (name, value) = next(iter(settings.items()))
    with pytest.raises(UsageError, match=f"{name} = {value}"):
        function(torch.ones(1, 2, 3), torch.tensor([[0, 1]]), torch.ones(1, 1, 3), 2, **settings)  # type: ignore[operator]


def test_power_of_the_paper_is_a_root() -> None:
    """At rate and rounds 0 the plan goes by distances of prepared features: queries of equal distance share classes evenly."""
    support = torch.tensor([[[4.0, 1.0], [1.0, 4.0]]], dtype=torch.float64)
    plan = pt_map_logits(support, torch.tensor([[0, 1]]), support, 2, rounds=0).exp()
    # Centred unit vectors of two points are opposite: squared distances 0 and 4.
    odds = math.exp(-40)
    np.testing.assert_allclose(plan[0], [[1, odds], [odds, 1]], atol=1e-9)
