"""Around the saving of a result: whether it can be, before anything is computed, and what a killed process left of it."""

from __future__ import annotations

import errno
from collections.abc import Collection
from pathlib import Path

from slabench.core.errors import UsageError
from slabench.core.files import SHORT, remove_abandoned, temporary_folder

_SIDE_FILES = (".*.npz", ".*.outputs.safetensors", ".outputs.tmp")
_TEMPORARY = ".????????.tmp"


def check_place(path: Path, name: str) -> None:
    """Try whether a record at `path`, and the files beside it, can be written.

    Args:
        path: of the record.
        name: the recipe's, for the error.

    Raises:
        UsageError: the names are too long for the file system.
        OSError: nothing can be written there.
    """
    longest = path.with_suffix(f".{'0' * SHORT}.outputs.safetensors")
    try:
        with temporary_folder(longest) as folder:
            (folder / longest.name).touch()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise UsageError(
            f"the name '{name[:SHORT]}...' of {len(name)} letters is too long for the file system of {path.parents[3]}",
            "shorten it (--set name=...), or name a folder nearer to the root with --results",
        ) from error


def leftovers(path: Path, named: Collection[str | None]) -> list[Path]:
    """What a killed process left beside the record at `path`.

    Args:
        path: of the record.
        named: the side files that belong to it.
    """
    files = (found for pattern in _SIDE_FILES for found in path.parent.glob(path.stem + pattern))
    return [
        *(found for found in files if found.name not in named),
        *path.parent.glob(f".{path.stem}.*{_TEMPORARY}"),
        *path.parent.glob(path.with_suffix(".lock").name),
    ]


def remove_leftovers(path: Path, named: Collection[str | None]) -> None:
    """Remove `leftovers`, by a process that holds the record's lock; the lock's file goes as it lets go of it."""
    for found in leftovers(path, named):
        if found.name.startswith("."):
            remove_abandoned(found.with_name(found.name[1 : -len(_TEMPORARY)]))
        elif found.suffix != ".lock":
            found.unlink(missing_ok=True)
