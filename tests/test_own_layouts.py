"""Lists, archives and the layouts of others that `slabench data import-folder` reads, on generated files."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_images import folders, parts_of, picture
from photograph_layouts import cub200

from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.data.sources.own_import import import_folder
from slabench.data.sources.own_lists import read_list


def test_an_archive_and_nothing_are_told_apart(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        import_folder("mine", tmp_path / "nowhere")
    for name, told in (
        ("photos.zip", "cannot be unpacked"),
        ("photos.tar.gz", "cannot be unpacked"),
        ("photos.7z", "kind"),
    ):
        (tmp_path / name).write_bytes(b"PK no archive")
        with pytest.raises(DataError, match=f"{name} .*{told}"):
            import_folder("mine", tmp_path / name)


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_archive_gives_what_its_folder_gives(tmp_path, kind):
    root = folders(tmp_path / "mine" / "photos", ["a", "b"])
    plain = import_folder("plain", tmp_path / "mine", size=16)
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), kind, tmp_path / "mine"))
    assert import_folder("packed", archive, size=16).store.digest == plain.store.digest
    assert parts_of("packed") == parts_of("plain")
    assert sorted(file.name for file in paths.data().iterdir()) == ["packed", "plain"]
    (root / "b" / "broken.png").write_bytes(b"no")
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), kind, tmp_path / "mine"))
    with pytest.raises(DataError) as caught:
        import_folder("again", archive, size=16)
    assert f"{archive}/photos/b/broken.png" in caught.value.message


def test_a_member_that_leaves_its_archive_is_written_nowhere(tmp_path):
    for kind in ("zip", "tar"):
        archive = tmp_path / f"evil.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr("../../escaped.txt", b"x")
        else:
            (tmp_path / "x").write_bytes(b"x")
            with tarfile.open(archive, "w") as tar:
                tar.add(tmp_path / "x", "../../escaped.txt")
        with pytest.raises(DataError):
            import_folder("mine", archive, size=16)
        assert list(tmp_path.rglob("escaped.txt")) == []
        assert list(paths.data().iterdir()) == []


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_list_of_files(tmp_path, kind):
    root = folders(tmp_path / "pictures", ["x"], 12)
    rows = [
        {
            "Filename": f"pictures/x/{n}.png",
            "Class": f"label {n % 2}",
            "split": "test" if n >= 8 else "train",
            "by": "me",
        }
        for n in range(12)
    ]
    rows[3]["Filename"] = str(root / "x" / "3.png")
    file = tmp_path / f"list.{kind}"
    if kind == "csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        file.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    made = import_folder("listed", file, size=16)
    assert made.store.class_names == ("label 0", "label 1")
    assert (made.store.counts(0), made.store.counts(1)) == ([4, 4], [2, 2])
    assert parts_of("listed")["pictures/x/9.png"] == "test"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("file,label\nx/0.png,a\nx/99.png,b\n", "99.png is listed in .* but missing"),
        (f"file,label\nx/0.png,a\nx/{'9' * 300}.png,b\n", "99.png is listed in .* but missing"),
        ("file,label\nx/0.png,a\nx/0.png,b\n", "is listed twice in .*list.csv"),
        ("file,label,split\nx/0.png,a,train\nx/1.png,b,later\n", "line 3: the split 'later'"),
        ("file,label,split\nx/0.png,a,train\nx/1.png,b,\n", "lines with a split and lines without"),
        ("file,label\nx/0.png,\n", "line 2 has no label"),
        ("file,colour\nx/0.png,a\n", "none of label, class"),
        ("file,label\n", "lists no image"),
        ("", "columns none"),
    ],
)
def test_a_list_that_is_wrong_names_the_line(tmp_path, text, told):
    folders(tmp_path, ["x"], 3)
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DataError, match=told):
        import_folder("listed", tmp_path / "list.csv", size=16)


def test_a_part_has_the_same_names_in_a_list_as_among_folders(tmp_path):
    root = folders(tmp_path / "pictures", ["x"], 6)
    lines = [f"{root}/x/{n}.png,{'ab'[n % 2]},{('Trn', 'dev', 'Testing')[n // 2]}" for n in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    assert " ".join(image.part for image in read_list(tmp_path / "list.csv")) == "train train val val test test"


def test_a_parquet_list_with_text_that_is_none_is_named(tmp_path):
    file = tmp_path / "list.parquet"
    column = pa.Array.from_buffers(pa.utf8(), 1, [None, *pa.array([b"x/\xff.png"]).buffers()[1:]])
    pq.write_table(pa.table({"path": column, "label": ["a"]}), file)
    with pytest.raises(DataError, match=r"list\.parquet is not a readable parquet file: .* can't decode byte 0xff"):
        read_list(file)


def test_cub_and_the_layout_of_coop_keep_their_official_splits(tmp_path):
    files = cub200(tmp_path / "cub")
    made = import_folder("birds", tmp_path / "cub", size=16)
    assert made.store.manifest["source"]["layout"] == "CUB-200-2011"
    told = {file for file, part in parts_of("birds").items() if part == "test"}
    assert told == {str(file.relative_to(tmp_path / "cub" / "CUB_200_2011").as_posix()) for file in files["test"]}

    root = folders(tmp_path / "eurosat" / "2750", ["Forest", "River"], 6)
    rows = {part: [] for part in ("train", "val", "test")}
    for label, name in enumerate(("Forest", "River")):
        for number in range(6):
            part = "train" if number < 3 else "val" if number == 3 else "test"
            rows[part].append([f"{name}/{number}.png", label, f"{name} land"])
    (root.parent / "split_zhou_EuroSAT.json").write_text(json.dumps(rows))
    made = import_folder("eurosat", root.parent, size=16)
    assert made.store.class_names == ("Forest land", "River land")
    assert (made.store.counts(0), made.store.counts(1)) == ([4, 4], [2, 2])
    assert {file for file, part in parts_of("eurosat").items() if part == "test"} == {
        f"2750/{name}/{number}.png" for name in ("Forest", "River") for number in (4, 5)
    }


def test_fgvc_aircraft_keeps_its_lists(tmp_path):
    root = tmp_path / "fgvc_aircraft"
    (root / "images").mkdir(parents=True)
    names = {"train": ["707-320", "A310"] * 2, "val": ["707-320", "A310"], "test": ["A310", "707-320"] * 2}
    number = 0
    for part, variants in names.items():
        lines = []
        for variant in variants:
            number += 1
            picture(str(number)).save(root / "images" / f"{number:07}.jpg")
            lines.append(f"{number:07} {variant}\n")
        (root / f"images_variant_{part}.txt").write_text("".join(lines))
    made = import_folder("aircraft", root, size=16)
    assert made.store.class_names == ("707-320", "A310")
    assert (made.store.counts(0), made.store.counts(1)) == ([3, 3], [2, 2])
