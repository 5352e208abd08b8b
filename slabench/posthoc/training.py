"""cRT and LWS: the last layer trained anew, or its classes rescaled, on fixed features and balanced classes.

Both descend the model's own objective with plain cross-entropy: SLA's joint layer learns joint labels from all M views, SLA+SD's
student is taught by the new aggregated prediction, DA's and MT's layer learns the class from all views. What was trained
once may be trained again from the features because the backbone is frozen; the price is that the images are not
augmented, where the published numbers draw new crops in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.core.errors import SlabenchError
from slabench.core.seeding import fork_for_init, numpy_generator
from slabench.data.imageset import class_rows
from slabench.losses.loss import build_loss
from slabench.losses.resampling import epoch_rows
from slabench.posthoc.methods import Adjusted, class_views, from_views, need
from slabench.records.outputs import Layer, ModelOutputs
from slabench.sla.objectives import classifier_objective


@dataclass(frozen=True)
class Stage2:
    """How the second stage is trained: SGD with momentum 0.9, the learning rate falling to 0 along a cosine, step by step.

    Attributes:
        epochs: over as many draws as there are training images, every class equally often.
        least_steps: train longer where the epochs have fewer: on a few hundred images they would end far from the optimum.
        lr: the first learning rate.
        batch_size: images, each under all its views.
        weight_decay: of cRT's layer. The scales of LWS have none: it would draw all classes towards one logit.
    """

    epochs: int = 30
    least_steps: int = 1000
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4

    def __str__(self) -> str:
        return f"{self.epochs} epochs, at least {self.least_steps:,} steps, lr {self.lr:g}, batch {self.batch_size}"


DEFAULT = Stage2()


def crt(outputs: ModelOutputs, seed: int = 0, stage: Stage2 = DEFAULT) -> Adjusted:
    """Classifier re-training: new class layers on the training features, sampled class-balanced, images not augmented.

    Args:
        outputs: a model with training features.
        seed: initialisation and order derive from it by name.
        stage: the training; by default Bag of Tricks' CIFAR epochs, learning rate and decay, with a cosine schedule.

    Raises:
        UsageError: no training features, or a class without any.
        SlabenchError: the training diverged.
    """
    layers: dict[str, Layer] = {}
    with fork_for_init(seed, "posthoc", "crt", "init"):
        for name, (weight, _) in _class_layers(outputs).items():
            made = nn.Linear(outputs.dim, len(weight), bias=not outputs.cosine)
            layers[name] = (made.weight, made.bias)
    _train(outputs, layers, {}, "crt", seed, stage)
    views = class_views(outputs, outputs.splits["test"].features, layers)
    return _result(outputs, "crt", views, f"new layers: {stage}, weight decay {stage.weight_decay:g}")


def lws(outputs: ModelOutputs, seed: int = 0, stage: Stage2 = DEFAULT) -> Adjusted:
    """Learnable weight scaling: f_i (w_i x + b_i), one f_i for each class, shared by its joint classes (i, j).

    The bias is scaled too, as in the authors' code. The problem is convex in f, which starts at 1.

    Args:
        outputs: a model with training features.
        seed: the order derives from it by name.
        stage: the training; its weight decay is not used.

    Raises:
        UsageError: no training features, or a class without any.
        SlabenchError: the training diverged.
    """
    layers = _class_layers(outputs)
    scales = {name: torch.ones(outputs.n_classes, requires_grad=True) for name in layers}
    _train(outputs, layers, scales, "lws", seed, stage)
    views = class_views(outputs, outputs.splits["test"].features, layers)
    scaled = {name: scales[name] * view for name, view in views.items()}
    return _result(outputs, "lws", scaled, f"{outputs.n_classes} scales: {stage}")


def _train(
    outputs: ModelOutputs,
    layers: Mapping[str, Layer],
    scales: Mapping[str, Tensor],
    method: str,
    seed: int,
    stage: Stage2,
) -> None:
    """Descend the objective in `scales`, or in `layers` where there are none, in place."""
    split, m = need(outputs, "train", method), outputs.m
    by_class = class_rows(split.labels.numpy(), outputs.n_classes)
    # The transformations' own layer tells nothing of classes, and is left as it is.
    objective = replace(classifier_objective(outputs.objective), transforms=False)
    copies = objective.n_copies(m)
    loss = build_loss("ce", [len(own) for own in by_class])
    if outputs.cosine:
        loss = loss.on_cosines(outputs.scale)
    trained = list(scales.values()) or [tensor for pair in layers.values() for tensor in pair if tensor is not None]
    decay = 0.0 if scales else stage.weight_decay
    optimizer = torch.optim.SGD(trained, lr=stage.lr, momentum=0.9, weight_decay=decay)
    per_epoch = -(-len(split.labels) // stage.batch_size)
    value = torch.zeros(())
    steps = max(stage.epochs * per_epoch, stage.least_steps)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = epoch_rows(by_class, "class-balanced", numpy_generator(seed, "posthoc", method, "order", epoch))
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * (1 + math.cos(math.pi * step / steps)) / 2
        rows = torch.from_numpy(order[place * stage.batch_size : (place + 1) * stage.batch_size])
        x = split.features[rows, :copies].flatten(0, 1).float()
        made = {name: _layer_logits(outputs, x, layer, scales.get(name)) for name, layer in layers.items()}
        value = objective.loss(made, split.labels[rows], m, loss)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    if not bool(torch.isfinite(value)) or not all(bool(torch.isfinite(tensor).all()) for tensor in trained):
        raise SlabenchError(f"{method} diverged at lr {stage.lr:g}", "give it a lower learning rate")


def _layer_logits(outputs: ModelOutputs, x: Tensor, layer: Layer, scale: Tensor | None) -> Tensor:
    """All logits `[B, width]` of a layer for features `[B, D]`, classes times their `scale` `[C]`."""
    weight, bias = layer
    if outputs.cosine:
        x, weight = functional.normalize(x, dim=1), functional.normalize(weight, dim=1)
    z = functional.linear(x, weight, bias)
    return z if scale is None else z * scale.repeat_interleave(z.shape[1] // len(scale))


def _class_layers(outputs: ModelOutputs) -> dict[str, Layer]:
    return {
        name: (weight.float(), None if bias is None else bias.float())
        for name, (weight, bias) in outputs.layers.items()
        if name != "transforms"
    }


def _result(outputs: ModelOutputs, method: str, views: Mapping[str, Tensor], how: str) -> Adjusted:
    found = {name: outputs.scale * z.detach() for name, z in from_views(views).items()}
    return Adjusted(method, found, how=f"{how}, class-balanced, on features of images without augmentation")
