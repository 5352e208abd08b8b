"""Records gathered by recipe, predictor and protocol, seeds together: what the leaderboard, plots and comparisons start from.

What may be compared stands in one group: the same protocol and version on the same data, split and episode digests,
transductive apart from inductive, pre-trained networks apart from those trained from scratch. Equal records give equal
entries, in whatever order they are read.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from slabench.core.errors import DataError
from slabench.evaluation.intervals import SeedSpread, across_seeds, finite_or_none, t_interval
from slabench.records.record import RunRecord, Score
from slabench.records.staleness import Present, outdated, stale
from slabench.records.store import ResultsWarning

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    EpisodeReader = Callable[[RunRecord], Mapping[str, NDArray[numpy.float32]]]


_OF_A_CLASSIFIER = (
    ("balance", "reweight"),
    ("balance", "sampler"),
    ("loss", "name"),
    ("mix", "name"),
    ("posthoc", "method"),
    ("augment", "policy"),
)


@dataclass(frozen=True)
class Entry:
    """The records behind one row: one per seed, in order of the seed, and their episodes averaged over seeds.

    `episodes` is [n] float64; None where a side file is missing, damaged or of another length than the others. `outdated` says
    why derived records are not of their trials' present weights, if so;
    `told` holds why all of its records are stale, or that none is, where that is known.
    """

    records: tuple[RunRecord, ...]
    predictor: str
    episodes: NDArray[numpy.float64] | None
    outdated: str | None = None
    told: tuple[str | None] | None = None

    @cached_property
    def stale(self) -> str | None:
        """Why the records are not of what slabench measures now (`slabench.records.staleness`); None where they are."""
        if self.told is not None:
            return self.told[0] or self.outdated
        return next((why for record in self.records if (why := stale(record))), self.outdated)

    @cached_property
    def scores(self) -> list[Score]:
        """The score of each record under this predictor."""
        return [score for record in self.records if (score := record.score(self.predictor)) is not None]

    @cached_property
    def spread(self) -> SeedSpread:
        """Mean and spread over seeds of the accuracy, fractions."""
        scores = zip(self.records, self.scores, strict=True)
        return across_seeds({record.seed: score.value for record, score in scores})

    @property
    def mean(self) -> float:
        """The accuracy averaged over seeds, a fraction."""
        return self.spread.mean

    @property
    def objective(self) -> str:
        """The training objective: baseline, da, mt, rotated-classes, sla, sla+sd, or that of a plug-in."""
        return str(self.records[0].setting("sla", "objective") or "unknown")

    @cached_property
    def model(self) -> tuple[Any, ...]:
        """What is not in question between objectives: backbone, head, learner; what a head that was scored afterwards
        (`slabench score`) was not trained with; of a classifier also loss, balance, mixing, augmentation and post-hoc method; and
        whether the budget was reduced. Neither the name nor the schedule.
        """
        first = self.records[0]
        network = str(sorted((first.setting("model") or {}).items()))
        scored = str(sorted((first.setting("score", "trained") or {}).items()))
        return (network, scored, *(first.setting(*names) for names in _OF_A_CLASSIFIER), first.limited)

    @property
    def images_seen(self) -> int:
        """Images passed through the backbone in training, mean over seeds."""
        costs = [record.cost.images_seen for record in self.records if record.cost]
        return round(sum(costs) / len(costs)) if costs else 0

    @cached_property
    def group(self) -> tuple[Any, ...]:
        """What must be equal before two entries are compared. The digests are named beside the protocol's own, which
        covers them, so that a record with a wrong one stands alone instead of in the wrong company.
        """
        return _group(self.records[0])

    @property
    def selection(self) -> list[str]:
        """The distinct rules by which its weights were selected: last, best_val, oracle."""
        return sorted({record.selection.rule if record.selection else "last" for record in self.records})

    @property
    def ranked(self) -> bool:
        """Whether this entry may have a rank at all."""
        return not self.stale and "oracle" not in self.selection and not any(record.limited for record in self.records)


def entries(
    records: Iterable[RunRecord],
    episodes: EpisodeReader | None,
    include_limited: bool = False,
    among: Iterable[RunRecord] | None = None,
) -> list[Entry]:
    """The finished records, gathered by recipe, protocol and predictor, the best of each group first.

    Args:
        records: in any order; unfinished and failed ones are left out.
        episodes: reads the per-episode accuracies of a record (`ResultStore.episodes`). None only where nothing depends on them:
            without them entries have no interval of their own, and `ranked` goes by the mean alone.
        include_limited: keep the runs of a reduced budget too, as entries of their own.
        among: where the trials of derived records are looked up; None: among `records`.
    """
    records = list(records)
    trials = {record.key: record for record in (records if among is None else among)}
    gathered: dict[tuple[Any, ...], dict[int, RunRecord]] = defaultdict(dict)
    present = Present()
    for record in sorted(records, key=lambda record: (record.finished, record.key)):
        if record.status == "done" and (include_limited or not record.limited):
            # A trial that was recorded twice (two folders, two devices) counts once: the later one.
            # A stale record neither joins nor replaces present ones.
            old = outdated(record, trials.get(str((record.derived or {}).get("of"))))
            why = stale(record, present)
            gathered[(*_group(record), record.recipe_digest, record.limited, why, old)][record.seed] = record
    found = []
    for (*_, why, old), by_seed in gathered.items():
        ordered = tuple(by_seed[seed] for seed in sorted(by_seed))
        arrays = _read_episodes(ordered, episodes)
        predictors = list(dict.fromkeys(score.predictor for record in ordered for score in record.scores))
        for predictor in predictors:
            scored = tuple(record for record in ordered if record.score(predictor))
            found.append(Entry(scored, predictor, _average(scored, arrays, predictor), old, (why,)))
    return sorted(found, key=_order)


def entry_interval(entry: Entry) -> tuple[float | None, str | None]:
    """Half of the 95 % interval over episodes or images (a fraction), and what it is of; see `LeaderboardRow.ci95_from`."""
    if entry.episodes is not None:
        half = finite_or_none(t_interval(entry.episodes).half_width)
        return half, None if half is None else "seed-averaged"
    widths = [score.ci95 for score in entry.scores if score.ci95 is not None]
    if len(widths) < len(entry.scores):
        return None, None
    return math.fsum(widths) / len(widths), "mean-of-seeds"


def _group(record: RunRecord) -> tuple[Any, ...]:
    """See `Entry.group`."""
    return (
        record.protocol,
        record.protocol_version,
        record.protocol_digest,
        record.dataset_digest,
        record.split_digest or "",
        record.episodes_digest or "",
        record.pretrained,
        record.transductive,
    )


def _read_episodes(
    records: Sequence[RunRecord], reader: EpisodeReader | None
) -> dict[str, Mapping[str, NDArray[numpy.float32]]]:
    """The arrays of each record by key; none for a record that has none or whose side file is damaged."""
    arrays: dict[str, Mapping[str, NDArray[numpy.float32]]] = {}
    for record in records if reader else ():
        assert reader is not None
        try:
            arrays[record.key] = reader(record)
        except DataError as error:
            warnings.warn(ResultsWarning(str(error)), stacklevel=2)
    return arrays


def _average(
    records: Sequence[RunRecord], arrays: Mapping[str, Mapping[str, NDArray[numpy.float32]]], predictor: str
) -> NDArray[numpy.float64] | None:
    import numpy

    found = [arrays.get(record.key, {}).get(predictor) for record in records]
    usable = [array for array in found if array is not None]
    if len(usable) < len(records) or len({len(array) for array in usable}) != 1:
        return None
    return numpy.asarray(numpy.mean(usable, axis=0, dtype=numpy.float64))


def _order(entry: Entry) -> tuple[Any, ...]:
    first = entry.records[0]
    return (*entry.group, first.limited, -round(entry.mean, 12), first.name, entry.predictor, first.recipe_digest)
