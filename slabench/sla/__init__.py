"""Joint labels and their aggregation: the whole of SLA's arithmetic.

With M transformations, class i under t_j has the joint label i*M + j (Lee, Hwang and Shin, ICML 2020, section 3.1, in the
order of their code). Nothing here knows where logits come from: a linear layer and a few-shot head are served alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slabench.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def joint_labels(labels: Tensor, m: int) -> Tensor:
    """Labels of the M interleaved copies of each sample.

    Args:
        labels: int64 `[...]`, classes 0 .. N-1.
        m: the number of transformations M.

    Returns:
        int64 `[..., M]`: label i becomes i*M, i*M + 1, ..., i*M + M-1. `flatten` it for the rows b*M + j.
    """
    import torch

    return labels.unsqueeze(-1) * m + torch.arange(m, device=labels.device)


def same_view(logits: Tensor, m: int) -> Tensor:
    """The logits of each class under the very transformation that was applied.

    Args:
        logits: `[..., M, N*M]`, joint logits l[j, i*M + k] of the copy j.
        m: M.

    Returns:
        `[..., M, N]`: l[j, i*M + j], from which both predictors are made.
    """
    if logits.dim() < 2 or logits.shape[-2] != m or logits.shape[-1] % m:
        raise UsageError(
            f"joint logits of M={m} transformations have the shape [..., {m}, N*{m}], got {list(logits.shape)}",
            "unflatten the interleaved rows b*M + j to [B, M, N*M] first",
        )
    blocks = logits.unflatten(-1, (logits.shape[-1] // m, m))  # [..., M(copy), N, M(label)]
    own: Tensor = blocks.diagonal(dim1=-3, dim2=-1)  # [..., N, M]
    return own.transpose(-1, -2)


def aggregate(logits: Tensor, m: int) -> Tensor:
    """SLA+AG: s_i = (1/M) sum_j l[j, (i, j)], the mean of logits, not of probabilities.

    Args:
        logits: `[..., M, N*M]`.
        m: M.

    Returns:
        `[..., N]`; softmax of it is the aggregated probability P(i | x).
    """
    return same_view(logits, m).mean(-2)


def single(logits: Tensor, m: int) -> Tensor:
    """SLA+SI: the logits of the untransformed copy for the untransformed classes, l[0, (i, 0)]. Shapes as `aggregate`."""
    return same_view(logits, m)[..., 0, :]
