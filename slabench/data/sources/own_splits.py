"""Splits of a user's own images: as the folders or lists give them, else drawn from a seed and the content alone.

No path and no file name has a say in what is drawn: the same images in the same classes give the same splits anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from slabench.core.errors import DataError
from slabench.core.seeding import numpy_generator
from slabench.data.imageset import TEST_PART, TRAIN_PART, class_rows
from slabench.data.splits import SPLIT_NAMES

FEWEST_CLASSES = 6
"""A class split needs two classes a part: there is nothing to tell apart among fewer."""

_VAL_SHARE, _TEST_SHARE = 0.16, 0.2  # of the classes, as CIFAR-FS and mini-ImageNet have them
_WAYS = 5
_TEST_IMAGES = 0.2  # of the images of a class

DRAWN = "drawn with seed {seed}"
GIVEN = "as given"


@dataclass(frozen=True)
class Splits:
    """Both splits of one data set.

    Attributes:
        classes: names of the classes of `train`, `val` and `test`; None where there are too few classes.
        classes_from: where they are from, in words.
        parts: uint8 `[n]`, 0 training image, 1 test image.
        images_from: likewise.
    """

    classes: dict[str, list[str]] | None
    classes_from: str
    parts: npt.NDArray[np.uint8]
    images_from: str


def make_splits(
    class_names: Sequence[str],
    labels: npt.NDArray[np.int64],
    given: Sequence[str],
    digests: npt.NDArray[np.void],
    seed: int,
) -> Splits:
    """Take over what is given, and draw the rest.

    Args:
        class_names: the name of each label.
        labels: `[n]`.
        given: of each image the part that it came in, `train`, `val` or `test`; empty where it came in none.
        digests: of each image's pixels, `[n]`.
        seed: of what is drawn.

    Raises:
        DataError: the parts share some of their classes, or a class has too few images.
    """
    classes, by_image = _given(class_names, labels, given)
    classes_from = GIVEN
    if classes is None:
        classes, classes_from = draw_classes(class_names, seed), DRAWN.format(seed=seed)
    elif not (classes["val"] and classes["test"]):
        classes = _completed(classes, seed)
        classes_from = f"as given, the validation classes {DRAWN.format(seed=seed)} from the training classes"
    if by_image:
        tests = "test" if "test" in given else "val"
        parts = np.array([TEST_PART if part == tests else TRAIN_PART for part in given], np.uint8)
        _refuse_without_tests(class_names, labels, parts)
        joined = tests == "test" and "val" in given
        images_from = f"{GIVEN}, '{tests}' is the test" + (", 'val' is trained on" if joined else "")
    else:
        parts, images_from = draw_images(class_names, labels, digests, seed), DRAWN.format(seed=seed)
    if classes is None:
        classes_from = f"none: {len(class_names)} classes are too few, it takes {FEWEST_CLASSES}"
    return Splits(classes, classes_from, parts, images_from)


def draw_classes(class_names: Sequence[str], seed: int) -> dict[str, list[str]] | None:
    """Training, validation and test classes, 64, 16 and 20 % of them but five at least where there are 15; else thirds."""
    n = len(class_names)
    if n < FEWEST_CLASSES:
        return None
    fewest = _WAYS if n >= 3 * _WAYS else n // 3
    n_val, n_test = max(fewest, round(_VAL_SHARE * n)), max(fewest, round(_TEST_SHARE * n))
    if n < 3 * _WAYS:
        n_val = n_test = fewest
    names = sorted(class_names)
    order = [names[place] for place in numpy_generator(seed, "class split").permutation(n)]
    cut = n - n_val - n_test
    return {
        "train": sorted(order[:cut]),
        "val": sorted(order[cut : cut + n_val]),
        "test": sorted(order[cut + n_val :]),
    }


def draw_images(
    class_names: Sequence[str], labels: npt.NDArray[np.int64], digests: npt.NDArray[np.void], seed: int
) -> npt.NDArray[np.uint8]:
    """A fifth of the images of each class for the test, by the digests of their pixels; copies of one image stay together.

    Raises:
        DataError: a class has fewer than two different images.
    """
    parts = np.full(len(labels), TRAIN_PART, np.uint8)
    for name, rows in zip(class_names, class_rows(labels, len(class_names)), strict=True):
        different, which = np.unique(digests[rows].view("S32"), return_inverse=True)
        if len(different) < 2:
            raise DataError(
                f"class '{name}' has {len(different)} image{'' if len(different) == 1 else 's'} of its own: a training "
                "and a test image are the least",
                "add images to it, or leave it out",
            )
        chosen = numpy_generator(seed, "image split", name).permutation(len(different))
        chosen = chosen[: max(1, round(_TEST_IMAGES * len(different)))]
        parts[rows[np.isin(which, chosen)]] = TEST_PART
    return parts


def _given(
    class_names: Sequence[str], labels: npt.NDArray[np.int64], given: Sequence[str]
) -> tuple[dict[str, list[str]] | None, bool]:
    """The class split that the parts are, if they are one; and whether they are a split of images."""
    if not any(given):
        return None, False
    of: dict[str, set[int]] = {part: set() for part in SPLIT_NAMES}
    for label, part in zip(labels.tolist(), given, strict=True):
        of[part].add(label)
    train, others = of["train"], of["val"] | of["test"]
    if not train or not others:
        only = next(part for part in SPLIT_NAMES if of[part])
        raise DataError(
            f"every image is in '{only}'", "give images of 'train' and of 'test', or no parts: then they are drawn"
        )
    if others <= train:
        return None, True
    if not (train & others or of["val"] & of["test"]):
        return {part: sorted(class_names[label] for label in own) for part, own in of.items()}, False
    shared, apart = min(train & others or others), min(others - train or others)
    raise DataError(
        f"the class '{class_names[shared]}' is in several of train, val and test, '{class_names[apart]}' is not in train: "
        "these are neither parts with the same classes nor parts with classes of their own",
        "for a classifier give every class training images; for few-shot give each class to one part; or no parts at all",
    )


def _completed(classes: dict[str, list[str]], seed: int) -> dict[str, list[str]]:
    """A class split of two parts with validation classes drawn from those of the training; the other part is the test."""
    test, train = classes["test"] or classes["val"], classes["train"]
    n_val = min(max(1, round(_VAL_SHARE * (len(train) + len(test))), min(_WAYS, len(test))), len(train) // 2)
    if not n_val:
        raise DataError(
            f"there is one training class, '{train[0]}', and none to validate on",
            "give more training classes, or no parts: then they are drawn",
        )
    order = [train[place] for place in numpy_generator(seed, "class split").permutation(len(train))]
    return {"train": sorted(order[n_val:]), "val": sorted(order[:n_val]), "test": test}


def _refuse_without_tests(
    class_names: Sequence[str], labels: npt.NDArray[np.int64], parts: npt.NDArray[np.uint8]
) -> None:
    counts = np.bincount(labels[parts == TEST_PART], minlength=len(class_names))
    if not counts.all():
        raise DataError(
            f"class '{class_names[int(counts.argmin())]}' has no test image ({np.count_nonzero(counts == 0)} such classes)",
            "give it one, or leave the test part out: then one is drawn",
        )
