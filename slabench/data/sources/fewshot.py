"""The few-shot data sets as others prepared them.

FC100 and CIFAR-FS as learn2learn downloads them: CIFAR-100 cut into class splits, its two official parts mixed. mini-ImageNet
in its two layouts: three pickle caches, or `images/` with the lists of Ravi and Larochelle.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slabench.core.errors import DataError
from slabench.core.tables import read_table
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import ImageSet, RawImages
from slabench.data.sources import Kind
from slabench.data.sources.images import check_class_names, decode_all, refuse_absent, refuse_html, whole_numbers
from slabench.data.sources.unpickle import read_pickle
from slabench.data.splits import SPLIT_NAMES, load_split
from slabench.data.store import canonical_order, pixel_digests

_FC100_LAYOUT = "learn2learn's FC100: FC100_train.pickle, FC100_val.pickle and FC100_test.pickle in one folder"


_CIFARFS_LAYOUT = "learn2learn's CIFAR-FS: cifarfs/cifar100/data/<class>/*.png"


_AGAIN = "it may be a cut-off download: fetch it again, then import"


@dataclass(frozen=True)
class Key:
    """What the pixels of a data set tell of an image's class and part.

    Attributes:
        first: of each class, in label order, the first 16 hex digits of its smallest pixel sha256.
        test: bool `[n]` in canonical order, official test images.
        sha256: of all pixel digests in canonical order, hex.
    """

    first: tuple[str, ...]
    test: npt.NDArray[np.bool_]
    sha256: str

    @classmethod
    def of(cls, images: ImageSet) -> Key:
        """The key of a whole store, whose rows are in canonical order."""
        digests = pixel_digests(images.images)
        first = tuple(digests[rows[0]].tobytes().hex()[:16] for rows in images.class_rows())
        return cls(first, images.parts == 1, hashlib.sha256(digests.tobytes()).hexdigest())

    def to_json(self) -> dict[str, Any]:
        """Plain values; the bits packed, in base64."""
        bits = base64.b64encode(np.packbits(self.test).tobytes()).decode("ascii")
        return {"n": len(self.test), "sha256": self.sha256, "test": bits, "first": list(self.first)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Key:
        """What `to_json` made."""
        packed = np.frombuffer(base64.b64decode(value["test"]), np.uint8)
        bits = np.unpackbits(packed, count=value["n"]).astype(bool)
        return cls(tuple(value["first"]), bits, value["sha256"])


def cifar100_key() -> Key:
    """That of CIFAR-100, made from lossless files whose digest is the catalog's."""
    return Key.from_json(json.loads(Path(__file__).with_name("cifar100_images.json").read_text(encoding="utf-8")))


def find_fc100(path: Path) -> bool:
    """Whether `path` holds at least one of the pickles."""
    return any(_pickle(path, split).is_file() for split in SPLIT_NAMES)


def read_fc100(path: Path, entry: DatasetInfo) -> RawImages:
    """Read the three pickles: dicts of `data`, uint8 `[n, 32, 32, 3]`, and `labels`, n numbers."""
    images, groups = [], []
    for split in SPLIT_NAMES:
        file = _pickle(path, split)
        if not file.is_file():
            raise DataError(f"{path} lacks {file.name}", f"slabench reads {_FC100_LAYOUT}")
        refuse_html(file)
        with open(file, "rb") as stream:
            value = read_pickle(stream, str(file))
        content = {_text(key): item for key, item in value.items()} if isinstance(value, dict) else {}
        pixels, labels = content.get("data"), content.get("labels")
        shape = (entry.image_size, entry.image_size, 3)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != shape:
            found = getattr(pixels, "shape", type(pixels).__name__)
            raise DataError(f"{file}: data is {found}, not uint8 [n, {', '.join(map(str, shape))}]", _AGAIN)
        numbers = whole_numbers(labels, f"{file}, 'labels'", _AGAIN)
        if len(numbers) != len(pixels):
            raise DataError(f"{file} has no label for each of its {len(pixels):,} images", _AGAIN)
        images.append(pixels)
        groups += [f"{split} class {label}" for label in numbers.tolist()]
    return identified(np.concatenate(images), groups, entry, path, cifar100_key(), "learn2learn's FC100", {})


def find_cifarfs(path: Path) -> bool:
    """Whether CIFAR-FS lies unpacked at `path`."""
    return _class_folders(path) is not None


def read_cifarfs(path: Path, entry: DatasetInfo) -> RawImages:
    """Read every image of the class folders."""
    root = _class_folders(path)
    assert root is not None
    files = sorted(file for file in root.glob("*/*.png") if not file.name.startswith("."))
    if not files:
        raise DataError(f"{root} has no images", f"slabench reads {_CIFARFS_LAYOUT}")
    images, formats = decode_all(
        lambda row: files[row].read_bytes(), lambda row: str(files[row]), len(files), entry.image_size, fit="exact"
    )
    groups = [file.parent.name for file in files]
    notes = {"image_formats": formats}
    return identified(images, groups, entry, path, cifar100_key(), "learn2learn's CIFAR-FS", notes)


def identified(
    images: npt.NDArray[np.uint8],
    groups: Sequence[str],
    entry: DatasetInfo,
    path: Path,
    key: Key,
    kind: str,
    notes: dict[str, Any],
) -> RawImages:
    """Labels and parts from the pixels.

    Args:
        images: uint8 `[n, H, W, 3]`, all images of the data set in any order.
        groups: what the source calls the class of each image.
        entry: the data set.
        path: for errors.
        key: what is known of its pixels.
        kind: as of `RawImages`.
        notes: likewise.

    Raises:
        DataError: these are not, bit for bit, the images of the data set.
    """
    digests = pixel_digests(images)
    label_of = {first: label for label, first in enumerate(key.first)}
    smallest: dict[str, bytes] = {}
    for group, digest in zip(groups, digests, strict=True):
        smallest[group] = min(digest.tobytes(), smallest.get(group, b"\xff" * 32))
    for group, digest in smallest.items():
        if digest.hex()[:16] not in label_of:
            raise DataError(
                f"{path}: the images of '{group}' are not, bit for bit, those of a class of {entry.store}",
                _other(entry),
            )
    labels = np.array([label_of[smallest[group].hex()[:16]] for group in groups], np.int64)
    raw = RawImages(
        images=images,
        labels=labels,
        parts=np.zeros(len(images), np.uint8),
        source_positions=np.full(len(images), -1, np.int32),
        class_names=entry.classes,
        kind=kind,
        notes=notes,
    )
    order = canonical_order(raw, digests)
    if len(images) != len(key.test) or hashlib.sha256(digests[order].tobytes()).hexdigest() != key.sha256:
        raise DataError(
            f"{path} has {len(images):,} images that are not, bit for bit, the {len(key.test):,} of {entry.store}: "
            "which of them are official training images cannot be told",
            _other(entry),
        )
    raw.parts[order] = key.test
    return raw


def _other(entry: DatasetInfo) -> str:
    return f"import {entry.store} itself: `slabench show dataset {entry.name}` lists its layouts"


def _pickle(path: Path, split: str) -> Path:
    return path / f"FC100_{split}.pickle"


def _class_folders(path: Path) -> Path | None:
    for folder in (path / "cifarfs" / "cifar100" / "data", path / "cifar100" / "data"):
        if folder.is_dir():
            return folder
    return None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


FC100 = Kind(_FC100_LAYOUT, find_fc100, read_fc100)


CIFARFS = Kind(_CIFARFS_LAYOUT, find_cifarfs, read_cifarfs)


_CACHES_LAYOUT = "mini-imagenet-cache-train.pkl, -val.pkl (or -validation.pkl) and -test.pkl in one folder"


_CSV_LAYOUT = "images/ beside train.csv, val.csv and test.csv (columns filename, label)"


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
    refuse_absent(files, "complete the folder 'images', then import again")
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
        for row in whole_numbers(rows, f"{file}, class '{_text(wnid)[:60]}'", _AGAIN).tolist():
            if not 0 <= row < len(pixels) or wnids[row]:
                raise DataError(f"{file}: class '{_text(wnid)}' claims row {row}, which is taken or not there", _AGAIN)
            wnids[row] = _text(wnid)
    if "" in wnids:
        raise DataError(f"{file}: row {wnids.index('')} belongs to no class", _AGAIN)
    return pixels, wnids


def _read_list(file: Path) -> list[tuple[str, str]]:
    if not file.is_file():
        raise DataError(f"{file} is missing", f"slabench reads {_CSV_LAYOUT}")
    refuse_html(file)
    table = read_table(file, ("filename", "label"), f"needs {_CSV_LAYOUT}")
    rows = []
    for number, cells in table:
        file_name, label = cells["filename"], cells["label"]
        if not label or Path(file_name).name != file_name or file_name in ("", ".", ".."):
            raise DataError(f"{file}, line {number}: '{file_name},{label}' is not a file name and a label", _AGAIN)
        rows.append((file_name, label))
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


CACHES = Kind(_CACHES_LAYOUT, find_caches, read_caches)


CSVS = Kind(_CSV_LAYOUT, find_csvs, read_csvs)
