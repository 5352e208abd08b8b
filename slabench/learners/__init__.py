"""Learners: a backbone and what sits on it.

Episodic: a head (most have no parameters) and one learned scale. Classifier: one linear or cosine layer for each output that
its objective needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.backbones import Backbone
from slabench.core.registry import BACKBONES, HEADS
from slabench.core.seeding import fork_for_init
from slabench.data.catalog import DatasetInfo
from slabench.heads import Head

if TYPE_CHECKING:
    from slabench.recipes.classifier import ConvInit, LayerInit
    from slabench.recipes.fewshot import Model


class EpisodicLearner(nn.Module):
    """Features and episode logits.

    Args:
        backbone: images to features.
        head: see `slabench.heads`.
        head_module: what a head that learns is made of, for features of this backbone.
    """

    def __init__(self, backbone: Backbone, head: Head, head_module: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.head_module = head_module
        self.scale = nn.Parameter(torch.ones(()))

    def embed(self, images: Tensor) -> Tensor:
        """Features float32 `[B, D]` of normalised images `[B, 3, H, W]`, whatever precision the backbone ran in."""
        return self.backbone(images).float()  # type: ignore[no-any-return]

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Scaled logits `[B, Q, N]` from features; shapes as in `slabench.heads.HeadFunction`."""
        logits = self.head_module or self.head.logits
        assert logits is not None  # a head has one or the other
        return self.scale * logits(support, support_labels, query, n_classes)


def build_learner(model: Model, info: DatasetInfo, seed: int) -> EpisodicLearner:
    """The learner of a recipe for the images of `info`, initialised from `seed` alone."""
    return with_head(build_backbone(model, info, seed), HEADS.get(model.head), seed)


def build_backbone(model: Model, info: DatasetInfo, seed: int) -> Backbone:
    """The backbone of a recipe for the images of `info`, from `seed` alone."""
    with fork_for_init(seed, "init"):
        return BACKBONES.get(model.backbone)(info.image_size, **backbone_settings(model, info))  # type: ignore[no-any-return]


def backbone_settings(model: Model, info: DatasetInfo) -> dict[str, int]:
    """What a backbone is told beside the size of the images: the edge of DropBlock's blocks, if it has any."""
    asks = "dropblock_size" in inspect.signature(BACKBONES.get(model.backbone)).parameters
    return {"dropblock_size": info.dropblock_size} if asks else {}


def with_head(backbone: Backbone, head: Head, seed: int) -> EpisodicLearner:
    """A learner of this backbone; a head that learns is initialised from a stream of its own."""
    if head.module is None:
        return EpisodicLearner(backbone, head)
    with fork_for_init(seed, "init", "head"):
        return EpisodicLearner(backbone, head, head.module(backbone.feature_dim))


class CosineLayer(nn.Module):
    """Cosines between features and class vectors, without bias: logits in -1 .. 1.

    The scale that makes probabilities of them is the loss's (`slabench.losses`, LDAM: s = 30). As `NormedLinear` of LDAM-DRW
    (Cao et al., NeurIPS 2019).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Directions uniform over a cube, of length one.
        self.weight = nn.Parameter(functional.normalize(torch.empty(outputs, inputs).uniform_(-1, 1), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """Cosines `[B, outputs]` of features `[B, inputs]`."""
        return functional.linear(functional.normalize(features, dim=1), functional.normalize(self.weight, dim=1))


class Classifier(nn.Module):
    """Features, and the logits of every output layer.

    Args:
        backbone: images to features.
        layers: width of each output layer by name; see `slabench.sla.objectives`.
        cosine: cosine layers for the classes, as LDAM needs; the layer that tells transformations stays linear.
        init: of linear layers, see `linear_layer`.
    """

    def __init__(
        self, backbone: Backbone, layers: Mapping[str, int], cosine: bool = False, init: LayerInit = "he-zero"
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers = nn.ModuleDict()
        for name, width in layers.items():
            if cosine and name != "transforms":
                self.layers[name] = CosineLayer(backbone.feature_dim, width)
            else:
                self.layers[name] = linear_layer(backbone.feature_dim, width, init)

    def embed(self, images: Tensor) -> Tensor:
        """Features float32 `[B, D]` of normalised images `[B, 3, H, W]`, whatever precision the backbone ran in."""
        return self.backbone(images).float()  # type: ignore[no-any-return]

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """Logits `[B, width]` of every layer, in float32."""
        return {name: layer(features) for name, layer in self.layers.items()}


def build_classifier(
    backbone: Callable[[int], Backbone],
    image_size: int,
    layers: Mapping[str, int],
    cosine: bool,
    seed: int,
    layer_init: LayerInit = "he-zero",
    conv_init: ConvInit = "backbone",
) -> Classifier:
    """A classifier initialised from `seed` alone.

    Backbone and every layer have a stream of their own, so that objectives of one seed begin with the same backbone.

    Args:
        backbone: makes one for images of a size.
        image_size: in pixels.
        layers: width of each output layer by name.
        cosine: see `Classifier`.
        seed: the trial's.
        layer_init: of linear layers, see `linear_layer`.
        conv_init: `backbone`: convolutions as the backbone draws them; `fan-out`: He's normal, variance 2 / (k^2 outputs), as in
            the code of SLA's authors.
    """
    with fork_for_init(seed, "init"):
        made = backbone(image_size)
        if conv_init == "fan-out":
            for module in made.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    with fork_for_init(seed, "init", "layers"):
        return Classifier(made, layers, cosine, layer_init)


def linear_layer(inputs: int, outputs: int, init: LayerInit) -> nn.Linear:
    """A linear layer by the recipe's `model.layer_init`.

    `he-zero`: normal weights of variance 2 / inputs, zero biases. `he`: the same weights with torch's biases (LDAM-DRW's code).
    `torch`: weights and biases uniform within 1 / sqrt(inputs), torch's own (SLA's code), a sixth of the variance: over many
    classes He's first loss lies well above the log of their number.
    """
    layer = nn.Linear(inputs, outputs)
    if init != "torch":
        nn.init.kaiming_normal_(layer.weight)
    if init == "he-zero":
        nn.init.zeros_(layer.bias)
    return layer
