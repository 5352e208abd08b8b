"""Backbones: images `[B, 3, H, W]` to features `[B, D]`."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

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
        frozen_statistics: whether its batch norms keep their statistics in training: processes need not agree on any.
    """

    feature_dim: int
    frozen_statistics: bool = False

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

    def set_share(self, share: Share | None) -> None:
        """Which rows of a batch the next ones are, where several processes divide it; None: they are all of it.

        A backbone that draws masks draws those of the whole batch (`draw`) and takes its rows. One that has `set_noise` and not
        this trains in one process alone.
        """


@dataclass(frozen=True)
class Share:
    """Rows of a batch that several processes divide.

    Attributes:
        first: the first of them.
        batch: rows of the whole batch.
    """

    first: int
    batch: int

    def of(self, drawn: Tensor, rows: int) -> Tensor:
        """The own `rows` of what was drawn for the whole batch."""
        return drawn[self.first : self.first + rows]


def draw(shape: Sequence[int], noise: torch.Generator | None, share: Share | None) -> Tensor:
    """Uniform numbers for rows `[B, ...]` of a batch: the very ones that a process with all of the batch draws for them."""
    if share is None:
        return torch.rand(tuple(shape), generator=noise)
    return share.of(torch.rand((share.batch, *shape[1:]), generator=noise), shape[0])


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
