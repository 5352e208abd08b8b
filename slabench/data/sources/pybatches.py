"""CIFAR's original python batches, from their folder or straight from the .tar.gz. Pickles, read restricted."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from slabench.core.errors import DataError
from slabench.data.catalog import DATASETS, DatasetInfo
from slabench.data.imageset import TEST_PART, TRAIN_PART, RawImages
from slabench.data.sources import Kind
from slabench.data.sources.images import check_class_names, check_labels, looks_like_html, whole_numbers
from slabench.data.sources.unpickle import read_pickle

_LAYOUT = (
    "the python version of CIFAR as published: cifar-100-python/ (train, test, meta), cifar-10-batches-py/ "
    "(data_batch_1..5, test_batch, batches.meta), or either one's .tar.gz"
)
_ARCHIVE_ENDS = (".tar.gz", ".tgz", ".tar")
_MAX_BATCHES = 1 << 30  # CIFAR-10's and CIFAR-100's have 186 MB
_CHUNK = 1 << 20
_AGAIN = "it may be a cut-off download: fetch it again, then import"

# Names of the meta file, the training batches and the test batch; keys of the class names and of the labels.
_FORMS = (
    ("meta", ("train",), "test", "fine_label_names", "fine_labels"),
    ("batches.meta", tuple(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "label_names", "labels"),
)
_MEMBERS = frozenset(name for meta, train, test, *_ in _FORMS for name in (meta, *train, test))
_Reads = dict[str, Callable[[], bytes]]


def find(path: Path) -> bool:
    """Whether `path` is such a folder, a folder that holds one, or an archive."""
    return _archive(path) is not None or _folder(path) is not None


def read(path: Path, entry: DatasetInfo) -> RawImages:
    """Read all batches at `path`.

    They are in the original order if each is the publisher's own file, by its checksum; where none is known, that is assumed.
    """
    folder = _folder(path, entry)
    if folder is not None:
        reads = {name: (folder / name).read_bytes for name in _MEMBERS if (folder / name).is_file()}
        return _read(reads, entry, folder)
    archive = _archive(path, entry)
    if archive is None:
        raise DataError(f"{path} holds no python batches", f"slabench reads {_LAYOUT}")
    return _read(_archive_reads(archive), entry, archive)


def _published(entry: DatasetInfo | None) -> list[str]:
    """Names of the publishers' archives without their ends, that of `entry` first: a folder may well hold several data sets."""
    entries = ([entry] if entry else []) + list(DATASETS.values())
    files = [PurePosixPath(one.url).name for one in entries if one.url.endswith(_ARCHIVE_ENDS)]
    return list(dict.fromkeys(file.removesuffix(end) for file in files for end in _ARCHIVE_ENDS if file.endswith(end)))


def _folder(path: Path, entry: DatasetInfo | None = None) -> Path | None:
    # Of cifar-10-python.tar.gz the folder is cifar-10-batches-py: what comes before "python" is common to both.
    stems = [name.removesuffix("python") for name in _published(entry)]
    below = [child for stem in stems for child in sorted(path.glob(f"{stem}*")) if child.is_dir()]
    for folder in (path, *below):
        if any((folder / meta).is_file() or (folder / test).is_file() for meta, _, test, *_ in _FORMS):
            return folder
    return None


def _archive(path: Path, entry: DatasetInfo | None = None) -> Path | None:
    if path.is_file() and path.name.endswith(_ARCHIVE_ENDS):
        return path
    found = [path / f"{name}{end}" for name in _published(entry) for end in _ARCHIVE_ENDS]
    return next((file for file in found if file.is_file()), None)


def _archive_reads(archive: Path) -> _Reads:
    """The batches of an archive, by name. Members are read in memory; nothing is ever extracted to a path."""
    contents: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if member.isfile() and name in _MEMBERS:
                    total += member.size
                    if total > _MAX_BATCHES:
                        raise DataError(f"{archive} has batches of {total:,} bytes in all", _AGAIN)
                    file = tar.extractfile(member)
                    contents[name] = file.read() if file else b""
            while tar.fileobj and tar.fileobj.read(_CHUNK):
                pass  # to the very end: only there does gzip hold the bytes against its checksum
    except DataError:
        raise
    except Exception as error:  # TarError, OSError, and what damaged compression and headers raise besides
        raise DataError(f"{archive} is not a whole tar archive: {error}", _AGAIN) from error
    return {name: (lambda data=data: data) for name, data in contents.items()}  # type: ignore[misc]


def _read(reads: _Reads, entry: DatasetInfo, path: Path) -> RawImages:
    form = next((form for form in _FORMS if form[2] in reads), None)
    if form is None:
        raise DataError(f"{path} has no file 'test' or 'test_batch'", f"slabench reads {_LAYOUT}")
    meta, train, test, names_key, labels_key = form
    names = _field(_batch(reads, meta, path), names_key, f"{path}, {meta}")
    if not isinstance(names, list):
        raise DataError(f"{path}, {meta}: '{names_key}' is {type(names).__name__}, not a list of names", _AGAIN)
    names = [_text(name) for name in names]
    check_class_names(names, entry.classes, path, entry.store)
    pieces = []
    next_position = {TRAIN_PART: 0, TEST_PART: 0}
    for batch_name, part in (*((name, TRAIN_PART) for name in train), (test, TEST_PART)):
        where = f"{path}, {batch_name}"
        batch = _batch(reads, batch_name, path)
        images = _images(_field(batch, "data", where), entry.image_size, where)
        labels = whole_numbers(_field(batch, labels_key, where), f"{where}, '{labels_key}'", _AGAIN)
        if len(labels) != len(images):
            raise DataError(f"{where} has {len(images):,} images and {len(labels):,} labels", _AGAIN)
        check_labels(labels, len(names), path / batch_name)
        positions = np.arange(len(labels), dtype=np.int32) + next_position[part]
        next_position[part] += len(labels)
        pieces.append((images, labels, np.full(len(labels), part, np.uint8), positions))
    positions = np.concatenate([piece[3] for piece in pieces])
    strange = [name for name, md5 in entry.batch_md5.items() if name not in reads or _md5(reads[name]()) != md5]
    return RawImages(
        images=np.concatenate([piece[0] for piece in pieces]),
        labels=np.concatenate([piece[1] for piece in pieces]),
        parts=np.concatenate([piece[2] for piece in pieces]),
        source_positions=np.full_like(positions, -1) if strange else positions,
        class_names=tuple(names),
        kind="python batches",
        notes={"unpublished": f"{', '.join(strange)}: not the publisher's file, by its md5"} if strange else {},
    )


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _batch(reads: _Reads, name: str, path: Path) -> dict[str, Any]:
    if name not in reads:
        raise DataError(f"{path} lacks the file '{name}'", _AGAIN)
    data = reads[name]()
    if looks_like_html(data):
        raise DataError(f"{path}, {name} is an HTML page, not a pickle", "download the archive anew, then import")
    value = read_pickle(io.BytesIO(data), f"{path}, {name}")
    if not isinstance(value, dict):
        raise DataError(f"{path}, {name} holds a {type(value).__name__}, not a dict", f"slabench reads {_LAYOUT}")
    return {_text(key): item for key, item in value.items()}


def _field(batch: dict[str, Any], key: str, where: str) -> Any:
    if key not in batch:
        raise DataError(
            f"{where} has the keys {', '.join(sorted(batch))}, not '{key}'", "check that it is the data set you named"
        )
    return batch[key]


def _images(data: Any, size: int, where: str) -> npt.NDArray[np.uint8]:
    """Rows of 3 * size * size bytes, channel after channel, to `[n, size, size, 3]`."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * size * size:
        shape = getattr(data, "shape", type(data).__name__)
        raise DataError(f"{where}: 'data' is {shape}, not uint8 rows of {3 * size * size} bytes", _AGAIN)
    return np.ascontiguousarray(data.reshape(-1, 3, size, size).transpose(0, 2, 3, 1))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


KIND = Kind(_LAYOUT, find, read)
