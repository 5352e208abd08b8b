"""Ridge regression onto one-hot labels as a head (MetaOptNet-RR: Lee et al., CVPR 2019; R2D2: Bertinetto et al., ICLR 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Head

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
    if not penalty > 0:
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


METAOPTNET_RR = Head("metaoptnet-rr", ridge_logits, decomposes=False)
R2D2 = Head("r2d2", ridge_logits, decomposes=False, module=R2D2Module)
