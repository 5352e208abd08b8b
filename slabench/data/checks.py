"""What every prepared store keeps, whoever made its images: checked before a byte of it is written.

`slabench check` finds the same faults by the same functions; see `slabench.conformance.datasets`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from slabench.core.errors import DataError
from slabench.data.imageset import TEST_PART, TRAIN_PART, ImageSet, RawImages

_IMAGES = (
    "give images as uint8 [n, size, size, 3] with values 0..255 (of floats 0..1: (255 * x).round().astype(np.uint8))"
)
_LABELS = "give one whole number 0..C-1 for each image, its place in the class names"
_TEST = "say of each image whether it is an official test image: True or False"
_FEW = "give every class images to learn from, or leave its name out"
_NORMALISATION = "give mean and std by channel in units of 0..255"


def check_made(images: Any, labels: Any, test: Any, name: str) -> None:
    """Refuse what a maker of images gives, before numpy makes something else of it.

    Args:
        images: should be uint8 `[n, size, size, 3]`.
        labels: whole numbers `[n]`.
        test: `[n]`, true or false (or 1 and 0).
        name: of the data set, for the message.

    Raises:
        DataError: names the first thing that is wrong, with the value.
    """
    images, labels, test = np.asarray(images), np.asarray(labels), np.asarray(test)
    if images.dtype != np.uint8:
        found = f", from {images.min():g} to {images.max():g}" if images.size and images.dtype.kind in "fiu" else ""
        raise DataError(f"the images of {name} are {images.dtype}{found}: not uint8 0..255", _IMAGES)
    if labels.dtype.kind not in "iu":
        odd = labels[labels != np.floor(labels)] if labels.dtype.kind == "f" else labels
        found = f", such as {odd.flat[0]}" if odd.size else ""
        raise DataError(f"the labels of {name} are {labels.dtype}{found}: not whole numbers", _LABELS)
    if test.dtype != np.bool_ and not (test.dtype.kind in "iu" and np.isin(test, (0, 1)).all()):
        odd = test[~np.isin(test, (0, 1))].flat if test.dtype.kind in "iuf" else test.flat
        found = f", such as {next(iter(odd), None)}"
        raise DataError(f"the test flags of {name} are {test.dtype}{found}: not true or false", _TEST)


def check_raw(raw: RawImages | ImageSet, name: str, size: int | None = None) -> None:
    """Refuse images that no training could use as they are.

    Args:
        raw: what a source gave, or what a store holds.
        name: of the data set, for the message.
        size: height and width that the images should have, in pixels; None takes any square.

    Raises:
        DataError: names the first thing that is wrong, with the value.
    """
    shape = raw.images.shape
    size = size or (shape[1] if len(shape) > 1 else 0)
    if raw.images.dtype != np.uint8:
        raise DataError(f"the images of {name} are {raw.images.dtype}, not uint8 0..255", _IMAGES)
    if shape[1:] != (size, size, 3):
        raise DataError(f"the images of {name} are {shape[1:]}, not {(size, size, 3)}", _IMAGES)
    n, classes = len(raw.images), len(raw.class_names)
    for what, column, remedy in (("labels", raw.labels, _LABELS), ("test flags", raw.parts, _TEST)):
        if column.shape != (n,):
            raise DataError(f"{n:,} images of {name} have {what} of the shape {column.shape}", remedy)
    if not n:
        raise DataError(f"{name} has no images", _IMAGES)
    low, high = int(raw.labels.min()), int(raw.labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"the labels of {name} run from {low} to {high}, its classes from 0 to {classes - 1}", _LABELS)
    training = np.bincount(raw.labels[raw.parts == TRAIN_PART], minlength=classes)
    every = np.bincount(raw.labels, minlength=classes)
    for counts, what in ((every, "images"), (training, "training images")):
        if empty := [raw.class_names[label] for label in np.flatnonzero(counts == 0)]:
            raise DataError(f"classes without {what}: {_some(empty)} (of {classes} of {name})", _FEW)
    if not any(bool((image != image.flat[0]).any()) for image in raw.images):
        raise DataError(f"every image of {name} is of one colour", _IMAGES)
    if (brightest := int(raw.images.max())) <= 1:
        raise DataError(f"no pixel of {name} is above {brightest}: these look like floats 0..1, cut to uint8", _IMAGES)


def check_normalisation(
    images: npt.NDArray[np.uint8], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    """Refuse means and deviations in other units than the pixels'.

    Args:
        images: uint8 `[n, H, W, 3]`; five hundred of them are looked at.
        mean: by channel, in units of 0..255.
        std: likewise.

    Raises:
        DataError: a channel has no spread, or normalised pixels would lie far from 0.
    """
    if not min(std) > 0:
        raise DataError(f"std {std} has a channel without spread", _NORMALISATION)
    if not 0 <= min(mean) <= max(mean) <= 255:
        raise DataError(f"mean {mean} is not in units of 0..255", _NORMALISATION)
    found = np.asarray(images[:: max(1, len(images) // 500)], np.float64).mean((0, 1, 2))
    off = float(max(abs(found - np.asarray(mean)) / np.asarray(std)))
    if not off < 4:
        raise DataError(
            f"mean {mean} and std {std} leave normalised pixels {off:.1f} away from 0 on average", _NORMALISATION
        )


def repeats(
    digests: npt.NDArray[np.void], labels: npt.NDArray[np.int64], parts: npt.NDArray[np.uint8]
) -> dict[str, int]:
    """How many images occur where they should not: the same pixels, bit for bit.

    Args:
        digests: of each image's pixels, `[n]`.
        labels: `[n]`.
        parts: `[n]`, 0 training, 1 test.

    Returns:
        `test_in_train`: test images that are training images too; `other_class`: images that have another class elsewhere.
    """
    keys = [digest.tobytes() for digest in digests]
    training = {key for key, part in zip(keys, parts, strict=True) if part == TRAIN_PART}
    classes: dict[bytes, set[int]] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        classes.setdefault(key, set()).add(label)
    return {
        "test_in_train": sum(key in training for key, part in zip(keys, parts, strict=True) if part == TEST_PART),
        "other_class": sum(len(classes[key]) > 1 for key in keys),
    }


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
