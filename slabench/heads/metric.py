"""Heads that compare a query with prototypes or with the supports.

Prototypical networks (Snell, Swersky and Zemel, NeurIPS 2017); cosine to the class mean, SimpleShot's nearest centroid and
a cosine layer fitted from the class means on; matching networks (Vinyals et al., NeurIPS 2016), without full-context embeddings;
relation networks (Sung et al., CVPR 2018).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Head


def class_means(support: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """Prototypes `[B, N, D]`: the mean support feature of each class (eq. 1). Classes may have unequal shots.

    Args:
        support: `[B, S, D]`.
        labels: int64 `[B, S]`, 0 .. N-1.
        n_classes: N. A class without a support image gets the zero vector.
    """
    one_hot = torch.nn.functional.one_hot(labels, n_classes).to(support.dtype)  # [B, S, N]
    counts = one_hot.sum(1).clamp_min(1)  # [B, N]
    return (one_hot.transpose(1, 2) @ support) / counts.unsqueeze(-1)


def prototype_logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """-||q - p_i||^2 / D for every query and class, as in MetaOptNet's ProtoNet (the learned scale is the learner's).

    Args:
        support: `[B, S, D]`, float32 or float64.
        support_labels: int64 `[B, S]`.
        query: `[B, Q, D]`.
        n_classes: N.

    Returns:
        logits `[B, Q, N]`, not positive up to rounding.
    """
    means = class_means(support, support_labels, n_classes)
    # The expanded square costs one matrix product; the differences themselves would be [B, Q, N, D].
    cross = query @ means.transpose(1, 2)
    squares = means.square().sum(-1).unsqueeze(1) + query.square().sum(-1, keepdim=True)
    return (2 * cross - squares) / query.shape[-1]


PROTONET = Head("protonet", prototype_logits, decomposes=True)


_EPSILON = 1e-12


def cosine_logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """Cosine of each query and each class mean (Meta-Baseline: Chen et al., ICCV 2021, eq. 2; the scale is the learner's).

    Shapes as in `slabench.heads.metric.prototype_logits`; logits in [-1, 1].
    """
    means = class_means(support, support_labels, n_classes)
    return functional.normalize(query, dim=-1) @ functional.normalize(means, dim=-1).mT


def simpleshot_logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """-||q/|q| - c_i||^2, where c_i is the mean of the supports of length one (SimpleShot's CL2N: Wang et al., 2019).

    Centring, the C of CL2N, needs the training classes: whoever has their mean subtracts it (`Head.centred`).
    Shapes as in `slabench.heads.metric.prototype_logits`.
    """
    support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    # Lengths are one, so the factor 1/D of the prototypical head would only make all logits small.
    return prototype_logits(support, support_labels, query, n_classes) * query.shape[-1]


def cosine_fitted_logits(
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
    """A cosine layer fitted to the supports of each episode, from the class means on, at the queries.

    A relative of Baseline++ without anything drawn: minimises the mean cross-entropy of scale * cos(x_i, w_m) by gradient descent
    with momentum and dampening over the whole support set. It begins at the class means, vectors w_m are used at length one, and
    a hundred steps of 0.07 are the path length of the authors' 700 of 0.01 at five shots. With one shot it is another method
    than Baseline++ by some points (docs/parity.md). Weight decay acts on w_m before it is brought to length one.

    Args:
        support: `[B, S, D]`, float32 or float64.
        support_labels: int64 `[B, S]`; every class needs a support.
        query: `[B, Q, D]`.
        n_classes: N.
        scale: of the cosines; as of Baseline++.
        steps: of gradient descent; 0 gives `scale` times `cosine_logits` of supports of length one.
        lr: its learning rate.
        momentum: also the dampening.
        weight_decay: L2.

    Returns:
        logits `[B, Q, N]` in [-scale, scale].
    """
    if steps < 0 or not lr > 0 or not scale > 0:
        raise UsageError(
            f"cosine-fitted with steps = {steps}, lr = {lr}, scale = {scale}",
            "lr and scale must be positive, steps 0 or more",
        )
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


COSINE_FITTED = Head("cosine-fitted", cosine_fitted_logits, decomposes=False)


INITIAL_SCALE = 10.0
"""Of the cosines. The paper has none, and at 1 the attention over five supports cannot leave 0.13 .. 0.27 for cosines in
-1 .. 1 wide apart: too flat to be trained."""


def matching_logits(
    support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int, scale: float | Tensor = INITIAL_SCALE
) -> Tensor:
    """log of the attention that each class gets: logsumexp over its supports of scale * cos(q, x_i) (eq. 1 and 2).

    Softmax of these logits is the paper's P(y | q) = sum_i a(q, x_i) y_i with a the softmax over all supports: the two
    normalisations are one. A class with more supports gets more attention, as in the paper.

    Args:
        support: `[B, S, D]`.
        support_labels: int64 `[B, S]`, 0 .. N-1.
        query: `[B, Q, D]`.
        n_classes: N; a class without supports gets -inf.
        scale: of the cosines.

    Returns:
        logits `[B, Q, N]`.
    """
    cosines = functional.normalize(query, dim=-1) @ functional.normalize(support, dim=-1).mT  # [B, Q, S]
    own = functional.one_hot(support_labels, n_classes).bool().mT.unsqueeze(1)  # [B, 1, N, S]
    # [B, Q, N, S] would be N times the cosines: a class at a time, from supports sorted by class, where shots are equal.
    counts = own.sum(-1)
    # Only on the CPU: whether shots are equal is a question that another device would have to be waited for.
    if counts.device.type == "cpu" and bool((counts == counts[..., :1]).all()) and int(counts.flatten()[0]):
        order = support_labels.argsort(dim=-1, stable=True).unsqueeze(1).expand_as(cosines)
        by_class = (scale * cosines).gather(-1, order).unflatten(-1, (n_classes, -1))
        return by_class.logsumexp(-1)  # type: ignore[no-any-return]
    masked = (scale * cosines).unsqueeze(2).masked_fill(~own, -math.inf)
    return masked.logsumexp(-1)


class MatchingModule(nn.Module):
    """`matching_logits` with a learned scale.

    The learner's own scale multiplies logarithms of attention, which is not the same thing.
    """

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Logits `[B, Q, N]`."""
        return matching_logits(support, support_labels, query, n_classes, self.log_scale.exp())


MATCHING = Head("matchingnet", matching_logits, decomposes=True, module=MatchingModule)


HIDDEN = 256


class RelationModule(nn.Module):
    """g([mean of the class's supports, q]): two layers on feature vectors.

    The paper's module for images convolves maps of 19 x 19 pixels, which the backbones here do not leave (Conv4 has maps of
    2 x 2 for 32 pixels, ResNet-12 vectors). This is the form of its zero-shot experiments, two fully connected layers. Two
    more departures, both of Chen et al. (ICLR 2019): the loss is cross-entropy over the scores instead of squared errors
    of their sigmoids, and the mean of the supports takes the place of their sum, so that unequal shots do not change its length.

    Args:
        feature_dim: D.
        hidden: width of the hidden layer.
    """

    def __init__(self, feature_dim: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.support = nn.Linear(feature_dim, hidden)
        self.query = nn.Linear(feature_dim, hidden, bias=False)
        self.score = nn.Linear(hidden, 1)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Relation scores `[B, Q, N]`; shapes as in `slabench.heads.HeadFunction`."""
        means = class_means(support, support_labels, n_classes)
        # One linear layer on [class, query] is the sum of one on each: 2 D H (N + Q) products instead of 2 D H N Q.
        asked, known = self.query(query), self.support(means)  # [B, Q, H], [B, N, H]
        # Class by class: all pairs at once would be [B, Q, N, H].
        scores = [self.score(functional.relu(asked + known[:, n : n + 1])) for n in range(n_classes)]
        return torch.cat(scores, -1)


RELATION = Head("relationnet", None, decomposes=True, module=RelationModule)
