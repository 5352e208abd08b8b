"""Power transform and class means under optimal transport, PT-MAP (Hu, Gripon and Pateux, ICANN 2021), constants of their code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Head
from slabench.heads.metric import class_means

_SHIFT = 1e-6  # added before the root, as in the authors' code: its slope at 0 is not finite
_TOLERANCE, _ITERATIONS = 1e-6, 1000


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
    length one again. Then, in turns: the plan P by Sinkhorn of exp(-10 ||q - w_i||^2), whose rows sum to 1 and columns to Q / N;
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
    plan, scaling = _plan(query, w, sharpness, None)
    for _ in range(rounds):
        share = plan.exp()
        means = truth.mT @ support + share.mT @ query
        w = w + rate * (means / (truth.sum(1) + share.sum(1)).unsqueeze(-1) - w)
        plan, scaling = _plan(query, w, sharpness, scaling)
    return plan


def _powered(x: Tensor, power: float) -> Tensor:
    signs = torch.where(x < 0, -1.0, 1.0).to(x.dtype)
    return functional.normalize(signs * (x.abs() + _SHIFT) ** power, dim=-1)


def _centred(x: Tensor) -> Tensor:
    return functional.normalize(x - x.mean(1, keepdim=True), dim=-1)


def _plan(query: Tensor, w: Tensor, sharpness: float, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """log P `[B, Q, N]` and the scaling of its columns, from which the plan of a neighbouring w begins."""
    squares = query.square().sum(-1, keepdim=True) + w.square().sum(-1).unsqueeze(1)
    return sinkhorn(sharpness * (2 * (query @ w.mT) - squares), start)


def sinkhorn(logits: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """log of diag(u) exp(logits) diag(v) whose rows sum to 1 and columns to Q / N (Sinkhorn and Knopp; Cuturi, NeurIPS 2013).

    Args:
        logits: `[B, Q, N]`.
        start: log v to begin with, `[B, N]`; the plan does not depend on it.

    Returns:
        log P `[B, Q, N]`, columns exact and rows to 1e-6 (or after 1,000 rounds), and log v `[B, N]`. Each episode stops by itself.
    """
    kernel = (logits - logits.amax(-1, keepdim=True)).exp()  # rows are scaled anyway
    share = logits.shape[1] / logits.shape[2]
    v = torch.ones_like(kernel[:, 0]) if start is None else start.exp()
    open_ = torch.ones_like(v[:, :1], dtype=torch.bool)
    u = 1 / (kernel @ v.unsqueeze(-1)).squeeze(-1)
    for _ in range(_ITERATIONS):
        columns = share / (u.unsqueeze(1) @ kernel).squeeze(1)
        v = torch.where(open_, columns, v)
        rows = (kernel @ v.unsqueeze(-1)).squeeze(-1)  # [B, Q]
        open_ = open_ & ((u * rows - 1).abs().amax(-1, keepdim=True) > _TOLERANCE)
        if not bool(open_.any()):
            break
        u = torch.where(open_, 1 / rows, u)
    log_v = v.log()
    return kernel.clamp_min(torch.finfo(kernel.dtype).tiny).log() + u.log().unsqueeze(-1) + log_v.unsqueeze(1), log_v


# The plan has every query and class at once: it does not decompose.
PT_MAP = Head("pt-map", pt_map_logits, decomposes=False, transductive=True)
