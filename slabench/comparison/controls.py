"""What a method's gain is held against, and what it earns beside that.

One definition for the report, the figures, `slabench compare`, `slabench reproduce` and benchmarks/analysis/paired.py.

Three baselines answer three questions. `baseline`, in one look, is what papers compare with. The two controls are `aggregated`,
that same baseline asked as often as the method is (what it gains needs no training with joint labels), and `equal passes`, a
baseline trained with as many images as the method was, copies counted; of its predictors the better one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slabench.evaluation.intervals import finite_or_none
from slabench.ranking.entries import Entry
from slabench.records.store import EpisodeCache, ResultStore

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
    """The baselines of the model of `entry`, among entries that may be compared with it. A stale entry has and is none."""
    if entry.stale:
        return []
    own = model(entry)
    return [other for other in group if other.objective == "baseline" and not other.stale and model(other) == own]


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


@dataclass(frozen=True)
class Gain:
    """`entry` - `control` on the same test episodes or images, both averaged over the seeds that both have.

    Attributes:
        entry: a method that is no baseline, under one predictor.
        control: a baseline of the same model under one predictor.
        question: what the control is for, such as one of `slabench.comparison.controls.CONTROLS`.
        value: the difference, a fraction.
        half_width: of its 95 % t interval over episodes or images; None where their accuracies cannot be read or seeds differ.
        n: episodes or images.
        seeds: those that both have; empty where they share none, and the difference is that of the means.
    """

    entry: Entry
    control: Entry
    question: str
    value: float
    half_width: float | None
    n: int
    seeds: tuple[int, ...]

    @property
    def verdict(self) -> int:
        """1 where the interval lies above 0, -1 below it, 0 where it holds 0 or there is none."""
        if self.half_width is None:
            return 0
        return (self.value > self.half_width) - (self.value < -self.half_width)


def gains(group: Sequence[Entry], store: ResultStore | None) -> list[Gain]:
    """Every row of a protocol that is no baseline beside each of its controls that was run.

    Args:
        group: entries that may be compared, of one protocol.
        store: reads the accuracies of single episodes; with None differences have no interval.
    """
    cache = EpisodeCache(store)
    return [
        gain(entry, control, question, cache)
        for entry in group
        if entry.objective != "baseline"
        for question, control in controls(entry, group)
    ]


def gain(entry: Entry, control: Entry, question: str, cache: EpisodeCache) -> Gain:
    """`entry` - `control`, which may be compared."""
    from slabench.evaluation.paired_tests import paired_over_seeds

    mine, theirs = ({record.seed: record for record in side.records} for side in (entry, control))
    seeds = tuple(sorted(set(mine) & set(theirs)))
    n = min(score.n for score in (*entry.scores, *control.scores))
    left = {seed: cache(mine[seed]).get(entry.predictor) for seed in seeds}
    right = {seed: cache(theirs[seed]).get(control.predictor) for seed in seeds}
    known = {seed: a for seed, a in left.items() if a is not None}, {s: b for s, b in right.items() if b is not None}
    lengths = {len(array) for side in known for array in side.values()}
    if seeds and len(known[0]) == len(known[1]) == len(seeds) and len(lengths) == 1:
        paired = paired_over_seeds(*known).together
        return Gain(entry, control, question, paired.mean, finite_or_none(paired.half_width), paired.n, seeds)
    return Gain(entry, control, question, _mean(entry, seeds) - _mean(control, seeds), None, n, seeds)


def _mean(entry: Entry, seeds: Sequence[int]) -> float:
    values = [s.value for r, s in zip(entry.records, entry.scores, strict=True) if not seeds or r.seed in seeds]
    return sum(values) / len(values)
