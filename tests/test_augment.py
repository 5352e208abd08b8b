"""Batched augmentation against torchvision's own functions, one image at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as reference

from slabench.data.augment import BatchAugment, crop_and_flip, jitter, normalise

MEAN, STD = (129.0, 124.0, 112.0), (68.0, 65.0, 70.0)


def images(batch: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, size, size, 3), generator=generator).to(torch.uint8)


def test_normalise_is_torchvisions() -> None:
    batch = images(3)
    expected = reference.normalize(
        batch.permute(0, 3, 1, 2).float() / 255, [m / 255 for m in MEAN], [s / 255 for s in STD]
    )
    got = normalise(batch, MEAN, STD)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@given(st.integers(0, 2**31 - 1), st.integers(0, 6), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_crop_and_flip_is_torchvisions(seed: int, padding: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    source = images(batch, 12, seed)
    top, left = torch.randint(2 * padding + 1, (2, batch), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    got = crop_and_flip(source, padding, top, left, mirrored)
    for b in range(batch):
        padded = reference.pad(source[b].permute(2, 0, 1), [padding] * 4)
        expected = reference.crop(padded, int(top[b]), int(left[b]), 12, 12)
        if mirrored[b]:
            expected = reference.horizontal_flip(expected)
        assert torch.equal(got[b].permute(2, 0, 1), expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_jitter_is_torchvisions(order: tuple[int, int, int]) -> None:
    source = images(4)
    factors = 1 + 0.4 * (2 * torch.rand(3, 4, generator=torch.Generator().manual_seed(5)) - 1)
    got = jitter(source.float(), factors, order)
    adjust = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)
    for b in range(4):
        expected = source[b].permute(2, 0, 1).float() / 255
        for kind in order:
            expected = adjust[kind](expected, float(factors[kind, b]))
        torch.testing.assert_close(got[b].permute(2, 0, 1), expected * 255, rtol=1e-4, atol=2e-2)


def test_the_same_generator_gives_the_same_images_and_another_one_others() -> None:
    augment = BatchAugment(crop_padding=4, flip=True, jitter=0.4, mean=MEAN, std=STD)
    first, again, other = (augment(images(6), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draws_cover_what_they_should() -> None:
    # A single white pixel in the middle shows where the crop went; all 9 x 9 places come up, and about half are mirrored.
    source = torch.zeros((4000, 9, 9, 3), dtype=torch.uint8)
    source[:, 4, 4] = 255
    augment = BatchAugment(crop_padding=4, flip=False, jitter=0, mean=(0, 0, 0), std=(1, 1, 1))
    place = augment(source, torch.Generator().manual_seed(0))[:, 0].flatten(1).argmax(1)
    counts = torch.bincount(place, minlength=81).double()
    assert (counts > 0).all()
    chi2 = float(((counts - 4000 / 81) ** 2 / (4000 / 81)).sum())
    assert chi2 < 80 + 5 * (2 * 80) ** 0.5  # mean and spread of chi-square with 80 degrees

    edge = torch.zeros((4000, 4, 4, 3), dtype=torch.uint8)
    edge[:, :, 0] = 255
    flipper = BatchAugment(crop_padding=0, flip=True, jitter=0, mean=(0, 0, 0), std=(1, 1, 1))
    mirrored = flipper(edge, torch.Generator().manual_seed(0))[:, 0, 0, 3] > 0
    assert abs(int(mirrored.sum()) - 2000) < 5 * (4000 / 4) ** 0.5


def test_nothing_asked_for_is_plain_normalisation_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    plain = BatchAugment(crop_padding=0, flip=False, jitter=0, mean=MEAN, std=STD)(images(2), generator)
    assert torch.equal(plain, normalise(images(2), MEAN, STD))
    assert torch.equal(generator.get_state(), before)


def test_the_source_is_not_written_to() -> None:
    source = images(3)
    kept = source.clone()
    BatchAugment(crop_padding=4, flip=True, jitter=0.4, mean=MEAN, std=STD)(source, torch.Generator().manual_seed(0))
    assert torch.equal(source, kept)
