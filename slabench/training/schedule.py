"""Learning-rate schedules as pure functions of the step, and the optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from slabench.core.errors import unknown_name


class Optimisation(Protocol):
    """What the loop must know of a recipe: steps, optimiser and schedule. A few-shot recipe's `train` is one."""

    @property
    def steps(self) -> int:
        """Number of updates."""
        ...

    @property
    def optimizer(self) -> str:
        """A key of `OPTIMIZERS`."""
        ...

    @property
    def lr(self) -> float:
        """The highest learning rate."""
        ...

    @property
    def momentum(self) -> float:
        """Of `sgd`, 0 to 1."""
        ...

    @property
    def nesterov(self) -> bool:
        """Whether the momentum of `sgd` is Nesterov's."""
        ...

    @property
    def weight_decay(self) -> float:
        """L2 penalty, on all weights."""
        ...

    @property
    def schedule(self) -> str:
        """`constant`, `cosine` or `step`."""
        ...

    @property
    def milestones(self) -> Sequence[float]:
        """Of `step`: fractions of the steps."""
        ...

    @property
    def factors(self) -> Sequence[float]:
        """Of `step`: the learning rate after each milestone as a fraction of `lr`."""
        ...

    @property
    def warmup(self) -> tuple[int, int]:
        """(stairs, steps of each): in stair e = 1, 2, ... the learning rate is lr * e / stairs, as in LDAM-DRW's epochs."""
        ...


@dataclass(frozen=True)
class Resolved:
    """An `Optimisation` with numbers that depend on the data, such as the steps of an epoch."""

    steps: int
    optimizer: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    milestones: Sequence[float]
    factors: Sequence[float]
    warmup: tuple[int, int]


def learning_rate(train: Optimisation, step: int) -> float:
    """The learning rate of the update at `step`, 0 <= step < train.steps. Pure: a resumed run needs no state."""
    stairs, height = train.warmup
    if step < stairs * height:
        return train.lr * (step // height + 1) / stairs
    done = step / train.steps
    if train.schedule == "cosine":
        return train.lr * 0.5 * (1 + math.cos(math.pi * done))
    if train.schedule == "step":
        # In whole steps: 19/60 of 60,000 as a float is not 19,000.
        passed = sum(1 for milestone in train.milestones if step >= round(milestone * train.steps))
        return train.lr * train.factors[passed - 1] if passed else train.lr
    return train.lr


def _adam(weights: list[nn.Parameter], train: Optimisation) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights, lr=train.lr, weight_decay=train.weight_decay, foreach=True)


def _sgd(weights: list[nn.Parameter], train: Optimisation) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        weights,
        lr=train.lr,
        momentum=train.momentum,
        nesterov=train.nesterov and train.momentum > 0,  # without momentum the two are one, and torch refuses the flag
        weight_decay=train.weight_decay,
        foreach=True,
    )


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], Optimisation], torch.optim.Optimizer]] = {
    "adam": _adam,
    "sgd": _sgd,
}
"""How each of `slabench.recipes.base.OptimizerName` is built."""


def build_optimizer(train: Optimisation, module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all weights, batch-norm and scale included, as MetaOptNet and LDAM-DRW decay them.

    Raises:
        UsageError: there is no optimiser of that name.
    """
    if train.optimizer not in OPTIMIZERS:
        raise unknown_name("optimiser", train.optimizer, OPTIMIZERS)
    return OPTIMIZERS[train.optimizer]([weight for weight in module.parameters() if weight.requires_grad], train)
