"""Prototypical networks: squared Euclidean distance to the class means (Snell, Swersky and Zemel, NeurIPS 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from slabench.heads import Head


def class_means(support: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Prototypes `[B, N, D]`: the mean support feature of each class (eq. 1). Classes may have unequal shots.

    Args:
        support: `[B, S, D]`.
        labels: int64 `[B, S]`, 0 .. N-1.
        n_classes: N. A class without a support image gets the zero vector.
    """
    one_hot = torch.nn.functional.one_hot(labels, n_classes).to(support.dtype)  # [B, S, N]
    counts = one_hot.sum(1).clamp_min(1)  # [B, N]
    return (one_hot.transpose(1, 2) @ support) / counts.unsqueeze(-1)


def prototype_logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """-||q - p_i||^2 / D for every query and class, as in MetaOptNet's ProtoNet (the learned scale is the learner's).

    Args:
        support: `[B, S, D]`, float32 or float64.
        support_labels: int64 `[B, S]`.
        query: `[B, Q, D]`.
        n_classes: N.

    Returns:
        logits `[B, Q, N]`, not positive up to rounding.
    """
    means = class_means(support, support_labels, n_classes)
    # The expanded square costs one matrix product; the differences themselves would be [B, Q, N, D].
    cross = query @ means.transpose(1, 2)
    squares = means.square().sum(-1).unsqueeze(1) + query.square().sum(-1, keepdim=True)
    return (2 * cross - squares) / query.shape[-1]


PROTONET = Head("protonet", prototype_logits, decomposes=True)
