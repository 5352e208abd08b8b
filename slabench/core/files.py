"""Files: atomic writes, digests, canonical JSON. Everything that slabench writes goes through here."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from slabench.core.errors import DataError

SHORT = 12
"""Letters of a key or digest that people read, and that files are named by."""

_LEVELS = 64  # the deepest file that slabench writes or ships has six

TEXT_LIMIT = 64 << 20
"""Bytes of the largest JSON, TOML, CSV or list that is read; the largest that slabench writes has some hundred kB."""


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path` and rename it onto `path` when the block succeeds.

    A reader sees the old file or the new one, never half of either; after an error nothing is left behind, and what a killed
    process left of an earlier attempt at `path` is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)
    handle, temporary = _claimed(path, lambda prefix: tempfile.mkstemp(prefix=prefix, suffix=".tmp", dir=path.parent))
    try:
        binary = "b" in mode
        with os.fdopen(handle, mode, encoding=None if binary else "utf-8", newline=None if binary else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files private; a record is to be read by colleagues, under the user's own umask.
            temporary.chmod(0o666 & ~_umask())
            if not _WINDOWS:
                temporary.replace(path)  # while it is open, and so still locked: nobody takes it for abandoned
        if _WINDOWS:
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, gone after the block unless it was renamed; what a killed process left of one is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path)

    def make(prefix: str) -> tuple[int, str]:
        name = tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=path.parent)
        return -1 if _WINDOWS else os.open(name, os.O_RDONLY), name

    handle, temporary = _claimed(path, make)
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if handle >= 0:
            os.close(handle)


def replace_folder(new: Path, path: Path) -> None:
    """Rename the folder `new` onto `path`, where another one may be: that one is put back should this process be killed."""
    with temporary_folder(path) as beside:
        with contextlib.suppress(FileNotFoundError):
            path.rename(beside / _ASIDE)
        new.rename(path)


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of attempts to write `path`: `.<name>.<8 letters>.tmp`, files and folders.

    A folder that one of them had moved aside, and not yet replaced, is put back. A process that lives holds a lock on what it
    writes, which ends with it, so that nothing of a living one is touched. Where the file system has no locks, what nobody has
    changed for a day counts as abandoned.
    """
    for found in path.parent.glob(f"{glob.escape(_prefix(path))}????????.tmp"):
        with contextlib.suppress(OSError):
            from filelock import lock_descriptor  # start-up time: there is seldom anything to remove

            kind = found.lstat().st_mode
            if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
                continue
            if _WINDOWS:
                free = _old(found)
                handle = -1
            else:
                handle = os.open(found, os.O_RDONLY if stat.S_ISDIR(kind) else os.O_RDWR)
                try:
                    free = lock_descriptor(handle, blocking=False)
                except OSError:
                    free = _old(found)
            try:
                if free and stat.S_ISDIR(kind):
                    if (found / _ASIDE).exists() and not path.exists():
                        (found / _ASIDE).rename(path)
                    shutil.rmtree(found)
                elif free:
                    found.unlink()
            finally:
                if handle >= 0:
                    os.close(handle)


_WINDOWS = os.name == "nt"  # where an open file cannot be renamed, nor a folder be locked
_ABANDONED_AFTER = 24 * 3600.0
_LONG_NAME = 50
_ASIDE = "old"


def _prefix(path: Path) -> str:
    """How the names of temporary neighbours begin: not with all of a long name, which may be as long as a name can be."""
    return f".{path.name[:_LONG_NAME]}."


def _claimed(path: Path, make: Callable[[str], tuple[int, str]]) -> tuple[int, Path]:
    """What `make` makes, open and locked for as long as it is open."""
    from filelock import lock_descriptor

    while True:
        handle, name = make(_prefix(path))
        if _WINDOWS:
            return handle, Path(name)
        try:
            # Before it was locked, another process may have taken it for abandoned, and removed it.
            claimed = lock_descriptor(handle, blocking=False) and Path(name).exists()
        except OSError:
            claimed = True
        if claimed:
            return handle, Path(name)
        os.close(handle)


def _old(path: Path) -> bool:
    return time.time() - path.lstat().st_mtime > _ABANDONED_AFTER


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8, newlines as they are) to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_plain(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file; whatever else lies at `path` is an error that names it, and nothing ever waits.

    Args:
        path: of the file. A named pipe would block for ever, a device has no end, a folder has no bytes: all are refused.
        limit: the most bytes that such a file may have; None for any number.

    Raises:
        DataError: there is no such file, it cannot be read, is no regular file, or is larger than `limit`.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                kind = "a named pipe" if stat.S_ISFIFO(facts.st_mode) else "a device"
                raise DataError(f"{path} is {kind}, not a file", "move it away")
            if limit is not None and facts.st_size > limit:
                raise DataError(
                    f"{path} has {facts.st_size:,} bytes; such a file has at most {limit:,}", "move it away"
                )
            return file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path} cannot be read: it is missing", "restore it from its source") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not a file", "move it away") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{path} cannot be read: {why}", "move it away, or restore it from its source") from error


def _open_at_once(path: str, flags: int) -> int:
    """As `open` does, but that a named pipe without a writer is opened too, instead of waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a regular file of at most `TEXT_LIMIT` bytes, newlines as they are.

    Raises:
        DataError: see `read_plain`; or it is not text in this encoding, naming the line.
    """
    data = read_plain(path, TEXT_LIMIT)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8 text: line {line} has the byte {data[error.start]:#04x}",
            "save it as UTF-8 (the editor may call it so under 'Save as'), or restore it from its source",
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one is an error that names the file.

    Half of a surrogate pair (`"\\ud800"`) is refused: it is no character, and nothing could write or print it again.
    """
    text = read_text(path)
    try:
        value = json.loads(text)
        if "\\u" in text:
            canonical_json(value)
        _refuse_depth(value)
    except (ValueError, RecursionError) as error:  # not JSON, too many digits, half a surrogate; brackets without end
        raise DataError(f"{path} is not readable JSON: {error}", "remove it, or restore it from its source") from error
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a damaged one is an error that names the file."""
    text = read_text(path)
    try:
        value = tomllib.loads(text)
        _refuse_depth(value)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not TOML: {error}", "fix the line it names") from error
    return value


def _refuse_depth(value: Any) -> None:
    """What is nested by the hundred parses, and then fails in whatever walks through it."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_LEVELS):
        level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {_LEVELS} levels")


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no blanks: equal values give equal bytes, whatever the order they were made in."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_json(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
