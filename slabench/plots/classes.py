"""Where the accuracy lies: by many, medium and few training images, and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slabench.plots import style
from slabench.plots.source import Drawing, Group, NothingToDraw, Source, seeds_of, tested_on
from slabench.ranking.entries import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTS = ("many", "medium", "few")
_MARKS = {"many": "o", "medium": "D", "few": "v"}
_NAMED = 30
"""So many classes are named one by one; more are put in order and numbered."""

_SMOOTH = 11
"""Classes of the running mean over class ranks."""


def by_size(source: Source) -> Drawing:
    """Recall of the classes with many, medium and few training images, by method and predictor; a panel a protocol."""
    found = []
    for group in source.groups():
        own = [(entry, values) for entry in group.entries if (values := parts(entry))]
        if own:
            found.append((group, own))
    if not found:
        raise NothingToDraw(
            "no record tells many, medium and few classes apart: these belong to long tails",
            "slabench run imbalanced --ratio 100",
        )
    with style.style():
        heights = [style.ROW * (len(own) + 0.5 * len(group.methods())) + 0.8 for group, own in found]
        figure, axes = style.panels(heights, source.columns)
        for panel, (group, own) in zip(axes, found, strict=True):
            _by_size(panel, group, {id(entry): values for entry, values in own})
        predictors = list(dict.fromkeys(entry.predictor for _, own in found for entry, _ in own))
        _legend(figure, [name for name in found[0][0].predictors if name in predictors] or predictors)
    groups = [group for group, _ in found]
    best = [f"{group.title}: {_range(group, own)}" for group, own in found]
    return Drawing(
        figure,
        "Many, medium and few",
        "Mean recall of the classes with more than 100 (many), 20 to 100 (medium) and fewer than 20 (few) training images, "
        f"over {tested_on(groups)}; means over seeds ({seeds_of(groups)}). The recipe with the best accuracy stands on top. "
        "Shape: size of the class; filling: predictor. No intervals.",
        f"Recall by class size. {'; '.join(best)}.",
    )


def parts(entry: Entry) -> dict[str, float]:
    """Mean over seeds of each part that is defined."""
    values: dict[str, float] = {}
    for part in PARTS:
        own = [getattr(score.metrics, part, None) for score in entry.scores]
        known = [value for value in own if value is not None]
        if known and len(known) == len(own):
            values[part] = sum(known) / len(known)
    return values


def _legend(figure: Figure, predictors: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    def handle(label: str, marker: str, predictor: str) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, label=label, **style.dot(style.MUTED, predictor))

    handles = [handle(part, mark, "aggregated") for part, mark in _MARKS.items()]
    handles += [handle(name, "o", name) for name in predictors if len(predictors) > 1]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), columnspacing=1, handletextpad=0.2)


def _by_size(panel: Axes, group: Group, own: Mapping[int, Mapping[str, float]]) -> None:
    colours, y, ticks = group.colours(), 0.0, []
    for method in group.methods():
        start = y
        for entry in method:
            values = own.get(id(entry))
            if values is None:
                continue
            colour = colours[entry.objective]
            x = [100 * value for value in values.values()]
            panel.plot([min(x), max(x)], [y, y], "-", color=colour, linewidth=1, alpha=0.6, zorder=1)
            for part, value in values.items():
                panel.plot(100 * value, y, _MARKS[part], markersize=5.5, **style.dot(colour, entry.predictor))
            y += 1
        if y > start:
            ticks.append(((start + y - 1) / 2, style.row_name(group.name(method[0]), len(method))))
            y += 0.5
    panel.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    panel.set_ylim(y - 0.8, -0.7)
    panel.tick_params(axis="y", length=0, left=False)
    panel.grid(False, axis="y")
    panel.set_xlim(left=min(0, panel.get_xlim()[0]))
    panel.set_title(style.wrap(group.title, 40))
    counts = (group.first.training_set or {}).get("groups") or {}
    classes = "\n" + ", ".join(f"{n} {part}" for part, n in counts.items()) + " classes" if counts else ""
    panel.set_xlabel(f"recall (%), n = {group.size:,} {group.unit}{classes}")


def _range(group: Group, own: Sequence[tuple[Entry, Mapping[str, float]]]) -> str:
    entry, values = own[0]
    return f"{group.name(entry)} ({entry.predictor}) " + ", ".join(f"{k} {100 * v:.1f} %" for k, v in values.items())


def per_class(source: Source) -> Drawing:
    """Recall class by class: named and sorted where they are few, by rank of their training images where they are many."""
    found = []
    for group in source.groups():
        own = [(entry, values) for entry in _chosen(group) if (values := recalls(entry))]
        if own:
            found.append((group, own))
    if not found:
        raise NothingToDraw("no record holds recalls class by class", "slabench run imbalanced --ratio 100")
    with style.style():
        heights = [0.15 * len(own[0][1]) + 1.1 if len(own[0][1]) <= _NAMED else 3.3 for _, own in found]
        figure, axes = style.panels(heights, source.columns)
        for panel, (group, own) in zip(axes, found, strict=True):
            (_named if len(own[0][1]) <= _NAMED else _ranked)(panel, group, own)
    groups = [group for group, _ in found]
    worst = [
        f"{group.title}: {group.name(entry)} from {100 * min(values.values()):.0f} to {100 * max(values.values()):.0f} %"
        for group, own in found
        for entry, values in own
    ]
    return Drawing(
        figure,
        "Recall class by class",
        f"Recall of each test class over {tested_on(groups)}, means over seeds ({seeds_of(groups)}); of each objective its "
        f"best row as trained, and the best row of all. Up to {_NAMED} classes are named, the easiest on top; more stand in "
        f"order of their training images (dots), with a running mean over {_SMOOTH} classes (lines). No intervals.",
        f"Recall by class. {'; '.join(worst)}.",
    )


def _chosen(group: Group) -> list[Entry]:
    """Of each objective its best entry without a post-hoc method, and the best entry of all; entries come best first."""
    chosen: dict[str, Entry] = {}
    for entry in group.entries:
        if entry.records[0].derived is None:
            chosen.setdefault(entry.objective, entry)
    best = group.entries[0]
    return [*chosen.values()] if best in chosen.values() else [best, *chosen.values()]


def recalls(entry: Entry) -> dict[str, float]:
    """Mean over seeds by class, for the classes that all seeds have."""
    own = [score.per_class or {} for score in entry.scores]
    common = [name for name in own[0] if all(name in other for other in own)] if own else []
    return {name: sum(other[name] for other in own) / len(own) for name in common}


def _named(panel: Axes, group: Group, own: Sequence[tuple[Entry, Mapping[str, float]]]) -> None:
    names = sorted(own[0][1], key=lambda name: (-sum(values.get(name, 0) for _, values in own), name))
    colours, markers = group.colours(), group.markers()
    for y, name in enumerate(names):
        x = [100 * values[name] for _, values in own if name in values]
        panel.plot([min(x), max(x)], [y, y], "-", color=style.RULE, linewidth=2, zorder=1)
    for entry, values in own:
        x = [100 * values.get(name, float("nan")) for name in names]
        marker = markers[entry.records[0].recipe_digest]
        label = f"{group.name(entry)}, {entry.predictor}"
        panel.plot(x, range(len(names)), marker, color=colours[entry.objective], markersize=4.5, label=label)
    panel.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=7.5)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="y", length=0, left=False)
    panel.set_xlabel(f"recall (%), n = {group.size:,} {group.unit}")
    panel.set_title(group.title)
    # Sorted from the top right to the bottom left: the other corner is free.
    panel.legend(loc="lower right", fontsize=7)


def _ranked(panel: Axes, group: Group, own: Sequence[tuple[Entry, Mapping[str, float]]]) -> None:
    import numpy as np

    counts = group.first.images_per_class
    names = list(own[0][1])
    if isinstance(counts, Mapping):
        names.sort(key=lambda name: (-counts.get(name, 0), name))
    else:
        names.sort(key=lambda name: -sum(values.get(name, 0) for _, values in own))
    colours, markers, ends = group.colours(), group.markers(), []
    for entry, values in own:
        colour = colours[entry.objective]
        y = np.array([100 * values.get(name, np.nan) for name in names])
        x = np.arange(1, len(names) + 1)
        half = _SMOOTH // 2
        smooth = [float(np.nanmean(y[max(0, i - half) : i + half + 1])) for i in range(len(y))]
        panel.plot(x, y, "o", color=colour, alpha=0.3, markersize=2.5, markeredgewidth=0)
        mark: dict[str, Any] = {"marker": markers[entry.records[0].recipe_digest], "markevery": 9}
        panel.plot(x, smooth, linestyle=style.DASHES.get(entry.predictor, "-"), color=colour, **mark)
        ends.append(style.End(x[-1], smooth[-1], style.wrap(f"{group.name(entry)}, {entry.predictor}", 18), colour))
    panel.set_ylim(0, 100)
    style.end_labels(panel, ends)
    most = f", {max(counts.values())} to {min(counts.values())} images" if isinstance(counts, Mapping) else ""
    panel.set_xlabel(f"class, by rank of training images{most}" if most else "class, by rank of recall")
    panel.set_ylabel("recall (%)")
    panel.set_title(group.title)
