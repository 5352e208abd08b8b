"""What a method's gain is held against: the baselines of the same model that look, or were trained, as often.

One definition for the report, the figures, `slabench compare`, `slabench reproduce` and benchmarks/analysis/paired.py.

Three baselines answer three questions. `baseline`, in one look, is what papers compare with. The two controls are `aggregated`,
that same baseline asked as often as the method is (what it gains needs no training with joint labels), and `equal passes`, a
baseline trained with as many images as the method was, copies counted; of its predictors the better one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slabench.results.leaderboard import Entry

CONTROLS = ("baseline", "aggregated", "equal passes")

_EQUAL = 0.01
"""Batches are whole numbers of images, so that budgets meant to be equal may differ by a fraction of a step."""

_PARTS = (
    ("balance", "reweight"),
    ("balance", "sampler"),
    ("loss", "name"),
    ("mix", "name"),
    ("posthoc", "method"),
    ("augment", "policy"),
)


def model(entry: Entry) -> tuple[Any, ...]:
    """What is not in question between objectives: backbone, head, learner; what a head that was scored afterwards
    (`slabench score`) was not trained with; of a classifier also loss, balance, mixing, augmentation and post-hoc method; and
    whether the budget was reduced. Neither the name nor the schedule.
    """
    first = entry.records[0]
    network = str(sorted((first.setting("model") or {}).items()))
    scored = str(sorted((first.setting("score", "trained") or {}).items()))
    return (network, scored, *(first.setting(*names) for names in _PARTS), first.limited)


def equal_passes(a: int, b: int) -> bool:
    """Whether two numbers of image passes are the same budget: within 1 %."""
    return abs(a - b) <= _EQUAL * max(a, b, 1)


def same_looks(predictor: str) -> str:
    """The baseline's predictor that looks at a test image as often as this one does."""
    return "aggregated" if predictor == "aggregated" else "single"


def baselines(entry: Entry, group: Sequence[Entry]) -> list[Entry]:
    """The baselines of the model of `entry`, among entries that may be compared with it."""
    own = model(entry)
    return [other for other in group if other.objective == "baseline" and model(other) == own]


def controls(entry: Entry, group: Sequence[Entry]) -> list[tuple[str, Entry]]:
    """The baselines that stand beside `entry`, with the question that each answers, in the order of `CONTROLS`."""
    possible = baselines(entry, group)
    plain = _plain(entry, possible)
    found = []
    if plain is not None:
        for question, predictor in zip(CONTROLS, ("single", "aggregated"), strict=False):
            own = [other for other in possible if _digest(other) == plain and other.predictor == predictor]
            found += [(question, other) for other in own]
    equal = [other for other in possible if _digest(other) != plain and equal_passes(other.passes, entry.passes)]
    if equal:
        found.append((CONTROLS[2], max(equal, key=lambda other: (other.mean, other.predictor))))
    return found


def _plain(entry: Entry, possible: Sequence[Entry]) -> str | None:
    """The digest of the baseline trained by the same schedule; failing that, of the one with the fewest image passes."""
    train = entry.records[0].setting("train")
    same = [other for other in possible if other.records[0].setting("train") == train]
    chosen = same or [other for other in possible if not equal_passes(other.passes, entry.passes)]
    return min(((other.passes, _digest(other)) for other in chosen), default=(0, None))[1]


def _digest(entry: Entry) -> str:
    return entry.records[0].recipe_digest
