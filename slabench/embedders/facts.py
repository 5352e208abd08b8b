"""What is known of the network behind a feature set, and the manifest that vouches for its bytes."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

FORMAT = 1

UNKNOWN = "unknown"

_Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]+([-._][a-z0-9]+)*$", max_length=80)]
"""Of a feature set: a folder is called so, and `--features` is followed by it."""


class EmbedderFacts(BaseModel):
    """The network behind features, as records and tables tell it.

    Attributes:
        embedder: such as `timm:tf_efficientnet_lite0`.
        pretraining: the data that it was trained on; "unknown" where nobody has said.
        resolution: height and width of its input in pixels.
        weights_sha256: of the file of its weights.
        licence: of its weights.
        precision: that it was run in.
        contaminated: whether it has seen the test classes in its training.
        contaminated_why: how anybody knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedder: _Line
    pretraining: _Line = UNKNOWN
    resolution: PositiveInt | None = None
    weights_sha256: Sha256 | None = None
    licence: _Line = UNKNOWN
    precision: _Line = UNKNOWN
    contaminated: Literal["yes", "no", "unknown"] = "unknown"
    contaminated_why: Annotated[str, Field(max_length=400, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""

    def plain(self) -> dict[str, Any]:
        """As a record keeps them."""
        return self.model_dump(mode="json")


_Groups = dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}/[01]$")], Sha256]


class MapsFacts(BaseModel):
    """The maps before a network's last block, where a feature set has them.

    Attributes:
        block: the modules that make features of them, such as `blocks.6, conv_head, bn2`.
        shape: of one map, such as [192, 4, 4].
        block_sha256: of the file of the block's pre-trained weights.
        groups: sha256 over the maps of each class and part, as of the features.
    """

    model_config = ConfigDict(extra="forbid")

    block: _Line
    shape: Annotated[list[PositiveInt], Field(min_length=1, max_length=4)]
    block_sha256: Sha256
    groups: _Groups = Field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What tells them from maps of another block, without those that are there yet."""
        return self.model_dump(mode="json", exclude={"groups"})


class FeatureManifest(BaseModel):
    """What `manifest.json` of a feature set holds.

    Attributes:
        format: of the folder.
        name: of the feature set.
        dataset: the prepared store that it has features of, or its own name where it came with labels alone.
        dataset_digest: of that store.
        n: images of the store; `features.npy` has as many rows, also those that nobody has embedded yet.
        M: views of an image.
        transforms: the transformation set that made the views; "identity" where there is one, "views" where nobody knows.
        D: dimensions.
        dtype: of the array.
        embedder: where the features come from.
        groups: sha256 over the rows of each class and part, by `label/part`; what is not named is not there.
        slabench: version.
        maps: those before the last block; None where they were not asked for.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    name: Name
    dataset: _Line
    dataset_digest: Sha256
    n: NonNegativeInt
    M: PositiveInt
    transforms: _Line
    D: PositiveInt
    dtype: Literal["float16", "float32"]
    embedder: EmbedderFacts
    groups: _Groups = Field(default_factory=dict)
    slabench: str
    maps: MapsFacts | None = None

    def bytes_of(self, images: int) -> int:
        """Of the features, and the maps, of so many images."""
        width = 2 if self.dtype == "float16" else 4
        return width * images * self.M * (self.D + (math.prod(self.maps.shape) if self.maps else 0))

    def plain(self) -> dict[str, Any]:
        """As the file has it; without maps it is one that earlier versions read."""
        return self.model_dump(mode="json", exclude=None if self.maps else {"maps"})


def default_name(model: str, size: int) -> str:
    """What a feature set is called where nobody says: of `timm:tf_efficientnet_lite0` at 128 px `tf-efficientnet-lite0-128`."""
    words = re.sub(r"[^a-z0-9]+", "-", model.partition(":")[2].lower()).strip("-")
    return f"{words}-{size}"


_OVERLAPS = {
    "cifar100": "ImageNet shares classes with CIFAR-100",
    "cifar10": "ImageNet shares classes with CIFAR-10",
    "mini-imagenet": "its classes are ImageNet's",
    "tiny-imagenet": "its classes are ImageNet's",
    "stanford-dogs": "its classes and images are ImageNet's",
    "cub200": "ImageNet has 59 kinds of birds, and images of CUB among them",
}
_DRAWN = ("glyphs",)


def overlap(pretraining: str | None, store: str) -> tuple[str, str]:
    """Whether a network pre-trained on `pretraining` has seen classes of a prepared store, as far as slabench knows, and why."""
    if store in _DRAWN:
        return "no", "the images were drawn on this machine"
    if pretraining and "imagenet" in pretraining.lower() and store in _OVERLAPS:
        return "yes", _OVERLAPS[store]
    return "unknown", ""
