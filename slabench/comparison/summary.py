"""One line a protocol: its best row, and what SLA earns over each of its controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slabench.comparison.controls import CONTROLS, Control, Gain, controls, gain
from slabench.ranking.entries import Entry
from slabench.ranking.order import asked_first
from slabench.records.store import EpisodeCache, ResultStore


@dataclass(frozen=True)
class Line:
    """What a protocol says, in short.

    Attributes:
        protocol: its name.
        rows: recipes and predictors that were run on it.
        best: the row with the highest accuracy.
        sla: the first of `sla_rows`; None where there is none.
        controls: of `sla`; one that was not run is missing.
        least: `sla` minus the strongest of its controls; None without any.
    """

    protocol: str
    rows: int
    best: Entry
    sla: Entry | None
    controls: dict[Control, Entry]
    least: Gain | None


def summary(found: Sequence[Entry], store: ResultStore | None) -> list[Line]:
    """A line for each group of entries that may be compared, in the order in which people ask for protocols.

    Stale entries have none. Those of a reduced budget, or selected on the test, count only where a group has no others.

    Args:
        found: as `slabench.ranking.entries.entries` gives them, the best of each group first.
        store: reads the accuracies of single episodes, for the interval of `least`.
    """
    groups: dict[tuple[Any, ...], list[Entry]] = defaultdict(list)
    for entry in found:
        if not entry.stale:
            groups[entry.group].append(entry)
    cache = EpisodeCache(store)
    lines = [_line(group, cache) for group in groups.values()]
    places = asked_first([line.protocol for line in lines for _ in range(line.rows)])
    return sorted(lines, key=lambda line: places.index(line.protocol))


def sla_rows(group: Sequence[Entry]) -> list[tuple[Entry, list[tuple[Control, Entry]]]]:
    """The rows with joint labels of a protocol, each with its controls, the one that stands for the protocol first.

    One order for the terminal, the picture, the report and the README, and never by accuracy, which would be a selection on the
    test: what was trained for the protocol before what was scored on it afterwards, and of that the head of the training; then
    `sla` before `sla+sd`, more controls, all views before one, more seeds, and the name.

    Args:
        group: entries that may be compared.
    """

    def place(pair: tuple[Entry, list[tuple[Control, Entry]]]) -> tuple[Any, ...]:
        entry, beside = pair
        first = entry.records[0]
        trained = (first.setting("score", "trained") or {}).get("head")
        return (
            first.derived is not None,
            trained is not None and trained != first.setting("model", "head"),
            entry.objective != "sla",
            -len(beside),
            entry.predictor != "aggregated",
            -len(entry.records),
            first.name,
        )

    rows = [(entry, controls(entry, group)) for entry in group if entry.objective.startswith("sla")]
    return sorted(rows, key=place)


def _line(group: Sequence[Entry], cache: EpisodeCache) -> Line:
    counted = [entry for entry in group if entry.ranked] or list(group)
    best = max(counted, key=lambda entry: entry.mean)
    sla, beside = next(iter(sla_rows(counted)), (None, []))
    own = dict(beside)
    gains = [gain(sla, control, question, cache) for question, control in own.items()] if sla else []
    least = min(gains, key=lambda one: one.value, default=None)
    protocol = best.records[0].protocol
    return Line(protocol, len(group), best, sla, {name: own[name] for name in CONTROLS if name in own}, least)
