"""Manifests beside frozen index files (episodes, long-tail subsets): read, and held against the bytes they vouch for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from slabench.core import paths
from slabench.core.errors import DataError, IntegrityError
from slabench.core.files import read_json, remove_abandoned, sha256_file, write_bytes, write_json

M = TypeVar("M", bound=BaseModel)


def write_frozen(path: Path, data: bytes, manifest: dict[str, Any]) -> None:
    """Write an index file and its manifest. A process killed in between leaves an index file without one: see `is_frozen`.

    Equal bytes are left alone, so that whoever reads the file meanwhile finds it whole.
    """
    beside = path.with_suffix(".json")
    if not path.is_file() or path.read_bytes() != data:
        beside.unlink(missing_ok=True)
        write_bytes(path, data)
    remove_abandoned(path)
    write_json(beside, manifest)


def is_frozen(path: Path) -> bool:
    """Whether an index file is there with its manifest: one without is what a killed process left, and is made again."""
    return path.is_file() and path.with_suffix(".json").is_file()


def find(name: str) -> Path | None:
    """The frozen index file called `name`, published or the user's, or None."""
    for folder in (paths.episodes(), paths.user_episodes()):
        path = folder / f"{name}.npy"
        if is_frozen(path):
            return path
    return None


def read_manifest(path: Path, kind: type[M], what: str, command: str) -> M:
    """The manifest beside the index file `path`.

    Args:
        path: of the index file; its manifest has the same name and ends in `.json`.
        kind: the manifest's model.
        what: what the file holds, for errors.
        command: what makes such a file, for errors.

    Raises:
        DataError: there is no manifest, or it is of another kind.
    """
    beside, remedy = path.with_suffix(".json"), f"make it again with `{command}`"
    if not beside.is_file():
        raise DataError(f"{path} has no manifest {beside.name}", remedy)
    try:
        return kind.model_validate(read_json(beside))
    except ValidationError as error:
        raise DataError(f"{beside} is not a valid {what} manifest: {error.errors()[0]['msg']}", remedy) from error


def check_digest(path: Path, sha256: str, command: str) -> str:
    """The sha256 of `path`, after holding it against that of its manifest.

    Raises:
        IntegrityError: the bytes are not those of the manifest.
    """
    digest = sha256_file(path)
    if digest != sha256:
        raise IntegrityError(
            f"{path} has sha256 {digest[:12]}, its manifest says {sha256[:12]}",
            f"restore it from its source, or make it again with `{command}`",
        )
    return digest
