"""mini-ImageNet in its two layouts: three pickle caches, or `images/` with the lists of Ravi and Larochelle."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from slabench.core.errors import DataError
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import RawImages
from slabench.data.sources import Kind
from slabench.data.sources.pixels import check_class_names, decode_all, refuse_html
from slabench.data.sources.unpickle import read_pickle
from slabench.data.splits import SPLIT_NAMES, load_split

_CACHES_LAYOUT = "mini-imagenet-cache-train.pkl, -val.pkl (or -validation.pkl) and -test.pkl in one folder"
_CSV_LAYOUT = "images/ beside train.csv, val.csv and test.csv (columns filename, label)"
_AGAIN = "it may be a cut-off download: fetch it again, then import"


def find_caches(path: Path) -> bool:
    """Whether `path` holds at least one of the caches."""
    return any(_cache(path, split) is not None for split in SPLIT_NAMES)


def read_caches(path: Path, entry: DatasetInfo) -> RawImages:
    """Read the three caches: dicts of `image_data`, uint8 `[n, 84, 84, 3]`, and `class_dict`, wnid -> row numbers."""
    images, names = [], []
    for split in SPLIT_NAMES:
        file = _cache(path, split)
        if file is None:
            raise DataError(f"{path} lacks mini-imagenet-cache-{split}.pkl", f"slabench reads {_CACHES_LAYOUT}")
        pixels, wnids = _read_cache(file, entry)
        images.append(pixels)
        names += wnids
    return _raw(np.concatenate(images), names, entry, path, "pickle caches", {})


def find_csvs(path: Path) -> bool:
    """Whether `path` holds at least one of the lists."""
    return any((path / f"{split}.csv").is_file() for split in SPLIT_NAMES)


def read_csvs(path: Path, entry: DatasetInfo) -> RawImages:
    """Read the images that the three lists name; others than 84 x 84 are scaled (Lanczos, as MAML's script does)."""
    files: list[Path] = []
    names: list[str] = []
    for split in SPLIT_NAMES:
        for file_name, wnid in _read_list(path / f"{split}.csv"):
            files.append(path / "images" / file_name)
            names.append(wnid)
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise DataError(
            f"{absent[0]} is listed but missing ({len(absent):,} of {len(files):,} images are)",
            "complete the folder 'images', then import again",
        )
    images, formats = decode_all(
        lambda row: files[row].read_bytes(), lambda row: str(files[row]), len(files), entry.image_size, fit="scale"
    )
    return _raw(images, names, entry, path, "images and csv lists", {"image_formats": formats})


def _cache(path: Path, split: str) -> Path | None:
    spellings = (split, "validation") if split == "val" else (split,)
    found = (path / f"mini-imagenet-cache-{spelling}.pkl" for spelling in spellings)
    return next((file for file in found if file.is_file()), None)


def _read_cache(file: Path, entry: DatasetInfo) -> tuple[Any, list[str]]:
    refuse_html(file)
    with open(file, "rb") as stream:
        value = read_pickle(stream, str(file))
    content = {_text(key): item for key, item in value.items()} if isinstance(value, dict) else {}
    if not {"image_data", "class_dict"} <= set(content) or not isinstance(content["class_dict"], dict):
        raise DataError(
            f"{file} has the keys {sorted(content)}, not image_data and class_dict", f"it is not {_CACHES_LAYOUT}"
        )
    pixels = content["image_data"]
    shape = (entry.image_size, entry.image_size, 3)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
        found = getattr(pixels, "shape", type(pixels).__name__)
        raise DataError(f"{file}: image_data is {found}, not uint8 [n, {', '.join(map(str, shape))}]", _AGAIN)
    wnids = [""] * len(pixels)
    for wnid, rows in content["class_dict"].items():
        for row in rows:
            if not 0 <= int(row) < len(pixels) or wnids[int(row)]:
                raise DataError(f"{file}: class '{_text(wnid)}' claims row {row}, which is taken or not there", _AGAIN)
            wnids[int(row)] = _text(wnid)
    if "" in wnids:
        raise DataError(f"{file}: row {wnids.index('')} belongs to no class", _AGAIN)
    return pixels, wnids


def _read_list(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        raise DataError(f"{file} is missing", f"slabench reads {_CSV_LAYOUT}")
    refuse_html(file)
    with open(file, encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        if not {"filename", "label"} <= set(reader.fieldnames or ()):
            raise DataError(
                f"{file} has the columns {reader.fieldnames}, not filename and label", f"needs {_CSV_LAYOUT}"
            )
        rows = [(row["filename"] or "", row["label"] or "") for row in reader]
    for number, (file_name, label) in enumerate(rows, start=2):
        if not label or Path(file_name).name != file_name or file_name in ("", ".", ".."):
            raise DataError(f"{file}, line {number}: '{file_name},{label}' is not a file name and a label", _AGAIN)
    return rows


def _raw(images: Any, names: list[str], entry: DatasetInfo, path: Path, kind: str, notes: dict[str, Any]) -> RawImages:
    classes = entry.classes or mini_imagenet_classes()
    check_class_names(sorted(set(names)), classes, path, entry.store)
    index = {name: label for label, name in enumerate(classes)}
    return RawImages(
        images=images,
        labels=np.array([index[name] for name in names], np.int64),
        parts=np.zeros(len(names), np.uint8),
        source_positions=np.arange(len(names), dtype=np.int32),
        class_names=classes,
        kind=kind,
        notes=notes,
    )


def mini_imagenet_classes() -> tuple[str, ...]:
    """The 100 wnids, ascending: the label order of the store."""
    split = load_split("mini-imagenet")
    return tuple(sorted(name for members in split.classes.values() for name in members))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


CACHES = Kind(_CACHES_LAYOUT, find_caches, read_caches)
CSVS = Kind(_CSV_LAYOUT, find_csvs, read_csvs)
