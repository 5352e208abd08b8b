"""The answer in one picture: SLA beside the plain baseline and its controls, task by task.

`tasks` chooses what is shown, for this picture, the report's first table and the README's table alike, and never by accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slabench.comparison.controls import Control, Gain, gain
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
    made = [task for group in source.groups() for task in tasks_of(group, cache)]
    return [task for task in made if standard(task.group.first)] or made


def tasks_of(group: Group, cache: EpisodeCache) -> list[Task]:
    """Those of one protocol, standard or not; `cache` reads the episodes for intervals of gains."""
    best: dict[Any, tuple[Entry, list[tuple[Control, Entry]]]] = {}
    for entry, beside in sla_rows(group.every):
        first = entry.records[0]
        whole = not (entry.stale or first.limited or first.derived)
        if whole and beside and entry.predictor == "aggregated":
            best.setdefault(entry.model, (entry, beside))
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
    return _drawing(every, len(every) if source.shown is None else MOST_TASKS, narrow=False)


def wide_and_narrow(every: Sequence[Task]) -> tuple[Drawing, Drawing]:
    """The picture of one page, and the same for a phone, where what stands at the ends of a row stands above it."""
    return _drawing(every, MOST_TASKS, narrow=False), _drawing(every, MOST_TASKS, narrow=True)


def _drawing(every: Sequence[Task], most: int, narrow: bool) -> Drawing:
    found = every[:most]
    low, high = _reach(found)
    size = (_NARROW, 1.1 + _TALL * len(found)) if narrow else (_WIDE, 0.95 + _FLAT * len(found))
    with style.style():
        figure = style.one_panel(*size)
        (panel,) = figure.axes
        for y, task in enumerate(found):
            _marks(panel, y + 0.22 if narrow else y, task)
            _words(panel, y, task, narrow)
        panel.set_xlim(low - 2, high + 2)
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.set_yticks([] if narrow else range(len(found)), [] if narrow else [task.title for task in found])
        panel.tick_params(axis="y", length=0, left=False)
        panel.set_xlabel("test accuracy (%)")
        heading: dict[str, Any] = {"transform": panel.transAxes, "fontsize": 8, "fontweight": "bold"}
        if narrow:
            panel.text(1, 1.01, _DIFFERENCE, ha="right", **heading)
            panel.grid(False, axis="y")
            panel.spines["left"].set_visible(False)
            for y in range(1, len(found)):
                panel.axhline(y - 0.5, color=style.RULE, linewidth=0.6)
        else:  # beside the legend, and so no reason for more room at the top
            panel.text(1.02, 1.05, _DIFFERENCE, in_layout=False, **heading)
        columns = 3 if narrow else 5
        figure.legend(handles=_legend(), loc="outside upper left", ncols=columns, handletextpad=0.2, columnspacing=1.1)
    return _said_of(figure, found, len(every) - len(found))


def _reach(found: Sequence[Task]) -> tuple[float, float]:
    """Percent, from the lowest end of an interval of any task to the highest."""
    if not found:
        raise NothingToDraw("no recipe with joint labels has a baseline of the same model and protocol", REMEDY)
    lows, highs = zip(*map(_range, found), strict=True)
    return min(lows), max(highs)


_WIDE, _FLAT = 10.0, 0.17
_NARROW, _TALL = 4.3, 0.38
"""Inches: the width of both pictures, and the height of a task in them."""

_DIFFERENCE = "SLA minus best baseline"


def _marks(panel: Axes, y: float, task: Task) -> None:
    """All that was run on a task, on one line."""
    colours = task.group.colours()
    for line in lines(task):
        if line.entry is None:
            continue
        mean, half = 100 * line.entry.mean, entry_interval(line.entry)[0]
        colour = colours.get(line.entry.objective) or style.OBJECTIVES["baseline"]
        if half is not None:
            panel.errorbar(mean, y, xerr=100 * half, fmt="none", ecolor=colour, elinewidth=1.2)
        panel.plot(mean, y, line.marker, markersize=6, **style.dot(colour, line.entry.predictor))


def _words(panel: Axes, y: float, task: Task, narrow: bool) -> None:
    """What joint labels earned on a task, bold where it is a gain, and in the narrow picture which task it is."""
    least, where = task.earned, panel.get_yaxis_transform()
    weight = "bold" if least.half_width is not None and least.value > least.half_width else "normal"
    missing = [line.label.partition(", ")[2] for line in lines(task) if line.entry is None]
    note = f" (without {', '.join(missing)})" if missing else ""
    own: dict[str, Any] = {"transform": where, "va": "center", "fontsize": 8.5}
    if narrow:
        panel.text(0, y - 0.2, task.title, **own)
        panel.text(1, y - 0.2, earned(task)[1], ha="right", fontweight=weight, **own)
    else:
        panel.text(1.02, y, earned(task)[1] + note, fontweight=weight, **own)


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


def _said_of(figure: Figure, found: Sequence[Task], left_out: int) -> Drawing:
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
        f"({seeds_of(groups)}). "
        "Hollow: one view of each test image; full: the mean over all views. "
        "Equal images seen: a baseline trained on as many images as SLA, copies counted, with the better of its predictors. "
        "SLA minus the best of these baselines is in points, paired on the same test; above 0, joint labels earned "
        "what neither more views nor more training gives. "
        f"Where one of the three was not run, the best of the others is meant.{less}",
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


def earned(task: Task) -> tuple[str, str]:
    """What is subtracted, and the difference in points with its interval."""
    least = task.earned
    return f"{task.sla.objective.upper()} minus best baseline", style.value(least.value, least.half_width, signed=True)


def _said(task: Task) -> str:
    parts = [f"{line.label} {100 * line.entry.mean:.1f}" for line in lines(task) if line.entry is not None]
    return f"{', '.join(parts)} %; {' '.join(earned(task))} points"
