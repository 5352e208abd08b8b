"""`load`, class splits and the catalog; with SLABENCH_CIFAR100 also the real CIFAR-100."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

import slabench.data
from slabench.core import paths
from slabench.core.errors import DataError, DataMissingError, UsageError
from slabench.data.catalog import DATASETS, info
from slabench.data.sources.detect import import_dataset
from slabench.data.splits import load_split, parse_split, split_path
from slabench.data.store import open_store, store_folder


def test_split_counts_and_coverage():
    for name, counts in (("fc100", (60, 20, 20)), ("cifar-fs", (64, 16, 20)), ("mini-imagenet", (64, 16, 20))):
        split = load_split(name)
        assert tuple(len(split.classes[part]) for part in ("train", "val", "test")) == counts
        assert len({member for members in split.classes.values() for member in members}) == 100
    # Golden digests: a changed class list is another benchmark, and must not pass as this one.
    assert load_split("fc100").digest == "33ac05588ad21e8462b82b09b3721db2f102750d8cb2ec0b116b77da6de28b23"
    assert load_split("cifar-fs").digest == "84841c8e3e5fa53565d31ee4e9db179b3c9f47bfb50df1dda46b4d7cf48f6ee2"
    assert load_split("mini-imagenet").digest == "45a07ab5c98687a737317bd6d9dba069af35a9d55d2c832a210d50a8f3f0b12e"


def test_fc100_separates_superclasses():
    content = json.loads(split_path("fc100").read_text())
    assert {part: len(names) for part, names in content["superclasses"].items()} == {"train": 12, "val": 4, "test": 4}
    split = load_split("fc100")
    # Five fine classes a superclass; some of them, from the CIFAR-100 page.
    assert {"baby", "boy", "girl", "man", "woman", "bee", "beetle", "dolphin", "whale"} <= set(split.classes["test"])
    assert {"hamster", "mouse", "rabbit", "shrew", "squirrel"} <= set(split.classes["val"])
    assert all(5 * len(content["superclasses"][part]) == len(split.classes[part]) for part in split.classes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"train": ["a", "b"], "val": ["c"], "test": ["b"]}, "'b' is in 'train' and again in 'test'"),
        ({"train": ["a", "a"], "val": ["c"], "test": ["b"]}, "'a' is in 'train' and again in 'train'"),
        ({"train": ["a", "z"], "val": ["c"], "test": ["b"]}, "'z' of 'train' is not a class"),
        ({"train": ["a"], "val": [], "test": ["b"]}, "'val' has no class"),
        ({"train": ["a"], "test": ["b"]}, "not train, val and test"),
    ],
)
def test_a_wrong_split_is_refused(classes, message):
    with pytest.raises(DataError, match=message):
        parse_split({"store": "s", "classes": classes}, "x", ("a", "b", "c"), Path("x.json"))


def test_split_digest_knows_classes_and_store_only():
    classes = {"train": ["a"], "val": ["c"], "test": ["b"]}

    def digest(value):
        return parse_split(value, "x", (), Path("x.json")).digest

    first = digest({"store": "s", "classes": classes, "source": "here"})
    assert digest({"classes": dict(reversed(classes.items())), "store": "s", "source": "there"}) == first
    assert digest({"store": "t", "classes": classes}) != first
    assert digest({"store": "s", "classes": {**classes, "val": ["d"]}}) != first


def test_unknown_names():
    with pytest.raises(UsageError, match="did you mean 'fc100'"):
        slabench.data.load("fc10", "test")
    with pytest.raises(UsageError, match="unknown split of fc100 'validation'"):
        slabench.data.load("fc100", "validation")
    with pytest.raises(UsageError, match="unknown split of cifar10 'val'"):
        slabench.data.load("cifar10", "val")
    with pytest.raises(UsageError, match="has no class split"):
        load_split("cifar100")


def test_the_catalog_is_consistent():
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert entry.store in DATASETS
        assert (entry.crop_padding, entry.dropblock_size) == {
            32: (4, 2),
            64: (8, 5),
            84: (8, 5),
            256: (0, 5),  # photographs: random resized crops instead
        }[entry.image_size]
        assert all(0 < value < 256 for value in (*entry.mean, *entry.std))
        if entry.classes:
            assert len(set(entry.classes)) == entry.n_classes == len(entry.classes)
    assert info("fc100").digest == info("cifar-fs").digest == info("cifar100").digest
    assert list(info("cifar100").classes) == sorted(info("cifar100").classes)


def test_missing_data_without_a_network(monkeypatch):
    import slabench.data.sources.download as download

    def unreachable(*_, **__):
        raise DataMissingError("https://example.org cannot be reached")

    monkeypatch.setattr(download, "fetch", unreachable)
    with pytest.raises(DataMissingError) as caught:
        slabench.data.load("fc100", "test")
    assert "'fc100'" in caught.value.message
    for way in (
        "slabench data get cifar100",
        "slabench data import cifar100 PATH",
        "cifar-100-python",
        "--dataset glyphs",
    ):
        assert way in caught.value.remedy


def test_digits_are_scikit_learn_s():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    whole = slabench.data.load("digits", "all")
    train, test = slabench.data.load("digits", "train"), slabench.data.load("digits", "test")
    assert whole.images.shape == (1797, 32, 32, 3)
    assert len(train) + len(test) == 1797
    # Positions count within each part; invert them through scikit-learn's own order.
    small = {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes(): label
        for image, label in zip(theirs.images, theirs.target, strict=True)
    }
    for image, label in zip(whole.images, whole.labels, strict=True):
        assert small[image[::4, ::4, 0].tobytes()] == label
    assert (whole.images[:, ::4, ::4] == whole.images[:, 3::4, 3::4]).all()
    counts = np.bincount(test.labels)
    np.testing.assert_array_equal(counts, np.bincount(theirs.target) // 5)
    digest = whole.digest
    assert slabench.data.load("digits", "all", paths.data() / "elsewhere").digest == digest


def test_a_view_of_a_prepared_store(tmp_path, monkeypatch, parts):
    """fc100 is cut out of whatever the store `cifar100` holds: here a stand-in of two images a class."""
    from dataclasses import replace

    rng = np.random.default_rng(0)
    entry = replace(info("cifar100"), per_class=(1, 1))
    from PIL import Image

    for part in ("train", "test"):
        for name in entry.classes:
            (tmp_path / "f" / part / name).mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                tmp_path / "f" / part / name / "0.png"
            )
    store, notes = import_dataset(entry, tmp_path / "f", tmp_path / "data")
    assert any("not that of the published cifar100" in note for note in notes)
    whole = slabench.data.load("cifar100", "all", tmp_path / "data")
    assert isinstance(whole.images, np.memmap)
    for dataset in ("fc100", "cifar-fs"):
        split = load_split(dataset)
        seen: set[str] = set()
        for part in ("train", "val", "test"):
            images = slabench.data.load(dataset, part, tmp_path / "data")
            assert images.name == f"{dataset}/{part}"
            assert images.class_names == split.classes[part]
            assert (images.digest, images.split_digest) == (store.digest, split.digest)
            assert not seen & set(images.class_names)
            seen |= set(images.class_names)
            for label, name in enumerate(images.class_names):
                np.testing.assert_array_equal(
                    images.images[images.labels == label], whole.images[whole.labels == entry.classes.index(name)]
                )
        assert len(seen) == 100


def test_real_cifar100(cifar100):
    told = json.loads((cifar100.parent / "import.json").read_text(encoding="utf-8"))
    assert [note for note in told["notes"] if not note.endswith("(as published)")] == []
    store = open_store(store_folder(info("cifar100"), cifar100))
    assert store.digest == info("cifar100").digest
    assert store.counts(0) == [500] * 100
    assert store.counts(1) == [100] * 100
    assert told["seconds"] < 60  # 11 to 15 s on two quiet cores; the tests may share them

    start = time.perf_counter()
    whole = slabench.data.load("cifar100", "all", cifar100)
    assert time.perf_counter() - start < 0.5
    assert np.bincount(whole.labels).tolist() == [600] * 100
    # The published channel means of the training part: 0.5071, 0.4865, 0.4409.
    train = whole.select_part(0).images.reshape(-1, 3)
    np.testing.assert_allclose(train.mean(0) / 255, (0.5071, 0.4865, 0.4409), atol=5e-5)
    np.testing.assert_allclose(train.mean(0), info("cifar100").mean, atol=0.01)
    np.testing.assert_allclose(train.std(0), info("cifar100").std, atol=0.01)
    for part, n_classes in (("train", 60), ("val", 20), ("test", 20)):
        images = slabench.data.load("fc100", part, cifar100)
        assert images.n_classes == n_classes
        assert np.bincount(images.labels).tolist() == [600] * n_classes


def test_real_cifar100_as_png_folders(cifar100_parquet, tmp_path):
    """The hub's rows written out as PNG files, class by class, are the same data set: tested on one class."""
    from dataclasses import replace

    import pyarrow.parquet as pq

    entry = replace(info("cifar100"), classes=("apple",), n_classes=1, digest=None)
    for part in ("train", "test"):
        (tmp_path / "f" / part / "apple").mkdir(parents=True)
        (tmp_path / "p").mkdir(exist_ok=True)
        table = pq.read_table(next(cifar100_parquet.glob(f"{part}*.parquet")), filters=[("fine_label", "=", 0)])
        pq.write_table(table.replace_schema_metadata(None), tmp_path / "p" / f"{part}.parquet")
        for row, image in enumerate(table.column("img").to_pylist()):
            (tmp_path / "f" / part / "apple" / f"{row}.png").write_bytes(image["bytes"])
    folders, _ = import_dataset(entry, tmp_path / "f", tmp_path / "a")
    parquet, _ = import_dataset(entry, tmp_path / "p", tmp_path / "b")
    assert folders.manifest["n_images"] == 600
    assert folders.digest == parquet.digest
