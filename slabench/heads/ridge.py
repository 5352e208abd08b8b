"""Ridge regression onto one-hot labels as a head (MetaOptNet-RR: Lee et al., CVPR 2019; R2D2: Bertinetto et al., ICLR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slabench.errors import UsageError
from slabench.heads import Head


def ridge_logits(
    support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int, penalty: float = 50.0
) -> Tensor:
    """q X' (X X' + penalty I)^-1 Y: the ridge regression of the one-hot labels, without intercept, at the queries.

    MetaOptNet's code gives twice these logits, which its learned scale absorbs; here they are R2D2's and scikit-learn's.

    Args:
        support: X, `[B, S, D]`, float32 or float64.
        support_labels: int64 `[B, S]`, 0 .. N-1; classes may have unequal shots.
        query: `[B, Q, D]`.
        n_classes: N.
        penalty: lambda, positive; 50 in MetaOptNet.

    Returns:
        logits `[B, Q, N]`.
    """
    if not penalty > 0:
        raise UsageError(f"penalty = {penalty}", "the penalty of the ridge head is a positive number")
    one_hot = functional.one_hot(support_labels, n_classes).to(support.dtype)
    # In the dual, S x S: a support set has fewer samples than features.
    eye = torch.eye(support.shape[1], dtype=support.dtype, device=support.device)
    # cholesky_ex, so that features that are not finite give logits that are not finite, as in the other heads.
    factor = torch.linalg.cholesky_ex(support @ support.mT + penalty * eye).L
    return query @ (support.mT @ torch.cholesky_solve(one_hot, factor))


METAOPTNET_RR = Head("metaoptnet-rr", ridge_logits, decomposes=False)
