"""Feature sets that no network has made: pixels pooled to 8 x 8, under the four rotations."""

from __future__ import annotations

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


def write_features(name: str, dataset: str, scale: float = 1.0) -> None:
    """Features of all images of a prepared store, in the present data folder."""
    store = info(dataset).store
    images, path = open_store(ensure(store)).images(store), set_folder(name, dataset)
    manifest = begin(
        path,
        dataset=store,
        dataset_digest=images.digest,
        n=len(images),
        transforms="rotation",
        M=VIEWS,
        D=64,
        dtype="float16",
        embedder=EmbedderFacts(embedder=f"pooled-{scale:g}"),
    )
    array = open_array(path, manifest, "r+")
    array[:] = np.float16(scale) * pooled(images)
    groups = {group: group_digest(array, rows) for group, rows in store_groups(store).items()}
    write_manifest(path, manifest.model_copy(update={"groups": groups}))
