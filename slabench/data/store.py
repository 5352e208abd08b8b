"""The prepared store: one folder a data set, arrays that open memory-mapped, and a manifest that vouches for them.

Canonical order: classes in label order; within a class by the sha256 of the pixels, then official part, then position
in the source. Every lossless source of the same images therefore gives the same arrays, the same digest, and the same
images behind an episode file, whatever order its rows came in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from slabench.core.errors import DataError, IntegrityError, first_fault
from slabench.core.files import (
    canonical_json,
    read_json,
    remove_abandoned,
    replace_folder,
    sha256_file,
    temporary_folder,
    write_json,
)
from slabench.core.versions import __version__
from slabench.data.catalog import DatasetInfo
from slabench.data.checks import check_normalisation, check_raw, repeats
from slabench.data.imageset import TEST_PART, TRAIN_PART, ImageSet, Origin, RawImages
from slabench.data.splits import OWN

STORE_FORMAT = 1


MANIFEST = "manifest.json"


_BYTES_AT_ONCE = 64 << 20


_ANEW = "import the data again with --replace"


def pixel_digests(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """sha256 of each image's bytes (row by row, RGB interleaved): `[n]` of 32 opaque bytes."""
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    joined = b"".join(hashlib.sha256(row.tobytes()).digest() for row in flat)
    return np.frombuffer(joined, dtype="V32")


def canonical_order(raw: RawImages, digests: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
    """The rows of `raw` in canonical order."""
    words = digests.view(">u8").reshape(-1, 4)  # big-endian words compare as the bytes do
    keys = (raw.source_positions, raw.parts, words[:, 3], words[:, 2], words[:, 1], words[:, 0], raw.labels)
    return np.lexsort(keys).astype(np.int64)


def dataset_digest(
    class_names: tuple[str, ...],
    image_shape: tuple[int, ...],
    labels: npt.NDArray[np.int64],
    parts: npt.NDArray[np.uint8],
    digests: npt.NDArray[np.void],
) -> str:
    """sha256 (hex) over class names, image shape, labels, parts and the pixels' digests, all in canonical order.

    It knows nothing of source positions, file formats or paths: a store made from parquet, from PNG folders or from
    the original archive has one and the same digest.
    """
    header = {"classes": list(class_names), "image_shape": list(image_shape), "n_images": len(labels)}
    digest = hashlib.sha256(canonical_json(header))
    digest.update(labels.astype("<i8").tobytes())
    digest.update(parts.astype("u1").tobytes())
    digest.update(digests.tobytes())
    return digest.hexdigest()


class _File(BaseModel):
    bytes: NonNegativeInt
    sha256: str


class _Counts(BaseModel):
    train: list[NonNegativeInt]
    test: list[NonNegativeInt]


class _Source(BaseModel):
    kind: str
    image_formats: dict[str, NonNegativeInt] = Field(default_factory=dict)
    unpublished: str = ""


class _Facts(BaseModel):
    """What every reader of a store needs of its manifest; there is more in it."""

    digest: str
    n_images: NonNegativeInt
    classes: Annotated[list[str], Field(min_length=1)]
    counts: _Counts
    files: dict[Annotated[str, Field(pattern=r"^[a-z_]{1,60}\.npy$")], _File]
    source: _Source
    repeats: dict[str, NonNegativeInt] = Field(default_factory=dict)  # not counted by the first versions


_COLUMNS = {"images": ("uint8", 4), "labels": ("int64", 1), "parts": ("uint8", 1), "source_positions": ("int32", 1)}


@dataclass(frozen=True)
class Store:
    """A prepared store on disk, opened: its folder and its manifest. The arrays open when they are asked for."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """sha256 (hex) of the data set."""
        return str(self.manifest["digest"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(self.manifest["classes"])

    def origin(self, entry: DatasetInfo) -> Origin:
        """Where its images come from; `entry` says how they were published."""
        source = self.manifest["source"]
        lossy = source.get("image_formats", {}).get("JPEG", 0) if entry.lossless else 0
        return Origin(source["kind"], lossy, tuple(doubts(entry, self)))

    def counts(self, part: int) -> list[int]:
        """Images of each class in the official training (0) or test (1) part."""
        return list(self.manifest["counts"]["test" if part == TEST_PART else "train"])

    def images(self, name: str, origin: Origin | None = None) -> ImageSet:
        """The whole store as an `ImageSet` called `name`; pixels stay memory-mapped."""
        labels = np.asarray(_open_array(self, "labels"), dtype=np.int64)
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.class_names)):
            raise IntegrityError(
                f"{self.folder / 'labels.npy'} has labels outside 0..{len(self.class_names) - 1}", _ANEW
            )
        return ImageSet(
            name=name,
            images=_open_array(self, "images"),
            labels=labels,
            class_names=self.class_names,
            digest=self.digest,
            split_digest="",
            parts=np.asarray(_open_array(self, "parts")),
            source_positions=np.asarray(_open_array(self, "source_positions")),
            origin=origin,
        )


def store_folder(entry: DatasetInfo, folder: Path) -> Path:
    """Where the prepared store of `entry` lies below the data folder."""
    return folder / entry.store


def is_prepared(path: Path) -> bool:
    """Whether a store is there. Stores appear whole, by a rename, so its manifest is proof enough."""
    if not (path / MANIFEST).is_file():
        # A process that was killed while it replaced the store may have left the old one beside it: then it comes back.
        remove_abandoned(path)
    return (path / MANIFEST).is_file()


def open_store(path: Path) -> Store:
    """Open a prepared store after the cheap checks (format, files present, sizes); `verify_store` does the dear ones.

    Raises:
        DataError: there is no store, or it was made by another format version.
        IntegrityError: a file is missing or has another size than the manifest says.
    """
    remedy = f"run `slabench data get {path.name} --replace` (or `slabench data import {path.name} PATH --replace`)"
    if (path / OWN).is_file():
        remedy = f"run `slabench data import-folder {path.name} PATH --replace`"
    if not is_prepared(path):
        raise DataError(f"{path} holds no prepared store", remedy)
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict):
        raise IntegrityError(f"{path / MANIFEST} is a {type(manifest).__name__}, not a table", remedy)
    missing = {"format", "digest", "classes", "counts", "files", "n_images", "source"} - set(manifest)
    if missing:
        raise IntegrityError(f"{path / MANIFEST} lacks {', '.join(sorted(missing))}", remedy)
    if manifest["format"] != STORE_FORMAT:
        raise DataError(f"{path} has store format {manifest['format']}; this slabench reads {STORE_FORMAT}", remedy)
    try:
        _Facts.model_validate(manifest, strict=True)  # what is used are the values as they stand there
    except ValidationError as error:
        raise IntegrityError(f"{path / MANIFEST}: {first_fault(error)}", remedy) from error
    for part, counts in manifest["counts"].items():
        if len(counts) != len(manifest["classes"]):
            what = f"{len(counts)} counts of '{part}', and {len(manifest['classes'])} classes"
            raise IntegrityError(f"{path / MANIFEST} has {what}", remedy)
    for file_name, facts in manifest["files"].items():
        file = path / file_name
        size = file.stat().st_size if file.is_file() else None
        if size != facts["bytes"]:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {facts['bytes']:,}"
            raise IntegrityError(f"{file} {found}", remedy)
    return Store(path, manifest)


def write_store(
    path: Path,
    raw: RawImages,
    *,
    entry: DatasetInfo | None = None,
    replace: bool = False,
    beside: Callable[[Path, npt.NDArray[np.int64]], None] | None = None,
) -> Store:
    """Bring `raw` into canonical order and write it to `path` as a prepared store.

    Images that nothing could learn from are refused first, for `entry` also those that are not as it says. All of it is
    written to a temporary neighbour, which is then renamed: other processes see no store or a whole one. When a store is
    already there, it is kept unless `replace`: of two concurrent imports the first to finish wins. `beside` writes what else
    lies in the folder, given that neighbour and the rows of `raw` in canonical order.

    Raises:
        DataError: see `slabench.data.checks`.
    """
    check_raw(raw, path.name, entry.image_size if entry else None)
    if entry is not None:
        check_normalisation(raw.images, entry.mean, entry.std)
    digests = pixel_digests(raw.images)
    order = canonical_order(raw, digests)
    labels, parts = raw.labels[order].astype("<i8"), raw.parts[order]
    n_classes = len(raw.class_names)
    columns = {"labels": labels, "parts": parts, "source_positions": raw.source_positions[order].astype("<i4")}
    with temporary_folder(path) as temporary:
        _save_rows(temporary / "images.npy", raw.images, order)
        for name, column in columns.items():
            np.save(temporary / f"{name}.npy", column, allow_pickle=False)
        files = {
            file.name: {"sha256": sha256_file(file), "bytes": file.stat().st_size}
            for file in sorted(temporary.iterdir())
        }
        write_json(
            temporary / MANIFEST,
            {
                "format": STORE_FORMAT,
                "store": path.name,
                "digest": dataset_digest(raw.class_names, raw.images.shape[1:], labels, parts, digests[order]),
                "n_images": len(labels),
                "image_shape": list(raw.images.shape[1:]),
                "counts": {
                    name: np.bincount(labels[parts == part], minlength=n_classes).tolist()
                    for name, part in (("train", TRAIN_PART), ("test", TEST_PART))
                },
                "source": {
                    "kind": raw.kind,
                    "original_order": bool((raw.source_positions >= 0).all()),
                    **raw.notes,
                },
                "repeats": repeats(digests, raw.labels, raw.parts),
                "slabench": __version__,
                "files": files,
                "classes": list(raw.class_names),
            },
        )
        if beside is not None:
            beside(temporary, order)
        _rename_into_place(temporary, path, replace)
    return open_store(path)


def verify_store(path: Path) -> list[str]:
    """Read every byte of a store; the problems found, in words. An empty list: all is as the manifest says."""
    store = open_store(path)
    problems = [
        f"{path / name}: sha256 is {found[:16]}…, the manifest says {facts['sha256'][:16]}…: the file has changed"
        for name, facts in store.manifest["files"].items()
        if (found := sha256_file(path / name)) != facts["sha256"]
    ]
    try:
        images = store.images(path.name)
    except IntegrityError as error:
        return [*problems, error.message]
    found = dataset_digest(
        images.class_names, images.images.shape[1:], images.labels, images.parts, pixel_digests(images.images)
    )
    if found != store.digest:
        problems.append(f"{path}: the pixels, labels and parts have digest {found[:16]}…, not {store.digest[:16]}…")
    return problems


def differences(entry: DatasetInfo, store: Store) -> list[str]:
    """How a store differs from the data set as published, in words; empty when it does not, or when nobody knows."""
    told = []
    for part, name in ((TRAIN_PART, "training"), (TEST_PART, "test")):
        total = sum(store.counts(part))
        if entry.totals[part] and total != entry.totals[part]:
            told.append(f"it has {total:,} {name} images instead of {entry.totals[part]:,}")
        expected = entry.per_class[part]
        if entry.per_class == (0, 0):
            continue
        for class_name, count in zip(store.class_names, store.counts(part), strict=True):
            if count != expected:
                told.append(f"class '{class_name}' has {count:,} {name} images instead of {expected:,}")
    if len(told) > 3:
        told = [*told[:3], f"and {len(told) - 3} more such counts"]
    if entry.digest is not None and store.digest != entry.digest:
        told.append(
            f"the digest {store.digest[:16]}… is not that of the published {entry.store} ({entry.digest[:16]}…): the "
            "pixels differ (JPEG copies?), or images are missing; its results are never ranked with the original's"
        )
    return told


def doubts(entry: DatasetInfo, store: Store) -> list[str]:
    """What a reader of results on this store should know, in words: lossy copies, doubtful origin, images that repeat.

    Images that repeat in the data set as published are no doubt about this copy; see `remarks`.
    """
    told, source = [], store.manifest["source"]
    if entry.lossless and (copies := source.get("image_formats", {}).get("JPEG", 0)):
        told.append(
            f"{copies:,} of its {store.manifest['n_images']:,} images are JPEG copies: {entry.store} was published as raw "
            "pixels, never as JPEG; these are other pixels, whose results never stand beside published ones"
        )
    if source.get("unpublished"):
        told.append(
            f"{source['unpublished']}; the original order is unknown, and a long tail drawn here has other images than a "
            "published one"
        )
    return told if store.digest == entry.digest else [*told, *_repeats(store)]


def remarks(entry: DatasetInfo, store: Store) -> list[str]:
    """All there is to say of a store: `differences`, `doubts`, and images that repeat in the data set as published, too."""
    inherent = [f"{line} (as published)" for line in _repeats(store)] if store.digest == entry.digest else []
    return [*differences(entry, store), *doubts(entry, store), *inherent]


def _repeats(store: Store) -> list[str]:
    """In words; nothing of a store that was made before they were counted."""
    told, found = [], store.manifest.get("repeats", {})
    if n := found.get("test_in_train"):
        told.append(f"test images that are training images too, bit for bit: {n:,} of {sum(store.counts(TEST_PART)):,}")
    if n := found.get("other_class"):
        told.append(f"images that are, bit for bit, of another class too: {n:,} of {store.manifest['n_images']:,}")
    return told


def _save_rows(file: Path, images: npt.NDArray[np.uint8], order: npt.NDArray[np.int64]) -> None:
    """Write `images[order]` piece by piece: Stanford Dogs has 4 GB of pixels, and one copy in RAM is enough."""
    saved = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=images.shape)
    step = max(1, _BYTES_AT_ONCE // max(1, images[:1].nbytes))
    for start in range(0, len(order), step):
        rows = order[start : start + step]
        saved[start : start + len(rows)] = images[rows]
    saved.flush()


def _open_array(store: Store, name: str) -> npt.NDArray[Any]:
    file, (kind, axes) = store.folder / f"{name}.npy", _COLUMNS[name]
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # the header is a Python literal, whose parser may raise nearly anything
        raise IntegrityError(f"{file} is not a readable array: {str(error)[:200]}", _ANEW) from error
    if array.dtype != kind or array.ndim != axes:
        raise IntegrityError(f"{file} holds {array.dtype} {list(array.shape)}, not {kind} of {axes} axes", _ANEW)
    if len(array) != store.manifest["n_images"]:
        raise IntegrityError(f"{file} has {len(array):,} rows, the manifest says {store.manifest['n_images']:,}", _ANEW)
    return array


def _rename_into_place(temporary: Path, path: Path, replace: bool) -> None:
    if replace and path.exists():
        try:
            replace_folder(temporary, path)
        except OSError:
            if not is_prepared(path):  # another process that replaces it too was faster
                raise
        return
    try:
        temporary.rename(path)
    except OSError:
        if not is_prepared(path):  # not a lost race: something that is not a store is in the way
            raise DataError(
                f"{path} is in the way and is not a prepared store", "move it away, or use --replace"
            ) from None
