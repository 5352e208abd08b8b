"""Losses for classification with uneven classes: the built-in ones, each in one place. Imports no torch.

| name | loss of a sample of class y | source |
|---|---|---|
| ce | -log softmax(z)_y | |
| focal | (1 - p_y)^gamma * ce | Lin et al., ICCV 2017, eq. 4, over softmax |
| ldam | ce of s * (cos - m_y at y), m_i = max_m * (n_i / n_min)^(-1/4) | Cao et al., NeurIPS 2019, eq. 13 |
| balanced-softmax | ce of z + log n | Ren et al., NeurIPS 2020, eq. 3 |
| logit-adjusted | ce of z + tau * log p | Menon et al., ICLR 2021, eq. 10 |

A new one is a function here: it gets the plain cross-entropy of these class counts and gives it what it needs (see
`slabench.losses.loss.Loss`). Its keyword arguments are its parameters; a recipe sets those that
`slabench.recipes.classifier.LossPart` has a key for. A plug-in's loss is a `LossFunction`, registered in
`slabench.core.registry.LOSSES`, without parameters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from slabench.core import registry
from slabench.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from slabench.losses.loss import Loss, LossFunction


@dataclass(frozen=True)
class BuiltIn:
    """What can be known of a built-in loss without torch.

    Attributes:
        build: makes it from plain cross-entropy over the same class counts; its keyword arguments are the loss's parameters.
        cosine: whether its margins are angles, so that it needs the logits of a cosine layer.
        counts: how the class counts enter it, if they do: by `margins`, or by priors that `shift` the logits.
    """

    build: Callable[..., Loss]
    cosine: bool = False
    counts: Literal["margins", "shift"] | None = None

    @property
    def parameters(self) -> dict[str, float]:
        """Name to default of each parameter."""
        found = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY}


SmoothingOver = Literal["all", "others"]
"""Which classes share the eps of label smoothing; see `slabench.losses.loss.smoothing_as_torch`."""

BUILT_IN: dict[str, BuiltIn] = {}
LOSSES = registry.LOSSES.summaries()
"""Name to summary, plug-ins included."""


REWEIGHTINGS: dict[str, str] = {
    "none": "every sample counts the same",
    "inverse": "weight 1 / n",
    "sqrt-inverse": "weight 1 / sqrt(n)",
    "effective": "weight (1 - beta) / (1 - beta^n), the effective number of samples (Cui et al., CVPR 2019, eq. 2)",
}


def needs_cosine(name: str) -> bool:
    """Whether the loss called `name` needs a cosine layer; a plug-in's loss takes the logits of either kind."""
    return name in BUILT_IN and BUILT_IN[name].cosine


def uses_counts(name: str) -> str | None:
    """How the class counts enter the loss called `name`; see `BuiltIn.counts`. None for a plug-in's loss: nobody knows."""
    return BUILT_IN[name].counts if name in BUILT_IN else None


def _loss(
    name: str, summary: str, *, cosine: bool = False, counts: Literal["margins", "shift"] | None = None
) -> Callable[[Callable[..., Loss]], LossFunction]:
    """Declare a built-in loss; in place of its builder stays what the registry gives: the loss at its default parameters."""

    def declare(build: Callable[..., Loss]) -> LossFunction:
        BUILT_IN[name] = BuiltIn(build, cosine, counts)
        registry.LOSSES.add(name, f"{__name__}:{build.__name__}", summary)

        def loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
            from slabench.losses.loss import build_loss

            return build_loss(name, counts.tolist())(logits, labels)

        return loss

    return declare


@_loss("ce", "cross-entropy")
def ce(plain: Loss) -> Loss:
    """As it is, for every class the same."""
    return plain


@_loss("focal", "focal loss over softmax, gamma 1 (Lin et al. 2017; gamma as in LDAM-DRW)")
def focal(plain: Loss, *, gamma: float = 1.0) -> Loss:
    """Samples that are classified well weigh less: gamma 0 is cross-entropy."""
    if gamma < 0:
        raise UsageError(f"focal gamma {gamma} is negative", "0 is cross-entropy, 1 to 2 are usual")
    return replace(plain, gamma=gamma)


@_loss(
    "ldam",
    "label-distribution-aware margins on cosines, max margin 0.5, s 30 (Cao et al. 2019)",
    cosine=True,
    counts="margins",
)
def ldam(plain: Loss, *, max_margin: float = 0.5, scale: float = 30.0) -> Loss:
    """Wider margins for smaller classes, `max_margin` for the smallest; `scale` multiplies the cosines."""
    if max_margin <= 0 or scale <= 0:
        raise UsageError(
            f"LDAM with max margin {max_margin} and scale {scale}: both must be positive", "the paper has 0.5 and 30"
        )
    margin = max_margin * (plain.counts / plain.counts.min()) ** -0.25
    return replace(plain, margin=margin.float(), scale=scale)


@_loss("balanced-softmax", "log counts added to the logits in training (Ren et al. 2020)", counts="shift")
def balanced_softmax(plain: Loss) -> Loss:
    """Logit adjustment with tau 1, up to a constant."""
    return replace(plain, shift=plain.counts.log().float())


@_loss("logit-adjusted", "tau log priors added to the logits in training (Menon et al. 2021)", counts="shift")
def logit_adjusted(plain: Loss, *, tau: float = 1.0) -> Loss:
    """Priors to the power of `tau`: 1 equals balanced softmax."""
    return replace(plain, shift=(tau * (plain.counts / plain.counts.sum()).log()).float())
