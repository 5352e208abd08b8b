"""What torchrun tells each of the processes that it starts, read without importing torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from slabench.core.errors import UsageError

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR")


class Launch(NamedTuple):
    """This process among those that were started for one command.

    Attributes:
        rank: 0 is the one that prints and writes records.
        size: how many there are.
        local_rank: among those of this machine: the number of its device.
    """

    rank: int
    size: int
    local_rank: int

    @property
    def follows(self) -> bool:
        """Whether another process speaks for this one."""
        return self.rank > 0


def launched() -> Launch | None:
    """What torchrun says; None for a process that is alone, under torchrun or not.

    Raises:
        UsageError: the variables are there and are no such numbers.
    """
    if not all(name in os.environ for name in _NAMES):
        return None
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        found = Launch(rank, size, int(os.environ.get("LOCAL_RANK", rank)))
    except ValueError as error:
        raise UsageError(
            f"torchrun's variables are no numbers: {error}", "start with torchrun, or unset RANK"
        ) from error
    if not 0 <= found.rank < found.size or found.local_rank < 0:
        raise UsageError(
            f"RANK={found.rank} of WORLD_SIZE={found.size}, LOCAL_RANK={found.local_rank} cannot be",
            "start with torchrun, or unset RANK",
        )
    return found if found.size > 1 else None
