"""`import_dataset`: find out what lies at a path, read it, hold it against the catalog, write the prepared store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import TEST_PART, TRAIN_PART, RawImages
from slabench.data.sources import Kind, fewshot, images, parquet, photographs, pybatches
from slabench.data.sources.images import COMPLETE, refuse_html
from slabench.data.store import Store, is_prepared, remarks, store_folder, write_store

_ARCHIVE_ENDS = (".zip", ".tar", ".tgz", ".tar.gz")
_PARTS = ((TRAIN_PART, "training"), (TEST_PART, "test"))
_PHOTOGRAPHS = {
    "tiny-imagenet": photographs.TINY_IMAGENET,
    "cub200": photographs.CUB,
    "mit67": photographs.MIT67,
    "stanford-dogs": photographs.STANFORD_DOGS,
}


def _kinds(entry: DatasetInfo) -> tuple[Kind, ...]:
    if entry.store == "mini-imagenet":
        return (fewshot.CACHES, fewshot.CSVS)
    if entry.store in _PHOTOGRAPHS:
        return (_PHOTOGRAPHS[entry.store],)
    if entry.store == "cifar100":
        return (pybatches.KIND, parquet.KIND, images.KIND, fewshot.FC100, fewshot.CIFARFS)
    return (pybatches.KIND, parquet.KIND, images.KIND)


def layouts(entry: DatasetInfo) -> list[str]:
    """What may be imported as `entry`, in words."""
    return [kind.layout for kind in _kinds(entry)]


def import_dataset(
    entry: DatasetInfo,
    path: Path,
    folder: Path | None = None,
    *,
    replace: bool = False,
    partial: bool = False,
    told: Callable[[str], None] = lambda text: None,
) -> tuple[Store, list[str]]:
    """Make the prepared store of `entry` from the files at `path`.

    Args:
        entry: the data set, from the catalog; its store is written.
        path: a folder or an archive in any of the layouts that slabench knows.
        folder: the data folder; by default `SLABENCH_DATA` or the user's cache.
        replace: write over a store that is already there.
        partial: go on when classes have other numbers of images than the data set as published.
        told: told what is going on.

    Returns:
        The store, and in words how it differs from the data set as published, and what to know of its images (empty: nothing).

    Raises:
        UsageError: the data set is embedded, or its store exists and `replace` is not given.
        DataError: the files are missing, damaged, of an unknown layout, or of another data set.
    """
    target = store_folder(entry, paths.data(folder))
    if entry.embedded:
        raise UsageError(f"dataset '{entry.name}' is made on this machine", "there is nothing to import: just use it")
    if is_prepared(target) and not replace:
        raise UsageError(f"{entry.store} is already prepared in {target}", "use --replace to import it anew")
    told(f"reading {path}; a large data set takes minutes")
    raw = _read(entry, Path(path))
    told(f"{len(raw.labels):,} images read from {raw.kind}; bringing them into order and writing them")
    _refuse_absent(entry, raw, Path(path))
    if not partial:
        _refuse_other_counts(entry, raw, Path(path))
    store = write_store(target, raw, entry=entry, replace=replace)
    return store, remarks(entry, store)


def _read(entry: DatasetInfo, path: Path) -> RawImages:
    known = "; ".join(f"({number}) {layout}" for number, layout in enumerate(layouts(entry), start=1))
    if not path.exists():
        raise UsageError(f"{path} does not exist", f"layouts for {entry.store}: {known}")
    if path.is_file():
        refuse_html(path)
    for kind in _kinds(entry):
        if kind.find(path):
            return kind.read(path, entry)
    if path.is_file() and path.name.endswith(_ARCHIVE_ENDS):
        raise DataError(
            f"{path} is an archive; {entry.store} is read unpacked", f"unpack it and import the folder: {known}"
        )
    content = f"holds {_listing(path)}" if path.is_dir() else f"has {path.stat().st_size:,} bytes"
    raise DataError(
        f"{path} is in no layout that slabench knows for {entry.store}: it {content}", f"known layouts: {known}"
    )


def _listing(path: Path) -> str:
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
    if not names:
        return "nothing"
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _refuse_absent(entry: DatasetInfo, raw: RawImages, path: Path) -> None:
    """Raise when a class has no image in a part that every class has images in."""
    for part, name in _PARTS:
        counts = np.bincount(raw.labels[raw.parts == part], minlength=len(raw.class_names))
        if (entry.per_class[part] or entry.totals[part]) and not counts.all():
            absent = raw.class_names[int(counts.argmin())]
            raise DataError(
                f"class '{absent}' has no {name} image in {path} ({np.count_nonzero(counts == 0)} such classes)",
                COMPLETE,
            )


def _refuse_other_counts(entry: DatasetInfo, raw: RawImages, path: Path) -> None:
    """Raise when a class, or a part as a whole, has too few or too many images, naming the class that is furthest off."""
    go_on = (
        "complete the files and import again, or use --partial to go on with what is there "
        "(its results are never ranked with those on the whole data set)"
    )
    for part, name in _PARTS:
        counts = np.bincount(raw.labels[raw.parts == part], minlength=len(raw.class_names))
        if entry.totals[part] and counts.sum() != entry.totals[part]:
            least = int(counts.argmin())
            raise DataError(
                f"{path} lists {counts.sum():,} {name} images; {entry.store} has {entry.totals[part]:,} "
                f"(its smallest class here: '{raw.class_names[least]}' with {counts[least]:,})",
                go_on,
            )
        if entry.per_class == (0, 0):
            continue
        off = counts - entry.per_class[part]
        if off.any():
            worst = int(np.abs(off).argmax())
            others = int(np.count_nonzero(off)) - 1
            raise DataError(
                f"class '{raw.class_names[worst]}' has {counts[worst]:,} {name} images in {path}; {entry.store} has "
                f"{entry.per_class[part]:,}" + (f" ({others} more classes differ)" if others else ""),
                go_on,
            )
