"""Backbones: images `[B, 3, H, W]` to features `[B, D]`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slabench.errors import UsageError


class Backbone(nn.Module):
    """What a learner may ask of every backbone.

    Attributes:
        feature_dim: D, the length of a feature vector.
    """

    feature_dim: int

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]` of images `[B, 3, H, W]`."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def set_step(self, step: int) -> None:
        """Tell the backbone the global training step; those with a schedule of their own (DropBlock) use it."""

    def set_noise(self, generator: torch.Generator | None) -> None:
        """The CPU generator that dropout masks are drawn from, so that a resumed run draws the same ones."""


def check_size(name: str, image_size: int, least: int) -> None:
    """Refuse images that the poolings of `name` would reduce to nothing."""
    if image_size < least:
        raise UsageError(
            f"{name} pools four times and needs images of at least {least} x {least} pixels, got {image_size} x {image_size}",
            "use a dataset with larger images, or another --backbone",
        )


def n_parameters(module: nn.Module) -> int:
    """The number of trained weights."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
