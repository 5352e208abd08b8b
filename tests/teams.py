"""One command as several processes, started as torchrun starts them, without its half a minute of imports."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from processes import Process, finish, start


def start_team(size: int, arguments: list[str], folder: Path, **environment: str) -> list[Process]:
    """`slabench ARGUMENTS` as `size` processes, the first of which leads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | environment
    return [start(arguments, folder, RANK=str(rank), LOCAL_RANK=str(rank), **common) for rank in range(size)]


def finish_team(team: list[Process], seconds: float = 120) -> list[tuple[int | None, str]]:
    """Of each its exit code and all that it printed; it is an error if one of them is not done in time."""
    end = time.monotonic() + seconds
    return [finish(process, max(1.0, end - time.monotonic())) for process in team]
