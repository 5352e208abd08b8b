"""Transductive information maximisation, TIM-ADM (Boudiaf et al., NeurIPS 2020), with the constants of the authors' code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Grid, Head


def tim_logits(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    *,
    supervision: float = 0.1,
    marginal: float = 1.0,
    conditional: float = 0.1,
    temperature: float = 15.0,
    rounds: int = 150,
) -> Tensor:
    """-tau/2 ||q - w_i||^2 to class vectors w that make the queries' labels sure of each and spread over the classes.

    The objective is lambda CE(supports) - marginal H(Y) + alpha H(Y | X), p_i(x) the softmax of the logits: the mutual
    information of queries and labels beside the cross-entropy of the supports. By alternating directions (section 3.2): labels q
    in closed form, q_ki ~ p_ki^(1 + alpha) / (sum_k p_ki^(1 + alpha))^(marginal / (marginal + 1)), then one step of a bound on
    the cross-entropies for w, from the class means on. H(Y) is largest where the queries are shared out evenly: classes are
    taken to be equally frequent, softly.

    Args:
        support: `[B, S, D]`, float32 or float64; brought to length one, as is `query`.
        support_labels: int64 `[B, S]`; classes may have unequal shots.
        query: `[B, Q, D]`.
        n_classes: N.
        supervision: lambda, of the supports' cross-entropy.
        marginal: of H(Y).
        conditional: alpha, of H(Y | X).
        temperature: tau.
        rounds: of both updates; 0 gives the distances to the class means.

    Returns:
        logits `[B, Q, N]`, not positive up to rounding.
    """
    settings = (supervision, marginal, conditional, temperature)
    if min(settings) < 0 or not temperature > 0 or not supervision > 0 or rounds < 0:
        raise UsageError(
            f"tim with supervision = {supervision}, marginal = {marginal}, conditional = {conditional}, "
            f"temperature = {temperature}, rounds = {rounds}",
            "supervision and temperature must be positive, the others not negative",
        )
    support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    w = class_vectors(support, support_labels, query, n_classes, *settings, rounds)
    squares = query.square().sum(-1, keepdim=True) + w.square().sum(-1).unsqueeze(1)
    return temperature * (query @ w.mT - squares / 2)


def class_vectors(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    supervision: float,
    marginal: float,
    conditional: float,
    temperature: float,
    rounds: int,
) -> Tensor:
    """w `[B, N, D]` after so many rounds, features as they are; arguments as of `tim_logits`."""
    # w is a combination of the images, w = a x: each round is one product with their Gram matrix. Classes stand before images,
    # [B, N, S+Q], where a softmax over few classes is several times faster.
    truth = functional.one_hot(support_labels, n_classes).to(support.dtype).mT
    x, shots = torch.cat([support, query], 1), support.shape[1]
    weights = torch.full_like(x[..., 0], shots / query.shape[1]).unsqueeze(1)  # [B, 1, S+Q]
    weights[..., :shots] = supervision / (1 + conditional)
    gram = x @ x.mT
    a = functional.pad(truth / truth.sum(-1, keepdim=True), (0, query.shape[1]))  # the class means
    for _ in range(rounds):
        products = a @ gram
        squares = (products * a).sum(-1, keepdim=True)
        log_p = (temperature * (products - squares / 2)).log_softmax(1)
        sharp = ((1 + conditional) * log_p[..., shots:]).exp()
        q = sharp / sharp.sum(-1, keepdim=True) ** (marginal / (marginal + 1))
        y = weights * torch.cat([truth, q / q.sum(1, keepdim=True)], -1)
        p = weights * log_p.exp()
        # Of all images, by their weights: sum (y - p) x + w sum p, over sum y.
        a = (y - p + p.sum(-1, keepdim=True) * a) / y.sum(-1, keepdim=True)
    w: Tensor = a @ x
    return w


# q divides by sums over all classes, so that other classes' supports move the logits: it does not decompose.
TIM = Head("tim", tim_logits, decomposes=False, transductive=True, grid=Grid("marginal", (0.0, 0.25, 0.5, 1.0, 2.0)))
