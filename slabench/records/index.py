"""An index of a folder of records: what was read and found whole, so that the next command need not read and check it again.

It is one SQLite file a folder of results, in the user's cache and never in the folder itself: an index that came with somebody
else's records could say anything, and a command that only looks writes nothing where it looks. It may be removed at any time.

It decides nothing. Which files there are is seen in the folder, every time, and what the index holds of a file counts only while
the file's size, inode, times of change and of its inode's change are those of the reading; everything else is read from the
file. What comes out of it goes through the same schema as what comes out of a file. Whatever is wrong with the index
itself, damage, another version, another owner, a lock, is no error: it is made anew, or done without.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import stat
import time
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json

from slabench.core import paths
from slabench.core.versions import __version__
from slabench.records.record import SCHEMA

if TYPE_CHECKING:
    import sqlite3

    import numpy
    from numpy.typing import NDArray

    Arrays = dict[str, NDArray[numpy.float32]]

T = TypeVar("T")
Facts = tuple[int, int, int, int]
"""Size, inode, and the times in ns at which a file's content and its inode were changed; nobody can set the last one back."""

SMALL = 100
"""A folder of fewer files is read as fast without an index."""

_SETTLED = 3.0  # seconds; some file systems tell times only 2 s apart, and within them a second change would not show
_AT_ONCE = 500  # files that are written down in one transaction
_UNUSED = 90 * 24 * 3600.0

_TABLES = ("record", "side")
_PAGE = 65536  # bytes, the most that SQLite has: rows of some thousand fill it
_PATIENCE = 1.0  # seconds for another process that is writing


def facts(status: os.stat_result) -> Facts:
    """What a file is known again by."""
    return status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def settled(of: Facts, now: float) -> bool:
    """Whether a file that had these facts at `now` (seconds since 1970), or later, cannot change without their changing."""
    return max(of[2:]) / 1e9 < now - _SETTLED


class Index:
    """What is known of the files of one folder. No method ever fails; at worst nothing is known, and nothing kept.

    Args:
        folder: that the names of files are relative to.
    """

    def __init__(self, folder: Path) -> None:
        place = paths.index()
        name = sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
        self._file = None if place is None else place / f"{name}.sqlite"
        self._database: sqlite3.Connection | None = None
        self._process = os.getpid()
        self._kept: list[tuple[str, tuple[bytes, str, bytes, int]]] = []
        self._at_exit = False

    def records(self, there: Mapping[str, Facts], take: Callable[[str, bytes], object]) -> None:
        """Give the name and JSON of every record that was found whole, and of which the same file is still there, to `take`."""
        names = {os.fsencode(name): name for name in there}

        def read(database: sqlite3.Connection) -> None:
            # One pass through the table: thousands of questions would cost as much as the reading of small files.
            for key, told, data, check in database.execute("SELECT name, facts, data, sum FROM record"):
                name = names.get(key)
                if name is not None and told == _told(there[name]) and _whole("record", key, told, data, check):
                    take(name, data)

        self._try(read)

    def arrays(self, name: str, of: Facts, digest: str) -> Arrays | None:
        """The arrays of a side file whose sha256 was seen to be `digest`; None where it is not known, or another file now."""
        key, told = os.fsencode(name), _told(of)

        def find(database: sqlite3.Connection) -> Arrays | None:
            row = database.execute("SELECT facts, data, sum FROM side WHERE name = ?", (key,)).fetchone()
            if row is None or row[0] != told or not _whole("side", key, *row):
                return None
            return _unpacked(row[1], digest)

        return self._try(find)

    def keep_record(self, name: str, of: Facts, value: Mapping[str, Any]) -> None:
        """Keep the JSON of a record that is whole; `of` is what the file was before it was read."""
        self._keep("record", name, of, lambda: json.dumps(value, separators=(",", ":"), allow_nan=False).encode())

    def keep_arrays(self, name: str, of: Facts, digest: str, arrays: Arrays) -> None:
        """Keep the arrays of a side file whose sha256 is `digest`; likewise."""
        self._keep("side", name, of, lambda: _packed(digest, arrays))

    def write(self, present: set[str] | None = None) -> None:
        """Write down what was kept. Where another process is writing, it is left to a later command.

        Args:
            present: the files that there are, to forget the others: nobody asks for them, but they take room.
        """
        kept, self._kept = self._kept, []
        if not kept or self._process != os.getpid():
            return
        atexit.unregister(self.write)
        self._at_exit = False
        names = None if present is None else {os.fsencode(name) for name in present}

        def write(database: sqlite3.Connection) -> None:
            with database:  # one transaction: another process sees all of it or nothing, as does one after a power cut
                for table in _TABLES:
                    rows = [row for of, row in kept if of == table]
                    database.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?, ?)", rows)
                    if names is not None:
                        gone = {name for (name,) in database.execute(f"SELECT name FROM {table}")} - names
                        database.executemany(f"DELETE FROM {table} WHERE name = ?", [(name,) for name in gone])

        self._try(write)

    def _keep(self, table: str, name: str, of: Facts, data: Callable[[], bytes]) -> None:
        if self._file is None:
            return
        if not self._at_exit:
            # Accuracies are asked for one by one, and nobody knows which of them is the last.
            self._at_exit = True
            atexit.register(self.write)
        key, told, packed = os.fsencode(name), _told(of), data()
        self._kept.append((table, (key, told, packed, _sum(table, key, told, packed))))
        if len(self._kept) >= _AT_ONCE:
            self.write()

    def _try(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `action` gives, None where the database cannot be used: a damaged one is removed, any other is left alone."""
        if self._file is None:
            return None
        try:
            import sqlite3  # start-up time, and some builds of Python are without it
        except ImportError:
            self._file = None
            return None
        try:
            if self._database is None or self._process != os.getpid():  # a connection does not survive a fork
                self._database, self._process, self._kept = _connected(self._file), os.getpid(), []
            return action(self._database)
        except (sqlite3.OperationalError, sqlite3.ProgrammingError):  # locked, a full disk, no rights; another thread's
            self._file = None
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
        except OSError:
            self._file = None
        self._database = None
        return None


def _connected(file: Path) -> sqlite3.Connection:
    """The database `file`, made where it is missing or of another version of slabench.

    Raises:
        sqlite3.Error: it cannot be used.
        OSError: likewise; somebody else may write into it, or its folder.
    """
    import sqlite3

    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_unused(file.parent)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    for path in (file.parent, file):
        _refuse_others(path)
    version = _version() & 0x7FFFFFFF
    database = sqlite3.connect(file, timeout=_PATIENCE)
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA synchronous = NORMAL")
        if _version_of(database) != version:
            database.execute(f"PRAGMA page_size = {_PAGE}")
            with database:
                database.execute("BEGIN IMMEDIATE")
                if _version_of(database) != version:  # nor has another process made it by now
                    if database.execute("SELECT count(*) FROM sqlite_master").fetchone() != (0,):
                        raise sqlite3.DatabaseError("it is of another version of slabench")
                    for table in _TABLES:
                        database.execute(
                            f"CREATE TABLE {table} (name BLOB PRIMARY KEY, facts TEXT, data BLOB, sum INTEGER)"
                        )
                    database.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        database.close()
        raise
    return database


def _version_of(database: sqlite3.Connection) -> int:
    found: int = database.execute("PRAGMA user_version").fetchone()[0]
    return found


def _remove_unused(folder: Path) -> None:
    """Remove what nobody has written into for months: folders of records come and go."""
    for other in folder.glob("*.sqlite"):
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _UNUSED:
                other.unlink()


@cache
def _version() -> int:
    """Of what was found whole by other code, nothing is known: of slabench's version, and of the files that say what is whole."""
    package = Path(__file__).parents[1]
    code = [package / "core" / "files.py", *sorted((package / "records").glob("*.py"))]
    code += sorted((package / "recipes").glob("*.py"))
    told = [(file.name, status.st_size, status.st_mtime_ns) for file in code if (status := file.stat())]
    return zlib.crc32(repr([1, __version__, SCHEMA, told]).encode())


def _refuse_others(path: Path) -> None:
    """An index that another user could have written is as good as none."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"{path} is a link")
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
        raise PermissionError(f"others may write into {path}")


def _told(of: Facts) -> str:
    return "{} {} {} {}".format(*of)


def _whole(table: str, name: bytes, told: str, data: object, check: object) -> bool:
    """Whether a row is as it was written: no page of the database is damaged, or of another time."""
    return isinstance(data, bytes) and check == _sum(table, name, told, data)


def _sum(table: str, name: bytes, told: str, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(f"{table} {told} ".encode() + name, _version()))


def _packed(digest: str, arrays: Arrays) -> bytes:
    """A line of JSON, then of each array its distinct values and a byte for each of its elements.

    Accuracies of episodes are multiples of one over the queries: a quarter of the bytes, and no unpacking. An array of more than
    256 values is kept as it is.
    """
    import numpy

    told, parts = [], []
    for name, array in arrays.items():
        values, codes = numpy.unique(array.view(numpy.uint32), return_inverse=True)  # as bits: -0.0 stays what it is
        if len(values) > 256:
            told.append([name, len(array), 0])
            parts.append(array.tobytes())
        else:
            told.append([name, len(array), len(values)])
            parts += [values.tobytes(), codes.astype(numpy.uint8).tobytes()]
    return b"\n".join([json.dumps([digest, told]).encode(), b"".join(parts)])


def _unpacked(data: bytes, digest: str) -> Arrays | None:
    """The arrays, None where they are not those of `digest`, or are none: whatever the row says, they are fractions."""
    import numpy

    head, _, rest = data.partition(b"\n")
    arrays, start = {}, 0
    try:
        known, told = from_json(head)
        if known != digest:
            return None
        for name, length, values in told:
            own = numpy.frombuffer(rest, numpy.float32, values or length, start)
            start += own.nbytes
            if not bool(((own >= 0) & (own <= 1)).all()):
                return None
            if values:
                own = own[numpy.frombuffer(rest, numpy.uint8, length, start)]
                start += length
            arrays[str(name)] = own.copy() if not values else own
    except (ValueError, TypeError, IndexError, RecursionError):
        return None
    return arrays if start == len(rest) and all(map(len, arrays.values())) else None
