"""A head's own parameter: another value of it, or all values of its grid at once."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from slabench.core.errors import UsageError
from slabench.heads import Head

if TYPE_CHECKING:
    from torch import Tensor


def with_value(head: Head, value: float) -> Head:
    """The head with this value of its grid's parameter.

    Raises:
        UsageError: it has no grid, or its function does not take the parameter.
    """
    grid, function = head.grid, head.logits
    if grid is None or function is None:
        raise UsageError(f"the head {head.name} has no parameter to choose", "leave --head-selection out")
    if grid.parameter not in inspect.signature(function).parameters:
        raise UsageError(
            f"the grid of the head {head.name} is of '{grid.parameter}', which its function does not take",
            "name one of its keyword arguments in Head.grid",
        )
    setting: dict[str, Any] = {grid.parameter: value}
    return replace(head, logits=partial(function, **setting))


def ensemble(head: Head) -> Head:
    """The head whose probabilities are the mean of those of every value of its grid: nothing is chosen.

    Raises:
        UsageError: see `with_value`.
    """
    values = head.grid.values if head.grid else (0.0,)
    members = [with_value(head, value).logits for value in values]

    def logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """log of the mean of softmax over the members, `[B, Q, N]`."""
        found = [member(support, support_labels, query, n_classes).log_softmax(-1) for member in members if member]
        return torch.stack(found).logsumexp(0)

    # The softmax of each member sees all classes, so that views cannot be scored one by one.
    return replace(head, logits=logits, decomposes=False)
