"""Power transform and class means under optimal transport: PT-MAP (Hu, Gripon and Pateux, ICANN 2021), by their constants."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Grid, Head
from slabench.heads.metric import class_means

_SHIFT = 1e-6  # added before the root, as in the authors' code: its slope at 0 is not finite
_TOLERANCE, _STEPS, _HALVINGS, _LONGEST = 1e-6, 100, 20, 10.0


def pt_map_logits(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    *,
    power: float = 0.5,
    sharpness: float = 10.0,
    rate: float = 0.2,
    rounds: int = 20,
) -> Tensor:
    """log of the transport plan that shares the queries out among the classes, *as many to each*.

    Features are raised to a power, brought to length one, centred (supports by their mean, queries by theirs) and brought to
    length one again. Then, in turns: the plan P of exp(-10 ||q - w_i||^2), whose rows sum to 1 and columns to Q / N;
    class vectors w move a fifth of the way to the means of supports and queries, queries weighted by P (algorithm 1).

    Args:
        support: `[B, S, D]`, float32 or float64. Features are not negative in the paper; of negative ones the size is raised to
            the power and the sign kept.
        support_labels: int64 `[B, S]`; classes may have unequal shots.
        query: `[B, Q, D]`.
        n_classes: N.
        power: beta.
        sharpness: lambda of the transport.
        rate: alpha, how far class vectors move.
        rounds: of plan and move; 0 gives the plan to the class means.

    Returns:
        logits `[B, Q, N]`, not positive.
    """
    if not power > 0 or not sharpness > 0 or not 0 < rate <= 1 or rounds < 0:
        raise UsageError(
            f"pt-map with power = {power}, sharpness = {sharpness}, rate = {rate}, rounds = {rounds}",
            "power and sharpness must be positive, rate in (0, 1], rounds not negative",
        )
    support, query = (_centred(_powered(x, power)) for x in (support, query))
    truth = functional.one_hot(support_labels, n_classes).to(support.dtype)
    w = class_means(support, support_labels, n_classes)
    plan, offset = _plan(query, w, sharpness, None)
    for _ in range(rounds):
        share = plan.exp()
        means = truth.mT @ support + share.mT @ query
        w = w + rate * (means / (truth.sum(1) + share.sum(1)).unsqueeze(-1) - w)
        plan, offset = _plan(query, w, sharpness, offset)
    return plan


def _powered(x: Tensor, power: float) -> Tensor:
    signs = torch.where(x < 0, -1.0, 1.0).to(x.dtype)
    return functional.normalize(signs * (x.abs() + _SHIFT) ** power, dim=-1)


def _centred(x: Tensor) -> Tensor:
    return functional.normalize(x - x.mean(1, keepdim=True), dim=-1)


def _plan(query: Tensor, w: Tensor, sharpness: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """log P `[B, Q, N]` and the offsets of its columns, near which those of a neighbouring w lie."""
    squares = query.square().sum(-1, keepdim=True) + w.square().sum(-1).unsqueeze(1)
    return transport_plan(sharpness * (2 * (query @ w.mT) - squares), start)


def transport_plan(logits: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log of diag(u) exp(logits) diag(v) whose rows sum to 1 and columns to Q / N: what Sinkhorn's iteration tends to.

    Rows are a softmax of logits + b with one offset a class; b minimises the convex sum_q logsumexp(logits_q + b) - Q/N sum b.
    Sinkhorn takes hundreds of rounds where the plan is sharp: Newton steps, each with a round of Sinkhorn after it, take a few.
    Derivatives are those of the optimality conditions.

    Args:
        logits: `[B, Q, N]`; solved in float64 in any case.
        start: offsets to begin with, `[B, N]`; the plan does not depend on it.

    Returns:
        log P `[B, Q, N]` in the dtype of `logits`, rows exact and columns to a millionth, and b, float64 `[B, N]`.
    """
    z, share = logits.detach().double(), logits.shape[1] / logits.shape[2]
    b = _sinkhorn_round(z, torch.zeros_like(z[:, 0]) if start is None else start, share)
    open_ = torch.ones_like(b[:, :1], dtype=torch.bool)
    for _ in range(_STEPS):
        p = (z + b.unsqueeze(1)).softmax(-1)
        off = p.sum(1) - share
        open_ = open_ & (off.abs().amax(-1, keepdim=True) > _TOLERANCE * share)  # an episode stops by itself
        if not bool(open_.any()):
            break
        step = _newton_step(p, off).clamp(-_LONGEST, _LONGEST)
        slope, before = (off * step).sum(-1, keepdim=True), _dual(z, b, share)
        size = torch.ones_like(slope)
        for _ in range(_HALVINGS):
            bad = _dual(z, b - size * step, share) > before - 1e-4 * size * slope + 1e-12 * before.abs()
            if not bool((bad & open_).any()):
                break
            size = torch.where(bad, size / 2, size)
        b = torch.where(open_, _sinkhorn_round(z, b - size * step, share), b)
    # One more step, through which derivatives flow: at the solution it is the implicit function theorem.
    p = (logits.double() + b.unsqueeze(1)).softmax(-1)
    last = b - _newton_step(p.detach(), p.sum(1) - share)
    return (logits.double() + last.unsqueeze(1)).log_softmax(-1).to(logits.dtype), last.detach()


def _newton_step(p: Tensor, off: Tensor) -> Tensor:
    """H^-1 off `[B, N]`, of mean zero: H is the Hessian diag(sum p) - p' p, which is singular along a constant."""
    n = p.shape[-1]
    ridge = 1 / n + 1e-9 * torch.eye(n, dtype=p.dtype, device=p.device)
    step: Tensor = torch.linalg.solve(torch.diag_embed(p.sum(1)) - p.mT @ p + ridge, off - off.mean(-1, keepdim=True))
    return step - step.mean(-1, keepdim=True)


def _dual(z: Tensor, b: Tensor, share: float) -> Tensor:
    return ((z + b.unsqueeze(1)).logsumexp(-1).sum(1) - share * b.sum(-1)).unsqueeze(-1)


def _sinkhorn_round(z: Tensor, b: Tensor, share: float) -> Tensor:
    """Rows, then columns brought to their sums; constants that all classes share are taken off."""
    p = (z + b.unsqueeze(1)).log_softmax(-1)
    b = b + math.log(share) - p.logsumexp(1)
    return b - b.mean(-1, keepdim=True)


# The plan has every query and class at once: it does not decompose.
PT_MAP = Head(
    "pt-map", pt_map_logits, decomposes=False, transductive=True, grid=Grid("sharpness", (1.0, 3.0, 10.0, 30.0))
)
