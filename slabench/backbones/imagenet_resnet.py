"""torchvision's ResNet-18 and ResNet-50 without their last layer, for images of 64 pixels and more; never pre-trained."""

from __future__ import annotations

from torch import Tensor, nn

from slabench.backbones import Backbone, check_size


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
