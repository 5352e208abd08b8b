"""Training augmentation on tensors: a whole batch at once, and the one scaling point.

Crop, flip and colour jitter; Cutout, AutoAugment, RandAugment; random resized crops for photographs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import unknown_name
from slabench.core.uploads import upload

ALL = slice(None)

_GREY = (0.2989, 0.587, 0.114)  # luma weights of torchvision's rgb_to_grayscale


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel.

    Args:
        images: uint8 or float in 0 .. 255, `[B, H, W, 3]`.
        mean: per channel, in 0 .. 255.
        std: likewise.

    Returns:
        float32 `[B, 3, H, W]` in channels-last memory.
    """
    scale = 1 / torch.tensor(std)
    shift, scale = upload(torch.stack([-torch.tensor(mean) * scale, scale]), images.device)
    values = images.to(torch.float32) if images.dtype != torch.float32 else images
    return torch.addcmul(shift, values, scale).permute(0, 3, 1, 2)


class Augment(Protocol):
    """What makes inputs of stored images; see `BatchAugment`."""

    def __call__(self, images: Tensor, generator: torch.Generator, rows: slice = ALL) -> Tensor:
        """Inputs of the wanted rows of a batch."""
        ...


class BatchAugment:
    """Random crop from a black border, horizontal flip, MetaOptNet's colour jitter, a policy, `normalise`, Cutout.

    Args:
        crop_padding: pixels of black border to crop from; 0 leaves the frame alone.
        flip: mirror half of the images.
        jitter: brightness, contrast and saturation factors are drawn from [1 - jitter, 1 + jitter] for each image, the
            order of the three for each batch; 0 leaves the colours alone.
        mean: per channel, in 0 .. 255.
        std: likewise.
        cutout: side in pixels of the square that is set to the mean colour; 0 leaves images whole.
        policy: one of `slabench.data.augment.POLICIES`.
        resized_crop: instead of the crop from a border, a random part resized to so many pixels, for photographs.

    Raises:
        UsageError: an unknown policy.
    """

    def __init__(
        self,
        *,
        crop_padding: int,
        flip: bool,
        jitter: float,
        mean: Sequence[float],
        std: Sequence[float],
        cutout: int = 0,
        policy: str = "none",
        resized_crop: int | None = None,
    ) -> None:
        check_policy(policy)
        self.crop_padding, self.flip, self.jitter = 0 if resized_crop else crop_padding, flip, jitter
        self.cutout, self.policy, self.resized_crop = cutout, policy, resized_crop
        self.mean, self.std = tuple(mean), tuple(std)

    def __call__(self, images: Tensor, generator: torch.Generator, rows: slice = ALL) -> Tensor:
        """Augmented, normalised images.

        Args:
            images: uint8 `[B, H, W, 3]`, a whole batch.
            generator: CPU generator.
            rows: those of the batch that are wanted; each is what it is in the whole batch.

        Returns:
            float32 `[n, 3, H, W]` of the n wanted rows, in channels-last memory.
        """
        batch = len(images)
        # A policy draws and acts image by image: all are made, and the wanted ones taken.
        rows, wanted = (rows, ALL) if self.policy == "none" else (ALL, rows)
        if self.resized_crop:
            images = resized_crop(images, self.resized_crop, generator, rows)
        else:
            images = images[rows]
        if self.crop_padding or self.flip:
            span = 2 * self.crop_padding + 1
            shifts = torch.randint(span, (2, batch), generator=generator)
            mirrored = (
                torch.rand(batch, generator=generator) < 0.5 if self.flip else torch.zeros(batch, dtype=torch.bool)
            )
            images = crop_and_flip(images, self.crop_padding, shifts[0, rows], shifts[1, rows], mirrored[rows])
        images = apply_policy(self.policy, images, generator)
        if self.jitter:
            factors = 1 + self.jitter * (2 * torch.rand(3, batch, generator=generator) - 1)
            order = torch.randperm(3, generator=generator).tolist()
            images = jitter(images.to(torch.float32), upload(factors[:, rows], images.device), order)
        made = normalise(images, self.mean, self.std)
        return (cutout(made, self.cutout, generator, rows, batch) if self.cutout else made)[wanted]


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle `[B, size, size, 3]` of images `[B, H, W, 3]`, as torchvision's `CenterCrop`."""
    top, left = round((images.shape[1] - size) / 2), round((images.shape[2] - size) / 2)
    return images[:, top : top + size, left : left + size]


def crop_and_flip(images: Tensor, padding: int, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
    """Crop each image at (`top`, `left`) of its black-bordered self, then mirror some.

    Args:
        images: uint8 `[B, H, W, 3]`.
        padding: width of the border.
        top: int64 `[B]`, 0 .. 2*padding.
        left: likewise.
        mirrored: bool `[B]`.
    """
    batch, height, width, channels = images.shape
    padded = functional.pad(images, (0, 0, padding, padding, padding, padding))
    wide = width + 2 * padding
    device = images.device
    top, left, mirrored = (upload(drawn, device) for drawn in (top, left, mirrored))
    columns = torch.arange(width, device=device).expand(batch, width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + left[:, None]  # [B, W]
    rows = torch.arange(height, device=device) + top[:, None]  # [B, H]
    base = torch.arange(batch, device=device) * (height + 2 * padding)
    flat = ((base[:, None] + rows)[:, :, None] * wide + columns[:, None, :]).reshape(-1)
    # One index_select of pixels (three bytes each) is the whole crop.
    return padded.view(-1, channels).index_select(0, flat).view(batch, height, width, channels)


def jitter(images: Tensor, factors: Tensor, order: Sequence[int]) -> Tensor:
    """Brightness (0), contrast (1) and saturation (2) in `order`, clamped to 0 .. 255 after each, as torchvision does.

    Args:
        images: float32 `[B, H, W, 3]`, overwritten.
        factors: `[3, B]`, the factor of each adjustment and image.
        order: a permutation of 0, 1, 2.
    """
    weights = upload(torch.tensor(_GREY), images.device)
    for step in order:
        factor = factors[step].view(-1, 1, 1, 1)
        if step == 0:
            images.mul_(factor)
        else:
            grey = (images @ weights).unsqueeze(-1)
            other = grey if step == 2 else grey.mean((1, 2), keepdim=True)
            images.mul_(factor).add_(other * (1 - factor))
        images.clamp_(0, 255)
    return images


POLICIES: dict[str, str] = {
    "none": "crop and flip alone",
    "autoaugment": "AutoAugment, the policy of CIFAR-10 for small images and of ImageNet for others (Cubuk et al. 2019)",
    "randaugment": "RandAugment, two operations of magnitude 9 (Cubuk et al. 2020)",
}


_SMALL = 64
"""Images up to so many pixels get the policy that was found on CIFAR-10."""


_SCALE, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's RandomResizedCrop


def check_policy(name: str) -> None:
    """Raise a UsageError for a name that is not in `POLICIES`."""
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


def cutout(
    images: Tensor, side: int, generator: torch.Generator, rows: slice = ALL, batch: int | None = None
) -> Tensor:
    """Set one square of each image to 0, the mean colour of normalised images (DeVries and Taylor 2017).

    As in their code: the centre is anywhere in the image, and the square is cut at the border.

    Args:
        images: float `[B, 3, H, W]`, normalised.
        side: of the square, in pixels.
        generator: CPU generator.
        rows: which ones of a batch they are.
        batch: images of it; None: as many as there are.
    """
    height, width = images.shape[-2:]
    inside = []
    for size in (height, width):
        drawn = torch.randint(size, (len(images) if batch is None else batch, 1), generator=generator)[rows]
        low = upload(drawn - side // 2, images.device)
        place = torch.arange(size, device=images.device)
        inside.append((place >= low) & (place < low + side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.clone().masked_fill_(hole, 0)  # in place keeps the memory layout that convolutions profit from


def resized_crop(images: Tensor, size: int, generator: torch.Generator, rows: slice = ALL) -> Tensor:
    """A random part of each image, of 8 to 100 % of its area and sides of 3:4 to 4:3, resized to `size` (torchvision's rule).

    Args:
        images: uint8 `[B, H, W, 3]`.
        size: height and width of what is returned, in pixels.
        generator: CPU generator.
        rows: those that are wanted.

    Returns:
        uint8 `[n, size, size, 3]` of the wanted rows.
    """
    from torchvision.transforms.v2 import functional as vision

    made = []
    boxes = [crop_box(images.shape[1], images.shape[2], generator) for _ in images]
    for image, (top, left, height, width) in zip(images[rows], boxes[rows], strict=True):
        part = vision.resized_crop(image.permute(2, 0, 1), top, left, height, width, [size, size], antialias=True)
        made.append(part.permute(1, 2, 0))
    if not made:
        return images.new_empty((0, size, size, images.shape[-1]))
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
