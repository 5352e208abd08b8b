"""The feature store: rows of every split as `load` gives them, groups that vouch for their bytes, damage that is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from feature_sets import write_set

from slabench.core.errors import DataMissingError, IntegrityError, UsageError
from slabench.data import load
from slabench.data.loading import load_images
from slabench.embedders import EmbedderFacts, open_features
from slabench.embedders.store import ARRAY

FACTS = EmbedderFacts(embedder="test:means", pretraining="nothing", contaminated="no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def make(folder: Path, name: str = "means", dataset: str = "glyphs", only: int | None = None, M: int = 2) -> Path:
    """Features of an image: its mean colour and its first pixels, which tell it from others; views are multiples."""
    return write_set(
        name,
        dataset,
        lambda images: expected(images.images, M),
        FACTS,
        transforms="rotation2",
        folder=folder,
        classes=only,
    )


def expected(images: np.ndarray, M: int = 2) -> np.ndarray:
    flat = images.reshape(len(images), -1).astype(np.float32)
    plain = np.stack([flat.mean(1), *(flat[:, 100 * k + 7] for k in range(4))], 1)
    return np.stack([plain * (j + 1) for j in range(M)], 1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_rows_are_those_of_load(folder: Path, split: str) -> None:
    make(folder)
    found, images = open_features("means", "glyphs", split, folder), load("glyphs", split, folder)
    np.testing.assert_array_equal(found.labels, images.labels)
    assert found.class_names == images.class_names
    assert (found.images.digest, found.images.split_digest) == (images.digest, images.split_digest)
    np.testing.assert_array_equal(found.features(), expected(np.asarray(images.images)))
    np.testing.assert_array_equal(found.features([5, 2], views=1), expected(np.asarray(images.images[[5, 2]]))[:, :1])


def test_rows_of_the_image_split_are_those_of_load_images(folder: Path) -> None:
    make(folder)
    _, train, test = load_images("glyphs", folder)
    for split, images in (("image-train", train), ("image-test", test)):
        found = open_features("means", "glyphs", split, folder)
        np.testing.assert_array_equal(found.features(), expected(np.asarray(images.images)))


def test_the_digest_is_of_the_split_and_its_bytes(folder: Path) -> None:
    make(folder)
    digests = {split: open_features("means", "glyphs", split, folder).digest for split in ("train", "val", "test")}
    assert len(set(digests.values())) == 3
    make(folder, "again")
    assert open_features("again", "glyphs", "test", folder).digest == digests["test"]


def test_a_part_that_is_not_there_is_told(folder: Path) -> None:
    make(folder, "partial", only=3)
    with pytest.raises(DataMissingError, match="lack"):
        open_features("partial", "glyphs", "test", folder)


def test_changed_bytes_are_told(folder: Path) -> None:
    path = make(folder, "changed")
    array = np.load(path / ARRAY, mmap_mode="r+")
    array[:] += 1
    array.flush()
    with pytest.raises(IntegrityError, match="sha256"):
        open_features("changed", "glyphs", "test", folder)


def test_a_truncated_array_is_told(folder: Path) -> None:
    path = make(folder, "truncated")
    data = (path / ARRAY).read_bytes()
    (path / ARRAY).write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="not a whole array"):
        open_features("truncated", "glyphs", "test", folder)


def test_unknown_names_are_told(folder: Path) -> None:
    make(folder)
    with pytest.raises(DataMissingError, match="mean") as raised:
        open_features("mean", "glyphs", "test", folder)
    assert "did you mean 'means'?" in raised.value.remedy
    with pytest.raises(UsageError, match="split"):
        open_features("means", "glyphs", "tset", folder)


def test_another_network_does_not_go_on_where_one_stopped(folder: Path) -> None:
    make(folder, "mine")
    with pytest.raises(UsageError, match="another M: 2, not 3"):
        make(folder, "mine", M=3)
