"""Backbones: images `[B, 3, H, W]` to features `[B, D]`."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from slabench.core.errors import UsageError


class FoldingBlock(nn.Module):
    """A block of convolutions that are each followed by a batch norm."""

    def fold(self) -> None:
        """Fold the batch norms into the convolutions, for good; in eval mode only."""
        raise TypeError(f"{type(self).__name__} defines no fold")


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

    def folded(self) -> Backbone:
        """A copy for inference, in eval mode, with batch norms folded into the convolutions before them.

        The same function up to rounding (`torch.nn.utils.fusion`), with one pass over memory less a layer. A block that has a
        `fold` method takes part.
        """
        self.set_noise(None)  # a generator cannot be copied, and inference draws nothing
        copy = deepcopy(self).eval()
        for module in list(copy.modules()):
            if isinstance(module, FoldingBlock):
                module.fold()
        return copy.to(memory_format=torch.channels_last)

    def set_noise(self, generator: torch.Generator | None) -> None:
        """The CPU generator that dropout masks are drawn from, so that a resumed run draws the same ones."""


def check_size(name: str, image_size: int, least: int) -> None:
    """Refuse images that the poolings of `name` would reduce to nothing."""
    if image_size < least:
        raise UsageError(
            f"{name} shrinks its maps and needs images of at least {least} x {least} pixels, got {image_size} x {image_size}",
            "use a dataset with larger images, or another --backbone",
        )


def n_parameters(module: nn.Module) -> int:
    """The number of trained weights."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
