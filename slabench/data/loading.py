"""From a name to images: `load("fc100", "test")`. The store is prepared on first use and opened memory-mapped after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slabench import paths
from slabench.data.catalog import DatasetInfo, info
from slabench.data.imageset import TEST_PART, TRAIN_PART, ImageSet
from slabench.data.splits import load_split
from slabench.data.store import Store, is_prepared, open_store, store_folder
from slabench.errors import DataMissingError, unknown_name

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
    entry = info(dataset)
    if split not in entry.splits:
        raise unknown_name(f"split of {dataset}", split, entry.splits)
    whole = open_store(ensure(dataset, folder)).images(f"{dataset}/{split}")
    if entry.fewshot:
        classes = load_split(dataset)
        return whole.select_classes(classes.classes[split], f"{dataset}/{split}", classes.digest)
    if split == "all":
        return whole
    return whole.select_part(TRAIN_PART if split == "train" else TEST_PART, f"{dataset}/{split}")


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
    """`ensure` for a catalog entry (or for one that is in no catalog)."""
    path = store_folder(entry, paths.data(folder))
    if is_prepared(path):
        return path
    return prepare_store(entry, folder, console=console)[0].folder


def prepare_store(
    entry: DatasetInfo, folder: Path | None = None, *, console: Console | None = None, replace: bool = False
) -> tuple[Store, list[str]]:
    """Draw or download the store behind `entry`.

    Returns:
        The store, and in words how it differs from the data set as published.
    """
    path = store_folder(entry, paths.data(folder))
    if entry.embedded:
        from slabench.data.sources.embedded import prepare

        return prepare(entry, path, replace=replace), []
    from slabench.data.sources.download import fetch

    try:
        return fetch(entry, folder, console=console, replace=replace)
    except DataMissingError as error:
        raise missing(entry, path, error.message) from error


def missing(entry: DatasetInfo, path: Path, why: str) -> DataMissingError:
    """The error for a data set that is neither here nor to be had: every way to get it, and what to do meanwhile."""
    needs = "" if entry.url else " and learn2learn installed"
    ways = [
        f"on a machine with a network{needs}: slabench data get {entry.store}"
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
