"""A loss by its class counts, class weights, and the weighted mean: `(logits [B, C], labels [B]) -> loss of each sample [B]`.

A loss is built from the class counts and knows nothing of where logits come from. For SLA's joint classes (i, j) every
quantity of a class is repeated: `Loss.joint(M)` is the same loss over C*M classes, with n_(i,j) = n_i (the prior of a
joint class is p_i / M, and constants cancel). The losses themselves are in `slabench.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core import registry
from slabench.core.errors import UsageError, unknown_name
from slabench.core.uploads import upload
from slabench.losses import BUILT_IN, REWEIGHTINGS, SmoothingOver

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
        gamma: of the focal factor; 0 leaves it out.
        smoothing: label smoothing.
        smoothing_over: see `smoothing_as_torch`.
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
    smoothing_over: SmoothingOver = "all"
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
            margin = upload(self.margin, z.device)[labels]
            z = z - torch.zeros_like(z).scatter_(1, labels.unsqueeze(1), margin.unsqueeze(1))
        if self.scale != 1:
            z = z * self.scale
        if self.shift is not None:
            z = z + upload(self.shift, z.device)
        if self.function is not None:
            return self.function(z, labels, upload(self.counts, z.device))
        smoothing = smoothing_as_torch(self.smoothing, self.smoothing_over, z.shape[1])
        losses = functional.cross_entropy(z, labels, reduction="none", label_smoothing=smoothing)
        if self.gamma:
            # p_y from the log-probability itself: exp(-loss) would not be a probability under label smoothing.
            own = z.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
            losses = (1 - own.exp()).clamp_min(0) ** self.gamma * losses
        return losses

    def on(self, device: torch.device) -> Loss:
        """The same loss with its counts, priors and margins on `device`, so that no batch waits for them."""

        def there(values: Tensor | None) -> Tensor | None:
            return None if values is None else upload(values, device)

        return replace(self, counts=upload(self.counts, device), shift=there(self.shift), margin=there(self.margin))

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


def smoothing_as_torch(eps: float, over: SmoothingOver, n_classes: int) -> float:
    """The `label_smoothing` with which torch's cross-entropy has the target that is meant.

    Args:
        eps: the smoothing, 0 .. 1.
        over: `all`: eps is spread over all N classes, and the target is 1 - eps + eps/N (torch). `others`: over the other
            N - 1, and the target is 1 - eps (MetaOptNet: Lee et al., CVPR 2019), which is torch's with eps N / (N - 1).
        n_classes: N, joint classes counted.

    Raises:
        UsageError: the true class would get less than the others.
    """
    if over == "all" or not eps:
        return eps
    if eps > 1 - 1 / n_classes:
        raise UsageError(
            f"label smoothing {eps} over the others of {n_classes} classes leaves the true class less than each of them",
            f"give train.label_smoothing at most {1 - 1 / n_classes:.3g}; 0.1 is usual",
        )
    return eps * n_classes / (n_classes - 1)


def build_loss(name: str, counts: Counts, *, smoothing: float = 0.0, **parameters: float) -> Loss:
    """The loss called `name` for classes of these sizes.

    Args:
        name: one of `slabench.losses.LOSSES`.
        counts: training images by class, all positive.
        smoothing: label smoothing over all classes, 0 .. 1.
        parameters: of any built-in loss, by name, as a recipe has them; those that this loss does not have are left out.

    Raises:
        UsageError: an unknown name, a parameter of no loss or out of range, a class without images.
        PluginError: a plug-in's loss cannot be loaded.
    """
    n = _counts(counts)
    if not 0 <= smoothing < 1:
        raise UsageError(f"label smoothing {smoothing} is not in [0, 1)", "0 is none, 0.1 is usual")
    known = {key for loss in BUILT_IN.values() for key in loss.parameters}
    for key in parameters:
        if key not in known:
            raise unknown_name("parameter of a loss", key, sorted(known))
    base = Loss(name, n, smoothing=smoothing)
    if name in BUILT_IN:
        loss = BUILT_IN[name]
        own = {key: value for key, value in parameters.items() if key in loss.parameters}
        return replace(loss.build(base, **own), cosine=loss.cosine)
    function = registry.LOSSES.get(name)
    if smoothing:
        raise UsageError(
            f"label smoothing {smoothing} has no effect in the loss '{name}' of a plug-in",
            "leave loss.smoothing out, and smooth in the loss itself",
        )
    return replace(base, function=function)


def class_weights(name: str, counts: Counts, beta: float = 0.9999) -> Tensor:
    """Weights of the classes, scaled to a mean of 1: float32 `[C]`.

    Args:
        name: one of `slabench.losses.REWEIGHTINGS`.
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
    w = upload(weights, losses.device)[labels]
    return (w * losses).sum() / w.sum()


def _counts(counts: Counts) -> Tensor:
    n = torch.as_tensor(list(counts), dtype=torch.float64)
    if n.dim() != 1 or len(n) < 2:
        raise UsageError(
            f"a loss needs at least 2 classes and got the counts of {len(n)}", "give the training images of each class"
        )
    if not bool((n > 0).all()):
        empty = int((n <= 0).nonzero()[0])
        raise UsageError(f"class {empty} has {n[empty]:g} training images", "leave classes without training images out")
    return n
