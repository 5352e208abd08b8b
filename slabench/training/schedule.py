"""Learning-rate schedules as pure functions of the step, and the optimisers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from slabench.recipe import Train


def learning_rate(train: Train, step: int) -> float:
    """The rate of the update at `step`, 0 <= step < train.steps. A pure function, so that a resumed run needs no state."""
    done = step / train.steps
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1 + math.cos(math.pi * done))
    if train.schedule == "step":
        # In whole steps: 19/60 of 60,000 as a float is not 19,000.
        passed = sum(1 for milestone in train.milestones if step >= round(milestone * train.steps))
        return train.lr * train.factors[passed - 1] if passed else train.lr
    return train.lr


def build_optimizer(train: Train, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all weights, batch-norm and scale included, as MetaOptNet decays them."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if train.optimizer == "adam":
        return torch.optim.Adam(weights, lr=train.lr, weight_decay=train.weight_decay, foreach=True)
    return torch.optim.SGD(
        weights, lr=train.lr, momentum=train.momentum, nesterov=train.momentum > 0, weight_decay=train.weight_decay
    )
