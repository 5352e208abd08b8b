"""The data sets of full supervision in their official layouts: tiny-ImageNet, CUB-200-2011, MIT Indoor 67, Stanford Dogs.

tiny-ImageNet's 64 x 64 images are kept as they are; its validation images, the only labelled ones beside the training images,
are the test part, as everywhere in the field. The photographs of the other three come in all sizes: the shorter side is scaled
to 256 pixels and the middle 256 x 256 are kept (torchvision's `Resize(256)` and `CenterCrop(256)`). Random crops of training
are then taken from these squares, not from the whole picture.

An image is where a list says it is, and has the class that the list says. Whatever disagrees is an error: an image that is
listed and missing, listed twice, or there without a line; a class that is not one of the data set's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slabench.core.errors import DataError
from slabench.core.files import read_text
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import TEST_PART, TRAIN_PART, RawImages
from slabench.data.sources import Kind
from slabench.data.sources.images import (
    check_class_names,
    decode_all,
    decoder_versions,
    image_files,
    refuse_absent,
    refuse_html,
    refuse_repeated,
)

_AGAIN = "it may be a cut-off copy: unpack or download it again, then import"
_EXTRA = "it is no file of the data set: move it away, then import"
_LIST = "the list is damaged or edited: get the publisher's, then import"
_ENDS = (".jpg", ".jpeg", ".png")
CUB_FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
_PART_NAMES = {TRAIN_PART: "training", TEST_PART: "test"}


@dataclass(frozen=True)
class Listed:
    """One image of a list: where it lies, its label from 0, its part."""

    file: Path
    label: int
    part: int


_Reader = Callable[[Path], tuple[list[Listed], tuple[str, ...]]]


def _root(path: Path, inner: str, marks: Sequence[str]) -> Path | None:
    """`path`, or the folder `inner` in it, whichever holds one of the `marks`."""
    return next((p for p in (path, path / inner) if any((p / mark).is_file() for mark in marks)), None)


def _kind(layout: str, inner: str, marks: Sequence[str], listed: _Reader) -> Kind:
    """A layout that is known by any of the files `marks`, so that a copy which lacks the others is told what it lacks."""

    def read(path: Path, entry: DatasetInfo) -> RawImages:
        root = _root(path, inner, marks)
        if root is None:
            raise DataError(f"{path} holds none of {', '.join(marks)}", f"slabench reads {layout}")
        images, class_names = listed(root)
        return _raw(images, class_names, entry, root)

    return Kind(layout, lambda path: _root(path, inner, marks) is not None, read)


def _raw(images: list[Listed], class_names: tuple[str, ...], entry: DatasetInfo, root: Path) -> RawImages:
    check_class_names(class_names, entry.classes, root, entry.store)
    if len(class_names) != entry.n_classes:
        raise DataError(
            f"{root} has {len(class_names)} classes; {entry.store} has {entry.n_classes}",
            "check that PATH is the data set you named, and whole",
        )
    labels = np.array([image.label for image in images], np.int64)
    parts = np.array([image.part for image in images], np.uint8)
    for part, name in _PART_NAMES.items():
        counts = np.bincount(labels[parts == part], minlength=len(class_names))
        if not counts.all():
            raise DataError(f"class '{class_names[int(counts.argmin())]}' has no {name} image in {root}", _AGAIN)
    files = [image.file for image in images]
    refuse_repeated(files, _LIST)
    refuse_absent(files, _AGAIN)
    positions = np.empty(len(images), np.int32)
    for part in _PART_NAMES:
        own = parts == part
        positions[own] = np.arange(np.count_nonzero(own))
    squares = entry.image_size == 256
    pixels, formats = decode_all(
        lambda row: files[row].read_bytes(),
        lambda row: str(files[row]),
        len(files),
        entry.image_size,
        fit="centre" if squares else "exact",
    )
    kept = "shorter side scaled to 256 (bilinear), middle 256 x 256" if squares else "as they are"
    return RawImages(
        images=pixels,
        labels=labels,
        parts=parts,
        source_positions=positions,
        class_names=class_names,
        kind="official folders",
        notes={"image_formats": formats, "pixels": kept, "versions": decoder_versions()},
    )


def lines(file: Path) -> list[tuple[str, str]]:
    """The lines of a list that are not empty, each with its place for errors (`file, line 3`)."""
    if not file.is_file():
        raise DataError(f"{file} is missing", _AGAIN)
    refuse_html(file)
    text = read_text(file, "utf-8-sig")  # editors write a byte order mark, which is no part of the first name
    numbered = enumerate(text.splitlines(), start=1)
    return [(f"{file}, line {number}", line.strip()) for number, line in numbered if line.strip()]


def _words(file: Path, n: int) -> list[tuple[str, list[str]]]:
    """The lines of a table of `n` columns, each with its place."""
    rows = [(where, line.split()) for where, line in lines(file)]
    for where, words in rows:
        if len(words) != n:
            raise DataError(f"{where}: '{' '.join(words)[:60]}' has {len(words)} words, not {n}", _LIST)
    return rows


def _table(file: Path) -> dict[str, str]:
    """A table of two columns, the first of which is a key."""
    table: dict[str, str] = {}
    for where, (key, value) in _words(file, 2):
        if key in table:
            raise DataError(f"{where}: '{key}' is listed twice", _LIST)
        table[key] = value
    return table


def _class_and_file(name: str, where: str) -> tuple[str, str]:
    """The two parts of `class/file`; anything else (a way out of the folder, too) is refused."""
    parts = name.split("/")
    if len(parts) != 2 or any(not part or part in (".", "..") or Path(part).name != part for part in parts):
        raise DataError(f"{where}: '{name}' is not of the form class/file", _LIST)
    return parts[0], parts[1]


def _image_files(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing", _AGAIN)
    return {file.name for file in image_files(folder, _ENDS)}


def _tiny_imagenet(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    """Labels by ascending wnid and positions by class and file name, as folder loaders have them; tests by their list.

    The boxes of the training images are not read; an image without one is whole, a box without its image is not.
    """
    wnids = tuple(sorted({wnid for _, (wnid,) in _words(root / "wnids.txt", 1)}))
    label = {wnid: place for place, wnid in enumerate(wnids)}
    listed = []
    for wnid in wnids:
        folder, boxes = root / "train" / wnid / "images", root / "train" / wnid / f"{wnid}_boxes.txt"
        with_box = {_file_name(words[0], where) for where, words in (_words(boxes, 5) if boxes.is_file() else [])}
        listed += [Listed(folder / name, label[wnid], TRAIN_PART) for name in sorted(_image_files(folder) | with_box)]
    return listed + _tiny_imagenet_tests(root, label), wnids


def _tiny_imagenet_tests(root: Path, label: dict[str, int]) -> list[Listed]:
    """The validation images: in `val/images/` as published, or sorted into `val/<wnid>/images/`, as folder loaders need them.

    Where they have been sorted, the list may be gone: then folders say the class, and positions come by class and file name.
    """
    annotations, together = root / "val" / "val_annotations.txt", root / "val" / "images"
    apart = {wnid: root / "val" / wnid / "images" for wnid in label if (root / "val" / wnid).is_dir()}
    apart = {wnid: folder if folder.is_dir() else folder.parent for wnid, folder in apart.items()}
    if apart and any(together.glob("*")):
        raise DataError(f"{root / 'val'} has images in 'images' and in folders of classes", _EXTRA)
    found = {folder / name for folder in (apart.values() if apart else (together,)) for name in _image_files(folder)}
    if apart and not annotations.is_file():
        lacking = sorted(set(label) - set(apart))
        if lacking:
            raise DataError(f"{root / 'val' / lacking[0]} is missing ({len(lacking)} such folders)", _AGAIN)
        return [Listed(apart[w] / name, label[w], TEST_PART) for w in apart for name in sorted(_image_files(apart[w]))]
    listed = []
    for where, (name, wnid, *_) in _words(annotations, 6):
        if wnid not in label:
            raise DataError(f"{where}: '{name}' has the unknown class '{wnid}', which wnids.txt lacks", _LIST)
        listed.append(Listed(apart.get(wnid, together) / _file_name(name, where), label[wnid], TEST_PART))
    unlisted = found - {image.file for image in listed}
    if unlisted:
        raise DataError(f"{min(unlisted)} has no line in {annotations} ({len(unlisted):,} such images)", _EXTRA)
    return listed


def _file_name(name: str, where: str) -> str:
    return _class_and_file(f"images/{name}", where)[1]


def listed_cub(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    """CUB-200-2011: labels and positions by the numbers of classes.txt and images.txt."""
    classes = _table(root / "classes.txt")
    label = {number: place for place, number in enumerate(classes)}
    tables = {name: _table(root / f"{name}.txt") for name in ("image_class_labels", "train_test_split")}
    images = _table(root / "images.txt")
    listed = []
    for image, name in images.items():
        for table, values in tables.items():
            if image not in values:
                raise DataError(f"{root / f'{table}.txt'} has no line for image {image} ({name})", _AGAIN)
        folder, file = _class_and_file(name, f"{root / 'images.txt'}, image {image}")
        number, training = tables["image_class_labels"][image], tables["train_test_split"][image]
        if number not in label:
            where = root / "image_class_labels.txt"
            raise DataError(f"{where}: image {image} ({name}) has the unknown class '{number}'", _LIST)
        if classes[number] != folder:
            raise DataError(f"image {image} ({name}) has the class '{classes[number]}' in {root}", _LIST)
        if training not in ("0", "1"):
            raise DataError(f"{root / 'train_test_split.txt'}: image {image} is in the part '{training}'", _LIST)
        part = TRAIN_PART if training == "1" else TEST_PART
        listed.append(Listed(root / "images" / folder / file, label[number], part))
    for table, values in tables.items():
        for image in values:
            if image not in images:
                raise DataError(f"{root / 'images.txt'} lacks image {image}, which {table}.txt has", _AGAIN)
    return listed, tuple(classes.values())


def _folders(images: Path) -> tuple[str, ...]:
    if not images.is_dir():
        raise DataError(f"{images} is missing", _AGAIN)
    return tuple(sorted(child.name for child in images.iterdir() if child.is_dir() and not child.name.startswith(".")))


def _mit67(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    """Labels by name; positions by the lists. Most files of `Images` are in neither list, which is as it should be."""
    names = _folders(root / "Images")
    label = {name: place for place, name in enumerate(names)}
    listed = []
    for stem, part in (("TrainImages", TRAIN_PART), ("TestImages", TEST_PART)):
        for where, line in lines(root / f"{stem}.txt"):  # names have blanks: the whole line is one
            folder, file = _class_and_file(line, where)
            if folder not in label:
                raise DataError(
                    f"{where}: '{line}' is of the unknown class '{folder}', which has no folder in Images", _AGAIN
                )
            listed.append(Listed(root / "Images" / folder / file, label[folder], part))
    return listed, names


def _stanford_dogs(root: Path) -> tuple[list[Listed], tuple[str, ...]]:
    """Labels and positions by the lists, which count classes from 1; lists.tar unpacks with or without a folder."""
    lists = root / "lists" if (root / "lists").is_dir() else root
    known = _folders(root / "Images")
    names: dict[int, str] = {}
    found = []
    for stem, part in (("train", TRAIN_PART), ("test", TEST_PART)):
        file = lists / f"{stem}_list.mat"
        for row, (name, number) in enumerate(_mat(file), start=1):
            folder, image = _class_and_file(name, f"{file}, row {row}")
            if folder not in known:
                raise DataError(
                    f"{file}, row {row}: '{name}' is of an unknown class, which has no folder in Images", _AGAIN
                )
            if names.setdefault(number, folder) != folder:
                raise DataError(f"{file}, row {row}: label {number} is '{names[number]}' and '{folder}'", _LIST)
            found.append((root / "Images" / folder / image, number, part))
    if sorted(names) != list(range(1, len(known) + 1)):
        lacking = sorted(set(known) - set(names.values()))
        raise DataError(
            f"{lists}: the labels are not 1..{len(known)}, one for each folder of {root / 'Images'}"
            + (f"; '{lacking[0]}' has none" if lacking else ""),
            _AGAIN,
        )
    images = [Listed(file, number - 1, part) for file, number, part in found]
    return images, tuple(names[number] for number in sorted(names))


# SciPy's parser executes nothing of the file, but a damaged one can end the process that it runs in.
_READ_MAT = """
import json, sys
import numpy as np
from scipy.io import loadmat
content = loadmat(sys.argv[1], appendmat=False, squeeze_me=True, variable_names=("file_list", "labels"))
names, numbers = (np.atleast_1d(content[name]).tolist() for name in ("file_list", "labels"))
print(json.dumps([(str(name), int(number)) for name, number in zip(names, numbers, strict=True)]))
"""
_MAT_SECONDS = 120


def _mat(file: Path) -> list[tuple[str, int]]:
    """File names and labels (from 1) of one of Stanford's lists."""
    if not file.is_file():
        raise DataError(f"{file} is missing", _AGAIN)
    refuse_html(file)
    command = [sys.executable, "-c", _READ_MAT, str(file.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_MAT_SECONDS, check=True)
        return [(name, number) for name, number in json.loads(done.stdout)]
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or b""
        last = (said.decode("utf-8", "replace").strip().splitlines() or [str(error)])[-1]
        raise DataError(
            f"{file} is not a list with file_list and labels of one length: {last[:200]}", _AGAIN
        ) from error


TINY_IMAGENET = _kind(
    "the unpacked tiny-imagenet-200/: wnids.txt, train/<wnid>/images/ and <wnid>_boxes.txt, val/images/ and "
    "val/val_annotations.txt (or the same images in val/<wnid>/images/)",
    "tiny-imagenet-200",
    ("wnids.txt", "val/val_annotations.txt"),
    _tiny_imagenet,
)
CUB = _kind(
    "the unpacked CUB_200_2011/: images/, images.txt, image_class_labels.txt, train_test_split.txt, classes.txt",
    "CUB_200_2011",
    CUB_FILES,
    listed_cub,
)
MIT67 = _kind(
    "a folder with the unpacked Images/<class>/ beside TrainImages.txt and TestImages.txt",
    "indoorCVPR_09",
    ("TrainImages.txt", "TestImages.txt"),
    _mit67,
)
STANFORD_DOGS = _kind(
    "a folder with the unpacked Images/<breed>/ beside lists/train_list.mat and lists/test_list.mat (or both without lists/)",
    "stanford_dogs",
    tuple(f"{folder}{part}_list.mat" for folder in ("lists/", "") for part in ("train", "test")),
    _stanford_dogs,
)
