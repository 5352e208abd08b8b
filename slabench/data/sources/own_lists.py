"""Lists of a user's own images: a CSV or parquet file of theirs, CUB-200-2011's, and the data sets of CoOp."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slabench.core.errors import DataError
from slabench.core.files import read_json, read_text
from slabench.core.tables import read_table
from slabench.data.imageset import TRAIN_PART
from slabench.data.sources.images import refuse_absent, refuse_repeated
from slabench.data.sources.photographs import CUB_FILES, lines, listed_cub

_COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "classname", "category", "target"),
    "split": ("split", "part", "subset", "set"),
}
PART_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""What a part is called in lists and as a folder, in lower case."""
_AIRCRAFT = {f"images_variant_{part}.txt": part for part in ("train", "val", "test")}
_LAYOUT = "give the columns path (relative to the file, or absolute), label and, if you like, split (train, val, test)"
_LIST = "correct the list, then import again"


@dataclass(frozen=True)
class Found:
    """One image: where it lies, its class, and the part that it came in (empty: none)."""

    file: Path
    class_name: str
    part: str


def read_list(path: Path) -> list[Found]:
    """The images that a CSV or parquet file lists.

    Raises:
        DataError: it is no such file, lacks a column, or a line is not as it should be; names it.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise DataError(f"{path} is neither a folder nor a .csv or .parquet file", _LAYOUT)
    images = listed(path, _csv_rows(path) if suffix == ".csv" else _parquet_rows(path))
    _check_files(images, path)
    return images


Row = tuple[str, str | Path, str, str]
"""Which line it is, for errors; the file, its label and its split (empty: there is none)."""


def listed(path: Path, rows: Iterable[Row], layout: str = _LAYOUT) -> list[Found]:
    """The images that the lines of a file name.

    Args:
        path: of the file; relative names are of the folder that it lies in.
        rows: its lines.
        layout: what such a file holds, for errors.

    Raises:
        DataError: a line lacks its name or label, has an unknown split, or some have a split and others none.
    """
    images, parts = [], set()
    for where, name, label, split in rows:
        if not name or not label:
            raise DataError(f"{path}, {where} has no {'path' if not name else 'label'}", _LIST)
        part = PART_NAMES.get(split.lower()) if split else ""
        if part is None:
            raise DataError(f"{path}, {where}: the split '{split[:60]}' is none of train, val and test", _LIST)
        parts.add(bool(part))
        images.append(Found(path.parent / name, label, part))
    if not images:
        raise DataError(f"{path} lists no image", layout)
    if len(parts) == 2:
        raise DataError(f"{path} has lines with a split and lines without one", "give every line its split, or none")
    return images


def _csv_rows(path: Path) -> list[Row]:
    header = next(csv.reader(io.StringIO(read_text(path, "utf-8-sig"), newline="")), [])
    names = _named(header, path)
    table = read_table(path, [name for name in names if name], _LAYOUT)
    return [(f"line {number}", *_cells(names, cells)) for number, cells in table]


def _parquet_rows(path: Path) -> list[Row]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = _named(file.schema_arrow.names, path)
            rows = file.read([name for name in names if name]).to_pylist()
    except DataError:
        raise
    except Exception as error:  # a damaged file: ArrowException and OSError, and what its conversion to Python raises
        raise DataError(f"{path} is not a readable parquet file: {str(error)[:200]}", _LAYOUT) from error
    return [(f"row {number}", *_cells(names, cells)) for number, cells in enumerate(rows)]


def _cells(names: tuple[str, str, str], cells: Mapping[str, object]) -> tuple[str, str, str]:
    """Path, label and split of one line; what is not there is empty."""
    path, label, split = ("" if not name or cells[name] is None else str(cells[name]).strip() for name in names)
    return path, label, split


def _named(header: Sequence[str], path: Path) -> tuple[str, str, str]:
    """The columns of path, label and split (empty: there is none), whatever they are called."""
    return (
        column_of("path", header, path, _LAYOUT),
        column_of("label", header, path, _LAYOUT),
        column_of("split", header, path),
    )


def column_of(what: str, header: Sequence[str], path: Path, needed: str = "") -> str:
    """The column of `path`, `label` or `split`, whatever it is called; empty where there is none and none is needed.

    Args:
        what: of the three.
        header: all columns.
        path: of the file, for errors.
        needed: what such a file holds, where it has to have the column.
    """
    spellings = _COLUMNS[what]
    named = [name for spelling in spellings for name in header if name.strip().lower() == spelling]
    if not named and needed:
        raise DataError(
            f"{path} has the columns {', '.join(header)[:200] or 'none'}, none of {', '.join(spellings)}", needed
        )
    return named[0] if named else ""


def cub(root: Path) -> list[Found] | None:
    """CUB-200-2011 with its official split, if it lies at `root`."""
    if not all((root / name).is_file() for name in CUB_FILES):
        return None
    listed, class_names = listed_cub(root)
    images = [
        Found(image.file, class_names[image.label], "train" if image.part == TRAIN_PART else "test") for image in listed
    ]
    _check_files(images, root / "images.txt")
    return images


def coop(root: Path) -> list[Found] | None:
    """A data set as CoOp (Zhou et al. 2022) lays it out, with its split, if one lies at `root`.

    `split_zhou_<name>.json` holds `train`, `val` and `test`, each a list of [path, label, class name], beside the folder that the
    paths begin in, which has another name in each data set. FGVC Aircraft keeps its own lists; ImageNet is class folders.
    """
    lists = coop_lists(root)
    if not lists:
        return None
    images = _aircraft(root) if lists[0].suffix == ".txt" else _split_zhou(lists[0])
    below = sorted(child for pattern in ("*/", "*/*/") for child in root.glob(pattern))
    base = next((folder for folder in [root, *below] if os.path.isfile(folder / images[0].file)), None)
    if base is None:
        raise DataError(
            f"{images[0].file}, which {lists[0]} lists, is in no folder of {root}",
            "unpack the images beside the list, as CoOp's DATASETS.md says",
        )
    images = [Found(base / image.file, image.class_name, image.part) for image in images]
    _check_files(images, lists[0])
    return images


def coop_lists(root: Path) -> list[Path]:
    """The lists at `root` by which a data set of CoOp is known."""
    return [*sorted(root.glob("split_zhou_*.json")), *(root / name for name in _AIRCRAFT if (root / name).is_file())]


def _aircraft(root: Path) -> list[Found]:
    """FGVC Aircraft: a line is the seven digits of an image and its variant."""
    images = []
    for name, part in _AIRCRAFT.items():
        for where, line in lines(root / name):
            image, _, variant = line.partition(" ")
            if not image.isdigit() or not variant:
                raise DataError(f"{where}: '{line[:60]}' is not an image and a variant", _LIST)
            images.append(Found(Path(f"{image}.jpg"), variant, part))
    if not images:
        raise DataError(f"{root} has empty lists", _LIST)
    return images


def _split_zhou(file: Path) -> list[Found]:
    images = []
    content = read_json(file)
    if not isinstance(content, dict) or set(content) != {"train", "val", "test"}:
        raise DataError(f"{file} does not hold train, val and test", _LIST)
    label_of: dict[str, int] = {}
    for part, rows in content.items():
        for row in rows if isinstance(rows, list) else [rows]:
            match row:
                case [str(name), int(label), str(class_name)] if name and class_name:
                    if label_of.setdefault(class_name, label) != label:
                        raise DataError(
                            f"{file}: '{class_name}' has the labels {label_of[class_name]} and {label}", _LIST
                        )
                    images.append(Found(Path(name), class_name, part))
                case _:
                    raise DataError(f"{file}: '{str(row)[:60]}' in '{part}' is not a path, a label and a name", _LIST)
    if not images:
        raise DataError(f"{file} lists no image", _LIST)
    return images


def _check_files(images: Sequence[Found], source: Path) -> None:
    """Every image is there, and listed once."""
    files = [image.file for image in images]
    refuse_repeated(files, _LIST, f" in {source}")
    refuse_absent(files, _LIST, f" in {source}")
