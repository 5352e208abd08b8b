"""MetaOptNet's heads, the Crammer-Singer SVM and ridge regression (Lee et al., CVPR 2019); R2D2's (Bertinetto et al., 2019)."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Grid, Head, report_residual
from slabench.heads.svm_solver import Solution, solve


class SvmConvergenceWarning(RuntimeWarning):
    """Some SVM problems of a batch were not solved to the tolerance; the message says how many and how far off."""


def svm_logits(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    C: float = 0.1,
    ridge: float = 1.0,
    tolerance: float = 1e-9,
) -> Tensor:
    """q . w_m for every query and class, differentiable in support and query.

    Args:
        support: `[B, S, D]`, float32 or float64; the problems are solved in float64 in either case.
        support_labels: int64 `[B, S]`, 0 .. N-1; classes may have unequal shots, or none.
        query: `[B, Q, D]`.
        n_classes: N.
        C: weight of the hinge losses; the same C as liblinear's.
        ridge: added to the diagonal of the Gram matrix, positive. Features scaled by s give the same logits with C / s^2
            and ridge s^2.
        tolerance: KKT residual (`Solution.residual`) above which `SvmConvergenceWarning` is issued.

    Returns:
        logits `[B, Q, N]` of the dtype of `support`.
    """
    _check(support, support_labels, C, ridge)
    one_hot = functional.one_hot(support_labels, n_classes).double()
    weights: Tensor = _Weights.apply(support, one_hot, C, ridge, tolerance)
    return query @ weights.mT


def svm_solution(
    support: Tensor,
    support_labels: Tensor,
    n_classes: int,
    C: float = 0.1,
    ridge: float = 1.0,
    tolerance: float = 1e-9,
) -> Solution:
    """The dual's solution with its KKT residual, iterations and whether it converged, by episode; arguments as above."""
    _check(support, support_labels, C, ridge)
    x = support.detach().double()
    one_hot = functional.one_hot(support_labels, n_classes).double()
    return solve(x @ x.mT, one_hot, C, ridge, tolerance)


class _Weights(torch.autograd.Function):
    """Support features to weights `[B, N, D]`; the derivative is that of the optimality conditions, nothing is unrolled."""

    @staticmethod
    def forward(ctx: Any, support: Tensor, one_hot: Tensor, C: float, ridge: float, tolerance: float) -> Tensor:
        x = support.double()
        solution = solve(x @ x.mT, one_hot, C, ridge, tolerance, keep_factors=ctx.needs_input_grad[0])
        _report(solution, tolerance)
        weights = solution.alpha.mT @ x
        ctx.save_for_backward(support, solution.alpha, weights)
        ctx.free = solution.free
        return weights.to(support.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        """On the free set A alpha + t = Y, with rows of alpha summing to zero, so that d alpha = -S dA alpha, where S is the
        (symmetric) solution operator of `FreeSystem`. With v = S dL/dalpha and dA = dX X' + X dX':
        dL/dX = alpha dL/dW - v W - alpha (v' X).
        """
        support, alpha, weights = ctx.saved_tensors
        x, grad_weights = support.double(), grad.double()
        grad_alpha = x @ grad_weights.mT  # [B, S, N]
        v = torch.empty_like(grad_alpha)
        for system in ctx.free:
            v[system.rows] = system.solve(grad_alpha[system.rows])
        grad_x = alpha @ (grad_weights - v.mT @ x) - v @ weights
        return grad_x.to(support.dtype), None, None, None, None


def _check(support: Tensor, labels: Tensor, C: float, ridge: float) -> None:
    if support.dim() != 3 or labels.shape != support.shape[:2]:
        raise UsageError(
            f"support has the shape {tuple(support.shape)}, its labels {tuple(labels.shape)}",
            "support is [episodes, samples, features] and labels [episodes, samples]",
        )
    for name, value in (("C", C), ("ridge", ridge)):
        if not value > 0:
            raise UsageError(f"{name} = {value} of the SVM head is not positive", "give a positive number")


def _report(solution: Solution, tolerance: float) -> None:
    report_residual(float(solution.residual.max()))
    failed = int((~solution.converged).sum())
    if failed:
        warnings.warn(
            f"{failed} of {len(solution.converged)} SVM problems did not converge: the largest KKT residual is"
            f" {float(solution.residual.max()):.1e}, the tolerance {tolerance:.0e};"
            " shorter features or a larger ridge help, and a residual of infinity means features that are not finite",
            SvmConvergenceWarning,
            stacklevel=4,
        )


METAOPTNET_SVM = Head("metaoptnet-svm", svm_logits, decomposes=False, grid=Grid("C", (0.01, 0.1, 1.0, 10.0)))


PENALTY = 50.0
"""lambda of MetaOptNet-RR, and R2D2's first one in LibFewShot."""


def ridge_logits(
    support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int, penalty: float | Tensor = PENALTY
) -> Tensor:
    """q X' (X X' + penalty I)^-1 Y: the ridge regression of the one-hot labels, without intercept, at the queries.

    MetaOptNet's code gives twice these logits, which its learned scale absorbs; here they are R2D2's and scikit-learn's.

    Args:
        support: X, `[B, S, D]`, float32 or float64.
        support_labels: int64 `[B, S]`, 0 .. N-1; classes may have unequal shots.
        query: `[B, Q, D]`.
        n_classes: N.
        penalty: lambda, positive; 50 in MetaOptNet. A tensor `[]` may be learned.

    Returns:
        logits `[B, Q, N]`.
    """
    if not isinstance(penalty, Tensor) and not penalty > 0:  # a learned one would have to be waited for
        raise UsageError(
            f"penalty = {penalty} of the ridge head is not positive", "give a positive number; MetaOptNet has 50"
        )
    one_hot = functional.one_hot(support_labels, n_classes).to(support.dtype)
    # In the dual, S x S: a support set has fewer samples than features.
    eye = torch.eye(support.shape[1], dtype=support.dtype, device=support.device)
    # cholesky_ex, so that features that are not finite give logits that are not finite, as in the other heads.
    factor = torch.linalg.cholesky_ex(support @ support.mT + penalty * eye).L
    return query @ (support.mT @ torch.cholesky_solve(one_hot, factor))


class R2D2Module(nn.Module):
    """alpha * ridge_logits + beta with learned lambda, alpha and beta (R2D2: Bertinetto et al., ICLR 2019, eq. 6 and 7).

    lambda is kept positive as the exponential of the trained parameter. beta is the same for all classes, so cross-entropy gives
    it no gradient; it is there because the paper has it.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.log_penalty = nn.Parameter(torch.tensor(math.log(PENALTY)))
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Logits `[B, Q, N]`; shapes as in `ridge_logits`."""
        return self.alpha * ridge_logits(support, support_labels, query, n_classes, self.log_penalty.exp()) + self.beta


METAOPTNET_RR = Head(
    "metaoptnet-rr", ridge_logits, decomposes=False, grid=Grid("penalty", (0.5, 5.0, 50.0, 500.0, 5000.0))
)


R2D2 = Head("r2d2", ridge_logits, decomposes=False, module=R2D2Module)
