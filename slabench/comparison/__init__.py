"""Two rows of the leaderboard on the same test episodes or images.

`compare` is the Python API of `slabench compare`. The arithmetic is in `slabench.evaluation.paired_tests`, the words in
`slabench.comparison.result`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from slabench.comparison.controls import EQUAL_VIEWS, Control, baselines, equal_images_seen
from slabench.comparison.result import ASKED, Comparison, Pair, Side
from slabench.comparison.sides import (
    Contender,
    Model,
    choose,
    contender,
    first_record,
    predictor_pairs,
    usable,
    why_stale,
)
from slabench.core.errors import DataError
from slabench.core.files import SHORT
from slabench.evaluation import paired_tests as stats
from slabench.ranking.entries import entries
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore, open_results

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


@dataclass(frozen=True)
class _Drawn:
    """What the test episodes were drawn from: sets without a shared image, and the classes of the ways."""

    sets: Sequence[NDArray[numpy.int64]]
    classes: NDArray[numpy.int64]
    n_classes: int


@dataclass
class _Context:
    store: ResultStore
    confidence: float
    drawn: _Drawn | None = None
    warnings: list[str] = field(default_factory=list)


def compare(
    a: str,
    b: str,
    results: Path | None = None,
    *,
    predictor_a: str | None = None,
    predictor_b: str | None = None,
    protocol: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two runs, or two recipes over all their seeds, on the very same test episodes or images.

    Args:
        a: a recipe's name as the leaderboard prints it (`controls/sla`, or its last part) or the first letters of a run's key.
        b: likewise.
        results: the folder of records; by default `SLABENCH_RESULTS`, else `results/` of the current folder, else those that
            travel with slabench.
        predictor_a: `single`, `aggregated`, ...; by default every predictor that both have, and a method's `aggregated` against
            its baseline's `single`.
        predictor_b: likewise.
        protocol: which protocol is meant where both names have several; a part of its name will do.
        confidence: of the intervals.

    Raises:
        UsageError: no such run or predictor, an ambiguous name, the same run twice, or tests that differ (the message names
            the digests).
        DataError: per-unit accuracies are missing or damaged.
    """
    from slabench.comparison.result import conclusion, task

    opened = open_results(results)
    records = opened.records
    context = _Context(opened.store, confidence)
    context.warnings[:] = [*opened.problems, *([opened.note] if opened.note else [])]
    left, right = choose(context.store, records, a, b, protocol)
    first = first_record(left)
    wanted = predictor_pairs(left, right, predictor_a, predictor_b)
    _warn(context, left, right)
    context.drawn = _drawn(first, context.warnings)
    ready = {
        (side, p): contender(m[p], context.store)
        for side, m in enumerate((left, right))
        for p in m
        if _used(wanted, side, p)
    }
    pairs = tuple(_pair(context, ready[0, pa], ready[1, pb], ASKED) for pa, pb in wanted)
    controls = _controls(context, records, ready[0, wanted[0][0]], ready[1, wanted[0][1]])
    made = Comparison(
        protocol=first.protocol,
        protocol_version=first.protocol_version,
        dataset=first.dataset,
        task=task(first, pairs[0].over_units.n),
        unit="episodes" if first.episodes else "images",
        n=pairs[0].over_units.n,
        digests={
            "data": first.dataset_digest,
            "split": first.split_digest or "",
            "episodes": first.episodes_digest or "",
            "protocol": first.protocol_digest,
        },
        pairs=pairs,
        controls=controls,
        confidence=confidence,
        warnings=tuple(dict.fromkeys(context.warnings)),
    )
    return Comparison(**{**vars(made), "conclusion": conclusion(made)})


def _pair(context: _Context, a: Contender, b: Contender, question: str) -> Pair:
    """The numbers of one pair; both sides were scored on the same units."""
    left, right = a.accuracies, b.accuracies
    if not set(left) & set(right) and len(left) == len(right) == 1:
        context.warnings.append(
            f"{a.name} is a run of seed {a.seeds[0]}, {b.name} of seed {b.seeds[0]}: two single trainings"
        )
        right = {a.seeds[0]: right[b.seeds[0]]}
    pairs = stats.paired_over_seeds(left, right, context.confidence)
    seeds = tuple(pairs.per_seed)
    averaged = pairs.differences.mean(0)
    several, drawn = len(seeds) > 1, context.drawn
    by_episode = a.record.episodes is not None
    return Pair(
        a=_side(a),
        b=_side(b),
        question=question,
        seeds=seeds,
        mean_a=float(sum(left[s].mean() for s in seeds) / len(seeds)),
        mean_b=float(sum(right[s].mean() for s in seeds) / len(seeds)),
        over_units=pairs.together,
        by_seed=pairs.per_seed,
        bootstrap=stats.bootstrap_interval(averaged, context.confidence),
        wilcoxon_p=stats.wilcoxon_p(averaged) if by_episode else None,
        mcnemar=None if by_episode else {s: stats.mcnemar(left[s], right[s]) for s in seeds},
        over_seeds=pairs.spread if several else None,
        over_both=stats.seeds_and_units(pairs.differences, context.confidence) if several else None,
        without_reuse=stats.without_reuse(averaged, drawn.sets, context.confidence) if drawn else None,
        over_classes=stats.class_jackknife(averaged, drawn.classes, drawn.n_classes, context.confidence)
        if drawn
        else None,
    )


def _controls(context: _Context, records: Iterable[RunRecord], a: Contender, b: Contender) -> tuple[Pair, ...]:
    """A method against the baselines of its model with as many views or as many images seen. Method minus control."""
    sides = [side for side in (a, b) if side.objective != "baseline"]
    if len(sides) != 1 or a.model != b.model:
        return ()
    method = sides[0]
    other = b if method is a else a
    group = [
        entry
        for entry in entries(records, None, include_limited=method.record.limited)
        if entry.group == method.entry.group and entry.predictor in ("single", method.predictor)
    ]
    found = []
    for control in usable(baselines(method.entry, group), context.store, context.warnings):
        if not set(control.seeds) & set(method.seeds):
            continue
        seen = equal_images_seen(method.images_seen, control.images_seen)
        viewed = control.predictor == method.predictor
        asked = control.record.recipe_digest == other.record.recipe_digest and control.predictor == other.predictor
        of_asked = control.record.recipe_digest == other.record.recipe_digest
        if asked or not (seen or (viewed and of_asked)):
            continue
        equal = ((str(Control.EQUAL_IMAGES_SEEN), seen), (EQUAL_VIEWS, viewed and method.views != 1))
        words = ", ".join(what for what, holds in equal if holds) or "same predictor"
        found.append((not of_asked, control.predictor != method.predictor, _pair(context, method, control, words)))
    return tuple(pair for *_, pair in sorted(found, key=lambda item: item[:2]))


def _drawn(record: RunRecord, warnings: list[str]) -> _Drawn | None:
    """What the episodes were drawn from, by the frozen file that the record names; no pixels are needed."""
    if record.episodes is None:
        return None
    from slabench.episodes.files import find, protocol_part, read_rows

    lost = "the intervals without re-use of images and over classes are left out"
    path = find(record.episodes)
    if path is None:
        warnings.append(f"the episode file {record.episodes} is not on this machine: {lost}")
        return None
    try:
        manifest, rows = read_rows(path)
    except DataError as error:
        warnings.append(f"{error.message}: {lost}")
        return None
    if protocol_part(manifest) != record.episodes_digest:
        warnings.append(f"{path} is another file than the one these runs were scored on: {lost}")
        return None
    if manifest.unknown:
        warnings.append(
            f"unknown classes of open episodes are drawn at will, some images more often than others: {lost}"
        )
        return None
    if manifest.columns is not None:
        warnings.append(f"episodes with a profile use images unequally often: {lost}")
        return None
    classes = numpy.searchsorted(numpy.cumsum(manifest.class_sizes), rows, side="right")
    if int(classes.max()) >= len(manifest.class_sizes) or bool((classes != classes[..., :1]).any()):
        warnings.append(f"{path} is not ordered by class: {lost}")
        return None
    return _Drawn(stats.disjoint_sets(rows), classes[..., 0], len(manifest.class_sizes))


def _warn(context: _Context, left: Model, right: Model) -> None:
    for model in (left, right):
        record, why = first_record(model), why_stale(model)
        if why:
            context.warnings.append(f"{record.name} is stale, {why}: it is never ranked, and has no controls")
        if record.limited:
            context.warnings.append(f"{record.name} is a run of a reduced budget (quick): it is never ranked")
        if record.selection and record.selection.rule == "oracle":
            context.warnings.append(f"{record.name} was selected on the test itself (oracle)")


def _side(item: Contender) -> Side:
    return Side(
        name=item.name.removeprefix(f"{item.record.suite}/"),
        predictor=item.predictor,
        objective=item.objective,
        seeds=item.seeds,
        keys=tuple(record.key[:SHORT] for record in item.entry.records),
        images_seen=item.images_seen,
        views=item.views,
        limited=item.record.limited,
    )


def _used(wanted: Sequence[tuple[str, str]], side: int, predictor: str) -> bool:
    return any(pair[side] == predictor for pair in wanted)
