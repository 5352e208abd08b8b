"""Accuracy by method as bars, and what each method gains beside its controls."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from slabench.comparison.controls import CONTROLS, Gain, gains
from slabench.plots import style
from slabench.plots.source import Drawing, Group, NothingToDraw, Source, seeds_of, tested_on, units
from slabench.ranking.entries import Entry, entry_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def bars(source: Source) -> Drawing:
    """Test accuracy by method and predictor, with 95 % intervals and the single seeds; a panel a protocol."""
    groups = source.groups()
    if not groups:
        raise NothingToDraw(
            "there is no finished trial to draw", "slabench run fewshot --dataset fc100 --shots 5 --sla"
        )
    with style.style():
        heights = [style.ROW * (len(group.entries) + 0.5 * len(group.methods())) + 0.75 for group in groups]
        figure, axes = style.panels(heights, source.columns)
        for panel, group in zip(axes, groups, strict=True):
            _bars(panel, group)
        predictors = list(dict.fromkeys(name for group in groups for name in group.predictors))
        style.predictor_legend(figure, predictors)
    best = [
        f"{group.title}: {'not ranked' if group.stale else f'best {_said(group, group.entries[0])}'}"
        for group in groups
    ]
    measures = " and ".join(dict.fromkeys(group.measure for group in groups))
    return Drawing(
        figure,
        f"Test {measures}",
        f"Mean test {measures} over {tested_on(groups)}. Whiskers: 95 % interval over "
        f"{units(groups)} of the values averaged over seeds ({seeds_of(groups)}). "
        "Dots: single seeds, where there are several. Colour: training objective; filling: predictor.",
        f"Bars of test {measures}. {'; '.join(best)}.",
    )


def _bars(panel: Axes, group: Group) -> None:
    colours, y, ticks = group.colours(), 0.0, []
    ends = []
    whiskers: list[tuple[float, float, float]] = []
    for method in group.methods():
        start = y
        for entry in method:
            colour = colours[entry.objective]
            half = entry_interval(entry)[0]
            panel.barh(y, 100 * entry.mean, height=0.82, **style.fill(colour, entry.predictor))
            if half is not None:
                whiskers.append((100 * entry.mean, y, 100 * half))
            values = [100 * score.value for score in entry.scores]
            if len(values) > 1:
                panel.plot(values, [y] * len(values), "o", color=style.INK, markersize=2.2, markeredgewidth=0)
            ends.append((y, max([100 * (entry.mean + (half or 0)), *values]), style.value(entry.mean, half)))
            y += 1
        ticks.append(((start + y - 1) / 2, style.row_name(group.name(method[0]), len(method))))
        y += 0.5
    if whiskers:  # all at once: one artist costs what a hundred do
        x, places, halves = zip(*whiskers, strict=True)
        panel.errorbar(x, places, None, halves, "none", ecolor=style.INK, elinewidth=1, capsize=2)
    right = max(end for _, end, _ in ends)
    style.percent_axis(panel, right)
    for place, end, text in ends:
        panel.text(end + right * 0.015, place, text, va="center", fontsize=7.5)
    panel.set_ylim(y - 0.8, -0.7)
    panel.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    panel.tick_params(axis="y", length=0, left=False)
    panel.grid(False, axis="y")
    panel.set_title(style.wrap(group.title, 40))
    panel.set_xlabel(f"test {group.measure} (%), n = {group.size:,} {group.unit}")


def _said(group: Group, entry: Entry) -> str:
    return f"{group.name(entry)} ({entry.predictor}) with {100 * entry.mean:.1f} %"


_WORDS = {str(control): f"\N{MINUS SIGN} {control.heading}" for control in CONTROLS}


_BOX: dict[str, Any] = {"facecolor": style.PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
"""Under text that the line of no difference may cross."""


def gain_chart(source: Source) -> Drawing:
    """Paired difference of every method to its baselines: as papers compare, and to both controls; a panel a protocol."""
    found = [(group, gains(group.every, source.store, group.entries)) for group in source.groups()]
    found = [(group, own) for group, own in found if own]
    if not found:
        raise NothingToDraw(
            "no method has a baseline of the same protocol and model to be compared with",
            "slabench run fewshot/controls --dataset fc100 --shots 5",
        )
    with style.style():
        heights = [style.ROW * (len(own) + len({id(gain.entry) for gain in own})) + 0.75 for _, own in found]
        figure, axes = style.panels(heights, source.columns)
        for panel, (group, own) in zip(axes, found, strict=True):
            _gains(panel, group, own)
    groups = [group for group, _ in found]
    count = [sum(gain.verdict == sign for _, own in found for gain in own) for sign in (1, 0, -1)]
    return Drawing(
        figure,
        "Gain over the baseline and its controls",
        f"Difference of test accuracies on the same {tested_on(groups)}, averaged over the seeds that both have; "
        "whiskers: 95 % paired t interval over them (none where seeds or files are missing). "
        + "".join(f"{control.capitalize()}: {control.meaning}. " for control in CONTROLS)
        + "What is claimed as a gain should hold against all of them.",
        f"{sum(count)} differences between methods and baselines: {count[0]} above 0, {count[1]} that hold 0, {count[2]} below.",
    )


def _gains(panel: Axes, group: Group, own: list[Gain]) -> None:
    colours, y, ticks, last = group.colours(), 0, [], None
    ends = []
    drawn: dict[str, list[tuple[float, int, float]]] = defaultdict(list)
    for gain in own:
        if gain.entry is not last:
            heading = f"{group.name(gain.entry)}, {gain.entry.predictor}"
            panel.text(
                0.01,
                y,
                heading,
                transform=panel.get_yaxis_transform(),
                va="center",
                fontsize=8,
                fontweight="bold",
                bbox=_BOX,
            )
            y += 1
        last = gain.entry
        half = 100 * (gain.half_width or 0)
        drawn[colours[gain.entry.objective]].append((100 * gain.value, y, half or float("nan")))
        ticks.append((y, _WORDS[gain.question]))
        sign = style.value(gain.value, gain.half_width, signed=True)
        ends.append((y, 100 * gain.value + half, sign))
        y += 1
    for colour, points in drawn.items():
        x, places, halves = zip(*points, strict=True)
        panel.errorbar(x, places, xerr=halves, fmt="o", color=colour, ecolor=colour, capsize=2.5, markersize=5)
    values = [0.0, *(end for _, end, _ in ends), *(100 * (gain.value - (gain.half_width or 0)) for gain in own)]
    span = max(max(values) - min(values), 1e-3)
    panel.set_xlim(min(values) - 0.06 * span, max(values) + 0.24 * span)
    for place, end, text in ends:
        panel.text(end + 0.02 * span, place, text, va="center", fontsize=7.5, bbox=_BOX)
    panel.axvline(0, color=style.INK, linewidth=1, zorder=1)
    panel.set_ylim(y - 0.3, -0.7)
    panel.set_yticks([place for place, _ in ticks], [name for _, name in ticks])
    panel.tick_params(axis="y", length=0, left=False)
    panel.grid(False, axis="y")
    panel.set_title(style.wrap(group.title, 40))
    panel.set_xlabel(f"difference of {group.measure} (points), n = {min(gain.n for gain in own):,} {group.unit}")
