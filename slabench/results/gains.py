"""What an objective earns beside its controls: paired differences to the baselines of `slabench.results.controls`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slabench.evaluation.intervals import finite_or_none
from slabench.results.controls import controls
from slabench.results.leaderboard import Entry
from slabench.results.store import EpisodeCache, ResultStore


@dataclass(frozen=True)
class Gain:
    """`entry` - `control` on the same test episodes or images, both averaged over the seeds that both have.

    Attributes:
        entry: a method that is no baseline, under one predictor.
        control: a baseline of the same model under one predictor.
        question: what the control is for, such as one of `slabench.results.controls.CONTROLS`.
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


def gains(group: Sequence[Entry], store: ResultStore | None = None) -> list[Gain]:
    """Every row of a protocol that is no baseline beside each of its controls that was run.

    Args:
        group: entries that may be compared, of one protocol.
        store: reads the accuracies of single episodes; without it differences have no interval.
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
    from slabench.evaluation.comparison import paired_over_seeds

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
