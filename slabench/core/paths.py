"""Where things lie: one place that knows.

`benchmarks/`, `episodes/` and `results/` are found through `SLABENCH_HOME`, else in the installed package
(`slabench/_data/`), else in the checkout around the package. The user's data sets live in `SLABENCH_DATA` or the cache
folder of the platform; a run's records in `--results`, `SLABENCH_RESULTS`, or `results/` of the current folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from tempfile import TemporaryDirectory

from slabench.core.errors import SlabenchError

_PACKAGE = Path(__file__).resolve().parents[1]


def home() -> Path:
    """The folder that holds `benchmarks/`, `episodes/` and `results/` as published with this version."""
    named = os.environ.get("SLABENCH_HOME")
    candidates = [Path(named)] if named else [_PACKAGE / "_data", _PACKAGE.parent]
    for folder in candidates:
        if (folder / "episodes" / "splits").is_dir():
            return folder
    searched = ", ".join(str(folder) for folder in candidates)
    raise SlabenchError(
        f"slabench's own files (episodes/splits) are not in {searched}",
        "reinstall slabench, or point SLABENCH_HOME at a checkout of it",
    )


def benchmarks() -> Path:
    """The published recipes."""
    return home() / "benchmarks"


def episodes() -> Path:
    """Class splits and frozen episode files."""
    return home() / "episodes"


def shipped_results() -> Path:
    """The records that travel with this version."""
    return home() / "results"


def cache() -> Path:
    """The user's cache folder for slabench."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local")))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "slabench"


def data(folder: Path | None = None) -> Path:
    """The folder of prepared data sets: `folder` if given, `SLABENCH_DATA`, else the user's cache."""
    if folder is not None:
        return Path(folder)
    return Path(os.environ["SLABENCH_DATA"]) if os.environ.get("SLABENCH_DATA") else cache() / "data"


def index() -> Path | None:
    """The folder of what is known of folders of records (`slabench.records.index`): `SLABENCH_INDEX`, else in the user's cache.

    None where `SLABENCH_INDEX` is 0: every file is read every time.
    """
    named = os.environ.get("SLABENCH_INDEX")
    if named == "0":
        return None
    return Path(named) if named else cache() / "index"


_SCRATCH: ContextVar[Path | None] = ContextVar("scratch", default=None)


def user_episodes() -> Path:
    """Episode files that this user made with `slabench episodes make`."""
    return data() / "episodes"


def new_episodes(folder: Path | None = None) -> Path:
    """Where a run freezes what nobody has frozen yet: `episodes/` of the data folder; within `nothing_stays`, elsewhere."""
    return _SCRATCH.get() or data(folder) / "episodes"


@contextmanager
def nothing_stays() -> Iterator[None]:
    """Within the block, newly frozen files go to a folder that is removed afterwards."""
    with TemporaryDirectory(prefix="slabench-") as folder:
        token = _SCRATCH.set(Path(folder))
        try:
            yield
        finally:
            _SCRATCH.reset(token)


def results(folder: Path | None = None) -> Path:
    """Where this user's runs are recorded: `folder` if given, `SLABENCH_RESULTS`, else `results/` of this folder."""
    if folder is not None:
        return Path(folder)
    return Path(os.environ.get("SLABENCH_RESULTS") or "results")
