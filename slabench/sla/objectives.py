"""What a learner is trained on (Lee, Hwang and Shin, ICML 2020).

The objectives of an episode, as a rule for copies and labels; and those of an ordinary classifier: baseline, DA, MT, SLA and
SLA+SD.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError, unknown_name
from slabench.core.uploads import upload
from slabench.losses.loss import Loss, weighted_mean
from slabench.sla import aggregate, joint_labels, single


@dataclass(frozen=True)
class Objective:
    """How transformed copies are labelled in training.

    Attributes:
        name: as in `--objective`.
        summary: one line for lists.
        copies: every image enters the batch under all M transformations.
        joint: a copy under t_j has the joint label i*M + j, otherwise i.
        pairs: an episode's classes are drawn from the (class, transformation) pairs.
    """

    name: str
    summary: str
    copies: bool = False
    joint: bool = False
    pairs: bool = False

    def n_copies(self, m: int) -> int:
        """Rows of the batch for one image."""
        return m if self.copies else 1

    def n_labels(self, n_classes: int, m: int) -> int:
        """Classes that the learner tells apart where the data has `n_classes`."""
        return n_classes * m if self.joint else n_classes

    def labels(self, labels: Tensor, m: int) -> Tensor:
        """Labels `[..., copies]` of the copies of samples with `labels` `[...]`."""
        if self.joint:
            return joint_labels(labels, m)
        copies = self.n_copies(m)
        return labels.unsqueeze(-1).expand(*labels.shape, copies)


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("baseline", "plain images, plain classes"),
        Objective("da", "transformed copies keep their class: transformations as data augmentation", copies=True),
        Objective(
            "rotated-classes", "(class, transformation) pairs as further classes of ordinary episodes", pairs=True
        ),
        Objective("sla", "self-supervised label augmentation: joint labels of the transformed copies", True, True),
    )
}


def objective(name: str) -> Objective:
    """The objective called `name`; an unknown name is a usage error with a did-you-mean."""
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


Outputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class ClassifierObjective:
    """How a classifier is trained on transformed copies, and which predictors it has.

    Attributes:
        name: as in `--objective`.
        summary: one line for lists.
        copies: every image enters the batch under all M transformations.
        joint: it has the joint layer instead of the plain one.
        transforms: it has a layer that tells the transformation (MT).
        student: it has a layer for the plain image, taught by the aggregated prediction (SD).
    """

    name: str
    summary: str
    copies: bool = False
    joint: bool = False
    transforms: bool = False
    student: bool = False

    def layers(self, n_classes: int, m: int) -> dict[str, int]:
        """Output layers and their widths."""
        layers = {"joint": n_classes * m} if self.joint else {"classes": n_classes}
        if self.transforms:
            layers["transforms"] = m
        if self.student:
            layers["student"] = n_classes
        return layers

    def n_copies(self, m: int) -> int:
        """Rows of the training batch for one image."""
        return m if self.copies else 1

    def loss(
        self,
        outputs: Outputs,
        labels: Tensor,
        m: int,
        loss: Loss,
        *,
        weights: Tensor | None = None,
        reduction: str = "mean",
        temperature: float = 1.0,
        beta: float = 1.0,
        mixed: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The scalar to descend.

        Args:
            outputs: logits by layer, rows interleaved: `[B * copies, width]`.
            labels: int64 `[B]`.
            m: M.
            loss: over the C classes; joint classes use `loss.joint(M)`.
            weights: of the C classes, float32 `[C]`; None weighs all samples alike.
            reduction: `mean` or `sum` over the transformations; `sum` multiplies the copies' term by M, which the authors
                advise for large data sets. The student's terms are never multiplied.
            temperature: T of the distillation; both sides are divided by it and the term multiplied by T^2.
            beta: weight of the student's own loss (SD), or of the transformation's (MT).
            mixed: for images mixed in pairs: the partners' labels int64 `[B]`, and how much of the first label is left,
                float32 `[B]`; copy j carries the joint labels (first, j) and (second, j).

        Raises:
            UsageError: an unknown reduction, or outputs that do not fit.
        """
        if reduction not in ("mean", "sum"):
            raise UsageError(f"reduction '{reduction}' over transformations is unknown", "known: mean, sum")
        copies = self.n_copies(m)
        self._check(outputs, labels, copies)
        own_loss = loss.joint(m) if self.joint else loss
        logits = outputs["joint" if self.joint else "classes"]

        def copied(own: Tensor) -> Tensor:
            return joint_labels(own, m).flatten() if self.joint else own.repeat_interleave(copies)

        def mean(of: Loss, values: Tensor, spread: Callable[[Tensor], Tensor], rows: int) -> Tensor:
            """Mean over samples by class weights; a mixed sample counts with either label as much as it has of it."""
            losses = of(values, spread(labels))
            if mixed is None:
                return weighted_mean(losses, labels.repeat_interleave(rows), weights)
            second, share = mixed
            first_w, second_w = share, 1 - share
            if weights is not None:
                w = upload(weights, labels.device)
                first_w, second_w = first_w * w[labels], second_w * w[second]
            first_w, second_w = first_w.repeat_interleave(rows), second_w.repeat_interleave(rows)
            total = (first_w * losses).sum() + (second_w * of(values, spread(second))).sum()
            return total / (first_w + second_w).sum()

        total = mean(own_loss, logits, copied, copies)
        if self.transforms:
            which = joint_labels(labels.new_zeros(len(labels)), m).flatten()
            total = total + beta * functional.cross_entropy(outputs["transforms"].float(), which)
        if reduction == "sum":
            total = total * copies
        if self.student:
            student = outputs["student"][::m].float()
            teacher = aggregate(outputs["joint"].float().unflatten(0, (-1, m)), m).detach()
            divergence = functional.kl_div(
                (loss.scale * student / temperature).log_softmax(1),
                (loss.scale * teacher / temperature).log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
            total = total + temperature**2 * divergence
            if beta:
                total = total + beta * mean(loss, student, lambda own: own, 1)
        return total

    def predictors(self, outputs: Outputs, m: int) -> dict[str, Tensor]:
        """Logits `[B, C]` by predictor, from the outputs of all M copies.

        `single` reads the plain copy, `aggregated` averages the logits of all copies, `distilled` is the student's. Every
        objective has the first two: a baseline asked M times is the control that SLA is measured against.

        Args:
            outputs: logits by layer of the interleaved rows of all M copies, `[B * M, width]`.
            m: M.
        """
        if self.joint:
            joint = outputs["joint"].unflatten(0, (-1, m))
            found = {"single": single(joint, m), "aggregated": aggregate(joint, m)}
        else:
            plain = outputs["classes"].unflatten(0, (-1, m))
            found = {"single": plain[:, 0], "aggregated": plain.mean(1)}
        if self.student:
            found["distilled"] = outputs["student"][::m]
        return found

    def _check(self, outputs: Outputs, labels: Tensor, copies: int) -> None:
        for name, logits in outputs.items():
            if len(logits) != len(labels) * copies:
                raise UsageError(
                    f"layer '{name}' gave {len(logits)} rows for {len(labels)} images in {copies} copies",
                    "embed all copies of the batch, interleaved",
                )


CLASSIFIER_OBJECTIVES: dict[str, ClassifierObjective] = {
    chosen.name: chosen
    for chosen in (
        ClassifierObjective("baseline", "plain images, plain classes"),
        ClassifierObjective("da", "transformed copies keep their class: augmentation", copies=True),
        ClassifierObjective("mt", "class and transformation by two layers", copies=True, transforms=True),
        ClassifierObjective("sla", "joint labels of class and transformation", copies=True, joint=True),
        ClassifierObjective(
            "sla+sd", "joint labels, and a student of the aggregated prediction", copies=True, joint=True, student=True
        ),
    )
}


def classifier_objective(name: str) -> ClassifierObjective:
    """The objective called `name`; an unknown name is a usage error with a did-you-mean."""
    if name not in CLASSIFIER_OBJECTIVES:
        raise unknown_name("objective", name, CLASSIFIER_OBJECTIVES)
    return CLASSIFIER_OBJECTIVES[name]
