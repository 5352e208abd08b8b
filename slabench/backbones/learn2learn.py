"""learn2learn's CNN4, ResNet12 and WRN28 behind the contract of `slabench.backbones.Backbone`.

The networks are learn2learn's own modules, initialised by its own rules; what differs is said at each class.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slabench.backbones import Backbone, check_size
from slabench.episodes.learn2learn import require_learn2learn


class _Learn2learnBackbone(Backbone):
    """A network of learn2learn, `net`."""

    def __init__(self, net: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.net, self.feature_dim = net, feature_dim
        self.noise: torch.Generator | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]` of images `[B, 3, H, W]`."""
        if not self.training or self.noise is None:
            return self._features(images)
        # learn2learn draws its dropout from torch's global state, which is put back as it was.
        seed = int(torch.randint(2**62, (), generator=self.noise))
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(seed)
            return self._features(images)

    def set_noise(self, generator: torch.Generator | None) -> None:
        """The CPU generator from which the seed of every forward pass is drawn."""
        self.noise = generator

    def folded(self) -> Backbone:
        """A copy for inference, in eval mode; batch norms that follow a convolution are folded into it."""
        copy = super().folded()
        assert isinstance(copy, _Learn2learnBackbone)
        copy._fold()
        return copy.to(memory_format=torch.channels_last)

    def _features(self, images: Tensor) -> Tensor:
        return self.net(images)  # type: ignore[no-any-return]

    def _fold(self) -> None:
        """Nothing to fold."""


class CNN4(_Learn2learnBackbone):
    """learn2learn's Conv4-64: biases in the convolutions, batch-norm weights drawn from [0, 1), ReLU before the pool."""

    def __init__(self, image_size: int) -> None:
        check_size("l2l-cnn4", image_size, 16)
        super().__init__(_models().CNN4Backbone(hidden_size=64), 64 * (image_size // 16) ** 2)

    def _fold(self) -> None:
        for block in self.net.children():
            _fuse(block, "conv", "normalize")


class ResNet12(_Learn2learnBackbone):
    """learn2learn's ResNet12 at MetaOptNet's widths.

    Its average pool has a fixed window of 5 x 5, the whole map of 84 x 84 images: 640 features there. Maps of other sizes are
    flattened instead, 2560 features for 32 x 32 images. DropBlock's rate grows with the global training step; as it comes, it
    grows with every forward pass, the evaluation's too.
    """

    def __init__(self, image_size: int, dropblock_size: int = 2) -> None:
        check_size("l2l-resnet12", image_size, 32)  # DropBlock of side 2 needs maps of 2 x 2 in the last block
        edge = image_size // 16
        pooled = edge == 5
        net = _models().ResNet12Backbone(avg_pool=pooled, dropblock_size=dropblock_size)
        net.flatten = nn.Flatten()  # the same, also of channels-last maps, at which learn2learn's `view` fails
        super().__init__(net, 640 if pooled else 640 * edge**2)

    def set_step(self, step: int) -> None:
        """The global training step, which DropBlock's rate grows with."""
        for block in self._blocks():
            block.num_batches_tracked = step - 1  # its forward adds one first

    def _fold(self) -> None:
        for block in self._blocks():
            for i in (1, 2, 3):
                _fuse(block, f"conv{i}", f"bn{i}")
            block.downsample = nn.Sequential(fuse_conv_bn_eval(*block.downsample), nn.Identity())

    def _blocks(self) -> list[Any]:
        return [block for layer in (1, 2, 3, 4) for block in getattr(self.net, f"layer{layer}")]


class WRN28(_Learn2learnBackbone):
    """learn2learn's WRN-28-10, 640 features.

    Its average pool has a fixed window of 21 x 21, the whole map of 84 x 84 images. Here the whole map is averaged at any size.
    """

    def __init__(self, image_size: int) -> None:
        check_size("l2l-wrn28", image_size, 16)
        super().__init__(_models().WRN28Backbone(), 640)

    def _features(self, images: Tensor) -> Tensor:
        net: Any = self.net
        maps = net.layer3(net.layer2(net.layer1(net.conv1(images))))
        return functional.relu(net.bn1(maps)).mean((2, 3))


def _models() -> Any:
    require_learn2learn()
    return importlib.import_module("learn2learn.vision.models")


def _fuse(block: Any, conv: str, norm: str) -> None:
    setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
    setattr(block, norm, nn.Identity())
