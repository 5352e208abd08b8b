"""The data of a classifier's recipe: which images it learns from, is validated on and is tested on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slabench.core import versions
from slabench.core.errors import UsageError
from slabench.data.catalog import DatasetInfo
from slabench.data.imageset import ImageSet
from slabench.data.loading import full_split, left_out, load_images
from slabench.data.longtail import groups
from slabench.data.longtail_files import SubsetFile, describe, load_subset
from slabench.records.record import protocol_digest
from slabench.suites.on_features import Features, check_views, embedded, read_of

if TYPE_CHECKING:
    from slabench.recipes.classifier import ClassifierRecipe

PROTOCOL_VERSION = versions.CLASSIFICATION
"""Raised whenever a change of slabench can change a number: records of another version are never ranked together."""


@dataclass(frozen=True)
class ClassifierPrepared:
    """The data of a recipe, opened and checked.

    Attributes:
        info: catalog entry.
        train: all training images.
        test: the test images.
        rows: int64 `[n]`, rows of `train` that are trained on.
        validation: int64 `[v]`, rows of `train` for selection; disjoint from `rows`, may be empty.
        protocol: readable id, such as `imbalanced/cifar100/exp-r100/standard`.
        subset: the frozen long-tail subset; None where all images are trained on.
        features: those of a frozen embedder that stand in the images' place; None for images.
    """

    info: DatasetInfo
    train: ImageSet
    test: ImageSet
    rows: NDArray[np.int64]
    validation: NDArray[np.int64]
    protocol: str
    subset: SubsetFile | None
    features: Features | None = None

    @property
    def longtail(self) -> bool:
        """Whether classes differ in size on purpose, so that many, medium and few mean something."""
        return self.subset is not None

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Training images of each class."""
        return tuple(np.bincount(self.train.labels[self.rows], minlength=self.train.n_classes).tolist())

    @property
    def n_train(self) -> int:
        """Images to train on."""
        return len(self.rows)

    @cached_property
    def split_digest(self) -> str:
        """sha256 of the sorted rows that are trained on."""
        return _digest(self.rows)

    @cached_property
    def validation_digest(self) -> str:
        """sha256 of the validation rows."""
        return _digest(self.validation)

    @property
    def protocol_digest(self) -> str:
        """Digest of all that must agree before two numbers are compared."""
        return protocol_digest(
            self.protocol,
            PROTOCOL_VERSION,
            dataset_digest=self.test.digest,
            split_digest=self.split_digest,
            episodes_digest=None,
        )

    def facts(self) -> dict[str, Any]:
        """Fields of the record that say on what was trained and tested."""
        counts = self.counts
        return {
            "protocol": self.protocol,
            "protocol_version": PROTOCOL_VERSION,
            "protocol_digest": self.protocol_digest,
            "dataset_digest": self.test.digest,
            "data_source": self.test.origin.facts() if self.test.origin else None,
            "split_digest": self.split_digest,
            "train_classes": self.train.n_classes,
            "test_classes": self.test.n_classes,
            "images_per_class": counts[0]
            if len(set(counts)) == 1
            else dict(zip(self.train.class_names, counts, strict=True)),
            "training_set": self._training_set(),
            **(self.features.facts() if self.features else {}),
        }

    def _training_set(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"images": len(self.rows), "validation_images": len(self.validation)}
        if self.subset is not None:
            m = self.subset.manifest
            facts |= {
                "subset": self.subset.name,
                "subset_sha256": self.subset.digest,
                "profile": m.profile,
                "ratio": m.ratio,
                "realised_ratio": m.realised_ratio,
                "class_order": m.class_order,
                "seed": m.seed,
                "source_order": m.source_order,
                "groups": {name: len(own) for name, own in groups(self.counts).items()},
            }
        return facts

    def doubts(self) -> list[str]:
        """What is doubtful about the images."""
        return list(self.test.origin.doubts) if self.test.origin else []

    def notes(self) -> list[str]:
        """The histogram of a long tail, and how many images selection has."""
        lines = describe(self.subset, self.train.class_names) if self.subset is not None else []
        return [
            *lines,
            f"{len(self.rows):,} training images, {len(self.validation):,} for validation, {len(self.test):,} for the test",
        ]


def task_id(recipe: ClassifierRecipe) -> str:
    """Recipes with the same one share their prepared data."""
    return f"{recipe.data} {protocol_name(recipe)} {read_of(recipe)}"


def prepare(recipe: ClassifierRecipe, data_folder: Path | None = None) -> ClassifierPrepared:
    """Open the data of a recipe that `check` has accepted; a long-tail subset that is not frozen yet is drawn and kept.

    Raises:
        UsageError: the data cannot serve the recipe; names the class and the counts.
        DataMissingError: the data is not here.
    """
    entry, train, test = load_images(recipe.data.dataset, data_folder)
    (train, test), features = embedded((train, test), ("image-train", "image-test"), recipe, data_folder)
    d = recipe.data
    if d.profile == "full":
        split = full_split(train, d.val_fraction, d.per_class, d.seed)
        return ClassifierPrepared(
            entry, train, test, np.sort(split.rows), split.validation, protocol_name(recipe), None, features
        )
    if d.counts is not None and len(d.counts) != train.n_classes:
        raise UsageError(
            f"{len(d.counts)} counts were given, and {entry.name} has {train.n_classes} classes",
            "give one for each class",
        )
    subset = load_subset(
        train,
        entry.name,
        profile=d.profile,
        ratio=d.ratio,
        class_order=d.class_order,
        seed=d.seed,
        counts=d.counts,
        folder=data_folder,
    )
    rows = np.sort(subset.subset.rows)  # the order in which they were drawn means nothing to training
    validation = left_out(train, rows, d.val_images)
    return ClassifierPrepared(entry, train, test, rows, validation, protocol_name(recipe), subset, features)


def check_data(recipe: ClassifierRecipe, prepared: ClassifierPrepared) -> None:
    """Refuse what this data cannot serve.

    Raises:
        UsageError: the recipe selects by validation, and no image is left for it.
    """
    if prepared.features is not None:
        check_views(recipe, prepared.features)
    if recipe.select.rule == "best_val" and not len(prepared.validation):
        full = recipe.data.profile == "full"
        raise UsageError(
            "--select best-val without validation images: "
            + ("data.val_fraction leaves none out" if full else "the subset keeps every training image"),
            "raise data.val_fraction, or use --select last" if full else "use --select last, or a larger --ratio",
        )


def protocol_name(recipe: ClassifierRecipe) -> str:
    """Dataset, training images, and the training protocol with its augmentation.

    Published tables differ by points through augmentation alone (AutoAugment): rows are compared within one.
    """
    d, a = recipe.data, recipe.augment
    what = "full"
    if d.profile == "counts":
        what = "counts"
    elif d.profile != "full":
        what = f"{d.profile}-r{d.ratio:g}"
        what += "" if d.class_order == "label" else f"-{d.class_order.replace(':', '')}"
    elif d.per_class is not None:
        what = f"{d.per_class}-a-class"
    what += f"-s{d.seed}" if d.seed else ""
    extras = [  # features are not augmented, and their tables name the embedder
        text
        for text, on in (
            ("nocrop", not a.crop and not recipe.model.embedder),
            ("noflip", not a.flip and not recipe.model.embedder),
            (a.policy, a.policy != "none"),
            (f"cutout{a.cutout}", a.cutout),
            (f"jitter{a.jitter:g}", a.jitter),
        )
        if on
    ]
    return f"{recipe.suite}/{d.dataset}/{what}/{'+'.join([recipe.protocol.training, *extras])}"


def _digest(rows: NDArray[np.int64]) -> str:
    return hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest()
