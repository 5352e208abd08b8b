"""Matching networks: attention over the supports (Vinyals et al., NeurIPS 2016), without full-context embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.heads import Head

INITIAL_SCALE = 10.0
"""Of the cosines. The paper has none, and at 1 the attention over five supports cannot leave 0.13 .. 0.27 for cosines in
-1 .. 1 wide apart: too flat to be trained."""


def matching_logits(
    support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int, scale: float | Tensor = INITIAL_SCALE
) -> Tensor:
    """log of the attention that each class gets: logsumexp over its supports of scale * cos(q, x_i) (eq. 1 and 2).

    Softmax of these logits is the paper's P(y | q) = sum_i a(q, x_i) y_i with a the softmax over all supports: the two
    normalisations are one. A class with more supports gets more attention, as in the paper.

    Args:
        support: `[B, S, D]`.
        support_labels: int64 `[B, S]`, 0 .. N-1.
        query: `[B, Q, D]`.
        n_classes: N; a class without supports gets -inf.
        scale: of the cosines.

    Returns:
        logits `[B, Q, N]`.
    """
    cosines = functional.normalize(query, dim=-1) @ functional.normalize(support, dim=-1).mT  # [B, Q, S]
    own = functional.one_hot(support_labels, n_classes).bool().mT.unsqueeze(1)  # [B, 1, N, S]
    # [B, Q, N, S] would be N times the cosines: a class at a time, from supports sorted by class, where shots are equal.
    counts = own.sum(-1)
    if bool((counts == counts[..., :1]).all()) and int(counts.flatten()[0]):
        order = support_labels.argsort(dim=-1, stable=True).unsqueeze(1).expand_as(cosines)
        by_class = (scale * cosines).gather(-1, order).unflatten(-1, (n_classes, -1))
        return by_class.logsumexp(-1)  # type: ignore[no-any-return]
    masked = (scale * cosines).unsqueeze(2).masked_fill(~own, -math.inf)
    return masked.logsumexp(-1)


class MatchingModule(nn.Module):
    """`matching_logits` with a learned scale.

    The learner's own scale multiplies logarithms of attention, which is not the same thing.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Logits `[B, Q, N]`."""
        return matching_logits(support, support_labels, query, n_classes, self.log_scale.exp())


MATCHING = Head("matchingnet", matching_logits, decomposes=True, module=MatchingModule)
