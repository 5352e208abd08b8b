"""mini-ImageNet in both layouts, on small files written in exactly those layouts."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from data_layouts import MINI, MINI_CLASSES, SIZE, encode, mini_images, write_mini_caches, write_mini_csvs

from slabench.core.errors import DataError, UnsafePickleError
from slabench.data.catalog import info
from slabench.data.sources.detect import import_dataset
from slabench.data.sources.fewshot import mini_imagenet_classes


@pytest.mark.parametrize("val", ["val", "validation"])
def test_both_layouts_give_the_same_data(tmp_path, val):
    images = mini_images()
    caches, notes = import_dataset(MINI, write_mini_caches(tmp_path / "p", images, val=val), tmp_path / "a")
    csvs, _ = import_dataset(MINI, write_mini_csvs(tmp_path / "c", images), tmp_path / "b")
    assert notes == []
    assert caches.digest == csvs.digest
    assert caches.class_names == MINI_CLASSES
    whole = caches.images("mini-imagenet")
    for label, name in enumerate(MINI_CLASSES):
        found = sorted(image.tobytes() for image in whole.images[whole.labels == label])
        assert found == sorted(image.tobytes() for image in images[name])
    # The original order is train, val, test, each as its file has it: 5 is the second image of the second class.
    np.testing.assert_array_equal(whole.images[whole.source_positions == 5][0], images[MINI_CLASSES[1]][1])


def test_other_sizes_are_scaled_and_jpegs_are_read(tmp_path):
    root = write_mini_csvs(tmp_path / "c", mini_images())
    first = root / "images" / f"{MINI_CLASSES[0]}{0:08}.jpg"
    first.write_bytes(encode(np.full((50, 37, 3), (200, 100, 50), np.uint8), "JPEG"))
    store, _ = import_dataset(MINI, root, tmp_path / "data")
    whole = store.images("mini-imagenet")
    scaled = whole.images[whole.source_positions == 0][0]
    assert scaled.shape == (SIZE, SIZE, 3)
    assert np.abs(scaled.astype(int) - (200, 100, 50)).max() <= 2  # one colour stays one colour, up to JPEG's rounding
    assert store.manifest["source"]["image_formats"] == {"JPEG": 1, "PNG": 11}


def refused(root: Path, tmp_path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        import_dataset(MINI, root, tmp_path / "data")
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []
    return caught.value


def test_damaged_caches(tmp_path):
    root = write_mini_caches(tmp_path / "p", mini_images())
    val = root / "mini-imagenet-cache-val.pkl"
    whole = val.read_bytes()
    val.write_bytes(whole[: len(whole) // 2])
    assert f"{val} is not a whole pickle" in refused(root, tmp_path).message
    val.write_text("<html>too many requests</html>")
    assert f"{val} is an HTML page" in refused(root, tmp_path).message
    val.unlink()
    assert "lacks mini-imagenet-cache-val.pkl" in refused(root, tmp_path).message


def test_a_malicious_cache_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "witness",)

    root = write_mini_caches(tmp_path / "p", mini_images())
    (root / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps({"image_data": Evil(), "class_dict": {}}))
    assert isinstance(refused(root, tmp_path), UnsafePickleError)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": 1}, "has the keys"),
        ({"image_data": np.zeros((2, 5, 5, 3), np.uint8), "class_dict": {}}, "image_data is"),
        ({"image_data": np.zeros((2, SIZE, SIZE, 3), np.uint8), "class_dict": {"n0003": [0]}}, "row 1 belongs to no"),
        ({"image_data": np.zeros((2, SIZE, SIZE, 3), np.uint8), "class_dict": {"n0003": [0, 0]}}, "claims row 0"),
        ({"image_data": np.zeros((2, SIZE, SIZE, 3), np.uint8), "class_dict": {"n0003": [0, -1]}}, "claims row -1"),
    ],
)
def test_inconsistent_caches(tmp_path, content, message):
    root = write_mini_caches(tmp_path / "p", mini_images())
    (root / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(content))
    found = refused(root, tmp_path).message
    assert message in found
    assert "mini-imagenet-cache-test.pkl" in found


def test_damaged_lists(tmp_path):
    root = write_mini_csvs(tmp_path / "c", mini_images())
    listed = (root / "val.csv").read_text()
    (root / "val.csv").write_text(listed.replace("filename,label", "file,class"))
    assert "needs the columns filename,label" in refused(root, tmp_path).message
    (root / "val.csv").write_text(listed + "../../../etc/passwd,n0002\n")
    assert "val.csv, line 6" in refused(root, tmp_path).message
    (root / "val.csv").write_text(listed)
    victim = root / "images" / f"{MINI_CLASSES[1]}{2:08}.jpg"
    victim.unlink()
    assert f"{victim} is listed but missing (1 of 12" in refused(root, tmp_path).message
    (root / "test.csv").unlink()
    assert "test.csv is missing" in refused(root, tmp_path).message


def test_a_short_class_is_named(tmp_path):
    images = mini_images()
    images[MINI_CLASSES[2]] = images[MINI_CLASSES[2]][:3]
    assert "class 'n0003' has 3 training images" in refused(write_mini_caches(tmp_path / "p", images), tmp_path).message


def test_another_class_list_is_recognised(tmp_path):
    images = mini_images()
    images["n9999"] = images.pop(MINI_CLASSES[2])
    message = refused(write_mini_caches(tmp_path / "p", images), tmp_path).message
    assert "it has 'n9999'" in message
    assert "it lacks 'n0003'" in message


def test_the_catalog_names_the_100_wnids():
    classes = mini_imagenet_classes()
    assert len(set(classes)) == 100 == info("mini-imagenet").n_classes
    assert list(classes) == sorted(classes)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)
