"""What a trial on the features of a frozen embedder does otherwise than one on images: very little.

Features `[n, V, D]` of all views of every image stand where pixels do (`embedded`), a transformation takes a view
(`slabench.sla.transforms.CachedViews`), nothing is augmented, and an adapter stands in the backbone's place
(`slabench.learners.adapter`). Objectives, losses, samplers, heads and scores know no difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slabench.backbones import Backbone
from slabench.core.errors import DataError, UsageError
from slabench.core.files import digest_json
from slabench.data.augment import ALL
from slabench.data.imageset import ImageSet
from slabench.embedders import EmbedderFacts
from slabench.embedders.inputs import open_inputs
from slabench.embedders.maps import Maps
from slabench.learners.adapter import build_adapter
from slabench.recipes.base import OnFeatures
from slabench.records.derived import Source, SourceFacts
from slabench.sla.transforms import IDENTITY, TransformSet, cached_views, transform_set

if TYPE_CHECKING:
    from slabench.recipes import AnyRecipe


@dataclass(frozen=True)
class Features:
    """What a trial knows of the features that stand in its images' place.

    Attributes:
        name: of the feature set.
        embedder: the network behind it.
        transforms: the transformation set that made the views.
        views: of an image.
        dim: D.
        digests: sha256 (hex) of what is read of each split that the trial reads, by its name in `open_features`.
        maps: what the last block is trained on, where that is the adapter.
    """

    name: str
    embedder: EmbedderFacts
    transforms: str
    views: int
    dim: int
    digests: Mapping[str, str]
    maps: Maps | None = None

    @property
    def digest(self) -> str:
        """sha256 (hex) of the features of all of these splits."""
        return digest_json(dict(self.digests))

    def facts(self) -> dict[str, Any]:
        """Fields of the record: which pre-trained network it rests on. Such records are ranked in tables of their own."""
        return {"embedder": {**self.embedder.plain(), "features": self.digest}}

    def adapter(self, model: OnFeatures, seed: int) -> Backbone:
        """What a recipe puts on these features, initialised from `seed` alone."""
        return build_adapter(model.adapter, model.hidden, self.dim, seed, self.maps)

    def source(self, recipe: AnyRecipe, weights: Mapping[str, Tensor]) -> Source:
        """Where the features of a trial with these weights of its adapter come from, for its outputs."""
        model = recipe.model
        facts = SourceFacts(
            features=self.name,
            dataset=recipe.data.dataset,
            digests=dict(self.digests),
            adapter=model.adapter,
            hidden=model.hidden,
        )
        return Source(facts, weights)


def transforms_of(recipe: AnyRecipe) -> TransformSet:
    """The transformations of a recipe for what it learns on: of images, or views of features."""
    chosen = transform_set(recipe.sla.transforms)
    return cached_views(chosen) if recipe.model.embedder else chosen


def identity_of(recipe: AnyRecipe) -> TransformSet:
    """No transformation, for what a recipe learns on: the plain view alone."""
    return cached_views(IDENTITY) if recipe.model.embedder else IDENTITY


def unaugmented(images: Tensor, generator: torch.Generator, rows: slice = ALL) -> Tensor:
    """Features as they are, in float32, or numbers of maps: in the place of `slabench.data.augment.BatchAugment`."""
    return images[rows].float() if images.is_floating_point() else images[rows]


def read_of(recipe: AnyRecipe) -> str:
    """What a recipe reads of which feature set; recipes that read the same share it. Empty: images."""
    model = recipe.model
    return f"{model.embedder} maps" if model.embedder and model.adapter == "last-block" else model.embedder


def embedded(
    images: Sequence[ImageSet], splits: Sequence[str], recipe: AnyRecipe, data_folder: Path | None = None
) -> tuple[list[ImageSet], Features | None]:
    """The same rows with features `[n, V, D]` in place of pixels, in memory; the images themselves where there is no embedder.

    For the adapter `last-block` numbers of maps `[n, V, 1]` stand there, which the block itself looks up.

    Args:
        images: of each split.
        splits: as `slabench.embedders.open_features` calls them.
        recipe: of any suite.
        data_folder: of prepared data.

    Raises:
        DataMissingError: there is no such feature set of this data set, or not of these splits.
        DataError: it is of other images.
        UsageError: maps are asked of a set that has none.
    """
    name, adapter = recipe.model.embedder, recipe.model.adapter
    if not name:
        return list(images), None
    found = [open_inputs(name, recipe.data.dataset, split, adapter, data_folder) for split in splits]
    for own, of in zip(found, images, strict=True):
        if not np.array_equal(own.of.labels, of.labels):
            raise DataError(
                f"the feature set '{name}' is not of the {len(of):,} images of {of.name}", "embed them again"
            )
    m = found[0].of.manifest
    digests = {split: own.digest for split, own in zip(splits, found, strict=True)}
    made = []
    for own, of in zip(found, images, strict=True):
        values: Any = own.values()  # floats or numbers, where a split of images has uint8
        made.append(replace(of, images=values))
    return made, Features(name, m.embedder, m.transforms, m.M, m.D, digests, found[0].maps)


UNKNOWN_VIEWS = "views"
"""What a feature set says of views that came without the name of their transformations."""


def check_views(recipe: AnyRecipe, features: Features) -> None:
    """Refuse features whose views are not those of the recipe's transformations.

    Raises:
        UsageError: names both.
    """
    asked, m = recipe.sla.transforms, transform_set(recipe.sla.transforms).M
    if features.views == m and features.transforms in (asked, UNKNOWN_VIEWS):
        return
    views = f"{features.views} view{'' if features.views == 1 else 's'} of each image ({features.transforms})"
    raise UsageError(
        f"the feature set '{features.name}' has {views}, and {asked} asks for {m}",
        f"embed the images under {asked}, or choose other --transforms",
    )


def refuse_idle(recipe: AnyRecipe, settings: Mapping[str, tuple[Any, Any]]) -> None:
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
                f"leave it out: --set {key}={off}; recipes that do: {recipe.suite}/adapter",
            )
