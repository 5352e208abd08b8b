"""`import_folder`: a user's own images become a data set like the shipped ones, with splits, in one call."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.core.files import read_plain, sha256_file, temporary_folder, write_json, write_text
from slabench.core.registry import DATASETS, IMPORTED
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import TRAIN_PART, RawImages
from slabench.data.own_facts import OwnFacts
from slabench.data.sources.images import Fit, decode_all, decoder_versions
from slabench.data.sources.own_archives import opened
from slabench.data.sources.own_layouts import Listing, look
from slabench.data.sources.own_splits import Splits, make_splits
from slabench.data.splits import CLASS_SPLIT, IMAGE_SPLIT, OWN
from slabench.data.store import Store, pixel_digests, remarks, write_store

SIZES = (8, 512)
"""Heights and widths that can be asked for, in pixels: a network halves its maps three times at the least."""

_KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_TAKEN = ("episodes",)  # a folder of the data folder that is no data set
_IMAGE_BYTES = 1 << 30
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        info: its entry of the catalog.
        store: its images.
        splits: of classes and of images.
        remarks: what to know of the images, in words.
        left_out: files and folders at the path that are no images of a class, in words.
    """

    info: DatasetInfo
    store: Store
    splits: Splits
    remarks: list[str]
    left_out: list[str]


def import_folder(
    name: str,
    path: Path,
    *,
    size: int = 84,
    seed: int = 0,
    fit: Fit = "centre",
    replace: bool = False,
    found: Callable[[Listing], None] = lambda listing: None,
    done: Callable[[int], None] = lambda n: None,
) -> Imported:
    """Make the images at `path` the data set `name`, known from now on to every command that uses this data folder.

    Args:
        name: of the new data set, kebab-case.
        path: class folders, with or without `train`, `val` and `test`; a CSV or parquet file of paths, or a parquet file with
            the images themselves; or a layout of `look`.
        size: height and width that every image gets, in pixels.
        seed: of the splits that are not given.
        fit: `centre` scales the shorter side and keeps the middle, `scale` squeezes the whole image into the square.
        replace: write over the data set of that name that was imported before.
        found: told what lies at `path`, before anything is decoded.
        done: told how many more images are decoded.

    Raises:
        UsageError: the name is taken or none, or nothing is at `path`.
        DataError: names the file, folder, class or line that is wrong. Nothing is left behind.
    """
    target = _place(name, replace)
    if not SIZES[0] <= size <= SIZES[1]:
        raise UsageError(f"--size {size} is not between {SIZES[0]} and {SIZES[1]}", "84 is usual for few-shot")
    with temporary_folder(target.with_name(f"{name}.decoded")) as temporary, opened(Path(path), temporary) as place:
        listing = look(place, temporary)
        images = listing.images
        class_names = tuple(sorted({image.class_name for image in images}))
        _check_names(class_names)
        found(listing)
        label = {class_name: number for number, class_name in enumerate(class_names)}
        labels = np.array([label[image.class_name] for image in images], np.int64)
        pixels = np.lib.format.open_memmap(
            temporary / "images.npy", mode="w+", dtype=np.uint8, shape=(len(images), size, size, 3)
        )
        _, formats = decode_all(
            lambda row: read_plain(images[row].file, _IMAGE_BYTES),
            lambda row: listing.called(images[row].file),
            len(images),
            size,
            fit=fit,
            into=pixels,
            done=done,
        )
        splits = make_splits(class_names, labels, [image.part for image in images], pixel_digests(pixels), seed)
        mean, std = _mean_and_std(pixels, np.flatnonzero(_trained_on(splits, class_names, labels)))
        raw = RawImages(
            images=pixels,
            labels=labels,
            parts=splits.parts,
            source_positions=np.full(len(images), -1, np.int32),  # file names say nothing: the digests order the images
            class_names=class_names,
            kind="own images",
            notes={"image_formats": formats, "fit": fit, "layout": listing.kind, "versions": decoder_versions()},
        )
        facts = OwnFacts(
            name=name,
            summary=f"own images: {len(images):,} of {len(class_names)} classes, kept at {size}x{size}",
            source=f"{listing.kind}: {Path(path).resolve().name}",
            image_size=size,
            n_classes=len(class_names),
            fewshot=splits.classes is not None,
            mean=mean,
            std=std,
            seed=seed,
            classes_from=splits.classes_from,
            images_from=splits.images_from,
        )

        def beside(folder: Path, order: npt.NDArray[np.int64]) -> None:
            _write_splits(folder, facts, splits, listing, class_names, labels, order)

        info = facts.info(target)
        store = write_store(target, raw, entry=info, replace=replace, beside=beside)
    left_out = [f"{count:,} x {what}" for what, count in sorted(listing.left_out.items())]
    return Imported(info, store, splits, remarks(info, store), left_out)


def _place(name: str, replace: bool) -> Path:
    """Where the store of `name` goes, if it may be called so."""
    if not _KEBAB.fullmatch(name):
        raise UsageError(f"the name '{name}' is not kebab-case", "use lower-case words joined by '-', such as my-birds")
    own = name in DATASETS and DATASETS.entry(name).origin == IMPORTED
    target = paths.data() / name
    if not own and name in DATASETS:
        raise UsageError(
            f"'{name}' is a data set that slabench or a plug-in has",
            f"choose another name; to bring that one here: {DATASETS.get(name).command}",
        )
    if target.exists() and not own and (name in _TAKEN or not (target / OWN).is_file()):
        raise UsageError(f"{target} is in the way, and no data set of yours", "choose another name")
    if name in _TAKEN:
        raise UsageError(f"'{name}' is what another folder of {paths.data()} is called", "choose another name")
    if target.exists() and not replace:
        raise UsageError(
            f"'{name}' is already imported, in {target}", "use --replace to import it anew, or another name"
        )
    return target


def _check_names(class_names: tuple[str, ...]) -> None:
    if len(class_names) < 2:
        raise DataError(
            f"there is one class, '{class_names[0]}', and nothing to tell it from",
            "PATH should be the folder above the class folders",
        )
    for name in class_names:
        if not name.isprintable():
            raise DataError(f"the class name {name!a} has signs that cannot be printed", "rename it")


def _trained_on(splits: Splits, class_names: tuple[str, ...], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether an image is among the training images, and of a training class where there are such; some image always is."""
    own: npt.NDArray[np.bool_] = splits.parts == TRAIN_PART
    if splits.classes is None:
        return own
    names = set(splits.classes["train"])
    trained = np.array([name in names for name in class_names], np.bool_)
    return own & trained[labels]


def _mean_and_std(
    images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation by channel over all pixels of some images, in units of 0..255, rounded to hundredths."""
    total, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)  # whole numbers: no order of adding changes the sum
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        counts = [
            np.bincount(images[rows[start : start + _ROWS_AT_ONCE], ..., channel].ravel(), minlength=256)
            for channel in range(3)
        ]
        levels = np.arange(256)
        total += [int((count * levels).sum()) for count in counts]
        squares += [int((count * levels**2).sum()) for count in counts]
    n = len(rows) * images.shape[1] * images.shape[2]
    mean = total / n
    std = np.sqrt(np.maximum(squares / n - mean**2, 0))
    first, second = ([round(float(value), 2) for value in values] for values in (mean, std))
    return (first[0], first[1], first[2]), (second[0], second[1], second[2])


def _write_splits(
    folder: Path,
    facts: OwnFacts,
    splits: Splits,
    listing: Listing,
    class_names: tuple[str, ...],
    labels: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
) -> None:
    """The split files, and the entry that vouches for them: `image-split.csv` says which file a row of the store is."""
    if splits.classes is not None:
        write_json(
            folder / CLASS_SPLIT,
            {"store": facts.name, "source": facts.classes_from, "classes": splits.classes},
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "class", "part", "file"))
    for row, place in enumerate(order.tolist()):
        file = listing.images[place].file
        name = file.relative_to(listing.root) if file.is_relative_to(listing.root) else file
        shown = name.as_posix().encode("utf-8", "backslashreplace").decode()
        part = "train" if splits.parts[place] == TRAIN_PART else "test"
        writer.writerow((row, class_names[labels[place]], part, shown))
    write_text(folder / IMAGE_SPLIT, text.getvalue())
    sha256 = {name: sha256_file(folder / name) for name in (CLASS_SPLIT, IMAGE_SPLIT) if (folder / name).is_file()}
    write_json(folder / OWN, facts.model_copy(update={"sha256": sha256}).model_dump(mode="json"))
