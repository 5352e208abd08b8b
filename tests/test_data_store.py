"""The prepared store: canonical order, digest, atomic writing, verification; and ImageSet."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_layouts import CLASSES, SIZE, TINY, Part

from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.data.imageset import RawImages
from slabench.data.store import differences, open_store, verify_store, write_store


def raw_of(parts: tuple[Part, Part]) -> RawImages:
    train, test = parts
    return RawImages(
        images=np.concatenate([train.images, test.images]),
        labels=np.concatenate([train.labels, test.labels]).astype(np.int64),
        parts=np.repeat(np.array([0, 1], np.uint8), [len(train.labels), len(test.labels)]),
        source_positions=np.concatenate([np.arange(len(train.labels)), np.arange(len(test.labels))]).astype(np.int32),
        class_names=CLASSES,
        kind="test",
        notes={},
    )


def shuffled(raw: RawImages, seed: int) -> RawImages:
    order = np.random.default_rng(seed).permutation(len(raw.labels))
    return replace(
        raw,
        images=raw.images[order],
        labels=raw.labels[order],
        parts=raw.parts[order],
        source_positions=raw.source_positions[order],
    )


def test_rows_are_in_canonical_order(tmp_path, parts):
    raw = raw_of(parts)
    images = write_store(tmp_path / "tiny", shuffled(raw, 3)).images("tiny")
    expected = sorted(
        range(len(raw.labels)),
        key=lambda row: (
            raw.labels[row],
            hashlib.sha256(raw.images[row].tobytes()).hexdigest(),
            raw.parts[row],
            raw.source_positions[row],
        ),
    )
    np.testing.assert_array_equal(images.images, raw.images[expected])
    np.testing.assert_array_equal(images.labels, raw.labels[expected])
    np.testing.assert_array_equal(images.parts, raw.parts[expected])
    np.testing.assert_array_equal(images.source_positions, raw.source_positions[expected])


def test_digest_is_the_documented_hash(tmp_path, parts):
    store = write_store(tmp_path / "tiny", raw_of(parts))
    images = store.images("tiny")
    header = {"classes": list(CLASSES), "image_shape": [SIZE, SIZE, 3], "n_images": 24}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode())
    digest.update(b"".join(int(label).to_bytes(8, "little") for label in images.labels))
    digest.update(bytes(images.parts))
    digest.update(b"".join(hashlib.sha256(bytes(image.tobytes())).digest() for image in images.images))
    assert store.digest == digest.hexdigest()


def test_digest_knows_content_and_nothing_else(tmp_path, parts):
    raw = raw_of(parts)
    digest = write_store(tmp_path / "a", raw).digest
    assert write_store(tmp_path / "b", shuffled(raw, 1)).digest == digest
    unknown = replace(raw, source_positions=np.full(len(raw.labels), -1, np.int32), kind="other", notes={"x": 1})
    assert write_store(tmp_path / "c", unknown).digest == digest

    pixels, labels, sides = raw.images.copy(), raw.labels.copy(), raw.parts.copy()
    pixels[5, 1, 2, 0] ^= 1
    labels[5] = (labels[5] + 1) % 3
    sides[5] ^= 1
    changed = [
        replace(raw, images=pixels),
        replace(raw, labels=labels),
        replace(raw, parts=sides),
        replace(raw, class_names=("ant", "bat", "dog")),
    ]
    digests = {write_store(tmp_path / f"changed{number}", other).digest for number, other in enumerate(changed)}
    assert len(digests) == 4
    assert digest not in digests


def test_opens_memory_mapped_and_read_only(tmp_path, parts):
    images = write_store(tmp_path / "tiny", raw_of(parts)).images("tiny")
    assert isinstance(images.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images.images[0, 0, 0, 0] = 1


@pytest.mark.parametrize("name", ["images", "labels", "parts", "source_positions"])
def test_verify_finds_one_flipped_bit(tmp_path, parts, name):
    store = write_store(tmp_path / "tiny", raw_of(parts))
    assert verify_store(store.folder) == []
    file = store.folder / f"{name}.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    problems = verify_store(store.folder)
    assert any(f"{name}.npy" in problem for problem in problems)


def test_verify_finds_what_a_mended_manifest_hides(tmp_path, parts):
    """Pixels changed, and the file's sha256 in the manifest with them: the digest of the data set still tells."""
    store = write_store(tmp_path / "tiny", raw_of(parts))
    file = store.folder / "images.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    manifest = json.loads((store.folder / "manifest.json").read_text())
    manifest["files"]["images.npy"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (store.folder / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = verify_store(store.folder)
    assert "pixels, labels and parts" in problem


def test_open_finds_a_cut_off_or_missing_file(tmp_path, parts):
    store = write_store(tmp_path / "tiny", raw_of(parts))
    file = store.folder / "images.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"images\.npy has .* bytes instead of"):
        open_store(store.folder)
    file.unlink()
    with pytest.raises(IntegrityError, match=r"images\.npy is missing"):
        open_store(store.folder)


def test_another_format_is_refused(tmp_path, parts):
    store = write_store(tmp_path / "tiny", raw_of(parts))
    manifest = json.loads((store.folder / "manifest.json").read_text())
    (store.folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(DataError, match="store format 99"):
        open_store(store.folder)


def test_first_of_two_imports_wins_and_replace_replaces(tmp_path, parts):
    raw = raw_of(parts)
    other = replace(raw, images=255 - raw.images)
    first = write_store(tmp_path / "tiny", raw)
    assert write_store(tmp_path / "tiny", other).digest == first.digest
    assert write_store(tmp_path / "tiny", other, replace=True).digest != first.digest
    assert [child.name for child in tmp_path.iterdir()] == ["tiny"]


def test_something_else_in_the_way_is_kept(tmp_path, parts):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="in the way"):
        write_store(tmp_path / "tiny", raw_of(parts))
    assert (tmp_path / "tiny" / "thesis.txt").read_text() == "mine"
    assert [child.name for child in tmp_path.iterdir()] == ["tiny"]


def test_concurrent_imports_leave_one_whole_store(tmp_path, parts):
    raw = raw_of(parts)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            write_store(tmp_path / "tiny", shuffled(raw, seed))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert verify_store(tmp_path / "tiny") == []
    assert [child.name for child in tmp_path.iterdir()] == ["tiny"]


def test_what_a_failed_write_leaves(tmp_path, parts):
    raw = raw_of(parts)
    broken = replace(raw, notes={"not json": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        write_store(tmp_path / "tiny", broken)
    assert list(tmp_path.iterdir()) == []


def test_differences_are_told(tmp_path, parts):
    raw = raw_of(parts)
    store = write_store(tmp_path / "whole", raw)
    assert differences(TINY, store) == []
    assert differences(replace(TINY, digest=store.digest), store) == []
    assert "is not that of the published tiny" in differences(replace(TINY, digest="0" * 64), store)[0]
    keep = np.ones(len(raw.labels), bool)
    keep[np.flatnonzero((raw.labels == 1) & (raw.parts == 0))[0]] = False
    less = replace(
        raw,
        images=raw.images[keep],
        labels=raw.labels[keep],
        parts=raw.parts[keep],
        source_positions=raw.source_positions[keep],
    )
    told = differences(TINY, write_store(tmp_path / "less", less))
    assert told == ["class 'bat' has 4 training images instead of 5"]


def test_select_classes_and_parts(tmp_path, parts):
    raw = raw_of(parts)
    whole = write_store(tmp_path / "tiny", raw).images("tiny/all")
    assert len(whole) == 24
    assert whole.n_classes == 3
    chosen = whole.select_classes(["cow", "ant"], "tiny/val", "abc")
    assert (chosen.name, chosen.split_digest, chosen.digest) == ("tiny/val", "abc", whole.digest)
    assert chosen.class_names == ("cow", "ant")
    np.testing.assert_array_equal(chosen.labels, [0] * 8 + [1] * 8)
    np.testing.assert_array_equal(chosen.images[:8], whole.images[whole.labels == 2])
    np.testing.assert_array_equal(chosen.images[8:], whole.images[whole.labels == 0])
    np.testing.assert_array_equal(chosen.source_positions[8:], whole.source_positions[whole.labels == 0])
    assert [rows.tolist() for rows in chosen.class_rows()] == [list(range(8)), list(range(8, 16))]

    test = whole.select_part(1)
    assert len(test) == 9
    assert set(test.parts.tolist()) == {1}
    assert sorted(image.tobytes() for image in test.images) == sorted(image.tobytes() for image in parts[1].images)


def test_class_rows_has_an_entry_for_a_class_without_images(tmp_path, parts):
    whole = write_store(tmp_path / "tiny", raw_of(parts)).images("tiny")
    rows = replace(whole, class_names=(*CLASSES, "yak")).class_rows()
    assert [len(row) for row in rows] == [8, 8, 8, 0]


def test_select_classes_refuses_unknown_and_repeated_names(tmp_path, parts):
    whole = write_store(tmp_path / "tiny", raw_of(parts)).images("tiny")
    with pytest.raises(UsageError, match="did you mean 'cow'"):
        whole.select_classes(["cows"], "x")
    with pytest.raises(UsageError, match="'ant' of tiny is asked for twice"):
        whole.select_classes(["ant", "cow", "ant"], "x")


def test_a_moved_store_still_opens(tmp_path, parts):
    store = write_store(tmp_path / "tiny", raw_of(parts))
    moved = Path(shutil.move(store.folder, tmp_path / "elsewhere"))
    assert open_store(moved).digest == store.digest


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"source": {}}, ": source.kind"),
        ({"source": {"kind": "folders", "image_formats": ["JPEG"]}}, ": source.image_formats"),
        ({"source": {"kind": "folders", "image_formats": {"JPEG": "many"}}}, ": source.image_formats.JPEG"),
        ({"source": {"kind": "folders", "unpublished": 5}}, ": source.unpublished"),
        ({"repeats": [1]}, ": repeats"),
        ({"n_images": "24"}, ": n_images"),
        ({"counts": {"train": [1], "test": [1, 1]}}, " has 1 counts of 'train', and 2 classes"),
    ],
)
def test_what_is_told_of_a_store_is_checked_like_its_arrays(tmp_path: Path, change: dict, where: str) -> None:
    """It is read by every run, for its warnings, and by `data verify` and `show dataset`."""
    whole = {
        "format": 1,
        "digest": "d",
        "n_images": 0,
        "classes": ["a", "b"],
        "files": {},
        "source": {"kind": "folders"},
    }
    whole |= {"counts": {"train": [0, 0], "test": [0, 0]}}
    (tmp_path / "manifest.json").write_text(json.dumps(whole))
    assert open_store(tmp_path).manifest == whole
    (tmp_path / "manifest.json").write_text(json.dumps(whole | change))
    with pytest.raises(IntegrityError, match=rf"manifest\.json{where}"):
        open_store(tmp_path)
