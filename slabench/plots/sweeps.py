"""Accuracy over shots and ways, and by transformation set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slabench.plots import style
from slabench.plots.source import Drawing, Group, NothingToDraw, Source, seeds_of, short_names, tested_on, units
from slabench.ranking.entries import Entry, entry_interval
from slabench.sla.transforms import copies

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OTHER = {"shots": "ways", "ways": "shots"}
_PANELS = 10
"""Of one page."""


def shots_and_ways(source: Source) -> Drawing:
    """Test accuracy against shots at each number of ways, and against ways at each number of shots; a panel each."""
    found = [(axis, fixed, own) for axis in OTHER for fixed, own in series(source, axis)]
    if not found:
        raise NothingToDraw(
            "no method was scored on one data set at two different numbers of shots or ways",
            "slabench run fewshot/controls --dataset fc100 --shots 1",
        )
    used = [entry for _, _, lines in found for line in lines.values() for _, entry in line]
    least = 2.9
    if source.shown is not None:
        found, least = found[:_PANELS], 2.6
    with style.style():
        figure, axes = style.panels([style.line_panel(len(lines), least) for _, _, lines in found], source.columns)
        for panel, (axis, (dataset, other, predictor), lines) in zip(axes, found, strict=True):
            _sweep(panel, axis, lines)
            fixed = f"{other}-way" if axis == "shots" else f"{other}-shot"
            panel.set_title(f"{dataset}, {fixed}: {predictor}")
    groups = source.only(lambda entry: entry in used).groups()
    said = ", ".join(dict.fromkeys(f"{dataset} over {axis}" for axis, (dataset, _, _), _ in found))
    return Drawing(
        figure,
        "Accuracy over shots and ways",
        f"Test accuracy over {tested_on(groups)} at each number of shots (support images a class) or ways (classes); "
        "each point is a recipe trained for that task, or a head scored on one trained for another. "
        f"Whiskers: 95 % interval over episodes, of means over seeds ({seeds_of(groups)}). "
        "Colour: objective; marker: recipe.",
        f"Lines of test accuracy: {said}.",
    )


_Lines = dict[str, list[tuple[int, Entry]]]


def series(source: Source, axis: str) -> list[tuple[tuple[str, int, str], _Lines]]:
    """By data set, fixed number and predictor: the entries of each recipe name by what varies, two points at least."""
    gathered: dict[tuple[Any, ...], dict[str, dict[int, Entry]]] = defaultdict(lambda: defaultdict(dict))
    for entry in (entry for entry in source.entries if not entry.stale and source.draws(entry)):
        first = entry.records[0]
        x, fixed = (first.setting("protocol", name) for name in (axis, OTHER[axis]))
        if first.suite == "fewshot" and isinstance(x, int) and isinstance(fixed, int):
            # A scored head's line is of one training; a recipe that trains for each task has no such part.
            model = str([sorted((first.setting(*part) or {}).items()) for part in (("model",), ("score", "trained"))])
            place = (first.dataset, fixed, entry.predictor, first.dataset_digest, first.pretrained, first.transductive)
            # Of twins (other episodes, other schedule) the best one stands: entries come best first in each protocol.
            gathered[place][f"{first.name}\0{entry.objective}\0{model}"].setdefault(x, entry)
    made = []
    order = [name for group in source.groups() for name in group.predictors]
    ordered = sorted(gathered.items(), key=lambda item: (*item[0][:2], order.index(item[0][2]), str(item[0])))
    for (dataset, fixed, predictor, *_), lines in ordered:
        long = {key: sorted(line.items()) for key, line in sorted(lines.items()) if len(line) > 1}
        if long:
            made.append(((dataset, fixed, predictor), long))
    return made


def _sweep(panel: Axes, axis: str, lines: _Lines) -> None:
    firsts = [line[0][1] for line in lines.values()]
    names, colours = short_names(firsts), style.colours([entry.objective for entry in firsts])
    seen: dict[str, int] = defaultdict(int)
    ends, ticks = [], set()
    for line in lines.values():
        entry = line[0][1]
        colour, name = colours[entry.objective], names[entry.records[0].recipe_digest]
        marker = style.MARKERS[seen[entry.objective] % len(style.MARKERS)]
        seen[entry.objective] += 1
        x = [x for x, _ in line]
        y = [100 * own.mean for _, own in line]
        halves = [100 * (entry_interval(own)[0] or 0) for _, own in line]
        panel.errorbar(x, y, yerr=halves, fmt="-", marker=marker, color=colour, capsize=2, label=name)
        ends.append(style.End(float(x[-1]), y[-1], name, colour, marker))
        ticks |= set(x)
    panel.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    style.name_lines(panel, ends)
    panel.set_xlabel("shots (support images a class)" if axis == "shots" else "ways (classes an episode)")
    n = sorted({score.n for line in lines.values() for _, entry in line for score in entry.scores})
    panel.set_ylabel(f"test accuracy (%), n = {n[0]:,}" + (f" to {n[-1]:,}" if len(n) > 1 else ""))


def transforms(source: Source) -> Drawing:
    """Test accuracy by transformation set, beside the baseline of the same model; a panel a protocol and model."""
    found = []
    for group in source.groups():
        for model, own in _by_model(group).items():
            sets = {_set(entry) for entry in own if entry.objective != "baseline"}
            if len(sets) > 1:
                found.append((group, model, own))
    if not found:
        raise NothingToDraw(
            "no method was trained with two transformation sets on one protocol",
            "slabench run fewshot --dataset fc100 --shots 5 --sla --transforms color-perm",
        )
    with style.style():
        heights = [style.ROW * len(own) + 0.8 for _, _, own in found]
        figure, axes = style.panels(heights, source.columns)
        for panel, (group, model, own) in zip(axes, found, strict=True):
            _transforms(panel, group, own)
            panel.set_title(f"{group.title}: {model}" if len(found) > 1 else group.title)
        style.predictor_legend(figure, list(dict.fromkeys(p for group, _, _ in found for p in group.predictors)))
    groups = [group for group, _, _ in found]
    return Drawing(
        figure,
        "Effect of the transformation set",
        f"Mean test accuracy over {tested_on(groups)} by the set of M transformations that a method is trained and scored with. "
        f"Whiskers: 95 % interval over {units(groups)}, means over seeds ({seeds_of(groups)}). "
        "A set of M costs M times as many images seen in training.",
        f"Bars of test accuracy for {len({_set(entry) for _, _, own in found for entry in own})} transformation sets.",
    )


def _by_model(group: Group) -> dict[str, list[Entry]]:
    """Entries by backbone and head or loss, in order of set, objective and predictor; post-hoc records are left out."""
    gathered: dict[str, list[Entry]] = defaultdict(list)
    for entry in group.entries:
        if entry.records[0].derived is None:
            names = (("model", "backbone"), ("model", "head"), ("loss", "name"))
            parts = [entry.records[0].setting(*each) for each in names]
            gathered[", ".join(str(part) for part in parts if part)].append(entry)
    order = group.predictors

    def place(entry: Entry) -> tuple[Any, ...]:
        base = entry.objective == "baseline"
        return (
            not base,
            "" if base else _set(entry),
            entry.objective,
            group.name(entry),
            order.index(entry.predictor),
        )

    return {model: sorted(own, key=place) for model, own in gathered.items()}


def _set(entry: Entry) -> str:
    return str(entry.records[0].setting("sla", "transforms") or "none")


def _transforms(panel: Axes, group: Group, own: Sequence[Entry]) -> None:
    colours = group.colours()
    right = max(100 * (entry.mean + (entry_interval(entry)[0] or 0)) for entry in own)
    labels = []
    for y, entry in enumerate(own):
        half = entry_interval(entry)[0]
        panel.barh(y, 100 * entry.mean, height=0.82, **style.fill(colours[entry.objective], entry.predictor))
        if half is not None:
            panel.errorbar(100 * entry.mean, y, xerr=100 * half, fmt="none", ecolor=style.INK, elinewidth=1, capsize=2)
        value = style.value(entry.mean, half)
        panel.text(100 * (entry.mean + (half or 0)) + right * 0.015, y, value, va="center", fontsize=7.5)
        m = copies(_set(entry))
        labels.append(f"{entry.objective}, {_set(entry)}" + (f" (M = {m})" if m else ""))
    panel.set_yticks(range(len(own)), [style.wrap(label, 36) for label in labels])
    panel.set_ylim(len(own) - 0.4, -0.6)
    style.percent_axis(panel, right)
    panel.tick_params(axis="y", length=0, left=False)
    panel.grid(False, axis="y")
    panel.set_xlabel(f"test accuracy (%), n = {group.size:,} {group.unit}")
