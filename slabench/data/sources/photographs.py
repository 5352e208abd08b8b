"""The data sets of full supervision in their official layouts: tiny-ImageNet, CUB-200-2011, MIT Indoor 67, Stanford Dogs.

tiny-ImageNet's 64 x 64 images are kept as they are; its validation images, the only labelled ones beside the training images,
are the test part, as everywhere in the field. The photographs of the other three come in all sizes: the shorter side is scaled
to 256 pixels and the middle 256 x 256 are kept (torchvision's `Resize(256)` and `CenterCrop(256)`). Random crops of training
are then taken from these squares, not from the whole picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import TEST_PART, TRAIN_PART
from slabench.data.sources import Kind
from slabench.data.sources.pixels import decode_all, refuse_html
from slabench.data.store import RawImages
from slabench.errors import DataError

_AGAIN = "it may be a cut-off copy: unpack or download it again, then import"
_ENDS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Listed:
    """One image of a list: where it lies, its label from 0, its part."""

    file: Path
    label: int
    part: int


def _root(path: Path, inner: str, marks: Sequence[str]) -> Path | None:
    """`path`, or the folder `inner` in it, whichever holds all `marks`."""
    return next((p for p in (path, path / inner) if all((p / mark).exists() for mark in marks)), None)


def _kind(
    layout: str, inner: str, marks: Sequence[str], listed: Callable[[Path], tuple[list[Listed], tuple[str, ...]]]
) -> Kind:
    def read(path: Path, entry: DatasetInfo) -> RawImages:
        root = _root(path, inner, marks)
        assert root is not None  # `find` said so
        images, class_names = listed(root)
        return _raw(images, class_names, entry, root, layout.partition(":")[0])

    return Kind(layout, lambda path: _root(path, inner, marks) is not None, read)


def _raw(images: list[Listed], class_names: tuple[str, ...], entry: DatasetInfo, root: Path, kind: str) -> RawImages:
    if len(class_names) != entry.n_classes:
        raise DataError(
            f"{root} has {len(class_names)} classes; {entry.store} has {entry.n_classes}",
            "check that PATH is the data set you named, and whole",
        )
    absent = [image.file for image in images if not image.file.is_file()]
    if absent:
        raise DataError(f"{absent[0]} is listed but missing ({len(absent):,} of {len(images):,} images are)", _AGAIN)
    parts = np.array([image.part for image in images], np.uint8)
    positions = np.empty(len(images), np.int32)
    for part in (TRAIN_PART, TEST_PART):
        own = parts == part
        positions[own] = np.arange(np.count_nonzero(own))
    photographs = entry.image_size > 64
    pixels, formats = decode_all(
        lambda row: images[row].file.read_bytes(),
        lambda row: str(images[row].file),
        len(images),
        entry.image_size,
        resize=photographs,
        cover=photographs,
    )
    return RawImages(
        images=pixels,
        labels=np.array([image.label for image in images], np.int64),
        parts=parts,
        source_positions=positions,
        class_names=class_names,
        kind=kind,
        notes={"image_formats": formats},
    )


def _lines(file: Path, fields: int | None = None) -> list[list[str]]:
    """The lines of a list, split at blanks into `fields` words (None: the whole line is one)."""
    if not file.is_file():
        raise DataError(f"{file} is missing", _AGAIN)
    refuse_html(file)
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        words = [line.strip()] if fields is None else line.split()
        if fields is not None and len(words) != fields:
            raise DataError(f"{file}, line {number}: '{line[:60]}' has {len(words)} words, not {fields}", _AGAIN)
        found.append(words)
    return found


def _inside(root: Path, name: str, origin: Path) -> Path:
    """`root`/`name`, refusing a name that leads out of `root`."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{origin} names '{name}', which lies outside of {root}", "the list is damaged or forged")
    return root / name


def _images_of(folder: Path) -> list[Path]:
    found = sorted(f for f in folder.iterdir() if f.suffix.lower() in _ENDS and not f.name.startswith("."))
    if not found:
        raise DataError(f"class '{folder.parent.name}' has no image in {folder}", _AGAIN)
    return found


def _tiny_imagenet(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    wnids = tuple(sorted(words[0] for words in _lines(root / "wnids.txt")))
    label = {wnid: place for place, wnid in enumerate(wnids)}
    listed = []
    for wnid in wnids:
        folder = root / "train" / wnid / "images"
        if not folder.is_dir():
            raise DataError(f"class '{wnid}' has no folder {folder}", _AGAIN)
        listed += [Listed(file, label[wnid], TRAIN_PART) for file in _images_of(folder)]
    annotations = root / "val" / "val_annotations.txt"
    for name, wnid, *_ in _lines(annotations, fields=6):
        if wnid not in label:
            raise DataError(f"{annotations} gives '{name}' the class '{wnid}', which wnids.txt has not", _AGAIN)
        listed.append(Listed(_inside(root / "val" / "images", name, annotations), label[wnid], TEST_PART))
    return listed, wnids


def _cub(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    classes = dict(_pairs(root / "classes.txt"))
    names = tuple(classes.values())
    label = {number: place for place, number in enumerate(classes)}
    tables = {name: dict(_pairs(root / f"{name}.txt")) for name in ("image_class_labels", "train_test_split")}
    listed = []
    for image, name in _pairs(root / "images.txt"):
        for table, values in tables.items():
            if image not in values:
                raise DataError(f"{root / f'{table}.txt'} says nothing of image {image} ({name})", _AGAIN)
        number, training = tables["image_class_labels"][image], tables["train_test_split"][image]
        if number not in label or training not in ("0", "1"):
            raise DataError(f"image {image} ({name}) has the class '{number}' and the part '{training}'", _AGAIN)
        part = TRAIN_PART if training == "1" else TEST_PART
        listed.append(Listed(_inside(root / "images", name, root / "images.txt"), label[number], part))
    return listed, names


def _pairs(file: Path) -> list[tuple[str, str]]:
    return [(first, second) for first, second in _lines(file, fields=2)]


def _mit67(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    lists = [(root / "TrainImages.txt", TRAIN_PART), (root / "TestImages.txt", TEST_PART)]
    found = [(name, part, file) for file, part in lists for (name,) in _lines(file)]
    names = tuple(sorted({name.partition("/")[0] for name, _, _ in found}))
    label = {name: place for place, name in enumerate(names)}
    for name, _, file in found:
        if "/" not in name:
            raise DataError(f"{file}: '{name}' is no class/file", _AGAIN)
    return [
        Listed(_inside(root / "Images", name, file), label[name.partition("/")[0]], part) for name, part, file in found
    ], names


def _stanford_dogs(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    lists = root / "lists" if (root / "lists").is_dir() else root
    found = [
        (name, int(number), part, lists / f"{stem}_list.mat")
        for stem, part in (("train", TRAIN_PART), ("test", TEST_PART))
        for name, number in _mat(lists / f"{stem}_list.mat")
    ]
    names: dict[int, str] = {}
    for name, number, _, file in found:
        class_name = name.partition("/")[0]
        if names.setdefault(number, class_name) != class_name:
            raise DataError(f"{file}: label {number} is '{names[number]}' and '{class_name}'", _AGAIN)
    label = {number: place for place, number in enumerate(sorted(names))}
    return [
        Listed(_inside(root / "Images", name, file), label[number], part) for name, number, part, file in found
    ], tuple(names[number] for number in sorted(names))


def _mat(file: Path) -> list[tuple[str, Any]]:
    """File names and labels (from 1) of one of Stanford's lists."""
    from scipy.io import loadmat  # a parser: it executes nothing of the file
    from scipy.io.matlab import MatReadError

    if not file.is_file():
        raise DataError(f"{file} is missing", _AGAIN)
    refuse_html(file)
    try:
        content = loadmat(file, squeeze_me=True, chars_as_strings=True)
        names, labels = np.atleast_1d(content["file_list"]), np.atleast_1d(content["labels"])
    except (MatReadError, ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
        raise DataError(f"{file} is no list with file_list and labels: {error}", _AGAIN) from error
    if len(names) != len(labels):
        raise DataError(f"{file} has {len(names)} files and {len(labels)} labels", _AGAIN)
    return [(str(name), label) for name, label in zip(names, labels, strict=True)]


TINY_IMAGENET = _kind(
    "tiny-imagenet-200/: wnids.txt, train/<wnid>/images/, val/images/ with val/val_annotations.txt",
    "tiny-imagenet-200",
    ("wnids.txt", "train"),
    _tiny_imagenet,
)
CUB = _kind(
    "CUB_200_2011/: images/, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
    "CUB_200_2011",
    ("images", "images.txt"),
    _cub,
)
MIT67 = _kind(
    "Images/<class>/, TrainImages.txt and TestImages.txt", "indoorCVPR_09", ("Images", "TrainImages.txt"), _mit67
)
STANFORD_DOGS = _kind(
    "Images/<breed>/ and lists/train_list.mat, lists/test_list.mat", "stanford_dogs", ("Images",), _stanford_dogs
)
