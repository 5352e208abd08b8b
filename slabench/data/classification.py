"""The images that a classifier learns from, is validated on and is tested on: the standard split of any data set.

A data set with official test images keeps them. One without (`glyphs`, `mini-imagenet`) is split within each class, every
fifth image in canonical order being a test image; that order is by pixel digest, so the choice is arbitrary and the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slabench.data.catalog import DATASETS, DatasetInfo, info
from slabench.data.imageset import TEST_PART, TRAIN_PART, ImageSet
from slabench.data.loading import ensure
from slabench.data.store import open_store
from slabench.errors import UsageError
from slabench.seeding import numpy_generator

TEST_EVERY = 5
PHOTO_STORED, PHOTO_INPUT = 256, 224


@dataclass(frozen=True)
class Split:
    """Rows of one image set.

    Attributes:
        rows: int64 `[n]`, rows of the training images.
        validation: int64 `[v]`, rows of training images that are not trained on; may be empty.
    """

    rows: NDArray[np.int64]
    validation: NDArray[np.int64]


def load_images(dataset: str, folder: Path | None = None) -> tuple[DatasetInfo, ImageSet, ImageSet]:
    """Catalog entry, training images and test images of `dataset`.

    Raises:
        UsageError: a few-shot split of another data set (`fc100`), whose classes are not meant to be learned together.
        DataMissingError: the data is not here; see `slabench.data.load`.
    """
    entry = info(dataset)
    if entry.fewshot and entry.store != entry.name:
        raise UsageError(
            f"'{entry.name}' is a few-shot split of {entry.store}", f"classify the whole of it: --dataset {entry.store}"
        )
    whole = open_store(ensure(dataset, folder)).images(dataset)
    if not (whole.parts == TEST_PART).any():
        parts = whole.parts.copy()
        for rows in whole.class_rows():
            parts[rows[TEST_EVERY - 1 :: TEST_EVERY]] = TEST_PART
        whole = replace(whole, parts=parts)
    return (
        entry,
        whole.select_part(TRAIN_PART, f"{dataset}/train"),
        whole.select_part(TEST_PART, f"{dataset}/test"),
    )


def input_size(entry: DatasetInfo) -> int:
    """Height and width of what the network sees: photographs are kept at 256 pixels and cropped to 224, as in SLA's code."""
    return PHOTO_INPUT if entry.image_size == PHOTO_STORED else entry.image_size


def datasets() -> list[str]:
    """The names that `load_images` takes."""
    return [entry.name for entry in DATASETS.values() if not entry.fewshot or entry.store == entry.name]


def full_split(images: ImageSet, val_fraction: float, per_class: int | None, seed: int) -> Split:
    """All training images, or `per_class` of each class, less a validation set.

    Args:
        images: the training images.
        val_fraction: of each class, held out, rounded; 0 holds out nothing.
        per_class: training images left of each class; None leaves all. The validation set is the same whatever it is.
        seed: of the draw.

    Raises:
        UsageError: a class has too few images; names it and the counts.
    """
    rows, validation = [], []
    for label, own in enumerate(images.class_rows()):
        order = numpy_generator(seed, "split", label).permutation(own)
        held = round(val_fraction * len(own))
        keep = order[held:]
        wanted = len(keep) if per_class is None else per_class
        if not 1 <= wanted <= len(keep):
            raise UsageError(
                f"class '{images.class_names[label]}' has {len(own)} training images, {held} of them for validation: "
                f"{wanted} were asked for",
                f"use --per-class {len(keep)} or fewer" if len(keep) else "lower data.val_fraction",
            )
        rows.append(keep[:wanted])
        validation.append(order[:held])
    return Split(np.concatenate(rows), np.sort(np.concatenate(validation)))


def left_out(images: ImageSet, rows: NDArray[np.int64], per_class: int) -> NDArray[np.int64]:
    """Validation rows for a long-tail subset: up to `per_class` images of each class that the subset leaves out.

    The test set is never looked at, and nothing is taken away from a subset whose size the published tables rest on. A class that
    keeps all of its images (the first one) has none to spare and takes no part in the validation.
    """
    used = np.zeros(len(images), dtype=bool)
    used[rows] = True
    spare = [own[~used[own]][:per_class] for own in images.class_rows()]
    return np.sort(np.concatenate(spare))
