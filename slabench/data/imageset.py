"""The one form in which every suite meets its images: uint8 pixels, labels, class names and the digests behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from slabench.core.errors import UsageError, unknown_name
from slabench.data.mapped import rows_of


def class_rows(labels: npt.NDArray[np.integer], n_classes: int) -> list[npt.NDArray[np.int64]]:
    """For each class the rows with its label, ascending: one pass for all, where a search for each would be classes x images.

    Args:
        labels: `[n]`, 0..n_classes-1.
        n_classes: how many classes there are, with or without rows.
    """
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=n_classes)
    return list(np.split(order, np.cumsum(counts)[:-1]))


@dataclass(frozen=True, eq=False)
class RawImages:
    """What a source yields: images in any order.

    Attributes:
        images: uint8 `[n, height, width, 3]`.
        labels: int64 `[n]`, indices into `class_names`.
        parts: uint8 `[n]`, 0 official training image, 1 official test image.
        source_positions: int32 `[n]`, place in the original order of its part, -1 where that order is lost.
        class_names: the name of each label.
        kind: which kind of source it was (`parquet`, `folders`, `python batches`, ...).
        notes: what else the manifest should keep of the source (image formats, library versions).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    parts: npt.NDArray[np.uint8]
    source_positions: npt.NDArray[np.int32]
    class_names: tuple[str, ...]
    kind: str
    notes: dict[str, Any]


TRAIN_PART = 0


TEST_PART = 1


@dataclass(frozen=True)
class Origin:
    """Where the images of a store come from.

    Attributes:
        kind: as of `RawImages`.
        jpeg_copies: images that were read from JPEG files although the data set was published without loss.
        doubts: what a reader of results on them should know, in words.
    """

    kind: str
    jpeg_copies: int = 0
    doubts: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As a record keeps it; without the doubts, which are among its warnings."""
        return {"kind": self.kind} | ({"jpeg_copies": self.jpeg_copies} if self.jpeg_copies else {})


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one split, in the canonical order of the store they come from.

    Attributes:
        name: data set and split, as in `fc100/test`.
        images: uint8 `[n, height, width, 3]`, in RAM or memory-mapped read-only; values 0..255. Where a frozen embedder has seen
            them in advance, its features float `[n, views, D]` in their place (`slabench.suites.on_features`).
        labels: int64 `[n]`, 0..n_classes-1.
        class_names: the name of each label.
        digest: sha256 (hex) of the prepared store: its pixels, labels, parts and class names.
        split_digest: sha256 (hex) of the class split; empty for a whole data set.
        parts: uint8 `[n]`, 0 for an official training image, 1 for an official test image.
        source_positions: int32 `[n]`, place in the original order of its part; -1 where the source had lost that order.
        origin: of the store; None where there is none.
    """

    name: str
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str
    split_digest: str
    parts: npt.NDArray[np.uint8]
    source_positions: npt.NDArray[np.int32]
    origin: Origin | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        height, width = self.images.shape[1:3]
        return f"<ImageSet {self.name}: {len(self):,} images {height}x{width}, {self.n_classes} classes>"

    @property
    def n_classes(self) -> int:
        """How many classes there are, with or without images."""
        return len(self.class_names)

    def class_rows(self) -> list[npt.NDArray[np.int64]]:
        """For each class the rows of its images, ascending."""
        return class_rows(self.labels, self.n_classes)

    def select_classes(self, names: Sequence[str], name: str, split_digest: str = "") -> ImageSet:
        """The images of the classes `names`, class after class in that order, relabelled 0..len(names)-1.

        Raises:
            UsageError: a name is unknown or given twice.
        """
        index = {class_name: label for label, class_name in enumerate(self.class_names)}
        for class_name in names:
            if class_name not in index:
                raise unknown_name(f"class of {self.name}", class_name, index)
        if len(set(names)) != len(names):
            twice = next(class_name for class_name in names if list(names).count(class_name) > 1)
            raise UsageError(f"class '{twice}' of {self.name} is asked for twice", "name each class once")
        rows_by_class = self.class_rows()
        chosen = [rows_by_class[index[class_name]] for class_name in names]
        rows = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
        labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(rows) for rows in chosen])
        return replace(self._rows(rows, name), labels=labels, class_names=tuple(names), split_digest=split_digest)

    def select_part(self, part: int, name: str | None = None) -> ImageSet:
        """The official training (`part` 0) or test (`part` 1) images; labels and class names stay."""
        return self._rows(np.flatnonzero(self.parts == part), name or f"{self.name}[part {part}]")

    def _rows(self, rows: npt.NDArray[np.int64], name: str) -> ImageSet:
        if np.array_equal(rows, np.arange(len(self))):  # nothing is left out: keep the memory map
            return replace(self, name=name)
        return replace(
            self,
            name=name,
            images=rows_of(self.images, rows),
            labels=self.labels[rows],
            parts=self.parts[rows],
            source_positions=self.source_positions[rows],
        )
