"""FC100 and CIFAR-FS in the layouts that learn2learn downloads, on small files written in exactly those layouts."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_layouts import CLASSES, SIZE, TINY, Part, encode, write_folders

from slabench.core.errors import DataError, UnsafePickleError
from slabench.data import load
from slabench.data.catalog import info
from slabench.data.sources import fewshot
from slabench.data.sources.detect import import_dataset, layouts
from slabench.data.sources.fewshot import Key, identified
from slabench.data.store import canonical_order, dataset_digest, pixel_digests

ENTRY = replace(TINY, store="cifar100")
SPLITS = {"train": (0,), "val": (1,), "test": (2,)}  # of the three classes


@pytest.fixture
def mixed(parts: tuple[Part, Part]) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, the two official parts shuffled together."""
    order = np.random.default_rng(5).permutation(sum(len(part.labels) for part in parts))
    images, labels = (np.concatenate([getattr(part, name) for part in parts])[order] for name in ("images", "labels"))
    return images, labels


@pytest.fixture
def proper(tmp_path: Path, parts: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch):
    """The store that the whole data set gives, and its key in the place of CIFAR-100's."""
    store, _ = import_dataset(ENTRY, write_folders(tmp_path / "folders", parts), tmp_path / "proper")
    key = Key.of(store.images("tiny/all"))
    monkeypatch.setattr(fewshot, "cifar100_key", lambda: Key.from_json(json.loads(json.dumps(key.to_json()))))
    return store


def write_fc100(root: Path, images: np.ndarray, labels: np.ndarray, number: dict[int, int], protocol: int = 2) -> Path:
    """As learn2learn's pickles: dicts of `data` and `labels`; `number` is what a file calls each class."""
    root.mkdir()
    for split, classes in SPLITS.items():
        rows = np.flatnonzero(np.isin(labels, classes))
        value = {"data": images[rows], "labels": [number[int(label)] for label in labels[rows]]}
        (root / f"FC100_{split}.pickle").write_bytes(pickle.dumps(value, protocol))
    return root


def write_cifarfs(root: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = root / "cifarfs" / "cifar100" / "data" / CLASSES[label] / f"{CLASSES[label]}_s_{row:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(image))
    return root


@pytest.mark.parametrize("number", [{0: 0, 1: 1, 2: 2}, {0: 0, 1: 0, 2: 0}, {0: 77, 1: 3, 2: 5}])
def test_fc100_s_pickles_give_the_store_of_the_whole_data_set(tmp_path, mixed, proper, number):
    """Whatever numbers the files give to the classes: global ones, or counted anew in each file."""
    store, notes = import_dataset(ENTRY, write_fc100(tmp_path / "fc100", *mixed, number), tmp_path / "data")
    assert store.digest == proper.digest
    assert store.manifest["source"]["kind"] == "learn2learn's FC100"
    found, expected = store.images("a"), proper.images("b")
    for name in ("images", "labels", "parts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.class_names == expected.class_names
    assert (found.source_positions == -1).all()
    assert notes == ["test images that are training images too, bit for bit: 1 of 9"]


def test_cifar_fs_gives_it_too(tmp_path, mixed, proper):
    store, _ = import_dataset(ENTRY, write_cifarfs(tmp_path / "l2l", *mixed), tmp_path / "data")
    assert store.digest == proper.digest


@pytest.mark.usefixtures("proper")
def test_a_changed_pixel_is_noticed(tmp_path, mixed):
    images, labels = mixed[0].copy(), mixed[1]
    images[3, 0, 0, 0] ^= 1
    with pytest.raises(DataError, match="not, bit for bit"):
        import_dataset(ENTRY, write_fc100(tmp_path / "fc100", images, labels, {0: 0, 1: 1, 2: 2}), tmp_path / "data")
    assert not (tmp_path / "data" / "cifar100").exists()


@pytest.mark.usefixtures("proper")
def test_a_missing_image_or_file_is_named(tmp_path, mixed):
    fewer = write_cifarfs(tmp_path / "l2l", mixed[0][:-1], mixed[1][:-1])
    with pytest.raises(DataError, match="not, bit for bit"):
        import_dataset(ENTRY, fewer, tmp_path / "data")
    folder = write_fc100(tmp_path / "fc100", *mixed, {0: 0, 1: 1, 2: 2})
    (folder / "FC100_val.pickle").unlink()
    with pytest.raises(DataError, match=r"lacks FC100_val\.pickle"):
        import_dataset(ENTRY, folder, tmp_path / "data")


@pytest.mark.usefixtures("proper")
def test_a_pickle_that_calls_something_is_refused_and_called_nothing(tmp_path, mixed):
    class Call:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "called",))

    folder = write_fc100(tmp_path / "fc100", *mixed, {0: 0, 1: 1, 2: 2})
    (folder / "FC100_train.pickle").write_bytes(pickle.dumps({"data": Call(), "labels": []}))
    with pytest.raises(UnsafePickleError):
        import_dataset(ENTRY, folder, tmp_path / "data")
    assert not (tmp_path / "called").exists()


@pytest.mark.usefixtures("proper")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"data": np.zeros((2, SIZE, SIZE, 1), np.uint8), "labels": [0, 1]}, "data is"),
        ({"data": np.zeros((2, SIZE, SIZE, 3), np.uint8), "labels": [0]}, "no label for each"),
        ([1, 2], "data is NoneType"),
    ],
)
def test_a_pickle_of_something_else(tmp_path, mixed, value, message):
    folder = write_fc100(tmp_path / "fc100", *mixed, {0: 0, 1: 1, 2: 2})
    (folder / "FC100_train.pickle").write_bytes(pickle.dumps(value))
    with pytest.raises(DataError, match=message):
        import_dataset(ENTRY, folder, tmp_path / "data")


def test_only_cifar_100_is_known_so():
    assert sum("learn2learn" in layout for layout in layouts(info("fc100"))) == 2
    assert not any("learn2learn" in layout for layout in layouts(info("cifar10")))


@pytest.mark.usefixtures("cifar100")
def test_the_shipped_key_is_cifar_100_s():
    """Against the real images: FC100's classes cut apart, shuffled, and without their names and parts."""
    whole = load("cifar100", "all")
    assert whole.digest == info("cifar100").digest
    order = np.random.default_rng(0).permutation(len(whole))
    groups = [f"group {label * 7 % 100}" for label in whole.labels[order]]
    raw = identified(
        np.asarray(whole.images)[order], groups, info("fc100"), Path("x"), fewshot.cifar100_key(), "test", {}
    )
    np.testing.assert_array_equal(raw.labels, whole.labels[order])
    # Images that are in both parts may have changed places: the store, where they lie side by side, knows no difference.
    digests = pixel_digests(raw.images)
    canonical = canonical_order(raw, digests)
    labels, parts = raw.labels[canonical], raw.parts[canonical]
    shape = whole.images.shape[1:]
    assert dataset_digest(whole.class_names, shape, labels, parts, digests[canonical]) == info("cifar100").digest
