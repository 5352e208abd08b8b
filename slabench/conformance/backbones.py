"""What a backbone promises; see `slabench.backbones`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor

from slabench.backbones import Backbone
from slabench.conformance import (
    COPY_FIRST,
    OWN_GENERATOR,
    Check,
    Finding,
    Wrong,
    expect,
    expect_close,
    expect_finite,
    expect_shape,
    no_global_random,
    run_checks,
    unchanged,
)
from slabench.core.errors import UsageError
from slabench.core.seeding import fork_for_init, torch_generator

SIZES = (16, 32, 64, 84, 224)
B = 3


class Subject:
    """A backbone's maker, and one for the smallest images it takes."""

    def __init__(self, make: Callable[[int], Backbone]) -> None:
        self._make = make
        self._made: Backbone | None = None
        self.size = 0

    def build(self, size: int) -> Backbone:
        """A new one, initialised from a seed of its own."""
        with fork_for_init(0, "conformance"):
            return self._make(size)

    @property
    def backbone(self) -> Backbone:
        """One that has seen a training batch, so that its running statistics are no longer 0 and 1."""
        if self._made is None:
            for size in SIZES:
                try:
                    made, self.size = self.build(size), size
                    break
                except UsageError as error:
                    refusal = error
            else:
                raise Wrong(f"it takes images of none of the sizes {SIZES}: {refusal}")
            expect(isinstance(made, Backbone), f"it makes a {type(made).__name__}, not a slabench.backbones.Backbone")
            made.set_step(0)
            made.set_noise(torch_generator(0, "noise"))
            made.train()
            with torch.no_grad():
                made(self.images())
            made.set_noise(None)
            self._made = made.eval()
        return self._made

    def images(self) -> Tensor:
        """Normalised images `[B, 3, size, size]`."""
        return torch.randn(B, 3, self.size, self.size, generator=torch_generator(0, "conformance", "images"))


@torch.no_grad()
def _shape(s: Subject) -> None:
    backbone = s.backbone
    dim = getattr(backbone, "feature_dim", None)
    expect(isinstance(dim, int), f"its feature_dim is {dim!r}, not the number of features")
    features = backbone(s.images())
    expect(isinstance(features, Tensor), f"it gives a {type(features).__name__}, not a tensor")
    expect(features.dim() == 2, f"{B} images give features of the shape {list(features.shape)}, not [{B}, D]")
    expect_shape(features, (B, dim or 0), f"by its feature_dim of {dim}, the features of {B} images")
    expect(features.dtype == torch.float32, f"float32 images give features in {features.dtype}")
    expect_finite(features, "features")


@torch.no_grad()
def _apart(s: Subject) -> None:
    images = s.images()
    alone = torch.cat([s.backbone(images[i : i + 1]) for i in range(B)])
    expect_close(s.backbone(images), alone, "in eval mode, an image alone has other features than in a batch", 1e-4)


@torch.no_grad()
def _twice(s: Subject) -> None:
    images = s.images()
    expect(torch.equal(s.backbone(images), s.backbone(images)), "in eval mode, the same images have two features")


@torch.no_grad()
def _stateless(s: Subject) -> None:
    before = deepcopy(s.backbone.state_dict())
    s.backbone(s.images())
    changed = [name for name, value in s.backbone.state_dict().items() if not torch.equal(value, before[name])]
    expect(not changed, f"in eval mode, a forward pass changes {', '.join(changed[:3])}")


@torch.no_grad()
def _folded(s: Subject) -> None:
    backbone = s.backbone
    before, plain = deepcopy(backbone.state_dict()), backbone(s.images())
    folded = backbone.folded()
    expect(not folded.training, "folded() is in training mode")
    expect_close(folded(s.images()), plain, "folded() is another function than the backbone in eval mode", 1e-3)
    kept = backbone.state_dict()
    same = kept.keys() == before.keys() and all(torch.equal(kept[name], before[name]) for name in before)
    expect(same, "folded() changes the backbone itself, and not only the copy")


@torch.no_grad()
def _memory(s: Subject) -> None:
    images = s.images()
    last = s.backbone(images.contiguous(memory_format=torch.channels_last))
    expect_close(last, s.backbone(images), "images in channels-last memory have other features", 1e-4)


def _training(s: Subject) -> None:
    backbone = deepcopy(s.backbone).train()
    backbone.set_step(1)

    def forward() -> Tensor:
        backbone.set_noise(torch_generator(0, "noise"))
        out: Tensor = backbone(s.images())
        return out

    images = s.images()
    with no_global_random("in train mode, the backbone"):
        first = forward()
        second = forward().detach()
    expect(torch.equal(first.detach(), second), "in train mode, one noise generator gives two results: it is not used")
    backbone.set_noise(torch_generator(0, "noise"))
    with unchanged("the backbone", images=images):
        backbone(images)
    first.square().mean().backward()
    for name, weight in backbone.named_parameters():
        expect(weight.grad is not None, f"no gradient reaches the parameter {name}")
        assert weight.grad is not None
        expect_finite(weight.grad, f"entries of the gradient of {name}")


def _initial(s: Subject) -> None:
    with no_global_random("building it under a seed"):
        first = s.build(s.size).state_dict()
    second = s.build(s.size).state_dict()
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    expect(not differ, f"built twice from one seed, it differs in {', '.join(differ[:3])}")


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "shape",
        _shape,
        "make(image_size) gives a Backbone; features are float32 [B, feature_dim]; flatten maps",
        needed=True,
    ),
    Check("images apart", _apart, "no batch statistics in eval mode: obey module.training, as nn.BatchNorm2d does"),
    Check("same result twice", _twice, "no randomness in eval mode: use nn.Module's self.training"),
    Check("eval keeps its state", _stateless, "update buffers in train mode alone"),
    Check(
        "folded",
        _folded,
        "fix the fold() of its blocks, or derive them from nn.Module, which are then left as they are",
    ),
    Check("memory format", _memory, "index by dimension, not by memory: permute and reshape instead of view"),
    Check(
        "training", _training, f"every parameter takes part; {COPY_FIRST}; masks come from the generator of set_noise"
    ),
    Check("initialisation", _initial, f"initialise with torch.nn.init in the constructor, or {OWN_GENERATOR}"),
)


def check_backbone(make: Callable[[int], Backbone]) -> list[Finding]:
    """All checks of a backbone, at the smallest size of images that it takes."""
    return run_checks(Subject(make), CHECKS)
