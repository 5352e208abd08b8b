"""The leaderboard: one row per recipe, predictor and protocol, made from records and from nothing else.

What may be compared stands in one group: the same protocol and version on the same data, split and episode digests, and
transductive apart from inductive. Ranks count within a group only. Stale records, runs of a reduced budget (`limited`) and those
selected on the test set (`oracle`) have no rank. Equal records give equal bytes, in whatever order they are read.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.core.files import SHORT
from slabench.core.suites import SUITES
from slabench.evaluation.intervals import SeedSpread, across_seeds, clearly_above, finite_or_none, t_interval
from slabench.losses import needs_cosine
from slabench.ranking import published as published_numbers
from slabench.ranking.columns import LeaderboardRow, columns
from slabench.records.record import RunRecord, Score
from slabench.records.staleness import outdated, stale
from slabench.records.store import ResultStore, ResultsWarning
from slabench.sla.transforms import transform_set

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from slabench.ranking.published import PublishedRow

    EpisodeReader = Callable[[RunRecord], Mapping[str, NDArray[numpy.float32]]]


@dataclass(frozen=True)
class Entry:
    """The records behind one row: one per seed, in order of the seed, and their episodes averaged over seeds.

    `episodes` is [n] float64; None where a side file is missing, damaged or of another length than the others. `outdated` says
    why derived records are not of their trials' present weights, if so.
    """

    records: tuple[RunRecord, ...]
    predictor: str
    episodes: NDArray[numpy.float64] | None
    outdated: str | None = None

    @cached_property
    def stale(self) -> str | None:
        """Why the records are not of what slabench measures now (`slabench.records.staleness`); None where they are."""
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
        first = self.records[0]
        return (
            first.protocol,
            first.protocol_version,
            first.protocol_digest,
            first.dataset_digest,
            first.split_digest or "",
            first.episodes_digest or "",
            first.transductive,
        )

    @property
    def ranked(self) -> bool:
        """Whether this entry may have a rank at all."""
        return not self.stale and not any(record.limited or _rule(record) == "oracle" for record in self.records)


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
    for record in sorted(records, key=lambda record: (record.finished, record.key)):
        if record.status == "done" and (include_limited or not record.limited):
            # A trial that was recorded twice (two folders, two devices) counts once: the later one.
            group = Entry((record,), "", None).group
            # A stale record neither joins nor replaces present ones.
            old = outdated(record, trials.get(str((record.derived or {}).get("of"))))
            gathered[(*group, record.recipe_digest, record.limited, stale(record), old)][record.seed] = record
    found = []
    for (*_, old), by_seed in gathered.items():
        ordered = tuple(by_seed[seed] for seed in sorted(by_seed))
        arrays = _read_episodes(ordered, episodes)
        predictors = list(dict.fromkeys(score.predictor for record in ordered for score in record.scores))
        for predictor in predictors:
            scored = tuple(record for record in ordered if record.score(predictor))
            found.append(Entry(scored, predictor, _average(scored, arrays, predictor), old))
    return sorted(found, key=_order)


def rows(
    records: Iterable[RunRecord],
    episodes: EpisodeReader | None,
    include_limited: bool = False,
    published: Sequence[PublishedRow] | None = None,
) -> list[LeaderboardRow]:
    """The leaderboard's rows, by protocol and within it from the best to the worst: `ranked` of the `entries`."""
    return ranked(entries(records, episodes, include_limited), published)


def ranked(found: Iterable[Entry], published: Sequence[PublishedRow] | None = None) -> list[LeaderboardRow]:
    """The rows of entries, each with its rank and the published number beside it.

    Args:
        found: all entries of each group, the best first.
        published: by default those that travel with slabench (`slabench.ranking.published.load`).

    Raises:
        DataError: a file of published numbers is damaged.

    The rank is 1 + the number of rows of the group that are significantly better: whose paired 95 % interval over the
    same seed-averaged episodes lies above 0. Rows that the episodes cannot distinguish may share a rank. Where
    per-episode accuracies cannot be read, a higher mean is better.
    """
    known: dict[str, list[PublishedRow]] = defaultdict(list)
    for number in published_numbers.load() if published is None else published:
        known[number.dataset].append(number)
    groups: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    for entry in found:
        groups[entry.group].append(entry)
    made = []
    for group in groups.values():
        ranks = iter(_ranks([entry for entry in group if entry.ranked]))
        for entry in group:
            row = replace(_row(entry), rank=next(ranks) if entry.ranked else None)
            # JPEG copies have other pixels than the images of the paper.
            copies = (entry.records[0].data_source or {}).get("jpeg_copies")
            made.append(row if copies else _beside(row, known[row.dataset]))
    return made


def _row(entry: Entry) -> LeaderboardRow:
    records, scores = entry.records, entry.scores
    first = records[0]
    interval, source = entry_interval(entry)
    costs = [record.cost for record in records if record.cost]
    transforms = first.setting("sla", "transforms")
    return LeaderboardRow(
        rank=None,
        stale=entry.stale is not None,
        stale_why=entry.stale,
        suite=first.suite,
        dataset=first.dataset,
        protocol=first.protocol,
        protocol_version=first.protocol_version,
        ways=first.setting("protocol", "ways"),
        shots=first.setting("protocol", "shots"),
        queries=first.setting("protocol", "queries"),
        profile=first.setting("data", "profile"),
        ratio=first.setting("data", "ratio") if first.setting("data", "profile") in ("exp", "step") else None,
        name=first.name,
        learner=first.setting("model", "learner") or _learner(first.suite),
        backbone=first.setting("model", "backbone"),
        head=first.setting("model", "head") or _layer(first),
        trained=_trained(first),
        loss=first.setting("loss", "name"),
        reweight=first.setting("balance", "reweight"),
        sampler=first.setting("balance", "sampler"),
        mix=first.setting("mix", "name"),
        posthoc=first.setting("posthoc", "method"),
        objective=first.setting("sla", "objective"),
        transforms=transforms,
        M=copies(transforms) if transforms else None,
        predictor=entry.predictor,
        n_seeds=len(records),
        seeds=tuple(record.seed for record in records),
        mean=entry.mean,
        std_seeds=entry.spread.std,
        test_unit="episodes" if first.episodes else "images",
        n_test=min(score.n for score in scores),
        ci95_test=interval,
        ci95_from=source,
        **{
            name: _mean(_metric(score, name) for score in scores)
            for name in (column.name for column in columns() if column.metric)
        },
        best_val=_mean(score.best_val.value if score.best_val else None for score in scores),
        oracle=_mean(score.oracle.value if score.oracle else None for score in scores),
        images_seen=entry.images_seen,
        train_seconds=math.fsum(cost.train_seconds for cost in costs) / len(costs),
        score_seconds=math.fsum(cost.eval_seconds for cost in costs) / len(costs),
        parameters=max(cost.parameters for cost in costs),
        selection="; ".join(sorted({_rule(record) for record in records})),
        transductive=first.transductive,
        limited=first.limited,
        device="; ".join(sorted({str(record.environment.get("device", "unknown")) for record in records})),
        published=None,
        published_ci95=None,
        published_verified=None,
        published_backbone=None,
        published_selection=None,
        published_source=None,
        published_second_source=None,
        gap=None,
        dataset_digest=first.dataset_digest[:SHORT],
        split_digest=(first.split_digest or "")[:SHORT],
        episodes_digest=(first.episodes_digest or "")[:SHORT],
        protocol_digest=first.protocol_digest[:SHORT],
        recipe_digest=first.recipe_digest[:SHORT],
        keys=tuple(record.key[:SHORT] for record in records),
    )


def _trained(record: RunRecord) -> str | None:
    """Ways and shots of its training episodes, such as "5w1s", where the test has others; None for what has no such episodes."""
    if record.suite != "fewshot" or record.setting("model", "learner") == "classifier":
        return None
    test = [record.setting("protocol", name) for name in ("ways", "shots")]
    ways, shots = (record.setting("train", name) or own for name, own in zip(("ways", "shots"), test, strict=True))
    return None if [ways, shots] == test else f"{ways}w{shots}s"


def _beside(row: LeaderboardRow, published: Sequence[PublishedRow]) -> LeaderboardRow:
    """The row with the fittest published number. An unverified one decides nothing, so that it has no gap."""
    found = published_numbers.best(row, published)
    if found is None or found.accuracy is None:
        return row
    return replace(
        row,
        published=found.accuracy,
        published_ci95=found.interval,
        published_verified=found.verified,
        published_backbone=found.backbone,
        published_selection=found.selection,
        published_source=found.where,
        published_second_source=found.second_source or None,
        gap=row.mean - found.accuracy if found.verified else None,
    )


def _metric(score: Score, name: str) -> float | None:
    """A classifier's metric; episodes with unequal queries have a balanced accuracy of their own."""
    if name == "balanced" and score.metrics is None:
        return score.balanced
    return getattr(score.metrics, name, None)


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean over seeds; None where a seed has no value."""
    found = list(values)
    known = [value for value in found if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(found) else None


def _layer(first: RunRecord) -> str | None:
    """The output layer of a classifier: where the recipe leaves it to the loss, what the loss needs."""
    layer: str | None = first.setting("model", "layer")
    if layer == "auto":
        return "cosine" if needs_cosine(first.setting("loss", "name")) else "linear"
    return layer


def entry_interval(entry: Entry) -> tuple[float | None, str | None]:
    """Half of the 95 % interval over episodes or images (a fraction), and what it is of; see `LeaderboardRow.ci95_from`."""
    if entry.episodes is not None:
        half = finite_or_none(t_interval(entry.episodes).half_width)
        return half, None if half is None else "seed-averaged"
    widths = [score.ci95 for score in entry.scores if score.ci95 is not None]
    if len(widths) < len(entry.scores):
        return None, None
    return math.fsum(widths) / len(widths), "mean-of-seeds"


def _ranks(rivals: Sequence[Entry]) -> list[int]:
    """1 + the number of entries that beat each one; see `ranked`."""
    import numpy

    if not rivals:
        return []
    means = numpy.array([entry.mean for entry in rivals])
    beats = means[:, None] > means[None, :]
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, entry in enumerate(rivals):
        if entry.episodes is not None:
            by_length[len(entry.episodes)].append(place)
    for length, places in by_length.items():
        if length > 1:
            beats[numpy.ix_(places, places)] &= clearly_above(
                numpy.stack([each for place in places if (each := rivals[place].episodes) is not None])
            )
    return [1 + int(count) for count in beats.sum(axis=0)]


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
    usable = [array.astype(numpy.float64) for array in found if array is not None]
    if len(usable) < len(records) or len({len(array) for array in usable}) != 1:
        return None
    return numpy.asarray(numpy.mean(usable, axis=0), dtype=numpy.float64)


def _order(entry: Entry) -> tuple[Any, ...]:
    first = entry.records[0]
    return (*entry.group, first.limited, -round(entry.mean, 12), first.name, entry.predictor, first.recipe_digest)


def _rule(record: RunRecord) -> str:
    return record.selection.rule if record.selection else "last"


def _learner(suite: str) -> str | None:
    """Of a record that names none; None for a suite of another version."""
    return SUITES[suite].learner if suite in SUITES else None


def copies(transforms: str) -> int | None:
    """M of a transformation set; None for one of a plug-in that is not installed here."""
    try:
        return transform_set(transforms).M
    except UsageError:
        return None


def leaderboard(
    results: Path | str | None = None, *, include_quick: bool = False, shipped: bool = False
) -> list[LeaderboardRow]:
    """The rows of the leaderboard, protocol by protocol, the best first; empty where there is no finished trial.

    Args:
        results: the folder of records; by default `SLABENCH_RESULTS`, else `results/` here.
        include_quick: also runs of a reduced budget, without a rank.
        shipped: the records that travel with slabench.

    Warns:
        UserWarning: names each record that is damaged and left out.

    Raises:
        DataError: a file of published numbers is damaged.
    """
    folder = paths.shipped_results() if shipped else paths.results(Path(results) if results else None)
    store = ResultStore(folder)
    records, problems = store.scan()
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return rows(records, store.episodes, include_quick)
