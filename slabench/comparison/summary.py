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
        sla: the row of joint labels that stands beside the most controls; of several the best. None where there is none.
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


def _line(group: Sequence[Entry], cache: EpisodeCache) -> Line:
    counted = [entry for entry in group if entry.ranked] or list(group)
    best = max(counted, key=lambda entry: entry.mean)
    beside = [(entry, dict(controls(entry, counted))) for entry in counted if entry.objective.startswith("sla")]
    sla, own = max(beside, key=lambda pair: (len(pair[1]), pair[0].mean), default=(None, {}))
    gains = [gain(sla, control, question, cache) for question, control in own.items()] if sla else []
    least = min(gains, key=lambda one: one.value, default=None)
    protocol = best.records[0].protocol
    return Line(protocol, len(group), best, sla, {name: own[name] for name in CONTROLS if name in own}, least)
