"""Every source of the same images gives the same store; every damaged one an error that names what is wrong."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_layouts import (
    CLASSES,
    TINY,
    batch_files,
    cifar10_batch_files,
    encode,
    tiny_parts,
    write_archive,
    write_batches,
    write_folders,
    write_parquet,
)

from slabench.core.errors import DataError, UsageError
from slabench.data.sources import pybatches
from slabench.data.sources.detect import import_dataset
from slabench.data.store import doubts

LAYOUTS = {
    "folders": lambda root, parts: write_folders(root / "f", parts),
    "parquet": lambda root, parts: write_parquet(root / "p", parts),
    "parquet-shuffled": lambda root, parts: write_parquet(root / "p", parts, shuffle=True),
    "parquet-label": lambda root, parts: write_parquet(root / "p" / "cifar100", parts, label_column="label").parent,
    "batches": lambda root, parts: write_batches(root / "cifar-100-python", batch_files(parts)),
    "batches-above": lambda root, parts: write_batches(root / "b" / "cifar-100-python", batch_files(parts)).parent,
    "batches-cifar10": lambda root, parts: write_batches(root / "c", cifar10_batch_files(parts)),
    "archive": lambda root, parts: write_archive(root / "cifar-100-python.tar.gz", batch_files(parts)),
    "archive-above": lambda root, parts: (
        write_archive(root / "d" / "cifar-10-python.tar.gz", batch_files(parts)).parent
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_data(tmp_path, parts, layout):
    store, notes = import_dataset(TINY, LAYOUTS[layout](tmp_path, parts), tmp_path / "data")
    reference, _ = import_dataset(TINY, write_folders(tmp_path / "reference", parts), tmp_path / "other")
    assert store.digest == reference.digest
    assert notes == ["test images that are training images too, bit for bit: 1 of 9"]  # as `tiny_parts` makes it
    images = store.images("tiny")
    # Independent of the store: the multiset of (label, part, pixels) is the one that was written.
    found = sorted(
        (int(label), int(part), hashlib.sha256(image.tobytes()).hexdigest())
        for label, part, image in zip(images.labels, images.parts, images.images, strict=True)
    )
    written = sorted(
        (int(label), part, hashlib.sha256(image.tobytes()).hexdigest())
        for part, content in enumerate(parts)
        for label, image in zip(content.labels, content.images, strict=True)
    )
    assert found == written


@pytest.mark.parametrize("layout", ["batches", "batches-cifar10", "archive"])
def test_positions_lead_back_to_the_original_order(tmp_path, parts, layout):
    store, _ = import_dataset(TINY, LAYOUTS[layout](tmp_path, parts), tmp_path / "data")
    images = store.images("tiny")
    for part, content in enumerate(parts):
        rows = np.flatnonzero(images.parts == part)
        assert sorted(images.source_positions[rows].tolist()) == list(range(len(content.labels)))
        for row in rows:
            np.testing.assert_array_equal(images.images[row], content.images[images.source_positions[row]])


def test_a_folder_of_several_data_sets_gives_the_one_of_the_publishers_name(tmp_path, parts):
    write_batches(tmp_path / "cifar-10-batches-py", {"test_batch": b"another data set"})
    write_batches(tmp_path / "duo-9-batches-py", cifar10_batch_files(parts))
    images = pybatches.read(tmp_path, replace(TINY, url="https://example.org/duo-9-python.tar.gz"))
    assert images.class_names == CLASSES
    with pytest.raises(DataError, match="cifar-10-batches-py"):
        pybatches.read(tmp_path, TINY)


def test_parquet_keeps_positions_only_in_the_known_order(tmp_path, parts):
    entry = replace(TINY, first_labels=tuple(int(label) for label in parts[0].labels[:6]))
    store, _ = import_dataset(entry, write_parquet(tmp_path / "kept", parts), tmp_path / "a")
    images = store.images("tiny")
    assert store.manifest["source"]["original_order"] is True
    train = np.flatnonzero(images.parts == 0)
    np.testing.assert_array_equal(parts[0].images[images.source_positions[train]], images.images[train])

    store, _ = import_dataset(entry, write_parquet(tmp_path / "lost", parts, shuffle=True), tmp_path / "b")
    assert set(store.images("tiny").source_positions.tolist()) == {-1}
    assert store.manifest["source"]["original_order"] is False


def test_jpeg_copies_are_told(tmp_path, parts):
    whole, _ = import_dataset(TINY, write_folders(tmp_path / "png", parts), tmp_path / "a")
    entry = replace(TINY, digest=whole.digest)
    store, notes = import_dataset(entry, write_folders(tmp_path / "jpeg", parts, kind="JPEG"), tmp_path / "b")
    assert store.manifest["source"]["image_formats"] == {"JPEG": 24}
    assert "JPEG copies" in notes[0]
    assert not any("JPEG" in line for line in doubts(entry, store))  # of photographs JPEG files are the originals


def refused(path: Path, tmp_path: Path, entry=TINY, **options) -> DataError:
    """The error of an import that must fail and must leave nothing."""
    with pytest.raises(DataError) as caught:
        import_dataset(entry, path, tmp_path / "data", **options)
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []
    assert caught.value.remedy
    return caught.value


def test_one_unreadable_image_is_named(tmp_path, parts):
    root = write_folders(tmp_path / "f", parts)
    victim = sorted((root / "train" / "bat").iterdir())[1]
    victim.write_bytes(victim.read_bytes()[:40])
    assert str(victim) in refused(root, tmp_path).message


def test_a_web_page_among_the_images_is_named(tmp_path, parts):
    root = write_folders(tmp_path / "f", parts)
    victim = sorted((root / "test" / "ant").iterdir())[0]
    victim.write_text("<!DOCTYPE html><html>quota exceeded</html>")
    message = refused(root, tmp_path).message
    assert str(victim) in message
    assert "HTML" in message


def test_an_image_of_another_size_is_named(tmp_path, parts):
    root = write_folders(tmp_path / "f", parts)
    victim = sorted((root / "test" / "ant").iterdir())[0]
    victim.write_bytes(encode(np.zeros((9, 7, 3), np.uint8)))
    message = refused(root, tmp_path).message
    assert str(victim) in message
    assert "7 x 9" in message


def test_a_class_with_too_few_images_is_named_unless_partial(tmp_path, parts):
    root = write_folders(tmp_path / "f", parts)
    sorted((root / "train" / "bat").iterdir())[0].unlink()
    error = refused(root, tmp_path)
    assert "class 'bat' has 4 training images" in error.message
    assert "--partial" in error.remedy
    store, notes = import_dataset(TINY, root, tmp_path / "data", partial=True)
    assert store.manifest["n_images"] == 23
    assert notes[0] == "class 'bat' has 4 training images instead of 5"


def test_an_empty_class_folder_is_named(tmp_path, parts):
    root = write_folders(tmp_path / "f", parts)
    for file in (root / "test" / "cow").iterdir():
        file.unlink()
    assert "class 'cow' has no image" in refused(root, tmp_path, partial=True).message


def test_another_data_set_is_recognised(tmp_path, parts):
    root = write_folders(tmp_path / "f", parts)
    message = refused(root, tmp_path, replace(TINY, classes=("ant", "bat", "dog"))).message
    assert "it has 'cow'" in message
    assert "it lacks 'dog'" in message
    batches = write_batches(tmp_path / "b", batch_files(parts))
    assert "it lacks 'dog'" in refused(batches, tmp_path, replace(TINY, classes=("ant", "bat", "dog"))).message


def test_another_data_set_is_recognised_by_the_hub_s_own_names(tmp_path, parts):
    """The hub writes class names into the schema; ten classes of something else are not CIFAR-10."""
    root = write_parquet(tmp_path / "p", parts)
    for file in root.iterdir():
        table = pq.read_table(file)
        features = {"fine_label": {"names": ["ant", "bat", "dog"], "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(table.replace_schema_metadata(metadata), file)
    assert "it has 'dog'" in refused(root, tmp_path).message
    assert import_dataset(replace(TINY, classes=("ant", "bat", "dog")), root, tmp_path / "data")[0].digest


def test_labels_outside_the_classes_are_found(tmp_path, parts):
    root = write_parquet(tmp_path / "p", parts)
    assert "the label 2, outside 0..1" in refused(root, tmp_path, replace(TINY, classes=CLASSES[:2])).message


@pytest.mark.parametrize("cut", [10, 400, -1])
def test_a_cut_off_parquet_file_is_named(tmp_path, parts, cut):
    root = write_parquet(tmp_path / "p", parts)
    file = root / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:cut])
    error = refused(root, tmp_path)
    assert str(file) in error.message
    assert "cut-off" in error.remedy


def test_a_web_page_in_place_of_parquet(tmp_path, parts):
    root = write_parquet(tmp_path / "p", parts)
    file = root / "test-00000-of-00001.parquet"
    file.write_text("\n <html><body>log in</body></html>")
    assert f"{file} is an HTML page" in refused(root, tmp_path).message


def test_a_cut_off_archive_is_named(tmp_path, parts):
    archive = write_archive(tmp_path / "cifar-100-python.tar.gz", batch_files(parts))
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:])  # gzip's own checksum
    assert str(archive) in refused(archive, tmp_path).message
    for cut in (20, len(whole) // 2, len(whole) - 1):
        archive.write_bytes(whole[:cut])
        assert str(archive) in refused(archive, tmp_path).message


def test_a_web_page_in_place_of_an_archive(tmp_path):
    archive = tmp_path / "cifar-100-python.tar.gz"
    archive.write_text("<!doctype html><title>404</title>")
    assert f"{archive} is an HTML page" in refused(archive, tmp_path).message


def test_an_archive_that_lacks_a_batch(tmp_path, parts):
    files = cifar10_batch_files(parts)
    del files["data_batch_3"]
    assert "lacks the file 'data_batch_3'" in refused(write_batches(tmp_path / "b", files), tmp_path).message


def test_an_archive_writes_nowhere(tmp_path, parts):
    files = {f"../../../{name}": data for name, data in batch_files(parts).items()}
    archive = write_archive(tmp_path / "deep" / "er" / "x.tar.gz", files, folder="/absolute")
    before = set(tmp_path.rglob("*"))
    store, _ = import_dataset(TINY, archive, tmp_path / "data")
    assert store.manifest["n_images"] == 24
    assert {path for path in tmp_path.rglob("*") if tmp_path / "data" not in [path, *path.parents]} == before


@pytest.mark.parametrize("cut", [1, 30, 200, -1])
def test_a_cut_off_batch_is_named(tmp_path, parts, cut):
    root = write_batches(tmp_path / "b", batch_files(parts))
    (root / "train").write_bytes((root / "train").read_bytes()[:cut])
    assert f"{root}, train is not a whole pickle" in refused(root, tmp_path).message


def test_a_web_page_in_place_of_a_batch(tmp_path, parts):
    root = write_batches(tmp_path / "b", batch_files(parts))
    (root / "test").write_text("<html></html>")
    assert f"{root}, test is an HTML page" in refused(root, tmp_path).message


def test_an_unknown_layout_lists_the_known_ones(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    (root / "cat.gif").write_bytes(b"GIF89a")
    error = refused(root, tmp_path)
    assert "it holds cat.gif" in error.message
    for known in ("cifar-100-python", "parquet", "train/<class>"):
        assert known in error.remedy


def test_a_missing_path_and_an_existing_store(tmp_path, parts):
    with pytest.raises(UsageError, match="does not exist"):
        import_dataset(TINY, tmp_path / "nowhere", tmp_path / "data")
    root = write_folders(tmp_path / "f", parts)
    first, _ = import_dataset(TINY, root, tmp_path / "data")
    with pytest.raises(UsageError, match="already prepared"):
        import_dataset(TINY, root, tmp_path / "data")
    other = write_folders(tmp_path / "g", tiny_parts(seed=9))
    second, _ = import_dataset(TINY, other, tmp_path / "data", replace=True)
    assert second.digest != first.digest


def test_a_failed_replacement_keeps_the_old_store(tmp_path, parts):
    first, _ = import_dataset(TINY, write_folders(tmp_path / "f", parts), tmp_path / "data")
    broken = write_folders(tmp_path / "g", tiny_parts(seed=9))
    sorted((broken / "train" / "ant").iterdir())[0].write_bytes(b"x")
    with pytest.raises(DataError):
        import_dataset(TINY, broken, tmp_path / "data", replace=True)
    assert [child.name for child in (tmp_path / "data").iterdir()] == ["tiny"]
    assert import_dataset(TINY, tmp_path / "f", tmp_path / "again")[0].digest == first.digest


def test_an_embedded_data_set_is_not_imported(tmp_path):
    with pytest.raises(UsageError, match="made on this machine"):
        import_dataset(replace(TINY, embedded=True), tmp_path, tmp_path / "data")
