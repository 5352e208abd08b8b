"""How several processes share the work of one trial: what the tasks of both suites have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from slabench.backbones import Backbone, Share
from slabench.backbones.synchronised import synchronise
from slabench.core.errors import UsageError
from slabench.core.team import as_leader, current, share, whole
from slabench.suites import SuiteTask


class UndividedError(UsageError):
    """Several processes cannot train this as one would."""


def divide(task: SuiteTask) -> None:
    """Make the task of each process one of a team: batch norms over all of them, and the first one's weights.

    Raises:
        UndividedError: it cannot be divided; says by what.
    """
    if current().size == 1:
        return
    backbone = getattr(task.module, "backbone", None)
    name = task.recipe.model.backbone
    if not task.divides or not isinstance(backbone, Backbone):
        raise UndividedError(
            f"the learner {task.recipe.model.learner} adapts to one episode after another, which several processes cannot share",
            "run it without torchrun; many trials at a time: --executor local",
        )
    draws, knows = (getattr(type(backbone), each) is not getattr(Backbone, each) for each in ("set_noise", "set_share"))
    if draws and not knows:
        raise UndividedError(
            f"the backbone {name} draws masks for the rows it is given, and not for the whole batch: several processes "
            "would not train what one does",
            "run it without torchrun, or give the backbone a set_share (slabench.backbones.Backbone)",
        )
    if not backbone.frozen_statistics:
        synchronise(backbone, task.device)
    with torch.no_grad():  # other processors may draw other last digits of the same weights
        for values in task.module.state_dict().values():
            as_leader(values)


def own_rows(backbone: Backbone, images: int, copies: int) -> slice:
    """This process's images of a batch; the backbone is told which rows their copies are."""
    part, team = share(images), current()
    backbone.set_share(None if team.size == 1 else Share(part.start * copies, images * copies))
    return part


def whole_batch(features: Tensor, images: int, copies: int) -> Tensor:
    """Features `[images * copies, D]` of a batch, from those of each process's own images."""
    if current().size == 1:
        return features
    return whole(features.unflatten(0, (len(features) // copies, copies)), images).flatten(0, 1)
