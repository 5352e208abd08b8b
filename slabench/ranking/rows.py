"""The rows of the leaderboard: of every entry its rank, its columns, and the published number beside it.

Ranks count within a group of entries only. Stale entries, runs of a reduced budget (`limited`) and those selected on the test set
(`oracle`) have none. Equal records give equal bytes, in whatever order they are read.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slabench.core import paths
from slabench.core.files import SHORT
from slabench.core.suites import KNOWN
from slabench.evaluation.intervals import clearly_above
from slabench.losses import needs_cosine
from slabench.ranking import published as published_numbers
from slabench.ranking.columns import LeaderboardRow, columns
from slabench.ranking.entries import Entry, entries, entry_interval
from slabench.records.record import RunRecord, Score
from slabench.records.store import ResultStore
from slabench.sla.transforms import copies

if TYPE_CHECKING:
    from slabench.ranking.entries import EpisodeReader
    from slabench.ranking.published import PublishedRow


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
            row = _row(entry, next(ranks) if entry.ranked else None)
            # JPEG copies have other pixels than the images of the paper.
            jpeg = (entry.records[0].data_source or {}).get("jpeg_copies")
            made.append(row if jpeg else _beside(row, known[row.dataset]))
    return made


def _row(entry: Entry, rank: int | None) -> LeaderboardRow:
    records, scores = entry.records, entry.scores
    first = records[0]
    interval, source = entry_interval(entry)
    costs = [record.cost for record in records if record.cost]
    transforms = first.setting("sla", "transforms")
    return LeaderboardRow(
        rank=rank,
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
        head_selection=_head_selection(first),
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
        metric=scores[0].metric,
        fpr95=_mean(score.open_set.fpr95 if score.open_set else None for score in scores),
        known_accuracy=_mean(score.open_set.accuracy if score.open_set else None for score in scores),
        **_metrics(scores),
        best_val=_mean(score.best_val.value if score.best_val else None for score in scores),
        oracle=_mean(score.oracle.value if score.oracle else None for score in scores),
        images_seen=entry.images_seen,
        train_seconds=math.fsum(cost.train_seconds for cost in costs) / len(costs),
        score_seconds=math.fsum(cost.eval_seconds for cost in costs) / len(costs),
        parameters=max(cost.parameters for cost in costs),
        selection="; ".join(entry.selection),
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
        embedder=_told(first, "embedder"),
        pretraining=_told(first, "pretraining"),
        resolution=_whole((first.embedder or {}).get("resolution")),
        contaminated=_told(first, "contaminated"),
        keys=tuple(record.key[:SHORT] for record in records),
    )


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def _told(record: RunRecord, fact: str) -> str | None:
    """What the record says of its pre-trained network, "unknown" where it does not; None where there is none."""
    return None if record.embedder is None else str(record.embedder.get(fact) or "unknown")


def _trained(record: RunRecord) -> str | None:
    """Ways and shots of its training episodes, such as "5w1s", where the test has others; None for what has no such episodes."""
    if record.suite not in ("fewshot", "openset") or record.setting("model", "learner") == "classifier":
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


def _metrics(scores: Sequence[Score]) -> dict[str, float | None]:
    """A classifier's metrics, or a calibrated head's; episodes with unequal queries have a balanced accuracy of their own."""
    names = [column.name for column in columns() if column.metric]
    told = [score.metrics or score.calibration for score in scores]
    if any(told):
        found = {name: _mean(getattr(one, name, None) for one in told) for name in names}
    else:  # most rows: their many seeds need not be asked for each of a dozen names
        found = dict.fromkeys(names)
    found["balanced"] = _mean(score.metrics.balanced if score.metrics else score.balanced for score in scores)
    return found


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


def _head_selection(record: RunRecord) -> str | None:
    """How a few-shot head's own parameter was come by; None for a classifier."""
    if record.setting("model", "head") is None:
        return None
    return str(record.setting("model", "head_selection", "rule") or "fixed")


def _learner(suite: str) -> str | None:
    """Of a record that names none; None for a suite of another version."""
    return KNOWN[suite].learner if suite in KNOWN else None


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
