"""Multinomial logistic regression as a differentiable head (RFS: Tian et al., ECCV 2020).

The problem is scikit-learn's: minimise 1/2 |W|^2 + C sum_i CE(W x_i + b, y_i), the intercept free. It is solved for a whole batch
of episodes at once by Newton's method, each step found by conjugate gradients on Hessian products, in float64, in a basis of the
supports (S x min(S, D) numbers instead of S x D). The derivative is that of the optimality conditions; nothing is unrolled.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Grid, Head, report_residual

_NEWTON_STEPS, _HALVINGS, _CG_STEPS = 100, 30, 500
_SUFFICIENT = 1e-4  # Armijo: the part of the predicted decrease that a step must give


class LogisticConvergenceWarning(RuntimeWarning):
    """Some logistic regressions of a batch were not solved to the tolerance; the message says how many and how far off."""


@dataclass(frozen=True)
class LogisticSolution:
    """The minimisers of a batch of problems.

    Attributes:
        weights: W, float64 `[B, N, D]`.
        intercept: b, float64 `[B, N]`, of mean zero over the classes.
        residual: float64 `[B]`, norm of the gradient over C sqrt(S); zero at the exact minimiser.
        converged: bool `[B]`, whether the residual is within the tolerance.
        iterations: Newton steps taken by the slowest problem.
    """

    weights: Tensor
    intercept: Tensor
    residual: Tensor
    converged: Tensor
    iterations: int


def logistic_logits(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    C: float = 1.0,
    normalise: bool = True,
    tolerance: float = 1e-8,
) -> Tensor:
    """W q + b for every query and class, differentiable in support and query.

    Args:
        support: `[B, S, D]`, float32 or float64; solved in float64 in either case.
        support_labels: int64 `[B, S]`, 0 .. N-1; classes may have unequal shots, but at least one: a class without
            supports has no finite intercept.
        query: `[B, Q, D]`.
        n_classes: N.
        C: weight of the cross-entropies, scikit-learn's; 1 in RFS.
        normalise: features at length one, as in RFS.
        tolerance: see `LogisticSolution.residual`; above it `LogisticConvergenceWarning` is issued.

    Returns:
        logits `[B, Q, N]` of the dtype of `support`.
    """
    if normalise:
        support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    _check(support, support_labels, n_classes, C)
    target = functional.one_hot(support_labels, n_classes).double()
    weights, intercept = _Fit.apply(support, target, C, tolerance)
    return query @ weights.mT + intercept.unsqueeze(1)  # type: ignore[no-any-return]


def logistic_solution(
    support: Tensor, support_labels: Tensor, n_classes: int, C: float = 1.0, tolerance: float = 1e-8
) -> LogisticSolution:
    """The fitted layers of a batch of episodes, features as they are; arguments as above."""
    _check(support, support_labels, n_classes, C)
    return _solve(support.detach().double(), functional.one_hot(support_labels, n_classes).double(), C, tolerance)


class _Fit(torch.autograd.Function):
    """Support features to W `[B, N, D]` and b `[B, N]`."""

    @staticmethod
    def forward(ctx: Any, support: Tensor, target: Tensor, C: float, tolerance: float) -> tuple[Tensor, Tensor]:
        x = support.double()
        found = _solve(x, target, C, tolerance)
        report_residual(float(found.residual.max()))
        failed = int((~found.converged).sum())
        if failed:
            warnings.warn(
                f"{failed} of {len(found.converged)} logistic regressions did not converge: the largest residual is"
                f" {float(found.residual.max()):.1e}, the tolerance {tolerance:.0e}; a smaller C helps, and features that are"
                " not finite never converge",
                LogisticConvergenceWarning,
                stacklevel=3,
            )
        ctx.save_for_backward(support, target, found.weights, found.intercept)
        ctx.C = C
        return found.weights.to(support.dtype), found.intercept.to(support.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_w: Tensor, grad_b: Tensor) -> tuple[Tensor, None, None, None]:
        """With G the gradient of the objective, G(x, W(x)) = 0 gives dL/dx = -v' dG/dx, where H v = dL/d(W, b)."""
        support, target, weights, intercept = ctx.saved_tensors
        x = support.double()
        p = (x @ weights.mT + intercept.unsqueeze(1)).softmax(-1)
        # The intercepts returned have mean zero: a constant added to their gradient changes nothing (and H does not see it).
        precision = torch.full((len(x),), 1e-10, device=x.device, dtype=x.dtype)
        v, c = _newton_direction(x, p, ctx.C, grad_w.double().mT, grad_b.double(), precision)
        u = x @ v + c.unsqueeze(1)  # [B, S, N]
        grad_x = -ctx.C * ((p - target) @ v.mT + _softmax_product(p, u) @ weights)
        return grad_x.to(support.dtype), None, None, None


def _check(support: Tensor, labels: Tensor, n_classes: int, C: float) -> None:
    if support.dim() != 3 or labels.shape != support.shape[:2]:
        raise UsageError(
            f"support has the shape {tuple(support.shape)}, its labels {tuple(labels.shape)}",
            "support is [episodes, samples, features] and labels [episodes, samples]",
        )
    if not C > 0:
        raise UsageError(f"C = {C} of the logistic head is not positive", "give a positive number; 1 is usual")
    counts = functional.one_hot(labels, n_classes).sum(1)
    if not bool((counts > 0).all()):
        episode, missing = (int(i) for i in (counts == 0).nonzero()[0])
        raise UsageError(
            f"class {missing} of episode {episode} has no support image",
            "logistic regression with an intercept needs one or more of each class",
        )


def _softmax_product(p: Tensor, u: Tensor) -> Tensor:
    """(diag(p) - p p') u for every sample: `[B, S, N]`."""
    weighted = p * u
    return weighted - p * weighted.sum(-1, keepdim=True)


def _solve(x: Tensor, target: Tensor, C: float, tolerance: float) -> LogisticSolution:
    """Newton's method with backtracking. x `[B, S, D]` and target `[B, S, N]`, both float64."""
    samples, dim = x.shape[1:]
    # W lies in the span of the supports: with X' = Q R the logits are R' (Q' W'), and |Q' W'| = |W|.
    f = torch.linalg.qr(x.mT, mode="r").R.mT if samples < dim else x  # [B, S, r]
    z = x.new_zeros((len(x), f.shape[-1], target.shape[-1]))
    b = x.new_zeros((len(x), target.shape[-1]))
    unit = C * samples**0.5

    def state(z: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        logits = f @ z + b.unsqueeze(1)
        loss = 0.5 * z.square().sum((1, 2)) - C * (target * logits.log_softmax(-1)).sum((1, 2))
        return loss, logits.softmax(-1)

    loss, p = state(z, b)
    residual, iterations = loss, 0
    for iterations in range(_NEWTON_STEPS + 1):
        g_z, g_b = z + C * (f.mT @ (p - target)), C * (p - target).sum(1)
        norm = (g_z.square().sum((1, 2)) + g_b.square().sum(1)).sqrt()
        residual = norm / unit
        if iterations == _NEWTON_STEPS or not bool((residual > tolerance).any()):
            break
        # Superlinear convergence with few products while far away (Eisenstat and Walker 1996).
        precision = residual.sqrt().clamp(1e-3 * tolerance, 0.1)
        d_z, d_b = _newton_direction(f, p, C, g_z, g_b, precision)
        slope = -((g_z * d_z).sum((1, 2)) + (g_b * d_b).sum(1))
        step = (residual > tolerance).double()  # solved problems stay where they are
        for _ in range(_HALVINGS):
            trial, trial_p = state(z - step[:, None, None] * d_z, b - step[:, None] * d_b)
            # Rounding of the loss hides the last decreases: a step that changes nothing visible is taken.
            bad = trial > loss + _SUFFICIENT * step * slope + 1e-13 * loss.abs()
            if not bool(bad.any()):
                break
            step = torch.where(bad, step / 2, step)
        z, b, loss, p = z - step[:, None, None] * d_z, b - step[:, None] * d_b, trial, trial_p
    # At the minimum W = C sum_i (y_i - p_i) x_i, which needs no Q.
    return LogisticSolution(
        C * ((target - p).mT @ x), b - b.mean(-1, keepdim=True), residual, residual <= tolerance, iterations
    )


def _newton_direction(
    f: Tensor, p: Tensor, C: float, g_z: Tensor, g_b: Tensor, precision: Tensor
) -> tuple[Tensor, Tensor]:
    """H^-1 g by conjugate gradients, to `precision` `[B]` of |g|; H is the Hessian at the probabilities p.

    The penalty makes H = 1 + a positive part of low rank on the weights, which conjugate gradients like; intercepts are scaled by
    the diagonal. H is singular along a constant intercept, and g_b sums to zero over the classes but for rounding.
    """
    g_b = g_b - g_b.mean(-1, keepdim=True)
    scale = 1 / (C * (p * (1 - p)).sum(1)).clamp_min(1e-12)  # [B, N]
    v, c = torch.zeros_like(g_z), torch.zeros_like(g_b)
    r_z, r_b = g_z, g_b
    goal = precision * (g_z.square().sum((1, 2)) + g_b.square().sum(1)).sqrt()
    y_b = _zero_mean_scaled(r_b, scale)
    d_z, d_b = r_z, y_b
    energy = (r_z * r_z).sum((1, 2)) + (r_b * y_b).sum(1)
    for _ in range(_CG_STEPS):
        # A solved problem waits for the others: going on, it would divide rounding errors by each other.
        active = (r_z.square().sum((1, 2)) + r_b.square().sum(1)).sqrt() > goal
        if not bool(active.any()):
            break
        t = _softmax_product(p, f @ d_z + d_b.unsqueeze(1))
        h_z, h_b = d_z + C * (f.mT @ t), C * t.sum(1)
        curvature = (d_z * h_z).sum((1, 2)) + (d_b * h_b).sum(1)
        a = torch.where(active, energy / curvature, 0.0)
        v, c = v + a[:, None, None] * d_z, c + a[:, None] * d_b
        r_z, r_b = r_z - a[:, None, None] * h_z, r_b - a[:, None] * h_b
        y_b = _zero_mean_scaled(r_b, scale)
        new = (r_z * r_z).sum((1, 2)) + (r_b * y_b).sum(1)
        ratio = torch.where(active, new / energy, 0.0)
        d_z, d_b = r_z + ratio[:, None, None] * d_z, y_b + ratio[:, None] * d_b
        energy = new
    return v, c


def _zero_mean_scaled(r: Tensor, scale: Tensor) -> Tensor:
    """The diagonal preconditioner of the intercepts, projected (in its own metric) to a sum of zero on both sides."""
    y = scale * (r - r.mean(-1, keepdim=True))
    return y - y.mean(-1, keepdim=True)


LOGISTIC = Head("logistic", logistic_logits, decomposes=False, grid=Grid("C", (0.01, 0.1, 1.0, 10.0, 100.0)))
