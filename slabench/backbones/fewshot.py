"""The two backbones of few-shot papers: Conv4-64 and ResNet-12.

Conv4-64 is the four-block network of Snell et al. (2017) and most few-shot papers since; ResNet-12 is MetaOptNet's (Lee, Maji,
Ravichandran and Soatto, CVPR 2019), with DropBlock (Ghiasi et al., NeurIPS 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slabench.backbones import Backbone, FoldingBlock, Share, check_size, draw
from slabench.core.uploads import upload


class _ConvBlock(FoldingBlock):
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
        self.blocks = nn.Sequential(*(_ConvBlock(3 if i == 0 else width, width) for i in range(4)))
        self.feature_dim = width * (image_size // 16) ** 2

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]`, D = 256 for 32 x 32 images and 1600 for 84 x 84, of images `[B, 3, H, W]`."""
        return self.blocks(images).flatten(1)  # type: ignore[no-any-return]


def conv4(image_size: int, width: int = 64) -> Conv4:
    """Conv4-64 for square images of `image_size` pixels."""
    return Conv4(image_size, width)


_RAMP_STEPS = 40_000
"""Training steps over which DropBlock's rate grows from 0 to `drop_rate`.

MetaOptNet counts forwards of the block instead: two a step, the evaluation's too, and none at all that last under DataParallel
(its issue 41). Here it is the global training step, whatever the number of devices and evaluations.
"""


class _ResidualBlock(FoldingBlock):
    def __init__(self, inputs: int, outputs: int, drop_rate: float, dropblock_size: int | None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs if i == 0 else outputs, outputs, 3, padding=1, bias=False) for i in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.drop_rate, self.dropblock_size = drop_rate, dropblock_size
        self.step = 0
        self.noise: torch.Generator | None = None
        self.share: Share | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            out = norm(conv(out))
            if i < 2:
                out = functional.leaky_relu(out, 0.1, inplace=True)
        out = functional.leaky_relu(out + self.shortcut(x), 0.1, inplace=True)
        out = functional.max_pool2d(out, 2)
        if not self.training or self.drop_rate == 0:
            return out
        return out * self._mask(out)

    def fold(self) -> None:
        for i in range(3):
            self.convs[i] = fuse_conv_bn_eval(self.convs[i], self.norms[i])  # type: ignore[type-var, arg-type]
            self.norms[i] = nn.Identity()
        self.shortcut = nn.Sequential(fuse_conv_bn_eval(*self.shortcut), nn.Identity())

    def _mask(self, x: Tensor) -> Tensor:
        """What to multiply `x` by: zeros where features are dropped, and the rescaling elsewhere.

        Drawn on the CPU, so that every device drops the same features.
        """
        if self.dropblock_size is None:
            keep = 1 - self.drop_rate
            mask = upload(draw(x.shape, self.noise, self.share) < keep, x.device).float() / keep
        else:
            keep = max(1 - self.drop_rate * self.step / _RAMP_STEPS, 1 - self.drop_rate)
            # Of the whole batch, over which it is rescaled.
            shape = x.shape if self.share is None else (self.share.batch, *x.shape[1:])
            mask = dropblock_mask(shape, keep, self.dropblock_size, self.noise, x.device)
            mask = mask if self.share is None else self.share.of(mask, len(x))
        return mask.to(x.dtype)


def dropblock_mask(
    shape: Sequence[int],
    keep: float,
    block: int,
    noise: torch.Generator | None,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - never changed
) -> Tensor:
    """DropBlock's mask for features `[B, C, H, H]`, one a channel, rescaled by total/kept over the whole batch.

    gamma = (1 - keep) / b^2 * H^2 / (H - b + 1)^2 is the chance that a position is the corner of a dropped b x b block
    (Ghiasi et al., eq. 1); b is cut to H where the map is smaller. Corners are drawn on the CPU, the mask is made on `device`.
    """
    batch, channels, height, _ = shape
    block = min(block, height)
    corners = height - block + 1
    gamma = (1 - keep) / block**2 * height**2 / corners**2
    dropped = upload(torch.rand((batch, channels, corners, corners), generator=noise) < gamma, device).float()
    # A corner at (r, c) drops rows r .. r+b-1: pad by b-1 on every side and take the largest over windows of b.
    mask = 1 - functional.max_pool2d(functional.pad(dropped, [block - 1] * 4), block, stride=1)
    return mask * (mask.numel() / mask.sum().clamp_min(1))


class ResNet12(Backbone):
    """Features `[B, 2560]` for 32 x 32 images and `[B, 16000]` for 84 x 84 at the widths of the paper."""

    def __init__(self, image_size: int, widths: Sequence[int], dropblock_size: int, drop_rate: float) -> None:
        super().__init__()
        check_size("resnet12", image_size, 16)
        inputs = [3, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(
                _ResidualBlock(i, o, drop_rate, dropblock_size if block >= 2 else None)
                for block, (i, o) in enumerate(zip(inputs, widths, strict=True))
            )
        )
        self.feature_dim = widths[-1] * (image_size // 16) ** 2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]` of images `[B, 3, H, W]`."""
        return self.blocks(images).flatten(1)  # type: ignore[no-any-return]

    def set_step(self, step: int) -> None:
        """The global training step, which DropBlock's rate grows with."""
        for block in self.blocks:
            block.step = step  # type: ignore[assignment]

    def set_noise(self, generator: torch.Generator | None) -> None:
        """The CPU generator of the dropout masks."""
        for block in self.blocks:
            block.noise = generator  # type: ignore[assignment]

    def set_share(self, share: Share | None) -> None:
        """Which rows of a divided batch come next."""
        for block in self.blocks:
            block.share = share  # type: ignore[assignment]


def resnet12(image_size: int, dropblock_size: int = 2, drop_rate: float = 0.1) -> ResNet12:
    """ResNet-12 with widths 64-160-320-640: 12,424,320 weights. DropBlock size 2 for CIFAR, 5 for the ImageNet sets."""
    return ResNet12(image_size, (64, 160, 320, 640), dropblock_size, drop_rate)


def resnet12_slim(image_size: int, dropblock_size: int = 2, drop_rate: float = 0.1) -> ResNet12:
    """The same network at widths 32-64-128-256, which a laptop can train."""
    return ResNet12(image_size, (32, 64, 128, 256), dropblock_size, drop_rate)
