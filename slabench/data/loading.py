"""From a name to images: `load("fc100", "test")`. The store is prepared on first use and opened memory-mapped after.

`load_images` is for classifiers: the standard split of any data set into training and test images. A data set with official
test images keeps them. One without (`glyphs`, `mini-imagenet`) is split within each class, every fifth image in canonical
order being a test image; that order is by pixel digest, so the choice is arbitrary and the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slabench.core import paths
from slabench.core.errors import DataMissingError, UsageError, unknown_name
from slabench.core.files import read_json
from slabench.core.seeding import numpy_generator
from slabench.data.catalog import DATASETS, DatasetInfo, info
from slabench.data.imageset import TEST_PART, TRAIN_PART, ImageSet, Origin
from slabench.data.plugin_dataset import maker
from slabench.data.sources.embedded import prepare
from slabench.data.splits import load_split
from slabench.data.store import MANIFEST, Store, is_prepared, open_store, remarks, store_folder

if TYPE_CHECKING:
    from rich.console import Console


def load(dataset: str, split: str, folder: Path | None = None) -> ImageSet:
    """The images of one split of one data set.

    Args:
        dataset: a name from the catalog (`slabench list datasets`).
        split: `train`, `val` or `test` classes of a few-shot data set; official `train` or `test` images, or `all`, of
            the others.
        folder: the data folder; by default `SLABENCH_DATA` or the user's cache.

    Raises:
        UsageError: no such data set or split.
        DataMissingError: the data is not here and cannot be fetched; the message lists the ways to get it.
        IntegrityError: the prepared store is damaged.
    """
    entry, store = _opened(dataset, split, folder)
    return _split(entry, split, store.images(f"{dataset}/{split}", store.origin(entry)))


def load_rows(dataset: str, split: str, folder: Path | None = None) -> ImageSet:
    """The split as `load` gives it, without its pixels, and with rows of the prepared store in place of source positions.

    What is kept for the images of a store (features of a frozen network) is looked up by these rows, so that row i of the
    split is row i of `load(dataset, split)`.

    Args:
        dataset: as of `load`, as is `folder`.
        split: as of `load`; or `image-train` or `image-test`: of `load_images`.
        folder: the data folder.

    Returns:
        Images `[n, 0, 0, 3]`, that nobody can look at by mistake; `source_positions` holds int32 rows of the store.
    """
    by_image = {"image-train": TRAIN_PART, "image-test": TEST_PART}.get(split)
    if by_image is not None:
        return _standard_parts(_without_pixels(open_store(ensure(dataset, folder)), dataset)).select_part(
            by_image, f"{dataset}/{split.removeprefix('image-')}"
        )
    entry, store = _opened(dataset, split, folder)
    return _split(entry, split, _without_pixels(store, f"{dataset}/{split}", store.origin(entry)))


def _opened(dataset: str, split: str, folder: Path | None) -> tuple[DatasetInfo, Store]:
    entry = info(dataset)
    if split not in entry.splits:
        raise unknown_name(f"split of {dataset}", split, entry.splits)
    return entry, open_store(ensure(dataset, folder))


def _without_pixels(store: Store, name: str, origin: Origin | None = None) -> ImageSet:
    whole = store.images(name, origin)
    rows = np.arange(len(whole), dtype=np.int32)
    return replace(whole, images=np.empty((len(whole), 0, 0, 3), np.uint8), source_positions=rows)


def _split(entry: DatasetInfo, split: str, whole: ImageSet) -> ImageSet:
    """The images of one split among those of the whole store."""
    if entry.fewshot:
        classes = load_split(entry.name)
        return whole.select_classes(classes.classes[split], whole.name, classes.digest)
    if split == "all":
        return whole
    return whole.select_part(TRAIN_PART if split == "train" else TEST_PART, whole.name)


def ensure(dataset: str, folder: Path | None = None, console: Console | None = None) -> Path:
    """The folder of the prepared store behind `dataset`, made if it is not there: drawn, or downloaded.

    Args:
        dataset: a name from the catalog.
        folder: the data folder; by default `SLABENCH_DATA` or the user's cache.
        console: where a download shows its progress; None is silent.

    Raises:
        DataMissingError: the data is not here and cannot be fetched.
    """
    return ensure_store(info(dataset), folder, console)


def ensure_store(entry: DatasetInfo, folder: Path | None = None, console: Console | None = None) -> Path:
    """`ensure` for a catalog entry (or for one that is in no catalog). A store that other code made is made anew."""
    path = store_folder(entry, paths.data(folder))
    if is_current(entry, path):
        return path
    return prepare_store(entry, folder, console=console, replace=is_prepared(path))[0].folder


_made: set[Path] = set()
"""Stores that this process has made: those of code that is not wholly known are nobody else's."""


def is_current(entry: DatasetInfo, path: Path) -> bool:
    """Whether the store at `path` is there and, if a plug-in's, of the code that the plug-in has now."""
    if not is_prepared(path):
        return False
    code = maker(entry)
    if code is None:
        return True
    manifest = read_json(path / MANIFEST)
    source = manifest.get("source") if isinstance(manifest, dict) else None
    same = isinstance(source, dict) and source.get("code") == code.sha256
    return same and (code.unknown is None or path in _made)


def prepare_store(
    entry: DatasetInfo, folder: Path | None = None, *, console: Console | None = None, replace: bool = False
) -> tuple[Store, list[str]]:
    """Draw or download the store behind `entry`.

    Returns:
        The store, and in words how it differs from the data set as published.
    """
    path = store_folder(entry, paths.data(folder))
    if entry.embedded:
        store = prepare(entry, path, replace=replace)
        _made.add(path)
        return store, remarks(entry, store)
    from slabench.data.sources.download import fetch

    try:
        return fetch(entry, folder, console=console, replace=replace)
    except DataMissingError as error:
        raise missing(entry, path, error.message) from error


def missing(entry: DatasetInfo, path: Path, why: str) -> DataMissingError:
    """The error for a data set that is neither here nor to be had: every way to get it, and what to do meanwhile."""
    if entry.own is not None:
        return DataMissingError(
            f"the images of '{entry.name}' are not in {path}", f"import them there: {entry.command}"
        )
    needs = "" if entry.url else " and learn2learn installed"
    ways = [
        f"on a machine with a network{needs}: {entry.command}"
        if entry.downloadable
        else f"get it from its publisher, in a browser: {entry.source}",
        f"from files that you have: slabench data import {entry.store} PATH",
        *(f"    PATH may be {layout}" for layout in _layouts(entry)),
        f"from another machine: copy its prepared folder to {path} (or point SLABENCH_DATA at the folder above it)",
        "meanwhile, with nothing to download: --dataset glyphs",
    ]
    return DataMissingError(f"the data of '{entry.name}' is not on this machine: {why}", "\n".join(ways))


def _layouts(entry: DatasetInfo) -> list[str]:
    from slabench.data.sources.detect import layouts

    return layouts(entry)


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
    entry = whole_dataset(dataset)
    store = open_store(ensure(dataset, folder))
    whole = _standard_parts(store.images(dataset, store.origin(entry)))
    return (
        entry,
        whole.select_part(TRAIN_PART, f"{dataset}/train"),
        whole.select_part(TEST_PART, f"{dataset}/test"),
    )


def whole_dataset(dataset: str) -> DatasetInfo:
    """The catalog entry of a data set whose classes are meant to be learned together.

    Raises:
        UsageError: a few-shot split of another data set (`fc100`).
    """
    entry = info(dataset)
    if entry.fewshot and entry.store != entry.name:
        raise UsageError(
            f"'{entry.name}' is a few-shot split of {entry.store}",
            f"to classify all of its classes: --dataset {entry.store}",
        )
    return entry


def _standard_parts(whole: ImageSet) -> ImageSet:
    """With every fifth image of a class as a test image where the data set has no official ones."""
    if (whole.parts == TEST_PART).any():
        return whole
    parts = whole.parts.copy()
    for rows in whole.class_rows():
        parts[rows[TEST_EVERY - 1 :: TEST_EVERY]] = TEST_PART
    return replace(whole, parts=parts)


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

    The test set is never used, and nothing is taken away from a subset whose size the published tables rest on. A class that
    keeps all of its images (the first one) has none to spare and takes no part in the validation.
    """
    used = np.zeros(len(images), dtype=bool)
    used[rows] = True
    spare = [own[~used[own]][:per_class] for own in images.class_rows()]
    return np.sort(np.concatenate(spare))
