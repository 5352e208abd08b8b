"""Archives of a user's own images, unpacked for the time of an import."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slabench.core.errors import DataError

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
_UNREAD = (".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")


@contextmanager
def opened(path: Path, scratch: Path) -> Iterator[Path]:
    """`path` itself, or the folder in `scratch` that the archive at `path` was unpacked to; errors within name the archive.

    No member gets out of that folder: tarfile's filter `data` and zipfile see to it. What would fill the disk is refused before.

    Raises:
        DataError: the archive is damaged, too large, or of a kind that is not read.
    """
    name = path.name.lower()
    if not path.is_file() or not name.endswith((*ARCHIVES, *_UNREAD)):
        yield path
        return
    if not name.endswith(ARCHIVES):
        raise DataError(
            f"{path} is an archive of a kind that slabench does not read", "unpack it, and import the folder"
        )
    target = scratch / "unpacked"
    try:
        _unpack(path, target)
    except DataError:
        raise
    except Exception as error:  # a damaged archive makes its reader raise anything: zlib.error, EOFError, KeyError, ...
        raise DataError(
            f"{path} cannot be unpacked: {type(error).__name__}: {str(error)[:200]}",
            "get an intact copy, or unpack it yourself and import the folder",
        ) from error
    try:
        yield target
    except DataError as error:
        raise DataError(error.message.replace(str(target), str(path)), error.remedy) from error


def _unpack(path: Path, target: Path) -> None:
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            refuse_size(path, target, sum(member.file_size for member in archive.infolist()))
            archive.extractall(target)
        return
    with tarfile.open(path) as archive:
        refuse_size(path, target, sum(member.size for member in archive))
        archive.extractall(target, filter="data")


def refuse_size(path: Path, target: Path, size: int) -> None:
    """Refuse to unpack `size` bytes of the file `path` to `target` where the disk has no room for them."""
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise DataError(
            f"{path} holds {size:,} bytes, and {free:,} are free in {target.parent.parent}",
            "make room, or point SLABENCH_DATA at a larger disk",
        )
