"""What a set of transformations promises; see `slabench.sla.transforms`."""

from __future__ import annotations

import torch
from torch import Tensor

from slabench.conformance import (
    COPY_FIRST,
    OWN_GENERATOR,
    Check,
    Finding,
    expect,
    expect_shape,
    no_global_random,
    run_checks,
    unchanged,
)
from slabench.core.seeding import torch_generator
from slabench.sla.transforms import TransformSet

B, SIZE = 3, 8


def _images(dtype: torch.dtype = torch.float32) -> Tensor:
    pixels = torch.randint(0, 256, (B, 3, SIZE, SIZE), generator=torch_generator(0, "conformance", "images"))
    return pixels.to(dtype)


def _count(s: TransformSet) -> None:
    expect(s.M >= 2, f"M is {s.M}: SLA needs the identity and at least one more")


def _shape(s: TransformSet) -> None:
    for dtype in (torch.float32, torch.uint8):
        images = _images(dtype)
        every = s.apply(images)
        expect_shape(every, (B * s.M, 3, SIZE, SIZE), f"the copies that apply makes of {B} images under M = {s.M}")
        each = s.apply_each(images, torch.arange(B) % s.M)
        expect_shape(each, (B, 3, SIZE, SIZE), f"the copies that apply_each makes of {B} images")
        for name, out in (("apply", every), ("apply_each", each)):
            expect(out.dtype == dtype, f"{name} makes {out.dtype} of images in {dtype}")


def _identity(s: TransformSet) -> None:
    images = _images()
    expect(torch.equal(s.apply(images)[:: s.M], images), "t_0 is not the identity: it changes the image")


def _agree(s: TransformSet) -> None:
    images = _images()
    copies = s.apply(images).unflatten(0, (B, s.M))
    for j in range(s.M):
        each = s.apply_each(images, torch.full((B,), j))
        expect(torch.equal(copies[:, j], each), f"row b*M + {j} of apply is not t_{j} as apply_each makes it")


def _apart(s: TransformSet) -> None:
    images = _images()
    together = s.apply(images)
    for b in range(B):
        rows = together[b * s.M : (b + 1) * s.M]
        expect(
            torch.equal(rows, s.apply(images[b : b + 1])), f"the copies of image {b} depend on the others of the batch"
        )


def _differ(s: TransformSet) -> None:
    copies = s.apply(_images()[:1])
    same = [(i, j) for i in range(s.M) for j in range(i) if torch.equal(copies[i], copies[j])]
    expect(
        not same,
        ""
        if not same
        else f"t_{same[0][0]} and t_{same[0][1]} turn an image into the same picture: nothing tells them apart",
    )


def _memory(s: TransformSet) -> None:
    images = _images()
    other = images.contiguous(memory_format=torch.channels_last)
    expect(torch.equal(s.apply(other), s.apply(images)), "images in channels-last memory are transformed differently")


def _inputs(s: TransformSet) -> None:
    images = _images()
    with unchanged("the set", images=images):
        s.apply(images)
        s.apply_each(images, torch.arange(B) % s.M)


def _random(s: TransformSet) -> None:
    with no_global_random("the set"):
        s.apply(_images())


def _twice(s: TransformSet) -> None:
    expect(torch.equal(s.apply(_images()), s.apply(_images())), "the same images are transformed in two ways")


CHECKS: tuple[Check[TransformSet], ...] = (
    Check("number", _count, "give the identity first, then the others", needed=True),
    Check(
        "shape",
        _shape,
        "keep [B, 3, H, W] and the dtype: training transforms floats, evaluation may hold bytes",
        needed=True,
    ),
    Check("identity first", _identity, "t_0 returns the images as they are: the predictor `single` reads it"),
    Check(
        "apply and apply_each",
        _agree,
        "interleave copies: row b*M + j of apply is t_j(images[b]), the same t_j as apply_each",
    ),
    Check("images apart", _apart, "transform each image by itself"),
    Check("all differ", _differ, "drop the duplicate: two labels for one picture cannot be learned"),
    Check("memory format", _memory, "index by dimension, not by memory: permute and reshape instead of view"),
    Check("inputs unchanged", _inputs, COPY_FIRST),
    Check("no global randomness", _random, OWN_GENERATOR),
    Check("same result twice", _twice, "a transformation is fixed; random augmentation belongs before it"),
)


def check_transforms(transforms: TransformSet) -> list[Finding]:
    """All checks of a set of transformations."""
    return run_checks(transforms, CHECKS)
