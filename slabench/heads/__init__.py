"""Few-shot heads: `(support [B,S,D], support_labels [B,S], query [B,Q,D], n_classes) -> logits [B,Q,N]`, pure and batched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


class HeadFunction(Protocol):
    """A head as mathematics: no parameters, no state, any batch of episodes at once."""

    def __call__(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Logits `[B, Q, N]` from support `[B, S, D]`, support_labels int64 `[B, S]` and query `[B, Q, D]`."""
        ...


@dataclass(frozen=True)
class Grid:
    """Values of one of a head's own parameters that may be tried; its default is what `fixed` means.

    Attributes:
        parameter: a keyword argument of the head's function.
        values: from the one that wins a tie on.
    """

    parameter: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Head:
    """A head and what training and evaluation may assume of it.

    Attributes:
        name: as in `--head`.
        logits: the function; for a head with learned parameters, the function at their initial values or None where it has
            none (`module` is used instead).
        decomposes: the logit of a class depends on no support image of another class (but for a summand that all classes of
            a query share), so that the M views of an episode can be scored one by one instead of as one problem of N*M
            classes. True for prototypes, false for a solver.
        module: for a head that learns: `feature_dim -> nn.Module`, whose forward is a `HeadFunction`.
        centred: evaluation subtracts the mean feature of the training classes first (SimpleShot).
        transductive: predicts the queries of an episode from each other. Evaluation measures it too, and believes the worse.
        grid: of a parameter that may be chosen on validation classes, or averaged over; None where there is none.
    """

    name: str
    logits: HeadFunction | None
    decomposes: bool
    module: Callable[[int], nn.Module] | None = None
    centred: bool = False
    transductive: bool = False
    grid: Grid | None = None


_WATCHERS: ContextVar[tuple[list[float], ...]] = ContextVar("watchers", default=())


@contextmanager
def watch_residuals() -> Iterator[list[float]]:
    """The largest residual of every batch that a head solves within the block (as each head defines it)."""
    found: list[float] = []
    token = _WATCHERS.set((*_WATCHERS.get(), found))
    try:
        yield found
    finally:
        _WATCHERS.reset(token)


def report_residual(value: float) -> None:
    """Called by a head after solving a batch."""
    for found in _WATCHERS.get():
        found.append(value)
