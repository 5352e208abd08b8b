"""Conv4-64, the four-block network of Snell et al. (2017) and most few-shot papers since."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slabench.backbones import Backbone, FoldingBlock, check_size


class _Block(FoldingBlock):
    """3x3 convolution, batch norm, 2x2 max-pool, ReLU.

    The textbook has ReLU before the pool. The two commute (both are monotone), and in this order ReLU reads and writes a
    quarter of the memory. The convolution has no bias: batch norm would subtract it.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(functional.max_pool2d(self.norm(self.conv(x)), 2))

    def fold(self) -> None:
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()  # type: ignore[assignment]


class Conv4(Backbone):
    """Four blocks of `width` channels; features are the flattened last map, without global pooling."""

    def __init__(self, image_size: int, width: int = 64) -> None:
        super().__init__()
        check_size("conv4", image_size, 16)
        self.blocks = nn.Sequential(*(_Block(3 if i == 0 else width, width) for i in range(4)))
        self.feature_dim = width * (image_size // 16) ** 2

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]`, D = 256 for 32 x 32 images and 1600 for 84 x 84, of images `[B, 3, H, W]`."""
        return self.blocks(images).flatten(1)  # type: ignore[no-any-return]


def conv4(image_size: int, width: int = 64) -> Conv4:
    """Conv4-64 for square images of `image_size` pixels."""
    return Conv4(image_size, width)
