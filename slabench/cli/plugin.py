"""`--plugin FILE`: own methods for one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

_TOLERANT = ("list", "show", "doctor")
"""Commands that tell what there is: a broken plug-in is named, and the rest is told."""


class Group(TyperGroup):
    """The app's commands; `--plugin FILE` may stand before the command or among its own options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Bring every `--plugin FILE` to the front."""
        end = args.index("--") if "--" in args else len(args)
        front: list[str] = []
        rest: list[str] = []
        words = iter(args[:end])
        for word in words:
            if word == "--plugin":
                value = next(words, None)
                if value is None:
                    ctx.fail("Option '--plugin' requires an argument: a Python file.")
                else:
                    front += [word, value]
            elif word.startswith("--plugin="):
                front.append(word)
            else:
                rest.append(word)
        return super().parse_args(ctx, [*front, *rest, *args[end:]])


def load(files: list[Path], command: str | None) -> None:
    """Load plug-in files; `list`, `show` and `doctor` go on without one that is broken."""
    from slabench.core.errors import SlabenchError
    from slabench.plugins import load_plugin

    for file in files:
        try:
            load_plugin(file)
        except SlabenchError as error:
            if command not in _TOLERANT:
                raise
            warn(error)


def warn(error: Exception) -> None:
    """Name what is wrong with a plug-in on stderr, and go on."""
    typer.secho(f"warning: {error}", fg="yellow", err=True)


def warn_of_problems(plural: str | None) -> None:
    """Name the broken plug-ins of a kind (None: of all) on stderr; those that must be imported to list them, too."""
    from slabench.core.errors import SlabenchError
    from slabench.core.registry import REGISTRIES

    for key, kind in REGISTRIES.items():
        if plural not in (None, key):
            continue
        for entry in kind:
            if not entry.built_in:
                try:
                    kind.get(entry.name)
                except SlabenchError as error:
                    kind.problems.setdefault(entry.name, error)
        for problem in kind.problems.values():
            warn(problem)
