"""An episodic learner: a backbone, a head (most have no parameters), and one learned scale.

The scale multiplies the logits of whatever head is used and starts at 1, as in MetaOptNet (Lee et al., CVPR 2019).
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slabench.backbones import Backbone
from slabench.data.catalog import DatasetInfo
from slabench.heads import Head
from slabench.registry import BACKBONES, HEADS
from slabench.seeding import fork_for_init

if TYPE_CHECKING:
    from slabench.recipe import Model


class EpisodicLearner(nn.Module):
    """Features and episode logits.

    Args:
        backbone: images to features.
        head: see `slabench.heads`.
        head_module: what a head that learns is made of, for features of this backbone.
    """

    def __init__(self, backbone: Backbone, head: Head, head_module: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.head_module = head_module
        self.scale = nn.Parameter(torch.ones(()))

    def embed(self, images: Tensor) -> Tensor:
        """Features float32 `[B, D]` of normalised images `[B, 3, H, W]`, whatever precision the backbone ran in."""
        return self.backbone(images).float()  # type: ignore[no-any-return]

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Scaled logits `[B, Q, N]` from features; shapes as in `slabench.heads.HeadFunction`."""
        logits = self.head_module or self.head.logits
        assert logits is not None  # a head has one or the other
        return self.scale * logits(support, support_labels, query, n_classes)


def build_learner(model: Model, info: DatasetInfo, seed: int) -> EpisodicLearner:
    """The learner of a recipe for the images of `info`, initialised from `seed` alone."""
    backbone = build_backbone(model, info, seed)
    return with_head(backbone, HEADS.get(model.head), seed)


def build_backbone(model: Model, info: DatasetInfo, seed: int) -> Backbone:
    """The backbone of a recipe for the images of `info`, initialised from `seed` alone."""
    with fork_for_init(seed, "init"):
        return BACKBONES.get(model.backbone)(info.image_size, **backbone_settings(model, info))  # type: ignore[no-any-return]


def backbone_settings(model: Model, info: DatasetInfo) -> dict[str, int]:
    """What a backbone is told beside the size of the images: the edge of DropBlock's blocks, if it has any."""
    asks = "dropblock_size" in inspect.signature(BACKBONES.get(model.backbone)).parameters
    return {"dropblock_size": info.dropblock_size} if asks else {}


def with_head(backbone: Backbone, head: Head, seed: int) -> EpisodicLearner:
    """A learner of this backbone; a head that learns is initialised from a stream of its own."""
    if head.module is None:
        return EpisodicLearner(backbone, head)
    with fork_for_init(seed, "init", "head"):
        return EpisodicLearner(backbone, head, head.module(backbone.feature_dim))
