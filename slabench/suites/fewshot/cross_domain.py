"""A run trained on one data set and scored on the test classes of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.data.augment import centre_crop
from slabench.data.catalog import DATASETS, DatasetInfo, info
from slabench.data.imageset import ImageSet
from slabench.data.loading import input_size
from slabench.data.mapped_tensor import in_memory

_BLOCK = 1024  # images resized at once


@dataclass(frozen=True)
class Crossing:
    """From which data set to which.

    Attributes:
        source: what the run was trained on.
        target: whose test classes it is scored on.
    """

    source: DatasetInfo
    target: DatasetInfo

    @property
    def resized(self) -> str | None:
        """`84->32`, in pixels; None where both networks see images of one size."""
        sizes = input_size(self.target), input_size(self.source)
        return None if sizes[0] == sizes[1] else f"{sizes[0]}->{sizes[1]}"

    @property
    def shown(self) -> DatasetInfo:
        """What `slabench.evaluation.episodes.embed` is told of images that `fit` gave: size and colours of the source."""
        return replace(self.source, image_size=input_size(self.source))

    def fit(self, images: Tensor) -> Tensor:
        """Images of the target as the source's network takes them: the target's centre crop, then resized.

        Args:
            images: uint8 `[n, H, W, 3]`.

        Returns:
            uint8 `[n, h, h, 3]`; bicubic, with an anti-aliasing filter, as Pillow does it.
        """
        if input_size(self.target) != self.target.image_size:
            images = centre_crop(in_memory(images), input_size(self.target))
        if self.resized is None:
            return images
        size = input_size(self.source)
        made = torch.empty((len(images), size, size, 3), dtype=torch.uint8, device=images.device)
        for start in range(0, len(images), _BLOCK):
            part = in_memory(images[start : start + _BLOCK]).movedim(-1, 1).float()
            part = functional.interpolate(part, (size, size), mode="bicubic", antialias=True)
            made[start : start + _BLOCK] = part.round().clamp(0, 255).byte().movedim(1, -1)
        return made

    def facts(self) -> dict[str, Any]:
        """What `derived` of the record says beside the head."""
        return {"on": self.target.name} | ({"resized": self.resized} if self.resized else {})

    def doubts(self, train: ImageSet, test: ImageSet) -> list[str]:
        """A line where classes of the test were trained on, told by their names."""
        shared = sorted(set(train.class_names) & set(test.class_names))
        if not shared:
            return []
        few = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
        return [
            f"{len(shared)} of {test.n_classes} test classes of {self.target.name} are called like training classes of "
            f"{self.source.name}: {few}"
        ]


def crossing(source: str, target: str | None) -> Crossing | None:
    """The crossing to `target`; None where that is the run's own data set, or none was named.

    Raises:
        UsageError: `target` is unknown, or has no few-shot class split.
    """
    if target is None or target == source:
        return None
    entry = info(target)
    if not entry.fewshot:
        raise UsageError(
            f"'{entry.name}' has no few-shot class split to score on",
            f"give --on one of {', '.join(other.name for other in DATASETS.values() if other.fewshot)}",
        )
    return Crossing(info(source), entry)
