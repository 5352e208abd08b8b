"""The data sets that need no download: `glyphs`, drawn here, and scikit-learn's `digits`."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from slabench.data.catalog import DatasetInfo
from slabench.data.store import RawImages, Store, write_store

_DIGITS_TEST_EVERY = 5


def prepare(entry: DatasetInfo, path: Path, *, replace: bool = False) -> Store:
    """Make the embedded data set `entry` and write its store to `path`."""
    make = entry.make or {"glyphs": _glyphs, "digits": _digits}[entry.store]
    return write_store(path, make(), replace=replace)


def _glyphs() -> RawImages:
    from slabench.data.glyphs import generate

    images, labels, class_names = generate()
    return RawImages(
        images=images,
        labels=labels.astype(np.int64),
        parts=np.zeros(len(labels), np.uint8),
        source_positions=np.arange(len(labels), dtype=np.int32),
        class_names=tuple(class_names),
        kind="generated",
        notes={"versions": {name: version(name) for name in ("matplotlib", "numpy", "pillow")}},
    )


def _digits() -> RawImages:
    """scikit-learn's digits: each pixel a block of 4 x 4, grey 0..16 to 0..255; every fifth of a class is test."""
    from sklearn.datasets import load_digits

    data = load_digits()
    labels = data.target.astype(np.int64)
    grey = np.rint(data.images * (255 / 16)).astype(np.uint8)
    images = grey.repeat(4, axis=1).repeat(4, axis=2)[..., None].repeat(3, axis=3)
    parts = np.zeros(len(labels), np.uint8)
    for label in range(10):
        # The source lists its writers one after the other: every fifth image keeps all of them in both parts.
        parts[np.flatnonzero(labels == label)[_DIGITS_TEST_EVERY - 1 :: _DIGITS_TEST_EVERY]] = 1
    positions = np.empty(len(labels), np.int32)
    for part in (0, 1):
        positions[parts == part] = np.arange(np.count_nonzero(parts == part))
    return RawImages(
        images=images,
        labels=labels,
        parts=parts,
        source_positions=positions,
        class_names=tuple(str(name) for name in data.target_names),
        kind="generated",
        notes={"versions": {"scikit-learn": version("scikit-learn")}},
    )
