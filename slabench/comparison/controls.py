"""What a method's gain is held against, and what it earns beside that.

One definition for the report, the figures, `slabench compare`, `slabench reproduce` and benchmarks/analysis/paired.py.

`Control` says which baselines these are. What the baseline gains with more views, or with more training, needs no joint labels:
a method has earned what it gains over all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from slabench.evaluation.intervals import finite_or_none
from slabench.evaluation.paired_tests import paired_over_seeds
from slabench.ranking.entries import Entry
from slabench.records.store import EpisodeCache, ResultStore


class Control(StrEnum):
    """A baseline of the same model that a method is held against; the value is its name in tables and files.

    Attributes:
        heading: for a row or an axis.
        meaning: a noun phrase that a sentence can end in.
        absent: what a table says where there is none.
    """

    heading: str
    meaning: str
    absent: str

    def __new__(cls, name: str, heading: str, meaning: str, absent: str) -> Self:
        """The name alone is the value."""
        made = str.__new__(cls, name)
        made._value_ = name
        made.heading, made.meaning, made.absent = heading, meaning, absent
        return made

    BASELINE = (
        "baseline",
        "baseline, one view",
        "the plain baseline in one view, as papers compare",
        "not run",
    )
    AGGREGATED = (
        "aggregated",
        "baseline, aggregated",
        "the same baseline with as many views of each test image as the method",
        "not scored",
    )
    EQUAL_IMAGES_SEEN = (
        "equal images seen",
        "baseline, equal images seen",
        "a baseline trained on as many images, copies counted, with the better of its predictors",
        "not run",
    )


CONTROLS = tuple(Control)


EQUAL_VIEWS = "equal views"
"""Said of a pair whose sides take equally many views of a test image, as `Control.EQUAL_IMAGES_SEEN` is said of training."""


_EQUAL = 0.01
"""Batches are whole numbers of images, so that budgets meant to be equal may differ by a fraction of a step."""


def equal_images_seen(a: int, b: int) -> bool:
    """Whether two numbers of images seen in training are the same budget: within 1 %."""
    return abs(a - b) <= _EQUAL * max(a, b, 1)


def same_views(predictor: str) -> str:
    """The baseline's predictor that takes as many views of a test image as this one."""
    return "aggregated" if predictor == "aggregated" else "single"


def baselines(entry: Entry, group: Sequence[Entry]) -> list[Entry]:
    """The baselines of the model of `entry`, among entries that may be compared with it. A stale entry has and is none."""
    if entry.stale:
        return []
    return [
        other for other in group if other.objective == "baseline" and not other.stale and other.model == entry.model
    ]


def controls(entry: Entry, group: Sequence[Entry]) -> list[tuple[Control, Entry]]:
    """The baselines that stand beside `entry`, with the question that each answers, in the order of `CONTROLS`."""
    possible = baselines(entry, group)
    plain = _plain(entry, possible)
    found: list[tuple[Control, Entry]] = []
    if plain is not None:
        for question, predictor in ((Control.BASELINE, "single"), (Control.AGGREGATED, "aggregated")):
            own = [other for other in possible if _digest(other) == plain and other.predictor == predictor]
            found += [(question, other) for other in own]
    equal = [
        other
        for other in possible
        if _digest(other) != plain and equal_images_seen(other.images_seen, entry.images_seen)
    ]
    if equal:
        found.append((Control.EQUAL_IMAGES_SEEN, max(equal, key=lambda other: (other.mean, other.predictor))))
    return found


def _plain(entry: Entry, possible: Sequence[Entry]) -> str | None:
    """The digest of the baseline trained by the same schedule; failing that, of the one that saw the fewest images."""
    train = entry.records[0].setting("train")
    same = [other for other in possible if other.records[0].setting("train") == train]
    chosen = same or [other for other in possible if not equal_images_seen(other.images_seen, entry.images_seen)]
    return min(((other.images_seen, _digest(other)) for other in chosen), default=(0, None))[1]


def _digest(entry: Entry) -> str:
    return entry.records[0].recipe_digest


@dataclass(frozen=True)
class Gain:
    """`entry` - `control` on the same test episodes or images, both averaged over the seeds that both have.

    Attributes:
        entry: a method that is no baseline, under one predictor.
        control: a baseline of the same model under one predictor.
        question: what the control is for: a `Control`, or the word of `slabench reproduce` for it.
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


def gains(group: Sequence[Entry], store: ResultStore | None, of: Sequence[Entry] | None = None) -> list[Gain]:
    """Every row of a protocol that is no baseline beside each of its controls that was run.

    Args:
        group: entries that may be compared, of one protocol.
        store: reads the accuracies of single episodes; with None differences have no interval.
        of: only these rows of `group`; their controls may be any.
    """
    cache = EpisodeCache(store)
    return [
        gain(entry, control, question, cache)
        for entry in (group if of is None else of)
        if entry.objective != "baseline"
        for question, control in controls(entry, group)
    ]


def gain(entry: Entry, control: Entry, question: str, cache: EpisodeCache) -> Gain:
    """`entry` - `control`, which may be compared."""
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
