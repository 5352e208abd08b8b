"""Images that stay in their file: rows of a memory map that are read when they are asked for, where memory has no room for them.

Images that fit lie in memory, which is several times faster (`slabench.suites.on_device`). A copy of those that do not would end
the process, or push everything else out of memory; of a map the system keeps the pages that it has room for.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from slabench.core.memory import free_memory_mb


class MappedRows:
    """Some rows of a memory map, as an array that is indexed by its first axis alone.

    Args:
        stored: `[n, ...]`, memory-mapped.
        rows: int64 `[m]`, the rows that these are.
    """

    def __init__(self, stored: NDArray[Any], rows: NDArray[np.int64]) -> None:
        self.stored, self.rows = stored, rows
        self.shape: tuple[int, ...] = (len(rows), *stored.shape[1:])
        self.dtype, self.ndim = stored.dtype, stored.ndim

    @property
    def nbytes(self) -> int:
        """Bytes that they would take in memory."""
        return len(self.rows) * self.stored[:1].nbytes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self.stored[self.rows[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def too_large(nbytes: int) -> bool:
    """Whether so many bytes of images are left in their file: they would take more than half of the memory that is free."""
    free = free_memory_mb()
    return free is not None and nbytes >> 20 > free // 2


def rows_of(images: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """`images[rows]`: a copy, or, of a memory map and too many for a copy, what stays in the file."""
    if isinstance(images, MappedRows):
        return cast("NDArray[Any]", MappedRows(images.stored, images.rows[rows]))
    if isinstance(images, np.memmap) and too_large(len(rows) * images[:1].nbytes):
        return cast("NDArray[Any]", MappedRows(images, rows))
    return images[rows]
