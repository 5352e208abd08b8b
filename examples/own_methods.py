"""Own methods of every kind in a single file: slabench check examples/own_methods.py."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import slabench


# A loss: one value a sample, from logits [B, C], labels [B] and the training images of each class [C].
@slabench.LOSSES.register("poly-1")
def poly_1(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy + 1 - p_y (PolyLoss with epsilon 1, Leng et al. 2022)."""
    own = logits.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return -own + 1 - own.exp()


# Transformations t_0 .. t_{M-1}, the identity first.
def identity(images: Tensor) -> Tensor:
    """The image as it is."""
    return images


def upside_down(images: Tensor) -> Tensor:
    """Top and bottom exchanged."""
    return images.flip(2)


slabench.TRANSFORMS.add("flip", slabench.function_set("flip", [identity, upside_down]), "M = 2: upright, upside down")


# A backbone: a function of the image size that gives a slabench.Backbone.
class Tiny(slabench.Backbone):
    """Two strided convolutions and the mean over the map."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.feature_dim = 32

    def forward(self, images: Tensor) -> Tensor:
        """Features `[B, 32]` of images `[B, 3, H, W]`."""
        return self.layers(images).mean((2, 3))


@slabench.BACKBONES.register("tiny")
def tiny(image_size: int) -> Tiny:
    """Two convolutions, 32 features, any size of images."""
    return Tiny()


# A head; examples/city-block-head has one as a package.
def logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """The largest inner product with a support of the class (features of length one): `[B, Q, N]`."""
    cosines = functional.normalize(query, dim=-1) @ functional.normalize(support, dim=-1).mT  # [B, Q, S]
    others = functional.one_hot(support_labels, n_classes).mT.unsqueeze(1) == 0  # [B, 1, N, S]
    return cosines.unsqueeze(2).masked_fill(others, -torch.inf).amax(-1)


slabench.HEADS.add("nearest", slabench.Head("nearest", logits, decomposes=True), "the nearest support, by its cosine")


# A data set: a function that gives images, labels and which of them are official test images, the same every time.
def make() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bars at four angles on noise: 60 images of each class, every fifth of them a test image."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 4
    images = generator.integers(0, 120, (240, 32, 32, 3), dtype=np.uint8)
    y, x = np.mgrid[:32, :32] - 15.5
    for number, label in enumerate(labels):
        angle = label * np.pi / 4
        bar = np.abs(x * np.sin(angle) + y * np.cos(angle) + generator.uniform(-6, 6)) < 2
        images[number, bar] += 130
    return images, labels, np.arange(240) // 4 % 5 == 4


slabench.DATASETS.add(
    "bars",
    slabench.dataset("bars", make, ("flat", "rising", "upright", "falling"), 32, "bars at four angles", mirror=False),
    "bars at four angles, 4 classes of 60 images",
)
