"""Few-shot heads: `(support [B,S,D], support_labels [B,S], query [B,Q,D], n_classes) -> logits [B,Q,N]`, pure and batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class HeadFunction(Protocol):
    """A head as mathematics: no parameters, no state, any batch of episodes at once."""

    def __call__(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Logits `[B, Q, N]` from support `[B, S, D]`, support_labels int64 `[B, S]` and query `[B, Q, D]`."""
        ...


@dataclass(frozen=True)
class Head:
    """A head function and what evaluation may assume of it.

    Attributes:
        name: as in `--head`.
        logits: the function.
        decomposes: the logit of a class depends on no support image of another class, so that the M views of an episode
            can be scored one by one instead of as one problem of N*M classes. True for prototypes, false for a solver.
    """

    name: str
    logits: HeadFunction
    decomposes: bool
