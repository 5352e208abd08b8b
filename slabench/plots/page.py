"""One picture that fits a page: of the records the standard protocols, of each protocol the rows that matter most.

What is left out is said in the caption. Names, colours and controls are those of all records: a row has the same name in a
picture as in a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from slabench.plots import KINDS, draw, style
from slabench.plots.classes import parts, recalls
from slabench.plots.source import Drawing, Group, Source, asked_first
from slabench.plots.summary import lines, tasks_of
from slabench.plots.sweeps import OTHER, series
from slabench.ranking.entries import Entry
from slabench.records.store import EpisodeCache

HEIGHT = 2 * style.WIDTH * 2**0.5
"""Inches: two columns of panels are as wide as a sheet of the A series is, and so high it is."""

MOST = 6
"""Protocols of one picture."""

_DRAWN: dict[str, Callable[[Entry], bool]] = {
    "gains": lambda entry: entry.objective != "baseline" and not entry.stale,
    "passes": lambda entry: any(record.curve for record in entry.records),
    "groups": lambda entry: bool(parts(entry)),
    "per-class": lambda entry: bool(recalls(entry)),
    "reliability": lambda entry: bool(entry.records[0].outputs_file) and entry.records[0].suite != "fewshot",
    "training": lambda entry: any(record.curve for record in entry.records),
}
"""Of which entries a kind can draw anything; a kind that is not named can of all."""


def draw_page(kind: str, source: Source) -> Drawing:
    """The figure `kind` on one page, with a note on what was left out.

    Raises:
        UsageError: there is no such kind; says what is near.
        NothingToDraw: the records hold nothing for it; says what to run.
    """
    if kind in ("summary", "map") or kind not in KINDS:  # small by themselves
        return draw(kind, replace(source, shown=_all(source)))
    if kind == "shots-ways":
        candidates = [entry for _, _, own in _sweeps(source) for line in own.values() for _, entry in line]
        chosen = _sweep_lines(source, KINDS[kind].rows)
        return _noted(draw(kind, source.showing(chosen)), kind, candidates, chosen, 0)
    able = _DRAWN.get(kind, lambda entry: True)
    groups = [group for group in source.groups() if any(map(able, group.entries))]
    first = asked_first(groups)
    for count in range(min(MOST, len(first)), 0, -1):
        kept = first[:count]
        chosen = [entry for group in kept for entry in _rows(group, KINDS[kind].rows, able)]
        drawing = draw(kind, source.showing(chosen))
        if count == 1 or float(drawing.figure.get_size_inches()[1]) + _caption(drawing) <= HEIGHT:
            candidates = [entry for group in groups for entry in filter(able, group.entries)]
            return _noted(drawing, kind, candidates, chosen, len(groups) - count)
    return draw(kind, source)  # nothing to draw, which it says


def _all(source: Source) -> frozenset[int]:
    return frozenset(map(id, source.entries)) if source.shown is None else source.shown


def _rows(group: Group, most: int, able: Callable[[Entry], bool]) -> list[Entry]:
    """The best row, SLA and its controls, the best of each objective as trained, then the best of the others."""
    candidates = list(filter(able, group.entries))
    own = tasks_of(group, EpisodeCache(None))
    family = [line.entry for task in own for line in lines(task) if line.entry is not None]
    trained: dict[str, Entry] = {}
    for entry in candidates:
        if entry.records[0].derived is None:
            trained.setdefault(entry.objective, entry)
    wanted = {id(entry): entry for entry in (*candidates[:1], *family, *trained.values(), *candidates)}
    kept = [key for key in wanted if key in set(map(id, candidates))][:most]
    return [entry for entry in candidates if id(entry) in kept]


def _sweeps(source: Source) -> list[tuple[str, tuple[str, int, str], dict[str, list[tuple[int, Entry]]]]]:
    return [(axis, place, own) for axis in OTHER for place, own in series(source, axis)]


def _sweep_lines(source: Source, most: int) -> list[Entry]:
    """The entries of the longest line of each objective, and of those that stand highest on the mean of their points."""
    heights: dict[str, list[float]] = {}
    objectives: dict[str, str] = {}
    for _, _, own in _sweeps(source):
        for name, line in own.items():
            heights.setdefault(name, []).extend(entry.mean for _, entry in line)
            objectives[name] = line[0][1].objective
    best = sorted(heights, key=lambda name: (-sum(heights[name]) / len(heights[name]), name))
    longest = sorted(best, key=lambda name: -len(heights[name]))  # stable: of equal length the highest
    each = {objectives[name]: name for name in reversed(longest)}
    kept = list(dict.fromkeys([*each.values(), *best]))[:most]
    return [entry for _, _, own in _sweeps(source) for name in kept for _, entry in own.get(name, [])]


def _noted(
    drawing: Drawing, kind: str, candidates: Sequence[Entry], chosen: Iterable[Entry], protocols: int
) -> Drawing:
    every, kept = len(set(map(id, candidates))), len(set(map(id, chosen)))
    if kept == every:
        return drawing
    more = f", {protocols} further protocol{'' if protocols == 1 else 's'} among them" if protocols else ""
    note = f" Left out: {every - kept} of {every} rows{more}; slabench plot {kind} --all draws them."
    return replace(drawing, caption=drawing.caption + note)


def _caption(drawing: Drawing) -> float:
    """Inches that title, caption and note take below the panels."""
    return style.caption_height(drawing.figure, drawing.title, f"{drawing.caption}{'x' * 120}")
