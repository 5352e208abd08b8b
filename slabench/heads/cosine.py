"""Cosine heads: the direction of the class mean, SimpleShot's nearest centroid, and Baseline++'s fitted cosine layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slabench.errors import UsageError
from slabench.heads import Head
from slabench.heads.prototypes import class_means, prototype_logits

_EPSILON = 1e-12


def cosine_logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """Cosine of each query and each class mean (Meta-Baseline: Chen et al., ICCV 2021, eq. 2; the scale is the learner's).

    Shapes as in `slabench.heads.prototypes.prototype_logits`; logits in [-1, 1].
    """
    means = class_means(support, support_labels, n_classes)
    return functional.normalize(query, dim=-1) @ functional.normalize(means, dim=-1).mT


def simpleshot_logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """-||q/|q| - c_i||^2, where c_i is the mean of the supports of length one (SimpleShot's CL2N: Wang et al., 2019).

    Centring, the C of CL2N, needs the training classes: whoever has their mean subtracts it (`Head.centred`).
    Shapes as in `slabench.heads.prototypes.prototype_logits`.
    """
    support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    # Lengths are one, so the factor 1/D of the prototypical head would only make all logits small.
    return prototype_logits(support, support_labels, query, n_classes) * query.shape[-1]


def baseline_plus_plus_logits(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    *,
    scale: float = 2.0,
    steps: int = 100,
    lr: float = 0.07,
    momentum: float = 0.9,
    weight_decay: float = 1e-3,
) -> Tensor:
    """Baseline++: a cosine layer fitted to the supports of each episode (Chen et al., ICLR 2019), at the queries.

    Minimises the mean cross-entropy of scale * cos(x_i, w_m) by gradient descent with momentum and dampening, as the code of its
    authors does, with two differences. It takes the whole support set a step, at a rate with the same path length (theirs: 100
    passes in batches of four at 0.01, 700 steps for 25 supports), so that no order of batches is drawn. And it begins at
    the class means instead of at random. Vectors w_m are used at length one; weight decay acts on them before that.

    Args:
        support: `[B, S, D]`, float32 or float64.
        support_labels: int64 `[B, S]`; every class needs a support.
        query: `[B, Q, D]`.
        n_classes: N.
        scale: of the cosines; 2 in the authors' code for fewer than 200 classes.
        steps: of gradient descent; 0 gives `scale` times `cosine_logits` of supports of length one.
        lr: its rate.
        momentum: also the dampening.
        weight_decay: L2.

    Returns:
        logits `[B, Q, N]` in [-scale, scale].
    """
    if steps < 0 or not lr > 0 or not scale > 0:
        raise UsageError(f"steps = {steps}, lr = {lr}, scale = {scale}", "lr and scale are positive, steps 0 or more")
    x = functional.normalize(support, dim=-1)
    target = functional.one_hot(support_labels, n_classes).to(x.dtype)
    w = class_means(x, support_labels, n_classes)
    w = functional.normalize(w, dim=-1)
    velocity = torch.zeros_like(w)
    for step in range(steps):
        length = w.norm(dim=-1, keepdim=True).clamp_min(_EPSILON)  # [B, N, 1]
        unit = w / length
        residual = (scale * (x @ unit.mT)).softmax(-1) - target  # [B, S, N]
        pull = scale / x.shape[1] * (residual.mT @ x)  # gradient by the unit vectors, [B, N, D]
        gradient = (pull - (pull * unit).sum(-1, keepdim=True) * unit) / length + weight_decay * w
        # PyTorch's dampening leaves the first step whole.
        velocity = gradient if step == 0 else momentum * velocity + (1 - momentum) * gradient
        w = w - lr * velocity
    return scale * (functional.normalize(query, dim=-1) @ functional.normalize(w, dim=-1).mT)


COSINE = Head("cosine", cosine_logits, decomposes=True)
SIMPLESHOT = Head("simpleshot", simpleshot_logits, decomposes=True, centred=True)
BASELINE_PLUS_PLUS = Head("baseline-plus-plus", baseline_plus_plus_logits, decomposes=False)
