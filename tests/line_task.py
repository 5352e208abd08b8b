"""A task that is small enough to follow by hand."""

from __future__ import annotations

import torch
from torch import nn

from slabench.training.loop import StepResult


class Line:
    """Least squares on one weight per draw: small enough to follow by hand, random enough to notice a lost step."""

    def __init__(self, values: list[float] | None = None) -> None:
        torch.manual_seed(0)
        self.module: nn.Module = nn.Linear(3, 1)
        self.values = values or []
        self.validations = 0
        self.steps: list[int] = []

    def step(self, step: int) -> StepResult:
        self.steps.append(step)
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        loss = (self.module(x) - x.sum(1, keepdim=True)).square().mean()
        return StepResult(loss, torch.tensor(step / 100), 4)

    def validate(self) -> dict[str, float]:
        self.module.eval()
        self.validations += 1
        return {"single": self.values[self.validations - 1] if self.values else 0.5, "aggregated": 0.1}

    def watch(self) -> dict[str, float]:
        return {}
