"""The hub's parquet files: `img` (a struct of `bytes` and `path`) beside `fine_label`, or `label`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from slabench.core.errors import DataError
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import TEST_PART, TRAIN_PART, RawImages
from slabench.data.sources import Kind
from slabench.data.sources.images import check_class_names, check_labels, decode_all, refuse_html

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("fine_label", "label")
_LAYOUT = "a folder with parquet files train*.parquet and test*.parquet with the columns img and fine_label (or label)"


def find(path: Path) -> bool:
    """Whether `path` is a folder with parquet files, in it or one level below (`cifar100/`, `data/`)."""
    return bool(_files(path))


def read(path: Path, entry: DatasetInfo) -> RawImages:
    """Read all parquet files of the folder `path`.

    Rows keep their position only if the training labels begin as those of the original archive do: the hub's own
    conversion keeps that order, a shuffled copy does not.
    """
    pieces = []
    formats: dict[str, int] = {}
    next_position = {TRAIN_PART: 0, TEST_PART: 0}
    first: list[int] = []
    for file in _files(path):
        part = _part_of(file)
        images, labels, kinds = _read_file(file, entry)
        for kind, count in kinds.items():
            formats[kind] = formats.get(kind, 0) + count
        positions = np.arange(len(labels), dtype=np.int32) + next_position[part]
        next_position[part] += len(labels)
        if part == TRAIN_PART and not first:
            first = labels[: len(entry.first_labels)].tolist()
        pieces.append((images, labels, np.full(len(labels), part, np.uint8), positions))
    ordered = bool(entry.first_labels) and tuple(first) == entry.first_labels
    positions = np.concatenate([piece[3] for piece in pieces])
    return RawImages(
        images=np.concatenate([piece[0] for piece in pieces]),
        labels=np.concatenate([piece[1] for piece in pieces]),
        parts=np.concatenate([piece[2] for piece in pieces]),
        source_positions=positions if ordered else np.full_like(positions, -1),
        class_names=entry.classes,
        kind="parquet",
        notes={"image_formats": formats},
    )


def _files(path: Path) -> list[Path]:
    return sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet"))


def _part_of(file: Path) -> int:
    for text in (file.name, file.parent.name):
        if text.startswith("train"):
            return TRAIN_PART
        if text.startswith("test"):
            return TEST_PART
    raise DataError(
        f"{file} has neither 'train' nor 'test' in its name or its folder's",
        "name the files as the hub does: train-00000-of-00001.parquet, test-00000-of-00001.parquet",
    )


def _read_file(file: Path, entry: DatasetInfo) -> tuple[Any, Any, dict[str, int]]:
    import pyarrow
    import pyarrow.compute as compute
    import pyarrow.parquet as pq

    refuse_html(file)
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            image_column = _column(file, schema.names, _IMAGE_COLUMNS)
            label_column = _column(file, schema.names, _LABEL_COLUMNS)
            _check_names(file, schema.metadata, label_column, entry)
            table = parquet.read(columns=[image_column, label_column])
    except DataError:
        raise
    except Exception as error:  # a damaged file: ArrowException and OSError, and what its conversion to Python raises
        raise DataError(
            f"{file} is not a whole parquet file: {error}", "it may be a cut-off download: fetch it again, then import"
        ) from error
    images_are = schema.field(image_column).type
    if not pyarrow.types.is_struct(images_are) or images_are.get_field_index("bytes") < 0:
        raise DataError(
            f"{file}: column '{image_column}' is not a struct of 'bytes' and 'path'", f"slabench reads {_LAYOUT}"
        )
    bytes_are = images_are.field("bytes").type
    if not (pyarrow.types.is_binary(bytes_are) or pyarrow.types.is_large_binary(bytes_are)):
        raise DataError(
            f"{file}: 'bytes' of the column '{image_column}' are of the type {bytes_are}, not binary",
            f"slabench reads {_LAYOUT}",
        )
    encoded = compute.struct_field(table.column(image_column), "bytes").to_pylist()
    for row, data in enumerate(encoded):
        if not data:
            raise DataError(f"{file}: row {row} has no image bytes", "fetch the file again, then import")
    column = table.column(label_column)
    if not pyarrow.types.is_integer(column.type) or column.null_count:
        found = (
            f"rows without one: {column.null_count:,}" if column.null_count else f"they are of the type {column.type}"
        )
        raise DataError(
            f"{file}: column '{label_column}' does not give every row a whole number ({found})",
            f"slabench reads {_LAYOUT}",
        )
    labels = np.asarray(column.to_numpy(), dtype=np.int64)
    check_labels(labels, len(entry.classes), file)
    images, kinds = decode_all(
        encoded.__getitem__, lambda row: f"{file}, row {row}", len(encoded), entry.image_size, fit="exact"
    )
    return images, labels, kinds


def _column(file: Path, names: list[str], wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if name in names:
            return name
    raise DataError(
        f"{file} has the columns {', '.join(names)}, none of {', '.join(wanted)}", f"slabench reads {_LAYOUT}"
    )


def _check_names(file: Path, metadata: dict[bytes, bytes] | None, label_column: str, entry: DatasetInfo) -> None:
    """Hold the class names that the hub writes into the schema, where it does, against the catalog's."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label_column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return
    if not isinstance(names, list):
        return
    check_class_names([str(name) for name in names], entry.classes, file, entry.store)


KIND = Kind(_LAYOUT, find, read)
