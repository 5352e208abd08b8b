"""A record as a stranger hands it in: a copy with its side file, perhaps with a lie in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slabench.runner.verification import verify

Record = dict[str, Any]


def copied(source: Path, folder: Path, change: Callable[[Record, Path], None] = lambda r, p: None) -> Path:
    """A copy of a record and its side file, changed by `change(record, folder)`."""
    record = json.loads(source.read_text())
    shutil.copy(source.parent / record["side_file"], folder)
    target = folder / source.name
    change(record, folder)
    target.write_text(json.dumps(record))
    return target


def judged(source: Path, folder: Path, lie: Callable[[Record], None]) -> dict[str, tuple[str, str]]:
    """State and message of each check of `slabench verify` on a copy in which `lie` was told."""
    (found,) = verify([copied(source, folder, lambda record, _: lie(record))])
    return {line.check: (line.state, line.message) for line in found.lines}
