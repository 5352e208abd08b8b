"""One SLA training step of a classifier (ResNet-32, 128 images in 4 turns) beside the same step written plainly.

The plain step is what the official code does: float32, contiguous memory, four turned copies stacked, SGD weight by weight,
nothing in place. Images are in memory in either case. The last row sets the arithmetic of the step against what convolutions
reach at best here, on a layer that suits them.
"""

from __future__ import annotations

import torch
from _measure import Row, compare, main, rates_of
from torch import nn
from torch.nn import functional

from slabench.core.registry import BACKBONES
from slabench.core.seeding import torch_generator
from slabench.data.augment import BatchAugment
from slabench.data.catalog import info
from slabench.learners import build_classifier
from slabench.losses.loss import build_loss
from slabench.sla.objectives import classifier_objective
from slabench.sla.transforms import transform_set
from slabench.training.device import choose_precision, keep_heap

BATCH, M, CLASSES, STEPS = 128, 4, 100, 2
# Multiply-adds of ResNet-32 on a 32 x 32 image: 3x3 convolutions by stage (maps 32, 16, 8; 16, 32, 64 channels).
_STAGE = 32 * 32 * 9 * 16 * 16
MACS = 32 * 32 * 9 * 3 * 16 + 10 * _STAGE + (_STAGE // 2 + 9 * _STAGE) * 2


def measure() -> list[Row]:
    """Original images a second, forward, backward and update."""
    keep_heap()  # allocation has a benchmark of its own
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (BATCH, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    precision = choose_precision("auto", torch.device("cpu"))
    ours = ("slabench SLA step", _Ours(images, labels, precision), STEPS * BATCH)
    references = [("plain float32 NCHW step", _Plain(images, labels), STEPS * BATCH)]
    if precision is not None:
        references.append(("itself in float32", _Ours(images, labels, None), STEPS * BATCH))
    rows = compare("classifier", ours, references, "images/s", note="resnet32, batch 128, rotation, random pixels")
    # Backward is twice the forward's arithmetic, as usual.
    achieved = rows[0].ours_rate * M * 3 * 2 * MACS / 1e9
    peak = _peak(precision)
    share = Row(
        "classifier",
        "arithmetic of the step",
        "best convolution here",
        "GFLOP/s",
        achieved,
        peak,
        achieved / peak,
        0,
        0,
        1,
    )
    return [*rows, share]


class _Ours:
    def __init__(self, images: torch.Tensor, labels: torch.Tensor, precision: torch.dtype | None) -> None:
        self.images, self.labels, self.precision = images, labels, precision
        self.objective, self.transforms = classifier_objective("sla"), transform_set("rotation")
        entry = info("cifar100")
        self.augment = BatchAugment(crop_padding=4, flip=True, jitter=0, mean=entry.mean, std=entry.std)
        layers = self.objective.layers(CLASSES, M)
        self.module = build_classifier(BACKBONES.get("resnet32"), 32, layers, False, 0)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = build_loss("ce", [1] * CLASSES)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01, momentum=0.9, foreach=True)

    def __call__(self) -> None:
        for step in range(STEPS):
            inputs = self.transforms.apply(self.augment(self.images, torch_generator(0, "augment", step)))
            with torch.autocast("cpu", dtype=self.precision, enabled=self.precision is not None):
                features = self.module.embed(inputs)
            loss = self.objective.loss(self.module.outputs(features), self.labels, M, self.loss)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        if self.stride != 1 or self.pad:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return functional.relu(self.bn2(self.conv2(out)) + x)


class _Plain:
    """The official code's step in its own words: `torch.stack` of four `rot90`, cross-entropy of the joint labels, SGD."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels
        blocks: list[nn.Module] = []
        for stage, width in enumerate((16, 32, 64)):
            blocks += [
                _Block(16 if not stage else width // (2 if not b else 1), width, 2 if stage and not b else 1)
                for b in range(5)
            ]
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 1, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, CLASSES * M),
        )
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9, foreach=False)

    def __call__(self) -> None:
        for _ in range(STEPS):
            batch = self.images.permute(0, 3, 1, 2).float().contiguous() / 255 - 0.5
            turned = torch.stack([torch.rot90(batch, k, (2, 3)) for k in range(M)], 1).view(-1, 3, 32, 32)
            joint = torch.stack([self.labels * M + k for k in range(M)], 1).view(-1)
            loss = functional.cross_entropy(self.net(turned), joint)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def _peak(precision: torch.dtype | None) -> float:
    """GFLOP/s of a 3x3 convolution of 256 channels on 28 x 28 maps, forward: about as fast as convolutions get."""
    kind = precision or torch.float32
    layer = nn.Conv2d(256, 256, 3, padding=1, bias=False).to(kind).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(16, 256, 28, 28).to(kind).contiguous(memory_format=torch.channels_last)
    flops = 2 * 16 * 28 * 28 * 9 * 256 * 256
    with torch.inference_mode():
        return max(rates_of(lambda: layer(x), flops, 10)) / 1e9


if __name__ == "__main__":
    main(measure)
