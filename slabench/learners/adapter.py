"""What stands in a backbone's place on the features of a frozen embedder: nothing, or an adapter that starts as nothing.

An adapter is x + f(x). The last layer of f is zero at first, so that an untrained adapter leaves every feature as it is, and
weight decay draws f back to zero: towards no training at all. CLIP-Adapter (Gao et al., IJCV 2024) is residual likewise, with a
ratio in place of the zeros. The last block of the network (`slabench.learners.last_block`) is an adapter too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slabench.backbones import Backbone
from slabench.core.seeding import fork_for_init
from slabench.embedders.maps import Maps
from slabench.learners.last_block import LastBlock
from slabench.recipes.base import AdapterName


class RawFeatures(Backbone):
    """The features of the embedder as they are; there is nothing to train.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.feature_dim = dim

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]` as they were given."""
        return images


class Adapter(Backbone):
    """x + f(x) for features x `[B, D]`; all views of an image pass through the same f.

    Args:
        dim: D.
        hidden: units of f's hidden layer (rectified); None: f is linear.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.feature_dim = dim
        self.hidden = None if hidden is None else nn.Linear(dim, hidden)
        self.out = nn.Linear(dim if hidden is None else hidden, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Adapted features `[B, D]` of features `[B, D]`."""
        change: Tensor = self.out(images if self.hidden is None else self.hidden(images).relu())
        return images + change


def build_adapter(kind: AdapterName, hidden: int, dim: int, seed: int, maps: Maps | None = None) -> Backbone:
    """What a recipe's `model.adapter` puts on features of length `dim`, initialised from `seed` alone.

    Args:
        kind: of the adapter.
        hidden: units of the hidden layer of `mlp`.
        dim: D.
        seed: the trial's.
        maps: what `last-block` reads.
    """
    if kind == "none":
        return RawFeatures(dim)
    with fork_for_init(seed, "init"):
        if kind == "last-block":
            assert maps is not None  # `open_inputs`
            return LastBlock(maps, dim)
        return Adapter(dim, hidden if kind == "mlp" else None)


_AT_ONCE, _MAPS_AT_ONCE = 4096, 64  # rows of features are some tens of MB; of maps, few stay in a CPU's cache


@torch.no_grad()
def adapted(backbone: Backbone, stored: Tensor) -> Tensor:
    """Features float32 `[n, M, D]` on the CPU of what is stored, as an adapter in eval mode makes them.

    Args:
        backbone: of `build_adapter`.
        stored: features `[n, M, D]`, or numbers of maps `[n, M, 1]`.
    """
    floats = stored.is_floating_point()
    module, images = backbone.eval(), max(1, (_AT_ONCE if floats else _MAPS_AT_ONCE) // stored.shape[1])
    parts = (part.float() if floats else part for part in stored.split(images))
    return torch.cat([module(part.flatten(0, 1)).unflatten(0, part.shape[:2]) for part in parts])
