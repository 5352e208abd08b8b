"""What an objective earns beside its controls: paired differences to the baselines of the same model.

Three baselines answer three questions. `baseline`, in one look, is what papers compare with. `aggregated` is that same
baseline asked as often as the method is: what it gains needs no training with joint labels. `equal passes` was trained
with as many images as the method was, copies counted; of its predictors the better one is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slabench.errors import DataError
from slabench.evaluation.intervals import finite_or_none, paired_difference
from slabench.results.leaderboard import Entry
from slabench.results.store import ResultStore

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

CONTROLS = ("baseline", "aggregated", "equal passes")

_EQUAL = 0.01
"""Batches are whole numbers of images, so that budgets meant to be equal may differ by a fraction of a step."""


@dataclass(frozen=True)
class Gain:
    """`entry` - `control` on the same test episodes or images, both averaged over the seeds that both have.

    Attributes:
        entry: a method that is no baseline, under one predictor.
        control: a baseline of the same model under one predictor.
        question: one of `CONTROLS`.
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
    made = []
    reader = _Reader(store)
    for entry in group:
        if _objective(entry) == "baseline":
            continue
        for question, control in controls(entry, group):
            made.append(_difference(entry, control, question, reader))
    return made


def controls(entry: Entry, group: Sequence[Entry]) -> list[tuple[str, Entry]]:
    """The baselines that stand beside `entry`, with the question that each answers, in the order of `CONTROLS`."""
    baselines = [other for other in group if _objective(other) == "baseline" and _model(other) == _model(entry)]
    plain = _plain(entry, baselines)
    found = []
    if plain is not None:
        for question, predictor in zip(CONTROLS, ("single", "aggregated"), strict=False):
            own = [other for other in baselines if _digest(other) == plain and other.predictor == predictor]
            found += [(question, other) for other in own]
    equal = [other for other in baselines if _digest(other) != plain and _near(_passes(other), _passes(entry))]
    if equal:
        found.append((CONTROLS[2], max(equal, key=lambda other: (other.mean, other.predictor))))
    return found


def _plain(entry: Entry, baselines: Sequence[Entry]) -> str | None:
    """The digest of the baseline trained by the same schedule; failing that, of the one with the fewest image passes."""
    train = entry.records[0].recipe.get("train")
    same = [other for other in baselines if other.records[0].recipe.get("train") == train]
    chosen = same or [other for other in baselines if not _near(_passes(other), _passes(entry))]
    return min(((_passes(other), _digest(other)) for other in chosen), default=(0, None))[1]


def _difference(entry: Entry, control: Entry, question: str, reader: _Reader) -> Gain:
    import numpy

    mine = {record.seed: record for record in entry.records}
    theirs = {record.seed: record for record in control.records}
    seeds = tuple(sorted(set(mine) & set(theirs)))
    n = min(score.n for score in (*entry.scores, *control.scores))
    pairs = [(reader.get(mine[s], entry.predictor), reader.get(theirs[s], control.predictor)) for s in seeds]
    arrays = [(a, b) for a, b in pairs if a is not None and b is not None and len(a) == len(b)]
    if seeds and len(arrays) == len(seeds) and len({len(a) for a, _ in arrays}) == 1:
        left, right = (numpy.mean([pair[side] for pair in arrays], axis=0) for side in (0, 1))
        paired = paired_difference(left, right)
        return Gain(entry, control, question, paired.mean, finite_or_none(paired.half_width), paired.n, seeds)
    return Gain(entry, control, question, _mean(entry, seeds) - _mean(control, seeds), None, n, seeds)


class _Reader:
    """Reads each side file once; a damaged one counts as missing: `entries` has named it already."""

    def __init__(self, store: ResultStore | None) -> None:
        self.store = store
        self.read: dict[str, Mapping[str, NDArray[numpy.float32]]] = {}

    def get(self, record: Any, predictor: str) -> NDArray[numpy.float64] | None:
        if self.store is None:
            return None
        if record.key not in self.read:
            try:
                self.read[record.key] = self.store.episodes(record)
            except DataError:
                self.read[record.key] = {}
        array = self.read[record.key].get(predictor)
        return None if array is None else array.astype("float64")


def _mean(entry: Entry, seeds: Sequence[int]) -> float:
    values = [s.value for r, s in zip(entry.records, entry.scores, strict=True) if not seeds or r.seed in seeds]
    return sum(values) / len(values)


def _model(entry: Entry) -> tuple[Any, ...]:
    """What is not in question between objectives: everything of the recipe but these, its name and the schedule."""
    recipe = entry.records[0].recipe
    model, balance = recipe.get("model") or {}, recipe.get("balance") or {}
    rest = [(recipe.get(section) or {}).get(name) for section, name in _PARTS]
    learner = recipe.get("learner")
    return (
        str(sorted(model.items())),
        balance.get("reweight"),
        balance.get("sampler"),
        *rest,
        str(learner),
        entry.records[0].limited,
    )


_PARTS = (("loss", "name"), ("mix", "name"), ("posthoc", "method"), ("augment", "policy"))


def _objective(entry: Entry) -> str:
    return str((entry.records[0].recipe.get("sla") or {}).get("objective", "unknown"))


def _digest(entry: Entry) -> str:
    return entry.records[0].recipe_digest


def _passes(entry: Entry) -> int:
    costs = [record.cost.images_seen for record in entry.records if record.cost]
    return round(sum(costs) / len(costs)) if costs else 0


def _near(a: int, b: int) -> bool:
    return abs(a - b) <= _EQUAL * max(a, b, 1)
