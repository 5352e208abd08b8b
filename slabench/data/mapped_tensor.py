"""What images that stay in their file (`slabench.data.mapped`) are to torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slabench.core.uploads import upload
from slabench.data.mapped import MappedRows


class MappedTensor:
    """As much of a tensor as training and scoring ask of stored images.

    Args:
        images: a memory map or some rows of one.
        device: where what is asked for goes.
    """

    def __init__(self, images: NDArray[Any] | MappedRows, device: torch.device) -> None:
        self.images, self.device = images, device
        self.shape = torch.Size(images.shape)

    def __len__(self) -> int:
        return len(self.images)

    def is_floating_point(self) -> bool:
        """As of a tensor."""
        return bool(np.issubdtype(self.images.dtype, np.floating))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows `index`, read from the file."""
        assert dim == 0
        return upload(torch.from_numpy(np.array(self.images[index.cpu().numpy()])), self.device)

    def __getitem__(self, key: slice | Tensor) -> MappedTensor:
        """Other rows of the same file; nothing is read. `index_select` and `read` do that."""
        rows = self.images.rows if isinstance(self.images, MappedRows) else np.arange(len(self.images))
        stored = self.images.stored if isinstance(self.images, MappedRows) else self.images
        return MappedTensor(
            MappedRows(stored, rows[key.cpu().numpy() if isinstance(key, Tensor) else key]), self.device
        )

    def read(self) -> Tensor:
        """All of them, in memory."""
        return self.index_select(0, torch.arange(len(self)))


def in_memory(images: Tensor) -> Tensor:
    """A part of stored images as a tensor, wherever they lie."""
    return images.read() if isinstance(images, MappedTensor) else images
