"""Training augmentation on tensors: crop, flip and colour jitter of a whole batch at once, and the one scaling point.

What torchvision does to one PIL image at a time, with the same formulas (the tests hold it against
`torchvision.transforms.v2.functional`). All random numbers come from a CPU generator, so that every device sees the same
crops; images are uint8 until here, and normalised here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from slabench.data.augment_policies import apply_policy, check_policy, cutout, resized_crop

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
    scale = 1 / torch.tensor(std, device=images.device)
    shift = -torch.tensor(mean, device=images.device) * scale
    values = images.to(torch.float32) if images.dtype != torch.float32 else images
    return torch.addcmul(shift, values, scale).permute(0, 3, 1, 2)


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
        policy: one of `slabench.data.augment_policies.POLICIES`.
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

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented, normalised images.

        Args:
            images: uint8 `[B, H, W, 3]`.
            generator: CPU generator.

        Returns:
            float32 `[B, 3, H, W]` in channels-last memory.
        """
        batch = len(images)
        if self.resized_crop:
            images = resized_crop(images, self.resized_crop, generator)
        if self.crop_padding or self.flip:
            span = 2 * self.crop_padding + 1
            shifts = torch.randint(span, (2, batch), generator=generator)
            mirrored = (
                torch.rand(batch, generator=generator) < 0.5 if self.flip else torch.zeros(batch, dtype=torch.bool)
            )
            images = crop_and_flip(images, self.crop_padding, shifts[0], shifts[1], mirrored)
        images = apply_policy(self.policy, images, generator)
        if self.jitter:
            factors = 1 + self.jitter * (2 * torch.rand(3, batch, generator=generator) - 1)
            order = torch.randperm(3, generator=generator).tolist()
            images = jitter(images.to(torch.float32), factors.to(images.device), order)
        made = normalise(images, self.mean, self.std)
        return cutout(made, self.cutout, generator) if self.cutout else made


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
    columns = torch.arange(width).expand(batch, width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns) + left[:, None]  # [B, W]
    rows = torch.arange(height) + top[:, None]  # [B, H]
    base = torch.arange(batch) * (height + 2 * padding)
    flat = ((base[:, None] + rows)[:, :, None] * wide + columns[:, None, :]).reshape(-1)
    # One index_select of pixels (three bytes each) is the whole crop.
    return padded.view(-1, channels).index_select(0, flat.to(images.device)).view(batch, height, width, channels)


def jitter(images: Tensor, factors: Tensor, order: Sequence[int]) -> Tensor:
    """Brightness (0), contrast (1) and saturation (2) in `order`, clamped to 0 .. 255 after each, as torchvision does.

    Args:
        images: float32 `[B, H, W, 3]`, overwritten.
        factors: `[3, B]`, the factor of each adjustment and image.
        order: a permutation of 0, 1, 2.
    """
    weights = torch.tensor(_GREY, device=images.device)
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
