"""What the commands of frozen files (`episodes`, `longtail`) share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import typer


class Frozen(Protocol):
    """A verified file."""

    @property
    def name(self) -> str:
        """As it is called."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the index file."""
        ...


def verify_files(paths: Iterable[Path], read: Callable[[Path], Frozen]) -> None:
    """Hold each file against its digest and its data, a line each; exit code 1 if one does not fit."""
    from rich.console import Console

    from slabench.errors import DataMissingError, SlabenchError

    console = Console(highlight=False)
    bad = 0
    for path in paths:
        try:
            file = read(path)
            console.print(f"ok      {file.name}  {file.digest[:12]}", soft_wrap=True)
        except DataMissingError as error:
            console.print(f"unread  {path}: {error.message}", soft_wrap=True, markup=False)
        except SlabenchError as error:
            bad += 1
            console.print(f"BAD     {error}", soft_wrap=True, markup=False)
    if bad:
        raise typer.Exit(1)


def find_file(name: str, kind: str, find: Callable[[str], Path | None], list_files: Callable[[], list[Path]]) -> Path:
    """The file called `name`, or at the path `name`; otherwise a usage error with a did-you-mean."""
    from slabench.errors import UsageError, did_you_mean

    path = Path(name) if name.endswith(".npy") else find(name)
    if path is None or not path.is_file():
        known = [f"{file.parent.name}/{file.stem}" for file in list_files()]
        raise UsageError(f"there is no {kind} file '{name}'", did_you_mean(name, known))
    return path
