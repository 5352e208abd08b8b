"""What a trial on the features of a frozen embedder does otherwise than one on images: very little.

Features `[n, V, D]` of all views of every image stand where pixels do (`embedded`), a transformation takes a view
(`slabench.sla.transforms.CachedViews`), nothing is augmented, and an adapter stands in the backbone's place
(`slabench.learners.adapter`). Objectives, losses, samplers, heads and scores know no difference.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slabench.core.errors import DataError, UsageError
from slabench.data.imageset import ImageSet
from slabench.embedders import FeatureSet, open_features
from slabench.sla.transforms import TransformSet, cached_views, transform_set

if TYPE_CHECKING:
    from slabench.recipes import AnyRecipe


def transforms_of(recipe: AnyRecipe, name: str | None = None) -> TransformSet:
    """The transformations of a recipe for what it learns on: of images, or views of features.

    Args:
        recipe: of any suite.
        name: of another set in place of the recipe's.
    """
    chosen = transform_set(name or recipe.sla.transforms)
    return cached_views(chosen) if recipe.model.embedder else chosen


def unaugmented(features: Tensor, generator: torch.Generator) -> Tensor:
    """Features as they are, in float32: in the place of `slabench.data.augment.BatchAugment`."""
    return features.float()


def embedded(
    images: ImageSet, recipe: AnyRecipe, split: str, data_folder: Path | None = None
) -> tuple[ImageSet, FeatureSet]:
    """The same rows with features `[n, V, D]` in place of pixels, and the feature set that they are of.

    Args:
        images: of the split.
        recipe: with `model.embedder`.
        split: as `slabench.data.load` calls it.
        data_folder: of prepared data.

    Raises:
        DataMissingError: there is no such feature set of this data set.
        DataError: it is of other images.
    """
    found = open_features(recipe.model.embedder, recipe.data.dataset, split, data_folder)
    if len(found.labels) != len(images) or not np.array_equal(found.labels, images.labels):
        raise DataError(
            f"the feature set '{recipe.model.embedder}' is not of the {len(images):,} images of {images.name}",
            "embed the images again",
        )
    return replace(images, images=found.features), found


def check_views(recipe: AnyRecipe, features: ImageSet) -> None:
    """Refuse features of fewer views than the recipe's transformations have.

    Raises:
        UsageError: names both numbers.
    """
    views, m = features.images.shape[1], transform_set(recipe.sla.transforms).M
    if views < m:
        raise UsageError(
            f"the feature set '{recipe.model.embedder}' has {views} view{'' if views == 1 else 's'} of each image, and "
            f"{recipe.sla.transforms} asks for {m}",
            f"embed the images under {recipe.sla.transforms}, or choose other --transforms",
        )


def refuse_idle(recipe: AnyRecipe, settings: dict[str, tuple[Any, Any]]) -> None:
    """Refuse settings of images on features, and adapters without features.

    Args:
        recipe: of any suite.
        settings: by key: the value, and the one under which nothing is done.

    Raises:
        UsageError: names the first of them.
    """
    if not recipe.model.embedder:
        if recipe.model.adapter != "none":
            raise UsageError(
                f"model.adapter = {recipe.model.adapter} without model.embedder: adapters are for features",
                "name the feature set of a frozen embedder: --embedder NAME",
            )
        return
    for key, (value, idle) in settings.items():
        if value != idle:
            off = str(idle).lower() if isinstance(idle, bool) else idle
            raise UsageError(
                f"{key} = {str(value).lower() if isinstance(value, bool) else value} has no effect on the features of "
                f"{recipe.model.embedder}: they were computed before training",
                f"leave it out: --set {key}={off}",
            )
