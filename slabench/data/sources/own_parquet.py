"""A parquet file that holds a user's own images, as the Hugging Face hub keeps data sets; unpacked for the time of an import.

The column of images is a struct of `bytes` and `path`, or plain bytes. Names of classes are those that the hub writes into the
schema (`ClassLabel`); where there are none, labels are names themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slabench.core.errors import DataError
from slabench.data.sources.own_archives import refuse_size
from slabench.data.sources.own_lists import Found, Row, column_of, listed

_IMAGES = ("image", "img", "bytes", "image_bytes")
_AGAIN = "it may be a cut-off download: get it again, then import"
_LAYOUT = "give the columns image (bytes, or a struct of bytes and path), label and, if you like, split"
_ROOM = "make room, or point SLABENCH_DATA at a larger disk"
_AT_ONCE = 64  # rows in memory: some hundreds of MB of large photographs


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The open file; whatever a damaged one makes its reader raise is an error that names it."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} is not a readable parquet file: {str(error)[:200]}", _AGAIN) from error


def image_column(path: Path) -> str | None:
    """The column of `path` that holds images; None for a list of paths, and for a file of any other kind.

    Raises:
        DataError: it is called a parquet file and is none.
    """
    if path.suffix.lower() != ".parquet":
        return None
    with _reading(path) as file:
        for field in file.schema_arrow:
            if field.name.strip().lower() in _IMAGES and _holds_bytes(field.type):
                return str(field.name)
    return None


def unpack(path: Path, column: str, target: Path) -> list[Found]:
    """Write the images of the parquet file `path` into the folder `target`, and list them.

    Args:
        path: of the file.
        column: of its images.
        target: not there yet. Files are called by their row, with what the file calls them behind it.

    Raises:
        DataError: a row has no image or label, the file is damaged, or the disk has no room for it; names which.
    """
    target.mkdir()
    with _reading(path) as file:
        names = file.schema_arrow.names
        label = column_of("label", names, path, _LAYOUT)
        split = column_of("split", names, path)
        classes = _classes(file.schema_arrow.metadata, label)
        refuse_size(path, target, _size(file.metadata, column))
        return listed(path, _rows(path, file, (column, label, split), classes, target), _LAYOUT)


def row_of(file: Path) -> int:
    """The row of an unpacked image."""
    return int(file.name[:8])


def _rows(
    path: Path, file: Any, columns: tuple[str, str, str], classes: list[str] | None, target: Path
) -> Iterator[Row]:
    image, label, split = columns
    number = 0
    for batch in file.iter_batches(batch_size=_AT_ONCE, columns=[name for name in columns if name]):
        for cells in batch.to_pylist():
            where, own = f"row {number}", cells[image]
            data, name = (own.get("bytes"), own.get("path")) if isinstance(own, Mapping) else (own, None)
            if not data:
                raise DataError(f"{path}, {where} has no image bytes", f"{_LAYOUT}; paths alone make a list of files")
            written = target / f"{number:08d}{_told(name)}"
            try:
                written.write_bytes(data)
            except OSError as error:
                raise DataError(f"{path}, {where} cannot be unpacked to {written}: {error.strerror}", _ROOM) from error
            yield (
                where,
                written,
                _label(cells[label], classes, f"{path}, {where}"),
                _text(cells[split] if split else None),
            )
            number += 1


def _label(value: object, classes: list[str] | None, where: str) -> str:
    if classes is None or value is None or isinstance(value, str):
        return _text(value)
    if isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    raise DataError(
        f"{where}: the label {str(value)[:60]} is none of the {len(classes)} classes that the schema names", _LAYOUT
    )


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _told(name: object) -> str:
    """What a row calls its image, as the end of a file name; it is no path that anything is written to."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", str(name or "").replace("\\", "/").rpartition("/")[2])[-80:]
    return f"-{plain}" if plain.strip("-.") else ""


def _classes(metadata: Mapping[bytes, bytes] | None, label: str) -> list[str] | None:
    """The names that the hub's schema has for whole numbers in the column of labels."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    views = getattr(types, "is_binary_view", lambda kind: False)  # from pyarrow 16 on
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or views(kind))


def _size(metadata: Any, column: str) -> int:
    """Bytes of the images, unpacked."""
    total = 0
    for group in range(metadata.num_row_groups):
        parts = (metadata.row_group(group).column(place) for place in range(metadata.num_columns))
        total += sum(part.total_uncompressed_size for part in parts if part.path_in_schema.partition(".")[0] == column)
    return total
