"""Whether a head predicts each query from itself and the supports alone, or looks at the other queries of the episode."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from slabench.heads import HeadFunction

ALONE = 8
"""So many queries of an episode are asked alone."""


@torch.no_grad()
def query_gap(head: HeadFunction, support: Tensor, labels: Tensor, query: Tensor, n_classes: int) -> float:
    """How much the logits of queries change when the others are absent, or come in another order.

    A summand that all classes of a query share is taken off first: neither argmax nor softmax sees it.

    Args:
        head: supports `[B, S, D]`, labels `[B, S]` and queries `[B, Q, D]` to logits `[B, Q, N]`.
        support: `[B, S, D]`.
        labels: int64 `[B, S]`.
        query: `[B, Q, D]`; up to `ALONE` of each episode are asked alone.
        n_classes: N.

    Returns:
        The largest change, as a fraction of the largest difference between two classes' logits; 0 where all are equal.
    """

    def centred(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        logits = head(support, labels, query, n_classes)
        return logits - logits.mean(-1, keepdim=True)

    together = centred(support, labels, query)
    n = query.shape[1]
    asked = torch.linspace(0, n - 1, min(n, ALONE), device=query.device).round().long()
    alone = torch.cat([centred(support, labels, query[:, i : i + 1].contiguous()) for i in asked.tolist()], 1)
    turned = centred(support, labels, query.flip(1).contiguous()).flip(1)
    off = max(float((alone - together[:, asked]).abs().max()), float((turned - together).abs().max()))
    spread = float((together.amax(-1) - together.amin(-1)).max())
    return off / spread if spread > 0 else off
