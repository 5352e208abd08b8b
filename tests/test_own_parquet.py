"""Own images in one parquet file, as the Hugging Face hub writes data sets."""

from __future__ import annotations

import io
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_images import parts_of, picture

from slabench.core import paths
from slabench.core.errors import DataError
from slabench.data.sources.own_import import import_folder

NAMES = ["ant", "bee", "cat"]


def encoded(name: str, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture(name, (20, 16)).save(file, kind)
    return file.getvalue()


def write(path: Path, rows: list[dict[str, Any]], names: list[str] | None = None) -> Path:
    table = pa.Table.from_pylist(rows)
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    pq.write_table(table, path, row_group_size=5)
    return path


def hub(path: Path, **changes: Any) -> Path:
    """Twelve images of three classes; the names of files say nothing, and some would lead out of the folder."""
    rows = [
        {
            "image": {"bytes": encoded(f"{n}"), "path": f"../../{n}.png" if n % 2 else None},
            "label": n % 3,
            "split": "test" if n >= 9 else "train",
        }
        for n in range(12)
    ]
    for key, value in changes.items():
        rows[4][key] = value
    return write(path, rows, NAMES)


def test_it_gives_what_the_same_images_in_folders_give(tmp_path: Path) -> None:
    for n in range(12):
        folder = tmp_path / "folders" / ("test" if n >= 9 else "train") / NAMES[n % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{n}.png").write_bytes(encoded(f"{n}"))
    one = import_folder("one", tmp_path / "folders", size=16)
    other = import_folder("other", hub(tmp_path / "train-00000-of-00001.parquet"), size=16)
    assert one.store.class_names == other.store.class_names == tuple(NAMES)
    assert (other.store.counts(0), other.store.counts(1)) == ([3, 3, 3], [1, 1, 1])
    images = [made.store.images(name).images for name, made in (("one", one), ("other", other))]
    assert np.array_equal(images[0], images[1])
    assert {len(name) - len(name.lstrip("0123456789")) for name in parts_of("other")} == {8}
    assert "00000003-3.png" in parts_of("other")
    assert sorted(path.name for path in paths.data().iterdir()) == ["one", "other"]  # nothing is left of the unpacking


@pytest.mark.parametrize("column", ["image", "bytes"])
def test_plain_bytes_and_labels_that_are_names(tmp_path: Path, column: str) -> None:
    rows = [{column: encoded(f"{n}", "JPEG"), "label": f"kind {n % 2}"} for n in range(8)]
    made = import_folder("plain", write(tmp_path / "a.parquet", rows), size=16)
    assert made.store.class_names == ("kind 0", "kind 1")
    assert made.store.manifest["n_images"] == 8


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": {"bytes": None, "path": "4.png"}}, r"row 4 has no image bytes"),
        ({"image": {"bytes": b"", "path": None}}, r"row 4 has no image bytes"),
        ({"image": {"bytes": b"no image", "path": None}}, r"a\.parquet, row 4"),
        ({"image": {"bytes": encoded("4")[:-60], "path": None}}, r"a\.parquet, row 4"),
        ({"label": 3}, r"row 4: the label 3 is none of the 3 classes"),
        ({"label": None}, r"row 4 has no label"),
        ({"split": "later"}, r"row 4: the split 'later'"),
        ({"split": None}, r"lines with a split and lines without"),
    ],
)
def test_a_row_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        import_folder("wrong", hub(tmp_path / "a.parquet", **changes), size=16)
    assert list(paths.data().iterdir()) == []


def test_a_damaged_file_and_one_without_labels_are_told(tmp_path: Path) -> None:
    whole = hub(tmp_path / "a.parquet").read_bytes()
    for name, data in (
        ("cut", whole[:-50]),
        ("half", whole[: len(whole) // 2]),
        ("noise", b"PAR1" + bytes(90) + b"PAR1"),
    ):
        (tmp_path / f"{name}.parquet").write_bytes(data)
        with pytest.raises(DataError, match=rf"{name}\.parquet"):
            import_folder("wrong", tmp_path / f"{name}.parquet", size=16)
    with pytest.raises(DataError, match=r"columns image.* none of label"):
        import_folder("wrong", write(tmp_path / "b.parquet", [{"image": encoded("0")}]), size=16)
    assert list(paths.data().iterdir()) == []


def test_what_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(DataError, match=r"a\.parquet holds .* bytes, and 10 are free"):
        import_folder("large", hub(tmp_path / "a.parquet"), size=16)
