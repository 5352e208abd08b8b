"""Cutout, AutoAugment, RandAugment and resized crops against loops and torchvision's own functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from slabench.core.errors import UsageError
from slabench.data.augment import BatchAugment, apply_policy, centre_crop, crop_box, cutout, resized_crop


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
    with pytest.raises(UsageError, match="did you mean 'randaugment'"):  # before the first batch
        BatchAugment(crop_padding=4, flip=True, jitter=0, mean=(0,) * 3, std=(1,) * 3, policy="rand-augment")


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
        make_params = getattr(transform, "make_params", None) or transform._get_params  # its name up to 0.19
        drawn = [make_params([image]) for _ in range(4000)]
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


@pytest.mark.parametrize(("height", "width"), [(2, 400), (400, 2), (3, 301), (5, 700), (700, 5)])
def test_where_no_draw_fits_the_box_is_torchvisions(height: int, width: int) -> None:
    """Of so narrow an image 8 % at 3:4 is already too wide: both fall back, and draw nothing for it."""
    box = v2.RandomResizedCrop(8).make_params([torch.zeros(3, height, width)])
    expected = (box["top"], box["left"], box["height"], box["width"])
    assert crop_box(height, width, generator()) == expected


def test_centre_crop_is_torchvisions() -> None:
    for size, side in ((256, 224), (33, 20), (32, 32)):
        images = pixels(2, size)
        assert torch.equal(
            centre_crop(images, side).permute(0, 3, 1, 2), vision.center_crop(images.permute(0, 3, 1, 2), [side, side])
        )


def test_order_of_a_whole_augmentation() -> None:
    """Crop and flip, then the policy on uint8, then scaling, then the square: each by torchvision, from the same draws."""
    images = pixels(16, 32)
    mean, std = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
    augment = BatchAugment(crop_padding=4, flip=True, jitter=0, mean=mean, std=std, cutout=8, policy="autoaugment")
    state = torch.get_rng_state()
    made = augment(images, generator(9))
    assert torch.equal(torch.get_rng_state(), state)
    own = generator(9)
    top, left = torch.randint(9, (2, 16), generator=own).tolist()
    mirrored = (torch.rand(16, generator=own) < 0.5).tolist()
    seed = int(torch.randint(2**62, (), generator=own))
    y, x = (torch.randint(32, (16, 1), generator=own).flatten().tolist() for _ in range(2))
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for b, image in enumerate(images):
            part = vision.crop(vision.pad(image.permute(2, 0, 1), [4] * 4), top[b], left[b], 32, 32)
            part = policy(vision.horizontal_flip(part) if mirrored[b] else part)
            expected = vision.normalize(part.float(), list(mean), list(std))
            expected[:, max(y[b] - 4, 0) : y[b] + 4, max(x[b] - 4, 0) : x[b] + 4] = 0
            torch.testing.assert_close(made[b], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("extra", [{}, {"cutout": 0, "policy": "none", "resized_crop": None}])
def test_few_shot_augmentation_draws_what_it_always_drew(extra: dict[str, object]) -> None:
    """Shifts, mirrors, factors, order: records of earlier versions are reproduced from these draws, and no others."""
    images = pixels(6, 20)
    mean, std = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
    used, own = generator(4), generator(4)
    made = BatchAugment(crop_padding=3, flip=True, jitter=0.4, mean=mean, std=std, **extra)(images, used)  # type: ignore[arg-type]
    top, left = torch.randint(7, (2, 6), generator=own).tolist()
    mirrored = (torch.rand(6, generator=own) < 0.5).tolist()
    factors = 1 + 0.4 * (2 * torch.rand(3, 6, generator=own) - 1)
    order = torch.randperm(3, generator=own).tolist()
    assert torch.equal(used.get_state(), own.get_state())
    adjust = (vision.adjust_brightness, vision.adjust_contrast, vision.adjust_saturation)
    for b, image in enumerate(images):
        part = vision.crop(vision.pad(image.permute(2, 0, 1), [3] * 4), top[b], left[b], 20, 20)
        part = (vision.horizontal_flip(part) if mirrored[b] else part).float() / 255
        for kind in order:
            part = adjust[kind](part, float(factors[kind, b]))
        expected = vision.normalize(part * 255, list(mean), list(std))
        torch.testing.assert_close(made[b], expected, rtol=1e-4, atol=1e-3)


def test_resized_crop_replaces_the_border() -> None:
    images = pixels(4, 40)
    settings = {"flip": False, "jitter": 0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "resized_crop": 24}
    state = torch.get_rng_state()
    one, other = (BatchAugment(crop_padding=p, **settings)(images, generator(2)) for p in (0, 4))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, other)
    assert torch.equal(one.permute(0, 2, 3, 1), resized_crop(images, 24, generator(2)).float())
    assert one.is_contiguous(memory_format=torch.channels_last)


def test_cutout_centres_are_uniform() -> None:
    """A square of one pixel is its centre: all 6 x 6 places come up equally often."""
    holes = cutout(torch.ones(7200, 1, 6, 6), 1, generator()).flatten(1).argmin(1)
    counts = torch.bincount(holes, minlength=36).double()
    chi2 = float(((counts - 200) ** 2 / 200).sum())
    assert chi2 < 35 + 5 * (2 * 35) ** 0.5  # mean and spread of chi-square with 35 degrees


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
