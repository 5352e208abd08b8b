"""Where prepared data comes from: one module a kind of source; `detect.import_dataset` finds out which it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slabench.data.catalog import DatasetInfo
    from slabench.data.imageset import RawImages


@dataclass(frozen=True)
class Kind:
    """One layout in which data sets are found.

    Attributes:
        layout: what it looks like, in words; errors list these.
        find: whether a path is of this layout, by a cheap look.
        read: read it whole; raises `DataError` naming the file or class that is wrong.
    """

    layout: str
    find: Callable[[Path], bool]
    read: Callable[[Path, DatasetInfo], RawImages]
