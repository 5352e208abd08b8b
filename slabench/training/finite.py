"""Scores of what has diverged are no scores: argmax over NaN is class 0, an accuracy of one over the ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from slabench.core.errors import SlabenchError

_REMEDY = "lower the learning rate (--set train.lr=...), or use --set train.precision=float32"


class NotFiniteError(SlabenchError):
    """A loss, weights, features or logits are NaN or infinite."""


def diverged(what: str) -> NotFiniteError:
    """The error that `what` (in words, with its step where it has one) is no longer finite."""
    return NotFiniteError(what, _REMEDY)


def require_finite(values: Tensor, what: str) -> None:
    """Refuse values that are NaN or infinite.

    Args:
        values: of any shape, on any device.
        what: their name, plural.

    Raises:
        NotFiniteError: how many of them are.
    """
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise diverged(f"{int((~finite).sum()):,} of {values.numel():,} {what} are not finite")


def require_finite_weights(module: nn.Module, step: int) -> None:
    """Refuse a module with weights, or statistics of batch norms, that are NaN or infinite after `step`.

    Raises:
        NotFiniteError: names the first tensor.
    """
    for name, values in module.state_dict().items():
        if not bool(torch.isfinite(values).all()):
            raise diverged(f"the weights are no longer finite at step {step} ({name})")


@contextmanager
def at_step(step: int) -> Iterator[None]:
    """Adds the step to a `NotFiniteError` of the block, which does not know it."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"{error.message} at step {step}", error.remedy) from error
