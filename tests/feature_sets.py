"""Features of images that no network has made: pixels pooled to 8 x 8, under the four rotations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from slabench.core import paths
from slabench.data.imageset import ImageSet
from slabench.sla.transforms import transform_set

VIEWS = 4


def pooled(images: ImageSet, scale: float = 1.0) -> np.ndarray:
    """`[n, 4, 64]`, float32."""
    pixels = torch.from_numpy(np.array(images.images)).permute(0, 3, 1, 2).float() / 255
    views = transform_set("rotation").apply(pixels).mean(1, keepdim=True)
    return (scale * functional.adaptive_avg_pool2d(views, 8).flatten(1).unflatten(0, (-1, VIEWS))).numpy()


def write_features(name: str, dataset: str, splits: Mapping[str, ImageSet], scale: float = 1.0) -> None:
    folder = paths.data(None) / "features" / name / dataset
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        np.save(folder / f"{split}.npy", pooled(images, scale).astype(np.float16))
        np.save(folder / f"{split}-labels.npy", images.labels)
