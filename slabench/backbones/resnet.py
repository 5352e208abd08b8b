"""Residual networks without their last layer; never pre-trained.

For 32 x 32 images: ResNet-20, -32, -56, ResNet-18 with a small stem, and WRN-28-10. For 64 pixels and more: torchvision's
ResNet-18 and ResNet-50.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from slabench.backbones import Backbone, FoldingBlock, Share, blocked, check_size, draw
from slabench.core.uploads import upload


class _Stem(FoldingBlock):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv: nn.Conv2d = blocked.Conv2d(3, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(x)), inplace=True)

    def fold(self) -> None:
        self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()  # type: ignore[assignment]


class _Basic(FoldingBlock):
    """Two 3x3 convolutions with a shortcut: A (padded with zeros) or B (a 1x1 convolution) where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = blocked.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2: nn.Conv2d = blocked.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.missing = stride, outputs - inputs
        self.project: nn.Sequential | None = None
        if shortcut == "B" and (stride != 1 or inputs != outputs):
            projection = blocked.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.project = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        # In place: no batch norm needs its output again, and a pass over the maps costs as much as a small convolution.
        out = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(out)).add_(self._shortcut(x)), inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.project is not None:
            return self.project(x)  # type: ignore[no-any-return]
        if self.stride == 1 and not self.missing:
            return x
        dense = blocked.leave(x)  # blocked tensors are neither sliced nor padded
        dense = dense[:, :, :: self.stride, :: self.stride]
        dense = functional.pad(dense, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return dense.to_mkldnn() if x.is_mkldnn else dense

    def fold(self) -> None:
        self.conv1, self.norm1 = fuse_conv_bn_eval(self.conv1, self.norm1), nn.Identity()  # type: ignore[assignment]
        self.conv2, self.norm2 = fuse_conv_bn_eval(self.conv2, self.norm2), nn.Identity()  # type: ignore[assignment]
        if self.project is not None:
            self.project = nn.Sequential(fuse_conv_bn_eval(*self.project), nn.Identity())


class CifarResNet(Backbone):
    """Stages of basic blocks; every stage but the first halves the map and doubles the channels."""

    def __init__(self, image_size: int, blocks: tuple[int, ...], width: int, shortcut: str) -> None:
        super().__init__()
        check_size("a CIFAR ResNet", image_size, 2 ** (len(blocks) - 1) * 2)
        layers: list[nn.Module] = [_Stem(width)]
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                layers.append(_Basic(inputs, outputs, 2 if stage and not block else 1, shortcut))
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.feature_dim = inputs
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]`, the global average of the last map, of images `[B, 3, H, W]`."""
        return blocked.leave(self.layers(blocked.enter(self, images))).mean((2, 3))


class _Wide(nn.Module):
    """Pre-activation block of wide residual networks: norm, ReLU, 3x3, norm, ReLU, dropout, 3x3.

    Its batch norms come before the convolutions: only the one between them can be folded.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, drop_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs or stride != 1 else None
        self.drop_rate = drop_rate
        self.noise: torch.Generator | None = None
        self.share: Share | None = None

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.norm1(x))
        out = functional.relu(self.norm2(self.conv1(active)))
        if self.training and self.drop_rate:
            keep = 1 - self.drop_rate
            kept = upload(draw(out.shape, self.noise, self.share) < keep, out.device)
            out = out * (kept.float() / keep).to(out.dtype)
        return self.conv2(out) + (x if self.project is None else self.project(active))  # type: ignore[no-any-return]


class WideResNet(Backbone):
    """Wide residual network (Zagoruyko and Komodakis, BMVC 2016) of depth 6n + 4: three stages of n blocks."""

    def __init__(self, image_size: int, depth: int, widen: int, drop_rate: float) -> None:
        super().__init__()
        check_size("a wide ResNet", image_size, 8)
        count, widths = (depth - 4) // 6, (16, 16 * widen, 32 * widen, 64 * widen)
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            *(
                _Wide(widths[s] if not b else widths[s + 1], widths[s + 1], 2 if s and not b else 1, drop_rate)
                for s in range(3)
                for b in range(count)
            )
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.feature_dim = widths[-1]
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]`, D = 640 for WRN-28-10, of images `[B, 3, H, W]`."""
        return functional.relu(self.norm(self.blocks(self.stem(images)))).mean((2, 3))

    def set_noise(self, generator: torch.Generator | None) -> None:
        """The CPU generator of the dropout masks."""
        for block in self.blocks:
            block.noise = generator  # type: ignore[assignment]

    def set_share(self, share: Share | None) -> None:
        """Which rows of a divided batch come next."""
        for block in self.blocks:
            block.share = share  # type: ignore[assignment]


def _initialise(module: nn.Module) -> None:
    """He's normal initialisation by fan-in, as in LDAM-DRW; batch norms keep torch's ones and zeros."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)


def resnet20(image_size: int) -> CifarResNet:
    """ResNet-20: 3 x 3 basic blocks of 16-32-64 channels; features of 64."""
    return CifarResNet(image_size, (3, 3, 3), 16, "A")


def resnet32(image_size: int) -> CifarResNet:
    """ResNet-32, the network of the published CIFAR-LT tables; features of 64."""
    return CifarResNet(image_size, (5, 5, 5), 16, "A")


def resnet56(image_size: int) -> CifarResNet:
    """ResNet-56; features of 64."""
    return CifarResNet(image_size, (9, 9, 9), 16, "A")


def resnet18_cifar(image_size: int) -> CifarResNet:
    """ResNet-18 with a 3x3 stem and no first pooling: 64-128-256-512 channels, projections as shortcuts; features of 512."""
    return CifarResNet(image_size, (2, 2, 2, 2), 64, "B")


def wrn_28_10(image_size: int, drop_rate: float = 0.3) -> WideResNet:
    """WRN-28-10 with dropout 0.3, as its authors use it on CIFAR without much augmentation; features of 640."""
    return WideResNet(image_size, 28, 10, drop_rate)


class ImagenetResNet(Backbone):
    """A torchvision ResNet up to its global average."""

    def __init__(self, image_size: int, name: str) -> None:
        super().__init__()
        from torchvision.models import get_model

        check_size(name, image_size, 64)
        self.net = get_model(name, weights=None)
        self.feature_dim = int(self.net.fc.in_features)
        self.net.fc = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, D]`, D = 512 for ResNet-18 and 2048 for ResNet-50, of images `[B, 3, H, W]`."""
        return self.net(images)  # type: ignore[no-any-return]


def resnet18(image_size: int) -> ImagenetResNet:
    """ResNet-18 with the 7x7 stem; features of 512."""
    return ImagenetResNet(image_size, "resnet18")


def resnet50(image_size: int) -> ImagenetResNet:
    """ResNet-50; features of 2048."""
    return ImagenetResNet(image_size, "resnet50")
