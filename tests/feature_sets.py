"""Feature sets that no network has made: pixels pooled to 8 x 8, under the four rotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from slabench.data.catalog import info
from slabench.data.imageset import ImageSet
from slabench.data.loading import ensure
from slabench.data.store import open_store
from slabench.embedders import EmbedderFacts
from slabench.embedders.store import begin, group_digest, open_array, set_folder, store_groups, write_manifest
from slabench.sla.transforms import transform_set

VIEWS = 4


def pooled(images: ImageSet) -> np.ndarray:
    """`[n, 4, 64]`, float16."""
    pixels = torch.from_numpy(np.array(images.images)).permute(0, 3, 1, 2).float() / 255
    views = transform_set("rotation").apply(pixels).mean(1, keepdim=True)
    return functional.adaptive_avg_pool2d(views, 8).flatten(1).unflatten(0, (-1, VIEWS)).half().numpy()


def write_set(
    name: str,
    dataset: str,
    values: Callable[[ImageSet], np.ndarray],
    embedder: EmbedderFacts,
    *,
    transforms: str,
    folder: Path | None = None,
    classes: int | None = None,
) -> Path:
    """A feature set of a prepared store, written as an embedding writes it.

    Args:
        name: of the set.
        dataset: a view of the store.
        values: `[n, M, D]` of all of its images.
        embedder: the network that is said to have made them.
        transforms: name of the views.
        folder: of prepared data.
        classes: only the groups of the first so many; None: all.
    """
    store = info(dataset).store
    images, path = open_store(ensure(store, folder)).images(store), set_folder(name, dataset, folder)
    made = values(images)
    n, m, d = made.shape
    manifest = begin(
        path,
        dataset=store,
        dataset_digest=images.digest,
        n=n,
        transforms=transforms,
        M=m,
        D=d,
        dtype=made.dtype.name,
        embedder=embedder,
    )
    array = open_array(path, manifest, "r+")
    for group, rows in list(store_groups(store, folder).items())[:classes]:
        array[rows] = made[rows]
        manifest.groups[group] = group_digest(array, rows)
    array.flush()
    write_manifest(path, manifest)
    return path


def write_features(name: str, dataset: str, scale: float = 1.0) -> None:
    """`pooled` features of all images of a prepared store, in the present data folder."""
    facts = EmbedderFacts(embedder=f"pooled-{scale:g}")
    write_set(name, dataset, lambda images: np.float16(scale) * pooled(images), facts, transforms="rotation")
