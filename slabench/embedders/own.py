"""Features that came with labels alone: what a prepared store would say of the images, which nobody has here.

Beside the array lie `labels.npy` and `own-features.json`: class names, the class split and where it is from. Rows are in an
order of their own, by label and then by the digest of the features, so that a shuffled file gives the same set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slabench.core.arrays import parse_npy
from slabench.core.errors import DataError, IntegrityError, first_fault
from slabench.core.files import canonical_json, read_json, read_plain
from slabench.data.imageset import ImageSet, Origin
from slabench.data.splits import ClassSplit, parse_split
from slabench.embedders.facts import FeatureManifest

OWN_FEATURES, LABELS = "own-features.json", "labels.npy"

_AGAIN = "import the features again with --replace"


class OwnFeatures(BaseModel):
    """What `own-features.json` holds.

    Attributes:
        format: of this file.
        classes: names in the order of labels.
        class_split: names of the classes of `train`, `val` and `test`.
        classes_from: where that split is from.
        seed: of what is drawn.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    classes: Annotated[list[str], Field(min_length=2)]
    class_split: dict[str, list[str]]
    classes_from: str
    seed: int


@dataclass(frozen=True, eq=False)
class OwnRows:
    """The whole of such a set, without features: `images` has rows of the array as source positions."""

    images: ImageSet
    split: ClassSplit

    def groups(self) -> dict[str, npt.NDArray[np.int64]]:
        """Rows of each class, by `label/0`."""
        return {f"{label}/0": rows for label, rows in enumerate(self.images.class_rows()) if len(rows)}


def own_digest(classes: list[str], labels: npt.NDArray[np.int64], rows: npt.NDArray[np.void]) -> str:
    """sha256 (hex) of such a data set: class names, labels and the digests of the features, in the order of the set."""
    digest = hashlib.sha256(canonical_json({"classes": classes, "features": len(labels)}))
    digest.update(labels.astype("<i8").tobytes())
    digest.update(rows.tobytes())
    return digest.hexdigest()


def read_own(path: Path, manifest: FeatureManifest) -> OwnRows:
    """What is kept beside the features at `path` in place of a prepared store.

    Raises:
        DataError: it is damaged, or does not fit the manifest.
    """
    try:
        facts = OwnFeatures.model_validate(read_json(path / OWN_FEATURES))
    except ValidationError as error:
        raise DataError(f"{path / OWN_FEATURES}: {first_fault(error)}", _AGAIN) from error
    labels = parse_npy(read_plain(path / LABELS), str(path / LABELS), _AGAIN).astype(np.int64)
    if labels.shape != (manifest.n,) or (len(labels) and not 0 <= labels.min() <= labels.max() < len(facts.classes)):
        raise IntegrityError(
            f"{path / LABELS} does not fit {manifest.n:,} rows of {len(facts.classes)} classes", _AGAIN
        )
    value = {"store": manifest.dataset, "classes": facts.class_split, "source": facts.classes_from}
    split = parse_split(value, manifest.dataset, tuple(facts.classes), path / OWN_FEATURES)
    images = ImageSet(
        name=manifest.dataset,
        images=np.empty((len(labels), 0, 0, 3), np.uint8),
        labels=labels,
        class_names=tuple(facts.classes),
        digest=manifest.dataset_digest,
        split_digest="",
        parts=np.zeros(len(labels), np.uint8),
        source_positions=np.arange(len(labels), dtype=np.int32),
        origin=Origin("own features"),
    )
    return OwnRows(images, split)


def own_rows(whole: OwnRows, split: str) -> ImageSet:
    """The rows of one split, as `slabench.data.loading.load_rows` gives them of a prepared store."""
    return whole.images.select_classes(whole.split.classes[split], f"{whole.images.name}/{split}", whole.split.digest)
