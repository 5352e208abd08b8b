"""SLA around a training loop of one's own: joint labels, loss and aggregation in three calls.

>>> import slabench
>>> sla = slabench.SLA("rotation", n_classes=10)          # doctest: +SKIP
>>> model = MyNetwork(outputs=sla.n_outputs)              # doctest: +SKIP
>>> x, y = sla.augment(images, labels)                    # doctest: +SKIP
>>> sla.loss(model(x), y).backward()                      # doctest: +SKIP
>>> probabilities = sla.aggregate(model(sla.views(test))) # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slabench.core.errors import UsageError
from slabench.losses.loss import build_loss
from slabench.sla import aggregate, joint_labels, single
from slabench.sla.transforms import TransformSet, transform_set


class SLA:
    """Self-supervised label augmentation for any model that gives logits (Lee, Hwang and Shin, ICML 2020, eq. 3 and 4).

    Args:
        transforms: name of a set (`slabench list transforms`), or a set.
        n_classes: C.
        loss: name of a loss (`slabench list losses`) over the joint classes.
        counts: training images of each of the C classes, for losses that use them; None: all classes alike.
        reduction: `mean` or `sum` over the M copies of an image; the authors advise `sum` for large data sets.

    Attributes:
        M: the number of transformations, the identity included.
        n_outputs: C*M, the width that the model's last layer must have.
    """

    def __init__(
        self,
        transforms: str | TransformSet = "rotation",
        n_classes: int = 2,
        *,
        loss: str = "ce",
        counts: Sequence[int] | None = None,
        reduction: str = "mean",
    ) -> None:
        if n_classes < 2:
            raise UsageError(f"n_classes = {n_classes}", "a classifier needs at least two classes")
        if counts is not None and len(counts) != n_classes:
            raise UsageError(
                f"{len(counts)} counts for {n_classes} classes", "give one count per class, in label order"
            )
        if reduction not in ("mean", "sum"):
            raise UsageError(f"reduction '{reduction}' over transformations is unknown", "known: mean, sum")
        self.transforms = transform_set(transforms) if isinstance(transforms, str) else transforms
        self.n_classes = n_classes
        self.M = self.transforms.M
        self.n_outputs = n_classes * self.M
        self.reduction = reduction
        self._loss = build_loss(loss, counts if counts is not None else [1] * n_classes).joint(self.M)

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """All M copies of a training batch, and their joint labels.

        Args:
            images: `[B, 3, H, W]`, any dtype, augmented as usual; H == W for quarter turns.
            labels: int64 `[B]`, 0 .. C-1.

        Returns:
            images `[B*M, 3, H, W]`, row b*M + j being t_j(images[b]), and labels int64 `[B*M]`, y_b*M + j.
        """
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise UsageError(
                f"labels of {len(images)} images are {labels.dtype} {list(labels.shape)}", "give int64 labels [B]"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.n_classes:
            raise UsageError(
                f"labels run from {int(labels.min())} to {int(labels.max())}",
                f"{self.n_classes} classes have the labels 0 .. {self.n_classes - 1}",
            )
        return self.transforms.apply(images), joint_labels(labels, self.M).flatten()

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The scalar to descend, from the model's logits `[B*M, C*M]` and the joint labels `[B*M]` of `augment`."""
        self._check(logits)
        mean = self._loss(logits, labels).mean()
        return mean * self.M if self.reduction == "sum" else mean

    def views(self, images: Tensor) -> Tensor:
        """All M copies of test images `[B, 3, H, W]`: `[B*M, 3, H, W]`."""
        return self.transforms.apply(images)

    def aggregate(self, logits: Tensor) -> Tensor:
        """Probabilities `[B, C]` from the logits `[B*M, C*M]` of all views: softmax of the mean over j of s * l[j, (i, j)].

        s is the scale that the loss gives the logits: 30 for LDAM, whose logits are cosines, else 1. The same holds of `single`.
        """
        self._check(logits)
        return self._probabilities(aggregate(logits.float().unflatten(0, (-1, self.M)), self.M))

    def single(self, logits: Tensor) -> Tensor:
        """Probabilities `[B, C]` of plain images alone, from their logits `[B, C*M]`: one view, no cost at test time."""
        self._check(logits, views=False)
        return self._probabilities(logits.float()[:, :: self.M])

    def single_of_views(self, logits: Tensor) -> Tensor:
        """`single`, from the logits `[B*M, C*M]` of all views."""
        self._check(logits)
        return self._probabilities(single(logits.float().unflatten(0, (-1, self.M)), self.M))

    def _probabilities(self, logits: Tensor) -> Tensor:
        return (self._loss.scale * logits).softmax(-1)

    def _check(self, logits: Tensor, views: bool = True) -> None:
        if logits.dim() != 2 or logits.shape[1] != self.n_outputs:
            raise UsageError(
                f"{self.n_classes} classes under {self.M} transformations need logits [rows, {self.n_outputs}], "
                f"got {list(logits.shape)}",
                f"make the model's last layer sla.n_outputs = {self.n_outputs} wide",
            )
        if views and len(logits) % self.M:
            raise UsageError(
                f"{len(logits)} rows are not a multiple of {self.M}, the copies of an image",
                "give the logits of all rows of sla.augment or sla.views, in their order",
            )
