"""The embedded characters: enough of them, split by family, in families that a turn maps onto one another."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from slabench.data import load
from slabench.data.catalog import info
from slabench.data.sources.embedded import IMAGES_PER_CLASS, characters, families, generate, split_classes
from slabench.data.store import open_store, store_folder


def test_counts_and_shapes(glyphs: Path) -> None:
    store = open_store(store_folder(info("glyphs"), glyphs)).images("glyphs/all")
    assert store.n_classes >= 100
    assert store.images.shape[1:] == (32, 32, 3)
    assert np.bincount(store.labels).min() >= 100
    assert len(set(characters().values())) == len(characters())  # no character is in two classes


def test_splits_are_disjoint_and_keep_families_together(glyphs: Path) -> None:
    splits = {split: set(load("glyphs", split).class_names) for split in ("train", "val", "test")}
    assert not splits["train"] & splits["val"]
    assert not splits["train"] & splits["test"]
    assert not splits["val"] & splits["test"]
    assert set.union(*splits.values()) == set(characters())
    assert {split: sorted(names) for split, names in split_classes().items()} == {
        split: sorted(names) for split, names in splits.items()
    }
    for members in families().values():
        assert sum(bool(set(members) & names) for names in splits.values()) == 1
    assert min(len(names) for names in splits.values()) >= 20


def test_the_same_bytes_again(glyphs: Path) -> None:
    """As in the store, which was drawn for all tests and has an order of its own."""
    images, labels, names = generate()
    assert labels.shape == (len(names) * IMAGES_PER_CLASS,)
    store = open_store(store_folder(info("glyphs"), glyphs)).images("glyphs/all")
    kept = sorted(
        (store.class_names[label], image.tobytes()) for image, label in zip(store.images, store.labels, strict=True)
    )
    assert sorted((names[label], image.tobytes()) for image, label in zip(images, labels, strict=True)) == kept


def test_no_image_twice_and_no_two_classes_alike(glyphs: Path) -> None:
    store = open_store(store_folder(info("glyphs"), glyphs)).images("glyphs/all")
    assert len({image.tobytes() for image in store.images}) == len(store)


# Families of which one member is another, turned counter-clockwise by so many quarter turns.
_TURNS = [
    ("arrow-right", "arrow-up", 1),
    ("arrow-up", "arrow-left", 1),
    ("double-arrow-left", "double-arrow-down", 1),
    ("triangle-up", "triangle-left", 1),
    ("subset", "union", 1),
    ("latin-b", "latin-q", 2),
    ("latin-d", "latin-p", 2),
    ("digit-6", "digit-9", 2),
    ("latin-n", "latin-u", 2),
    ("capital-z", "capital-n", 1),
    ("tack-up", "tack-down", 2),
    ("capital-m", "capital-w", 2),
]


@pytest.mark.parametrize(("a", "b", "turns"), _TURNS)
def test_turned_images_of_one_class_look_like_the_other(glyphs: Path, a: str, b: str, turns: int) -> None:
    """So that a classifier which ignores rotation confuses them: turned, the mean shapes are closer than as they are.

    Held for every pairing of two halves of the images, so that it is no accident of the draw.
    """
    store = open_store(store_folder(info("glyphs"), glyphs)).images("glyphs/all")

    def shape(name: str, half: int) -> np.ndarray:
        """Mean ink of a class: how far each pixel is from its image's border colour, whatever the colours are."""
        images = store.images[np.asarray(store.labels) == store.class_names.index(name)][half::2].astype(float)
        border = np.median(np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1), 1)
        ink = np.linalg.norm(images - border[:, None, None], axis=-1)
        mean = (ink / ink.mean((1, 2), keepdims=True)).mean(0)
        return mean - mean.mean()

    def alike(x: np.ndarray, y: np.ndarray) -> float:
        return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))

    for one, other in itertools.product(range(2), repeat=2):
        first, second = shape(a, one), shape(b, other)
        assert alike(np.rot90(first, turns), second) > alike(first, second)
