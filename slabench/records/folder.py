"""The one way to go through a folder of records: which files there are, and what is in them, read or known from before."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_core import from_json

from slabench.core.errors import DataError
from slabench.core.files import read_json
from slabench.records.index import SMALL, Facts, Index, facts, settled
from slabench.records.reading import record_of
from slabench.records.record import RunRecord

if TYPE_CHECKING:
    from slabench.records.index import Arrays

Known = dict[str, tuple[Facts | None, RunRecord | DataError]]
"""By name, a path from the folder on: what the file was (None for a link that leads nowhere), and what was in it."""


class RecordFolder:
    """Every record below `folder`, an absent one included.

    What an index knows of a file that has not changed since is not read again, but for folders of a few records, where there is
    nothing to be won.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._index: Index | None = None

    def files(self) -> list[Path]:
        """What is called like a record, ordered by path."""
        return [self.folder / name for name in _walk(os.fspath(self.folder), "") if name.endswith(".json")]

    def read(self, known: Known | None = None) -> list[RunRecord | DataError]:
        """Every record, ordered by path; for a file that is none, the error that says why.

        Args:
            known: what a look before has found, by name; it is brought up to date for the next.
        """
        before = {} if known is None else dict(known)
        now, root = time.time(), os.fspath(self.folder)
        every = list(_walk(root, ""))
        there = {name: _facts_at(f"{root}/{name}") for name in every if name.endswith(".json")}
        if len(there) >= SMALL and self._index is None:
            self._index = Index(self.folder)
        found = {name: before[name][1] for name, of in there.items() if of and name in before and before[name][0] == of}
        with _no_collection():
            if self._index is not None:
                self._look_up({name: of for name, of in there.items() if of and name not in found}, found)
            for name, of in there.items():
                # What is not there any more was replaced or removed while we look; a link that leads nowhere is named.
                if name not in found and (of or os.path.islink(f"{root}/{name}")):
                    found[name] = self._read(name, of, now)
        if known is not None:
            known.clear()
            known.update({name: (there[name], one) for name, one in found.items()})
        if self._index is not None:
            self._index.write(set(every))
        return [found[name] for name in there if name in found]

    def arrays(self, name: str, digest: str, read: Callable[[], Arrays]) -> Arrays:
        """The arrays of a side file: as the index knows them, else as `read` gives them.

        Args:
            name: of the side file, its path from the folder on.
            digest: its sha256, as its record says.
            read: reads the file and checks it, the digest too.
        """
        of = None
        if self._index is not None:
            now, of = time.time(), _facts_at(f"{self.folder}/{name}")
        if self._index is None or of is None:
            return read()
        arrays = self._index.arrays(name, of, digest)
        if arrays is None:
            arrays = read()
            if settled(of, now):
                self._index.keep_arrays(name, of, digest, arrays)
        return arrays

    def _look_up(self, there: dict[str, Facts], found: dict[str, RunRecord | DataError]) -> None:
        root = os.fspath(self.folder)

        def take(name: str, data: bytes) -> None:
            # Whatever else it is that the index has there: the file decides.
            with suppress(ValueError, DataError):
                found[name] = record_of(from_json(data), f"{root}/{name}", before=True)

        assert self._index is not None
        self._index.records(there, take)

    def _read(self, name: str, of: Facts | None, now: float) -> RunRecord | DataError:
        path = self.folder / name
        try:
            value = read_json(path)
            record = record_of(value, path)
        except DataError as error:
            return error
        if self._index is not None and of is not None and settled(of, now):
            self._index.keep_record(name, of, value)
        return record


def _facts_at(path: str) -> Facts | None:
    try:
        return facts(os.stat(path))
    except OSError:
        return None


def _walk(folder: str, name: str) -> Iterator[str]:
    """The names of files below, and of folders that are called like a record, ordered as paths are: part by part.

    Dot files are what an interrupted write leaves behind after a power cut. A link to a folder is not followed.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:  # there is none, or it may not be read
        return
    for own, is_folder in found:
        if not own.startswith(".") and (not is_folder or own.endswith(".json")):
            yield f"{name}{own}"
        if is_folder:
            yield from _walk(os.path.join(folder, own), f"{name}{own}/")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's search for circles: a hundred thousand objects are made here, and none is given up."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
