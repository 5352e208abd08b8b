"""Random episodes as tensors, for the tests of heads."""

from __future__ import annotations

import torch
from torch import Tensor

from slabench.core.seeding import torch_generator


def episodes(
    name: str, counts: list[int], dim: int, batch: int = 2, queries: int = 7, spread: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Support, labels in any order, and query, float64: classes around centres of their own, `counts` supports each."""
    g = torch_generator(0, f"episodes {name}")
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = torch.stack([labels[torch.randperm(len(labels), generator=g)] for _ in range(batch)])
    centres = torch.randn((batch, len(counts), dim), generator=g, dtype=torch.float64)
    noise = torch.randn((*labels.shape, dim), generator=g, dtype=torch.float64)
    support = centres.gather(1, labels.unsqueeze(-1).expand(-1, -1, dim)) + spread * noise
    which = torch.randint(len(counts), (batch, queries), generator=g)
    noise = torch.randn((batch, queries, dim), generator=g, dtype=torch.float64)
    return support, labels, centres.gather(1, which.unsqueeze(-1).expand(-1, -1, dim)) + spread * noise
