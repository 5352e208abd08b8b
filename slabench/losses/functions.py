"""The built-in losses in a plug-in's form, `(logits, labels, counts) -> loss of each sample`, parameters at their defaults.

Training uses `slabench.losses.build_loss`, which takes the parameters of a recipe.
"""

from __future__ import annotations

from torch import Tensor

from slabench.losses import LossFunction, build_loss


def _at_defaults(name: str) -> LossFunction:
    def loss(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        return build_loss(name, counts.tolist())(logits, labels)

    return loss


ce = _at_defaults("ce")
focal = _at_defaults("focal")
ldam = _at_defaults("ldam")
balanced_softmax = _at_defaults("balanced-softmax")
logit_adjusted = _at_defaults("logit-adjusted")
