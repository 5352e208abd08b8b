"""An episodic learner: a backbone, a head without parameters, and one learned scale.

The scale multiplies the logits of whatever head is used and starts at 1, as in MetaOptNet (Lee et al., CVPR 2019).
"""

from __future__ import annotations

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
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.scale = nn.Parameter(torch.ones(()))

    def embed(self, images: Tensor) -> Tensor:
        """Features float32 `[B, D]` of normalised images `[B, 3, H, W]`, whatever precision the backbone ran in."""
        return self.backbone(images).float()  # type: ignore[no-any-return]

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Scaled logits `[B, Q, N]` from features; shapes as in `slabench.heads.HeadFunction`."""
        return self.scale * self.head.logits(support, support_labels, query, n_classes)


def build_learner(model: Model, info: DatasetInfo, seed: int) -> EpisodicLearner:
    """The learner of a recipe for the images of `info`, initialised from `seed` alone."""
    settings = {"dropblock_size": info.dropblock_size} if model.backbone.startswith("resnet12") else {}
    with fork_for_init(seed, "init"):
        backbone = BACKBONES.get(model.backbone)(info.image_size, **settings)
    return EpisodicLearner(backbone, HEADS.get(model.head))
