"""The answer in one picture: SLA beside the plain baseline and its controls, task by task.

`tasks` chooses what is shown, for this picture, the report's first table and the README's table alike, and never by accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slabench.comparison.controls import Control, Gain, gain, model
from slabench.comparison.summary import sla_rows
from slabench.plots import style
from slabench.plots.source import Drawing, Group, NothingToDraw, Source, seeds_of, tested_on, units
from slabench.ranking.entries import Entry, entry_interval
from slabench.ranking.standard import standard
from slabench.records.store import EpisodeCache
from slabench.sla.transforms import copies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

REMEDY = "slabench run fewshot/controls --dataset fc100 --shots 5"


@dataclass(frozen=True)
class Task:
    """A protocol and a model: SLA with its views averaged, beside its controls.

    Attributes:
        group: the protocol.
        sla: the row that was trained with joint labels, under `aggregated`.
        single: the same in one view, where it was scored.
        gains: paired differences of `sla` to each control that was run.
        title: the protocol, and the recipe where the protocol has several tasks or SLA is not plain.
    """

    group: Group
    sla: Entry
    single: Entry | None
    gains: dict[str, Gain]
    title: str

    @property
    def earned(self) -> Gain:
        """The least of the gains: what joint labels earn is what is left beside the best control."""
        return min(self.gains.values(), key=lambda gain: gain.value)

    def control(self, question: Control) -> Entry | None:
        """The baseline that answers `question`, if it was run."""
        return self.gains[question].control if question in self.gains else None


def tasks(source: Source) -> list[Task]:
    """One task for each model that was trained with joint labels on a standard protocol; on any protocol where none is standard.

    Of the recipes of a model the first of `slabench.comparison.summary.sla_rows` is taken; of the models of a protocol those
    with the most controls are kept. Stale rows, reduced budgets and post-hoc methods do not count.
    """
    cache = EpisodeCache(source.store)
    made = [task for group in source.groups() for task in _tasks(group, cache)]
    return [task for task in made if standard(task.group.first)] or made


def _tasks(group: Group, cache: EpisodeCache) -> list[Task]:
    best: dict[Any, tuple[Entry, list[tuple[Control, Entry]]]] = {}
    for entry, beside in sla_rows(group.every):
        first = entry.records[0]
        whole = not (entry.stale or first.limited or first.derived)
        if whole and beside and entry.predictor == "aggregated":
            best.setdefault(model(entry), (entry, beside))
    most = max((len(beside) for _, beside in best.values()), default=0)
    kept = [each for each in best.values() if len(each[1]) == most]
    return [
        Task(
            group,
            entry,
            next((other for other in group.every if _same(other, entry)), None),
            {question: gain(entry, control, question, cache) for question, control in beside},
            group.title if len(kept) == 1 and entry.objective == "sla" else f"{group.title}: {group.name(entry)}",
        )
        for entry, beside in kept
    ]


def _same(one: Entry, other: Entry) -> bool:
    """Whether `one` is `other` in one view."""
    return one.predictor == "single" and one.records[0].recipe_digest == other.records[0].recipe_digest


@dataclass(frozen=True)
class Line:
    """A line of a panel: what it is called, the row it shows if that was run, and how it is marked."""

    label: str
    entry: Entry | None
    marker: str


def lines(task: Task) -> list[Line]:
    """The baseline, its two controls, and SLA in one view and in all."""
    views, name = said_views(task), task.sla.objective.upper()
    return [
        Line("baseline, one view", task.control(Control.BASELINE), "o"),
        Line(f"baseline, {views}", task.control(Control.AGGREGATED), "o"),
        Line("baseline, equal images seen", task.control(Control.EQUAL_IMAGES_SEEN), "D"),
        Line(f"{name}, one view", task.single, "o"),
        Line(f"{name}, {views}", task.sla, "o"),
    ]


def said_views(task: Task) -> str:
    """ "4 views"."""
    views = copies(str(task.sla.records[0].setting("sla", "transforms")))
    return f"{views} views" if views else "all views"


MOST_TASKS = 8
"""Of one page."""


def summary(source: Source) -> Drawing:
    """Accuracy of the baseline, its controls and SLA: a row a task, all in one panel, to be seen at one glance.

    Raises:
        NothingToDraw: no recipe with joint labels stands beside a baseline.
    """
    every = tasks(source)
    found = every if source.shown is None else every[:MOST_TASKS]
    low, high = _reach(found)
    with style.style():
        figure = style.one_panel(_GLANCE, 0.9 + _TASK_ROW * len(found))
        (panel,) = figure.axes
        for y, task in enumerate(found):
            _draw_row(panel, y, task)
        panel.set_xlim(low - 2, high + 2)
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.set_yticks(range(len(found)), [task.title for task in found])
        panel.tick_params(axis="y", length=0)
        panel.set_xlabel("test accuracy (%)")
        panel.text(1.02, 1.02, "SLA minus best baseline", transform=panel.transAxes, fontsize=8, fontweight="bold")
        figure.legend(handles=_legend(), loc="outside upper left", ncols=5, handletextpad=0.2, columnspacing=1.1)
    return _said_of(figure, found, len(every) - len(found), "")


def multiples(source: Source) -> list[Drawing]:
    """The tasks of `summary` on one page as drawings of their own, whose axes span as many points; none where it has none."""
    every = tasks(source)
    found = every[:MOST_TASKS]
    return [_panel(task, found, len(every) - len(found)) for task in found]


def _reach(found: Sequence[Task]) -> tuple[float, float]:
    """Percent, from the lowest end of an interval of any task to the highest."""
    if not found:
        raise NothingToDraw("no recipe with joint labels has a baseline of the same model and protocol", REMEDY)
    lows, highs = zip(*map(_range, found), strict=True)
    return min(lows), max(highs)


def _span(found: Sequence[Task]) -> float:
    return max(high - low for low, high in map(_range, found))


_GLANCE, _TASK_ROW = 9.2, 0.27
"""Inches: the width of the picture, and the height of a task in it."""


def _draw_row(panel: Axes, y: int, task: Task) -> None:
    """All that was run on a task, on one line, and what joint labels earned at its end."""
    colours = task.group.colours()
    for line in lines(task):
        if line.entry is None:
            continue
        mean, half = 100 * line.entry.mean, entry_interval(line.entry)[0]
        colour = colours.get(line.entry.objective) or style.OBJECTIVES["baseline"]
        if half is not None:
            panel.errorbar(mean, y, xerr=100 * half, fmt="none", ecolor=colour, elinewidth=1.2)
        panel.plot(mean, y, line.marker, markersize=6, **style.dot(colour, line.entry.predictor))
    least, where = task.earned, panel.get_yaxis_transform()
    weight = "bold" if least.half_width is not None and least.value > least.half_width else "normal"
    missing = [line.label.partition(", ")[2] for line in lines(task) if line.entry is None]
    note = f" (without {', '.join(missing)})" if missing else ""
    panel.text(1.02, y, earned(task)[1] + note, transform=where, va="center", fontsize=8.5, fontweight=weight)


def _legend() -> list[Line2D]:
    from matplotlib.lines import Line2D

    grey, blue = style.OBJECTIVES["baseline"], style.OBJECTIVES["sla"]
    marks = [
        ("baseline, one view", "o", grey, "single"),
        ("all views", "o", grey, "aggregated"),
        ("equal images seen", "D", grey, "aggregated"),
        ("SLA, one view", "o", blue, "single"),
        ("SLA, all views", "o", blue, "aggregated"),
    ]
    return [
        Line2D([], [], linestyle="none", marker=marker, markersize=6, label=label, **style.dot(colour, predictor))
        for label, marker, colour, predictor in marks
    ]


def _panel(task: Task, found: Sequence[Task], left_out: int) -> Drawing:
    """One task of `found` with its values written beside the marks, on an axis as long as those of the others."""
    span, middle = _span(found), sum(_range(task)) / 2
    with style.style():
        figure, (panel,) = style.panels([6.2 * style.ROW + 0.62])
        _draw(panel, task, middle - 0.56 * span, middle + 0.78 * span)
    return _said_of(figure, found, left_out, "All axes span as many points. ")


def _said_of(figure: Figure, found: Sequence[Task], left_out: int, axes: str) -> Drawing:
    """A drawing of `found` with the title and caption of all of them."""
    groups = list({id(task.group): task.group for task in found}.values())
    less = (
        f" {left_out} further task{'' if left_out == 1 else 's'} left out: slabench plot summary --all."
        if left_out
        else ""
    )
    return Drawing(
        figure,
        "SLA beside the baseline and its controls",
        f"Test accuracy over {tested_on(groups)}, with 95 % intervals over {units(groups)} of means over seeds "
        f"({seeds_of(groups)}). {axes}"
        "Hollow: one view of each test image; full: the mean over all views. "
        "Equal images seen: a baseline trained on as many images as SLA, copies counted, with the better of its predictors. "
        "SLA minus the best of these baselines is in points, paired on the same test; above 0, joint labels earned "
        f"what neither more views nor more training gives.{less}",
        "; ".join(f"{task.title}: {_said(task)}" for task in found) + ".",
    )


def _range(task: Task) -> tuple[float, float]:
    """Percent, from the lowest end of an interval to the highest."""
    ends = []
    for line in lines(task):
        if line.entry is not None:
            half = entry_interval(line.entry)[0] or 0
            ends += [100 * (line.entry.mean - half), 100 * (line.entry.mean + half)]
    return min(ends), max(ends)


def _draw(panel: Axes, task: Task, left: float, right: float) -> None:
    colours, own = task.group.colours(), lines(task)
    for y, line in enumerate(own):
        if line.entry is None:
            panel.text(left, y, " not run", va="center", fontsize=7.5, color=style.MUTED)
            continue
        mean, half = 100 * line.entry.mean, entry_interval(line.entry)[0]
        colour = colours.get(line.entry.objective) or style.OBJECTIVES["baseline"]
        if half is not None:
            panel.errorbar(mean, y, xerr=100 * half, fmt="none", ecolor=colour, elinewidth=1.4, capsize=2.5)
        panel.plot(mean, y, line.marker, markersize=5.5, **style.dot(colour, line.entry.predictor))
        value = style.value(line.entry.mean, half)
        end = mean + 100 * (half or 0) + 0.015 * (right - left)
        weight = "bold" if line.entry is task.sla else "normal"
        panel.text(end, y, f" {value}", va="center", fontsize=8, fontweight=weight)
    label, value = earned(task)
    panel.text(left, len(own) + 0.1, f" {value}", va="center", fontsize=8.5, fontweight="bold", bbox=_BOX)
    for border in (2.5, len(own) - 0.45):
        panel.axhline(border, color=style.MUTED, linewidth=0.6)
    panel.set_xlim(left, right)
    panel.set_ylim(len(own) + 0.7, -0.6)
    panel.set_yticks([*range(len(own)), len(own) + 0.1], [*(line.label for line in own), label])
    panel.tick_params(axis="y", length=0)
    panel.grid(False, axis="y")
    panel.set_title(task.title)
    panel.set_xlabel("test accuracy (%)")


_BOX: dict[str, Any] = {"facecolor": style.PAPER, "edgecolor": "none", "pad": 0.6}
"""Under the last line, which grid lines would cross."""


def earned(task: Task) -> tuple[str, str]:
    """What is subtracted, and the difference in points with its interval."""
    least = task.earned
    return f"{task.sla.objective.upper()} minus best baseline", style.value(least.value, least.half_width, signed=True)


def _said(task: Task) -> str:
    parts = [f"{line.label} {100 * line.entry.mean:.1f}" for line in lines(task) if line.entry is not None]
    return f"{', '.join(parts)} %; {' '.join(earned(task))} points"
