"""What a command says on stderr, so that what it prints can be piped on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def notes_console() -> Console:
    """The console on stderr; text is printed as it is."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False)


def warn(notes: Console, problems: Iterable[str]) -> None:
    """A line for each distinct problem, such as a damaged file."""
    for problem in dict.fromkeys(problems):
        notes.print(f"warning: {problem}", soft_wrap=True)
