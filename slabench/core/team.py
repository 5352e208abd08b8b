"""The processes that train one trial together, and what passes between them; a process alone is a team of one.

Images are divided, and nothing else: each process takes its share of a batch through the backbone, and the features of the whole
batch are gathered (`whole`). Heads, objectives and losses see the whole batch in every process, so that a loss which depends on
all of it (a mean by class weights, a distillation) is the one of a single process, whatever it is.

The gradient: every process has the whole loss, and the way back through `whole` gives it the part of its own rows, times the
number of processes. The mean of the gradients over processes is then that of the whole batch, for the backbone (each has a
part of it) and for what comes after (each has all of it) alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slabench.core.errors import SlabenchError


class PeerLostError(SlabenchError):
    """Another process of the team has ended, or does not answer."""

    exit_code = 130


@dataclass(frozen=True)
class Team:
    """This process among those that work on one trial."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0


def current() -> Team:
    """The team of the trial at hand."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return Team()
    return Team(distributed.get_rank(), distributed.get_world_size())


def share(n: int) -> slice:
    """This process's rows of `n`: the shares are contiguous, disjoint, and differ by one row at most."""
    team = current()
    return _share(n, team.rank, team.size)


def whole(rows: Tensor, n: int, counted: bool = False) -> Tensor:
    """The rows of all processes, in order.

    Args:
        rows: those of `share(n)`, `[n_own, ...]`, float; differentiable.
        n: how many there are in all.
        counted: ask all processes how many rows they have worked on. It is one message more, which an evaluation can afford.

    Returns:
        `[n, ...]`, the same in every process.

    Raises:
        PeerLostError: another process has gone.
    """
    team = current()
    if team.size == 1:
        return rows
    if counted:
        _count(rows, n)
    gathered: Tensor = _Whole.apply(rows, n)
    return gathered


def whole_flags(rows: Tensor, n: int) -> Tensor:
    """`whole` for bool tensors, counted."""
    if current().size == 1:
        return rows
    _count(rows, n)
    return _gathered(rows.to(torch.uint8), n).bool()


def average(gradients: Sequence[Tensor]) -> None:
    """Replace float tensors by their means over processes, in place: one message for all of them."""
    team = current()
    if team.size == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    reduce(flat.div_(team.size))
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def reduce(values: Tensor, largest: bool = False) -> Tensor:
    """Sum over processes, or the largest, in place."""
    operation = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
    with answers():
        torch.distributed.all_reduce(values, op=operation)
    return values


def any_of(flag: bool) -> bool:
    """Whether it is true in any process. Asked on the CPU, so that no device's queue is waited for."""
    return flag if current().size == 1 else bool(reduce(torch.tensor(int(flag)), largest=True))


def largest(value: float | None) -> float | None:
    """The largest value of all processes, which are not negative; NaN counts as infinite. None where none has one."""
    if current().size == 1:
        return value
    own = -1.0 if value is None else float("inf") if value != value else value
    found = float(reduce(torch.tensor(own, dtype=torch.float64), largest=True))
    return None if found < 0 else found


def as_leader(values: Tensor) -> Tensor:
    """The first process's values, in place."""
    if current().size > 1:
        sent = values.contiguous()
        with answers():
            torch.distributed.broadcast(sent, 0)
        if sent is not values:
            values.copy_(sent)
    return values


def gather_equal(values: Tensor) -> Tensor:
    """`[K, ...]` of every process's `values`, all of one shape."""
    parts = [torch.empty_like(values) for _ in range(current().size)]
    with answers():
        torch.distributed.all_gather(parts, values)
    return torch.stack(parts)


@contextmanager
def answers() -> Iterator[None]:
    """A message that fails is a process that has gone."""
    try:
        yield
    except RuntimeError as error:
        raise gone(error) from error


def gone(error: RuntimeError) -> PeerLostError:
    """That a process has gone, of the error that torch raises then."""
    said = (str(error).splitlines() or [""])[0][:120]
    return PeerLostError(
        f"another process of this trial is gone ({said})",
        "run the same command again: it goes on from the last saved state",
    )


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, n: int) -> Tensor:
        ctx.n = n
        return _gathered(rows, n)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad[share(ctx.n)] * current().size, None


def _count(rows: Tensor, n: int) -> None:
    """Refuse rows that are not each from exactly one process: said by all of them, not assumed."""
    team, part = current(), share(n)
    wrong = int(len(rows) != part.stop - part.start)
    counted, asked, wrong = reduce(torch.tensor([len(rows), n, wrong])).tolist()
    if wrong or counted != n or asked != n * team.size:
        raise SlabenchError(
            f"{counted:,} rows were worked on by {team.size} processes, and {n:,} were expected",
            "this is a mistake of slabench: please report it",
        )


def _share(n: int, rank: int, size: int) -> slice:
    each, more = divmod(n, size)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def _gathered(rows: Tensor, n: int) -> Tensor:
    """Shares are padded to one length, which every backend can gather."""
    team = current()
    longest = -(-n // team.size)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = gather_equal(padded)
    lengths = [_share(n, rank, team.size) for rank in range(team.size)]
    return torch.cat([own[: place.stop - place.start] for own, place in zip(parts, lengths, strict=True)])
