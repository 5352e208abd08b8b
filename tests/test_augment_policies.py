"""Cutout, AutoAugment, RandAugment and resized crops against loops and torchvision's own functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from slabench.data.augment import BatchAugment, centre_crop
from slabench.data.augment_policies import apply_policy, crop_box, cutout, resized_crop
from slabench.errors import UsageError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (batch, size, size, 3), generator=generator(seed), dtype=torch.uint8)


@pytest.mark.parametrize("side", [1, 7, 8, 16])
def test_cutout_against_a_loop(side: int) -> None:
    images = torch.rand((64, 3, 32, 24), generator=generator()) + 1
    found = cutout(images, side, generator(1))
    own = generator(1)
    y, x = (torch.randint(size, (64, 1), generator=own).flatten().tolist() for size in (32, 24))
    expected = images.clone().numpy()
    for b in range(64):
        for row in range(32):
            for column in range(24):
                if 0 <= row - (y[b] - side // 2) < side and 0 <= column - (x[b] - side // 2) < side:
                    expected[b, :, row, column] = 0
    assert np.array_equal(found.numpy(), expected)
    holes = (found == 0).sum((1, 2, 3)) / 3
    assert holes.max() == side * side
    assert holes.min() >= 1
    assert (images > 0).all()  # the input is left as it was


@pytest.mark.parametrize(
    ("name", "size", "policy"),
    [
        ("autoaugment", 32, v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
        ("autoaugment", 96, v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)),
        ("randaugment", 32, v2.RandAugment(2, 9)),
    ],
)
def test_policies_are_torchvisions_image_by_image(name: str, size: int, policy: torch.nn.Module) -> None:
    images = pixels(12, size)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = apply_policy(name, images, generator(3))
    assert torch.equal(torch.get_rng_state(), before)  # somebody else's
    seed = int(torch.randint(2**62, (), generator=generator(3)))
    torch.manual_seed(seed)
    expected = torch.stack([policy(image.permute(2, 0, 1)).permute(1, 2, 0) for image in images])
    assert torch.equal(found, expected)
    assert not torch.equal(found, images)
    assert torch.equal(found, apply_policy(name, images, generator(3)))
    assert not torch.equal(found, apply_policy(name, images, generator(4)))


def test_unknown_policy() -> None:
    with pytest.raises(UsageError, match="did you mean 'autoaugment'"):
        apply_policy("auto-augment", pixels(1, 32), generator())


def test_resized_crop_is_torchvisions_of_the_drawn_boxes() -> None:
    images = pixels(20, 64)
    found = resized_crop(images, 48, generator(5))
    own = generator(5)
    for image, made in zip(images, found, strict=True):
        top, left, height, width = crop_box(64, 64, own)
        part = image[top : top + height, left : left + width].permute(2, 0, 1)
        expected = vision.resize(part, [48, 48], antialias=True).permute(1, 2, 0)
        assert torch.equal(made, expected)


def test_boxes_are_drawn_as_torchvision_draws_them() -> None:
    """Area uniform over 8 to 100 %, side ratio log-uniform, place uniform: the same means as torchvision's own draws."""
    own = generator(0)
    ours = np.array([crop_box(256, 256, own) for _ in range(4000)], dtype=float)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transform = v2.RandomResizedCrop(224)
        image = torch.zeros(3, 256, 256)
        drawn = [transform.make_params([image]) for _ in range(4000)]
    theirs = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn], dtype=float)
    for measure in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: np.log(b[:, 2] / b[:, 3]),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        a, b = measure(ours), measure(theirs)
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt(a.var() / 4000 + b.var() / 4000)
    assert (ours[:, 0] + ours[:, 2] <= 256).all()
    assert (ours[:, 1] + ours[:, 3] <= 256).all()


def test_centre_crop_is_torchvisions() -> None:
    for size, side in ((256, 224), (33, 20), (32, 32)):
        images = pixels(2, size)
        assert torch.equal(
            centre_crop(images, side).permute(0, 3, 1, 2), vision.center_crop(images.permute(0, 3, 1, 2), [side, side])
        )


def test_whole_augmentation() -> None:
    settings = {"crop_padding": 4, "flip": True, "jitter": 0.0, "mean": (120.0,) * 3, "std": (60.0,) * 3}
    images = pixels(8, 32)
    augment = BatchAugment(**settings, cutout=8, policy="randaugment")  # type: ignore[arg-type]
    made = augment(images, generator(1))
    assert made.shape == (8, 3, 32, 32)
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert ((made == 0).sum((1, 2, 3)) >= 3 * 16).all()  # a quarter of the square at least, at the corner
    assert torch.equal(made, augment(images, generator(1)))
    photographs = BatchAugment(**settings, resized_crop=24)  # type: ignore[arg-type]
    assert photographs(images, generator(1)).shape == (8, 3, 24, 24)
