"""Baseline++: a cosine layer fitted to the supports of each episode, as the code of its authors does (Chen et al., ICLR 2019)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.core.seeding import torch_generator
from slabench.core.uploads import upload
from slabench.heads import Head
from slabench.heads.metric import class_means

_EPSILON = 1e-5
"""Added to the length of a feature before it is divided by it."""


def baseline_plus_plus_logits(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    *,
    scale: float = 2.0,
    epochs: int = 100,
    batch: int = 4,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 1e-3,
    draw: int = 0,
) -> Tensor:
    """scale * w_m . q/|q| with a layer w that is fitted to the supports of each episode.

    A class has the vector w_m = g_m v_m / |v_m| (weight normalisation), so that its length g_m is learned beside its direction. v
    begins as torch's linear layer, g at the length of v. Cross-entropy is descended by SGD with momentum and as much dampening,
    in batches of four supports in random order, for 100 epochs: 200 steps of 0.01 for five supports, 700 for 25.

    What is drawn, the first v and the order of the batches, is drawn once for all episodes of a shape. So that neither the names
    of the classes nor the order of the supports decides who gets what, both are taken in the order of their features along one
    random direction.

    Args:
        support: `[B, S, D]`, float32 or float64.
        support_labels: int64 `[B, S]`; every class needs a support.
        query: `[B, Q, D]`.
        n_classes: N.
        scale: of the cosines; 2 in the authors' code for up to 200 classes.
        epochs: over the supports; 0 leaves the layer as it was drawn.
        batch: supports of a step.
        lr: learning rate.
        momentum: also the dampening.
        weight_decay: L2, on v and g.
        draw: another number draws other first vectors and orders.

    Returns:
        logits `[B, Q, N]`.
    """
    if epochs < 0 or batch < 1 or not lr > 0 or not scale > 0:
        raise UsageError(
            f"baseline-plus-plus with epochs = {epochs}, batch = {batch}, lr = {lr}, scale = {scale}",
            "batch, lr and scale must be positive, epochs 0 or more",
        )
    samples, dim = support.shape[1:]
    generator = torch_generator(draw, "baseline-plus-plus", n_classes, samples, dim)
    drawn = torch.randn(dim, generator=generator, dtype=torch.float64).to(support.dtype)
    direction = upload(drawn, support.device)
    drawn = torch.rand((n_classes, dim), generator=generator, dtype=torch.float64).to(support.dtype)
    first = upload(drawn, support.device)
    # The orders of all epochs at once: one copy to the device instead of a hundred.
    orders = [torch.randperm(samples, generator=generator) for _ in range(epochs)]
    order_of_epoch = upload(torch.stack(orders), support.device) if orders else torch.empty(0)
    x = _unit(support)
    place = class_means(x, support_labels, n_classes).detach() @ direction  # [B, N]
    v = ((2 * first - 1) / dim**0.5)[place.argsort(1).argsort(1)]  # [B, N, D]
    order = (x.detach() @ direction).argsort(1)
    x = x.gather(1, order.unsqueeze(-1).expand_as(x))
    target = functional.one_hot(support_labels.gather(1, order), n_classes).to(x)
    g = v.norm(dim=-1, keepdim=True)
    v_velocity, g_velocity, kept = torch.zeros_like(v), torch.zeros_like(g), 0.0  # torch leaves the first step undamped
    for epoch in order_of_epoch:
        for rows in epoch.split(batch):
            some, length = x[:, rows], v.norm(dim=-1, keepdim=True)
            unit = v / length
            residual = (scale * (some @ (g * unit).mT)).softmax(-1) - target[:, rows]  # [B, b, N]
            pull = scale / len(rows) * (residual.mT @ some)  # gradient by w, [B, N, D]
            along = (pull * unit).sum(-1, keepdim=True)
            v_gradient = g / length * (pull - along * unit) + weight_decay * v
            g_gradient = along + weight_decay * g
            v_velocity = momentum * v_velocity + (1 - kept) * v_gradient
            g_velocity = momentum * g_velocity + (1 - kept) * g_gradient
            v, g, kept = v - lr * v_velocity, g - lr * g_velocity, momentum
    fitted: Tensor = g * v / v.norm(dim=-1, keepdim=True)
    return scale * (_unit(query) @ fitted.mT)


def _unit(features: Tensor) -> Tensor:
    unit: Tensor = features / (features.norm(dim=-1, keepdim=True) + _EPSILON)
    return unit


BASELINE_PLUS_PLUS = Head("baseline-plus-plus", baseline_plus_plus_logits, decomposes=False)
