"""What a learner is trained on: the four objectives of an episode, as a rule for copies and labels.

SLA wraps a learner from outside. An objective says how many copies of an image enter the batch and which label each copy
carries; backbone, head and loss see an ordinary classification problem.

| objective | copies | labels of class i under t_j | classes of an N-way episode |
|---|---|---|---|
| baseline | 1 | i | N |
| da | M | i (rotations as augmentation, eq. 2) | N |
| rotated-classes | 1 | i; the class is a drawn pair (class, t_j) | N of the C*M pairs |
| sla | M | i*M + j (eq. 3) | N*M |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slabench.errors import unknown_name
from slabench.sla.joint import joint_labels

if TYPE_CHECKING:
    from torch import Tensor


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
