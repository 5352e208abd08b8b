"""How a head's own parameter is come by: fixed, the best of a grid on validation episodes, or an ensemble over the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slabench.core.errors import UsageError, unknown_name
from slabench.core.registry import HEADS
from slabench.episodes.files import protocol_part
from slabench.heads import Head
from slabench.heads.selection import ensemble, with_value
from slabench.learners import EpisodicLearner
from slabench.records.record import HeadSelection
from slabench.suites.fewshot.head_settings import Setting
from slabench.suites.fewshot.validation import Validation

FIXED, BY_VALIDATION, ENSEMBLE = SELECTIONS = ("fixed", "validation", "ensemble")


@dataclass(frozen=True)
class Selector:
    """The rule, and what it looks at.

    Attributes:
        rule: one of `SELECTIONS`.
        validation: of the rule `validation`.
    """

    rule: str = FIXED
    validation: Validation | None = None

    def facts(self, head: str, setting: Setting) -> dict[str, Any] | None:
        """All that decides the choice, for recipe and key; None where the parameter is fixed."""
        grid = HEADS.get(head).grid
        if self.rule == FIXED or grid is None:
            return None
        facts: dict[str, Any] = {"rule": self.rule, "parameter": grid.parameter, "grid": list(grid.values)}
        if self.validation is not None:
            file = self.validation.files[setting]
            facts |= {
                "episodes": file.name,
                "episodes_digest": protocol_part(file),
                "n": len(self.validation.episodes[setting]),
                "features": self.validation.digest,
            }
        return facts

    def chosen(
        self, learner: EpisodicLearner, setting: Setting, predictor: str
    ) -> tuple[EpisodicLearner, HeadSelection | None]:
        """The learner with the head that the rule gives, and what a record says of it.

        Of equally good values the first of the grid is taken.
        """
        head = learner.head
        if self.rule == FIXED or head.grid is None:
            return learner, None
        if self.rule == ENSEMBLE:
            return _under(learner, ensemble(head)), HeadSelection(rule=ENSEMBLE, parameter=head.grid.parameter)
        assert self.validation is not None  # whoever makes a selector by validation has it
        accuracies = {}
        for value in head.grid.values:
            logits, ways = self.validation.logits(_under(learner, with_value(head, value)), setting, predictor)
            accuracies[value] = float((logits.argmax(-1) == ways).double().mean())
        best = max(accuracies, key=lambda value: accuracies[value])
        said = HeadSelection(
            rule=BY_VALIDATION, parameter=head.grid.parameter, value=best, val_accuracy=accuracies[best]
        )
        return _under(learner, with_value(head, best)), said


def _under(learner: EpisodicLearner, head: Head) -> EpisodicLearner:
    made = EpisodicLearner(learner.backbone, head, learner.head_module)
    made.scale = learner.scale
    return made.eval()


def named(head: str, rule: str) -> str:
    """What names of records call a head under a rule: `logistic`, `logistic-validation`."""
    return head if rule == FIXED else f"{head}-{rule}"


def selectable(heads: Sequence[str], rule: str, asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The heads that have something to select by `rule`, and a line for each that has not.

    Raises:
        UsageError: an unknown rule, or none of the heads has; names one that was asked for by its name.
    """
    if rule not in SELECTIONS:
        raise unknown_name("--head-selection", rule, SELECTIONS)
    without = [head for head in heads if HEADS.get(head).grid is None] if rule != FIXED else []
    kept = [head for head in heads if head not in without]
    by_name = [head for head in without if head in (asked or ())]
    if by_name or not kept:
        known = ", ".join(head for head in HEADS.names() if HEADS.get(head).grid is not None)
        raise UsageError(
            f"--head-selection {rule}: the head {(by_name or without)[0]} has no parameter to choose",
            f"these have: {known}",
        )
    return kept, [f"{head}: it has no parameter to choose by {rule}" for head in without]
