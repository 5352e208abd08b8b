"""Augmentation beyond crop and flip: Cutout, AutoAugment, RandAugment, and random resized crops for photographs.

The policies are torchvision's own, drawn anew for each image. torchvision draws from the global generator: it is forked and
seeded from ours, and left as it was.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from slabench.errors import unknown_name

POLICIES: dict[str, str] = {
    "none": "crop and flip alone",
    "autoaugment": "AutoAugment, the policy of CIFAR-10 for small images and of ImageNet for others (Cubuk et al. 2019)",
    "randaugment": "RandAugment, two operations of magnitude 9 (Cubuk et al. 2020)",
}
_SMALL = 64
"""Images up to so many pixels get the policy that was found on CIFAR-10."""
_SCALE, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's RandomResizedCrop


def check_policy(name: str) -> None:
    """Refuse a name that is none of `POLICIES` with a UsageError."""
    if name not in POLICIES:
        raise unknown_name("augmentation policy", name, POLICIES)


def apply_policy(name: str, images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image by a policy of its own.

    Args:
        name: one of `POLICIES`.
        images: uint8 `[B, H, W, 3]`, on any device.
        generator: CPU generator.

    Returns:
        uint8 `[B, H, W, 3]`.

    Raises:
        UsageError: an unknown name.
    """
    check_policy(name)
    if name == "none":
        return images
    policy = _policy(name, images.shape[1])
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([policy(image.permute(2, 0, 1)).permute(1, 2, 0) for image in images]).contiguous()


def _policy(name: str, size: int) -> Any:
    from torchvision.transforms import v2  # a second to import, and most runs do without

    if name == "randaugment":
        return v2.RandAugment(num_ops=2, magnitude=9)
    kind = v2.AutoAugmentPolicy.CIFAR10 if size <= _SMALL else v2.AutoAugmentPolicy.IMAGENET
    return v2.AutoAugment(kind)


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set one square of each image to 0, the mean colour of normalised images (DeVries and Taylor 2017).

    As in their code: the centre is anywhere in the image, and the square is cut at the border.

    Args:
        images: float `[B, 3, H, W]`, normalised.
        side: of the square, in pixels.
        generator: CPU generator.
    """
    batch, _, height, width = images.shape
    inside = []
    for size in (height, width):
        low = torch.randint(size, (batch, 1), generator=generator) - side // 2
        place = torch.arange(size)
        inside.append((place >= low) & (place < low + side))
    hole = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(images.device)
    return images.clone().masked_fill_(hole, 0)  # in place keeps the memory layout that convolutions profit from


def resized_crop(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A random part of each image, of 8 to 100 % of its area and sides of 3:4 to 4:3, resized to `size` (torchvision's rule).

    Args:
        images: uint8 `[B, H, W, 3]`.
        size: height and width of what is returned, in pixels.
        generator: CPU generator.

    Returns:
        uint8 `[B, size, size, 3]`.
    """
    from torchvision.transforms.v2 import functional as vision

    made = []
    for image in images:
        top, left, height, width = crop_box(image.shape[0], image.shape[1], generator)
        part = vision.resized_crop(image.permute(2, 0, 1), top, left, height, width, [size, size], antialias=True)
        made.append(part.permute(1, 2, 0))
    return torch.stack(made).contiguous()  # of H, W, 3, as the views are not


def crop_box(height: int, width: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random resized crop.

    Where ten draws do not fit, the largest centred box whose sides are within 3:4 and 4:3: of a square image the whole.

    Args:
        height: of the image, in pixels.
        width: likewise.
        generator: CPU generator.
    """
    area = height * width
    for _ in range(_TRIES):
        a, b = torch.rand(2, generator=generator).tolist()
        wanted = area * (_SCALE[0] + a * (_SCALE[1] - _SCALE[0]))
        low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
        ratio = math.exp(low + b * (high - low))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(height - h + 1, (), generator=generator))
            left = int(torch.randint(width - w + 1, (), generator=generator))
            return top, left, h, w
    h, w = height, width
    if width / height < _RATIO[0]:
        h = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        w = round(height * _RATIO[1])
    return (height - h) // 2, (width - w) // 2, h, w
