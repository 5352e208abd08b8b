"""Downloads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slabench.data.catalog import DatasetInfo
from slabench.data.store import Store
from slabench.errors import DataMissingError

if TYPE_CHECKING:
    from rich.console import Console


def fetch(entry: DatasetInfo, folder: Path | None = None, *, console: Console | None = None) -> Store:
    """Download and prepare `entry`."""
    raise DataMissingError("no network")
