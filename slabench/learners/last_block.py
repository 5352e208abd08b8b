"""The last block of a frozen network as an adapter: from cached maps to features, at first as the network was pre-trained.

A weight is w_0 + v with the pre-trained w_0, which stays, and a change v that is zero at first and is what is trained. So weight
decay draws the block to what it was (L2-SP: Li, Grandvalet and Davoine, ICML 2018). Batch norms keep their pre-trained
statistics, and dropout is off, in training too; weights and biases of the norms are trained like all others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slabench.backbones import Backbone
from slabench.embedders.maps import Maps


class _Change(nn.Module):
    """w_0 + v, for the v that stands in the place of a weight."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        # In no checkpoint: the feature set has it, under a digest that is in the trial's key.
        self.register_buffer("start", start.detach().clone(), persistent=False)
        self.start: Tensor

    def forward(self, change: Tensor) -> Tensor:
        return self.start + change

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight - self.start


class LastBlock(Backbone):
    """Features of maps, which are called by number.

    Args:
        maps: of a feature set.
        dim: D of its features.
    """

    frozen_statistics = True

    def __init__(self, maps: Maps, dim: int) -> None:
        super().__init__()
        self.feature_dim = dim
        self._maps = maps
        self.tail = maps.tail()
        for module in list(self.tail.modules()):
            for name, weight in list(module.named_parameters(recurse=False)):
                parametrize.register_parametrization(module, name, _Change(weight))

    def train(self, mode: bool = True) -> LastBlock:
        """In training, too, the block is in eval mode."""
        super().train(mode)
        self.tail.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]` of the maps with the numbers `[B, 1]`."""
        maps = self._maps.take(images)
        if maps.dim() == 4:
            maps = maps.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.tail(maps)
        return features
