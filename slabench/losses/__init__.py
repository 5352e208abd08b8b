"""Losses for classification with uneven classes: `(logits [B, C], labels [B]) -> loss of each sample [B]`.

A loss is built from the class counts and knows nothing of where logits come from. For SLA's joint classes (i, j) every
quantity of a class is repeated: `Loss.joint(M)` is the same loss over C*M classes, with n_(i,j) = n_i (DESIGN: the prior of a
joint class is p_i / M, and constants cancel).

| name | loss of a sample of class y | source |
|---|---|---|
| ce | -log softmax(z)_y | |
| focal | (1 - p_y)^gamma * ce | Lin et al., ICCV 2017, eq. 4, over softmax |
| ldam | ce of s * (cos - m_y at y), m_i = max_m * (n_i / n_min)^(-1/4) | Cao et al., NeurIPS 2019, eq. 13 |
| balanced-softmax | ce of z + log n | Ren et al., NeurIPS 2020, eq. 3 |
| logit-adjusted | ce of z + tau * log p | Menon et al., ICLR 2021, eq. 10 |

A plug-in's loss is a `LossFunction`, registered in `slabench.core.registry.LOSSES`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core import registry
from slabench.core.errors import UsageError, unknown_name

Counts = Sequence[int]


class LossFunction(Protocol):
    """A plug-in's loss: pure, no parameters, any number of classes."""

    def __call__(self, logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        """Losses `[B]` from logits float32 `[B, C]`, labels int64 `[B]` and training images by class float64 `[C]`."""
        ...


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss of each sample, by its class counts.

    Attributes:
        name: as in `--loss`.
        counts: float64 `[C]`, training images of each class.
        shift: float32 `[C]`, added to the logits of every class (priors).
        margin: float32 `[C]`, taken from the logit of the sample's own class, before `scale`.
        scale: multiplies all logits; a cosine layer's temperature s.
        gamma: of the focal factor; 0 is none.
        smoothing: label smoothing, over all classes.
        cosine: whether it needs the logits of a cosine layer.
        function: a plug-in's loss, in place of cross-entropy; it gets the scaled logits and `counts`.
    """

    name: str
    counts: Tensor
    shift: Tensor | None = None
    margin: Tensor | None = None
    scale: float = 1.0
    gamma: float = 0.0
    smoothing: float = 0.0
    cosine: bool = False
    function: LossFunction | None = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Losses `[B]` in float32 from logits `[B, C]` and labels int64 `[B]`."""
        z = logits.float()
        if z.dim() != 2 or z.shape[1] != len(self.counts):
            raise UsageError(
                f"{self.name} was built for {len(self.counts)} classes and got logits {list(logits.shape)}",
                "build it from the counts of these classes; joint logits need Loss.joint(M)",
            )
        if self.margin is not None:
            margin = self.margin.to(z.device)[labels]
            z = z - torch.zeros_like(z).scatter_(1, labels.unsqueeze(1), margin.unsqueeze(1))
        if self.scale != 1:
            z = z * self.scale
        if self.shift is not None:
            z = z + self.shift.to(z.device)
        if self.function is not None:
            return self.function(z, labels, self.counts.to(z.device))
        losses = functional.cross_entropy(z, labels, reduction="none", label_smoothing=self.smoothing)
        if self.gamma:
            # p_y from the log-probability itself: exp(-loss) would not be a probability under label smoothing.
            own = z.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
            losses = (1 - own.exp()).clamp_min(0) ** self.gamma * losses
        return losses

    def on_cosines(self, scale: float) -> Loss:
        """The same loss on the logits of a cosine layer, multiplied by `scale` as LDAM does."""
        return replace(self, scale=scale, cosine=True)

    def joint(self, m: int) -> Loss:
        """The same loss over the joint classes i*M + j of SLA."""

        def repeat(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.repeat_interleave(m)

        return replace(
            self, counts=self.counts.repeat_interleave(m), shift=repeat(self.shift), margin=repeat(self.margin)
        )


LOSSES = registry.LOSSES.summaries()
"""Name to summary, plug-ins included."""


def build_loss(
    name: str,
    counts: Counts,
    *,
    smoothing: float = 0.0,
    gamma: float = 1.0,
    max_margin: float = 0.5,
    scale: float = 30.0,
    tau: float = 1.0,
) -> Loss:
    """The loss called `name` for classes of these sizes.

    Args:
        name: one of `LOSSES`.
        counts: training images by class, all positive.
        smoothing: label smoothing, 0 .. 1.
        gamma: `focal` alone.
        max_margin: `ldam` alone: the margin of the smallest class.
        scale: `ldam` alone: s.
        tau: `logit-adjusted` alone; 1 equals balanced softmax.

    Raises:
        UsageError: an unknown name, a class without images, a parameter out of range.
        PluginError: a plug-in's loss cannot be loaded.
    """
    n = _counts(counts)
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing {smoothing} is not in [0, 1)", "0 is none, 0.1 is usual")
    base = Loss(name, n, smoothing=smoothing)
    if name == "ce":
        return base
    if name == "focal":
        if gamma < 0:
            raise UsageError(f"focal gamma {gamma} is negative", "0 is cross-entropy, 1 to 2 are usual")
        return replace(base, gamma=gamma)
    if name == "ldam":
        if max_margin <= 0 or scale <= 0:
            raise UsageError(
                f"LDAM with max margin {max_margin} and scale {scale}: both must be positive",
                "the paper has 0.5 and 30",
            )
        margin = max_margin * (n / n.min()) ** -0.25
        return replace(base, margin=margin.float(), scale=scale, cosine=True)
    if name == "balanced-softmax":
        return replace(base, shift=n.log().float())
    if name == "logit-adjusted":
        return replace(base, shift=(tau * (n / n.sum()).log()).float())
    if smoothing:
        registry.LOSSES.entry(name)
        raise UsageError(
            f"label smoothing {smoothing} with the loss '{name}' of a plug-in", "it smooths by itself, or not"
        )
    return replace(base, function=registry.LOSSES.get(name))


Reweighting = Literal["none", "inverse", "sqrt-inverse", "effective"]


REWEIGHTINGS: dict[str, str] = {
    "none": "every sample counts the same",
    "inverse": "weight 1 / n",
    "sqrt-inverse": "weight 1 / sqrt(n)",
    "effective": "weight (1 - beta) / (1 - beta^n), the effective number of samples (Cui et al., CVPR 2019, eq. 2)",
}


def class_weights(name: str, counts: Counts, beta: float = 0.9999) -> Tensor:
    """Weights of the classes, scaled to a mean of 1: float32 `[C]`.

    Args:
        name: one of `REWEIGHTINGS`.
        counts: training images by class; for joint classes those of the original ones, then `repeat_interleave(M)`.
        beta: `effective` alone, in [0, 1).

    Raises:
        UsageError: an unknown name, a class without images, or beta out of range.
    """
    n = _counts(counts)
    if name == "none":
        raw = torch.ones_like(n)
    elif name == "inverse":
        raw = 1 / n
    elif name == "sqrt-inverse":
        raw = n.rsqrt()
    elif name == "effective":
        if not 0 <= beta < 1:
            raise UsageError(f"beta {beta} is not in [0, 1)", "0.9999 is LDAM-DRW's")
        # 1 - beta^n by expm1: the difference itself loses digits where beta is near 1. beta = 0 gives every class 1.
        raw = -(1 - beta) / torch.expm1(n * math.log(beta)) if beta else torch.ones_like(n)
    else:
        raise unknown_name("re-weighting", name, REWEIGHTINGS)
    return (raw * (len(n) / raw.sum())).float()


def weighted_mean(losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of `losses` `[B]` by the weights of their classes: sum(w_y * loss) / sum(w_y), as torch's weighted mean."""
    if weights is None:
        return losses.mean()
    w = weights.to(losses.device)[labels]
    return (w * losses).sum() / w.sum()


def _counts(counts: Counts) -> Tensor:
    n = torch.as_tensor(list(counts), dtype=torch.float64)
    if n.dim() != 1 or len(n) < 2:
        raise UsageError(f"a loss got the counts of {len(n)} classes", "give the training images of 2 or more")
    if not bool((n > 0).all()):
        empty = int((n <= 0).nonzero()[0])
        raise UsageError(
            f"class {empty} has {n[empty]:g} training images", "a loss is built from classes that have some"
        )
    return n


def _at_defaults(name: str) -> LossFunction:
    def loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        return build_loss(name, counts.tolist())(logits, labels)

    return loss


ce = _at_defaults("ce")


focal = _at_defaults("focal")


ldam = _at_defaults("ldam")


balanced_softmax = _at_defaults("balanced-softmax")


logit_adjusted = _at_defaults("logit-adjusted")
