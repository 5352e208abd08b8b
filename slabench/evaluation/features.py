"""Features of images, each embedded once under every transformation, from which everything is scored."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from slabench.backbones import Backbone
from slabench.data.augment import centre_crop, normalise
from slabench.data.catalog import DatasetInfo
from slabench.data.classification import input_size
from slabench.sla.transforms import TransformSet


class HasBackbone(Protocol):
    """A learner of any kind."""

    @property
    def backbone(self) -> Backbone:
        """Images to features."""
        ...


@torch.inference_mode()
def embed(
    learner: HasBackbone,
    images: Tensor,
    transforms: TransformSet,
    info: DatasetInfo,
    batch: int = 64,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Features of every image under every transformation.

    Args:
        learner: its backbone is used in eval mode, as a copy; the learner itself is left as it is.
        images: uint8 `[n, H, W, 3]`, on any device.
        transforms: M transformations.
        info: for the normalisation.
        batch: rows embedded at once, copies counted. Small batches stay in a CPU's cache.
        autocast: run the backbone in this precision; None is float32.

    Returns:
        float32 `[n, M, D]` on the learner's device.
    """
    device = next(learner.backbone.parameters()).device
    if device.type == "cuda":
        batch *= 64
    batch = max(1, batch // transforms.M)  # images
    backbone = learner.backbone.folded()
    features = torch.empty((len(images), transforms.M, learner.backbone.feature_dim), device=device)
    for start in range(0, len(images), batch):
        part = images[start : start + batch].to(device, non_blocking=True)
        if input_size(info) != info.image_size:
            part = centre_crop(part, input_size(info))
        copies = transforms.apply(normalise(part, info.mean, info.std))
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            out = backbone(copies)
        features[start : start + len(part)] = out.float().unflatten(0, (len(part), transforms.M))
    return features
