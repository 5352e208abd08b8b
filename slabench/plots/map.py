"""Where joint labels pay: the gain over the baseline, by training images a class and images seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from slabench.comparison.controls import Gain, baselines, equal_images_seen, gain
from slabench.plots import style
from slabench.plots.source import Drawing, Group, NothingToDraw, Source, seeds_of, tested_on
from slabench.records.store import EpisodeCache

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUESTIONS = (
    ("aggregated", "single", "aggregated \N{MINUS SIGN} baseline in one view"),
    ("aggregated", "aggregated", "aggregated \N{MINUS SIGN} baseline, aggregated"),
    ("single", "single", "single \N{MINUS SIGN} baseline in one view"),
)
"""Predictor of the method and of its baseline, and what their difference is called."""

_Cells = dict[tuple[int, int], Gain]
"""Gains by training images a class and images seen."""


def where_it_pays(source: Source) -> Drawing:
    """The paired gain of joint labels over a baseline of equal images seen, over data and training; a panel a comparison."""
    groups = [group for group in source.groups() if not group.stale and _per_class(group) is not None]
    found = _maps(groups, source)
    if not found:
        raise NothingToDraw(
            "joint labels and a baseline of as many images seen were not both run at two numbers of training images a class",
            "slabench run supervised/map",
        )
    with style.style():
        rows = [len({seen for _, seen in cells}) for _, _, cells in found]
        figure, axes = style.panels([1.1 + 0.42 * count for count in rows], source.columns)
        largest = max(abs(each.value) for _, _, cells in found for each in cells.values()) or 1.0
        for panel, (name, question, cells) in zip(axes, found, strict=True):
            _panel(panel, cells, largest)
            panel.set_title(f"{name}: {question}")
    used = [group for group in groups if any(each.entry in group.entries for _, _, c in found for each in c.values())]
    return Drawing(
        figure,
        "Where joint labels pay",
        f"Difference of test accuracies (points) on the same {tested_on(used)}, both sides trained on as many images seen, "
        f"copies counted, averaged over the seeds that both have ({seeds_of(used)}); ±: half of the 95 % paired t interval over "
        "test images. Solid line or diamond: where the difference crosses 0, interpolated between the cells; dotted lines or "
        "bar: where its interval ends to hold 0. Blue: joint labels are better.",
        " ".join(_said(name, question, cells) for name, question, cells in found),
    )


def _per_class(group: Group) -> int | None:
    value = group.first.setting("data", "per_class")
    return value if isinstance(value, int) else None


def _maps(groups: Sequence[Group], source: Source) -> list[tuple[str, str, _Cells]]:
    """By data set and network, and by question: the cells, of two numbers of images a class at least."""
    cache = EpisodeCache(source.store)
    gathered: dict[tuple[Any, ...], _Cells] = defaultdict(dict)
    for group in groups:
        n = _per_class(group)
        assert n is not None
        for entry in (entry for entry in group.entries if entry.objective == "sla"):
            first = entry.records[0]
            for place, (own, other, _) in enumerate(_QUESTIONS):
                rivals = [
                    rival
                    for rival in baselines(entry, group.entries)
                    if rival.predictor == other and equal_images_seen(rival.images_seen, entry.images_seen)
                ]
                if entry.predictor == own and rivals:
                    network = str(first.setting("model", "backbone"))
                    key = (f"{group.first.dataset}, {network}", place, first.setting("sla", "transforms"), entry.model)
                    gathered[key][n, entry.images_seen] = gain(entry, rivals[0], "equal images seen", cache)
    return [
        (name, _QUESTIONS[place][2], cells)
        for (name, place, *_), cells in sorted(gathered.items(), key=lambda item: str(item[0]))
        if len({n for n, _ in cells}) > 1
    ]


_DARK, _LIGHT = "#111417", "#fdfdfd"
"""What is written on cells, whose colours are the same in the dark theme."""


def _panel(panel: Axes, cells: _Cells, largest: float) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    ns, budgets = (sorted({place[axis] for place in cells}) for axis in (0, 1))
    shades = colormaps["RdBu"]
    for (n, seen), each in cells.items():
        x, y, shade = ns.index(n), budgets.index(seen), shades(0.5 + 0.5 * each.value / largest)
        pale = tuple(0.25 + 0.75 * part for part in shade[:3])
        panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=pale, linewidth=0))
        panel.text(
            x,
            y + 0.18,
            style.value(each.value, each.half_width, signed=True),
            ha="center",
            va="center",
            fontsize=7.5,
            color=_LIGHT if abs(each.value) > 0.7 * largest else _DARK,
        )
    panel.set_xlim(-0.5, len(ns) - 0.5)
    panel.set_ylim(-0.5, len(budgets) - 0.5)
    _zero(panel, cells, ns, budgets)
    panel.set_xticks(range(len(ns)), [str(n) for n in ns])
    panel.set_yticks(range(len(budgets)), [_millions(seen) for seen in budgets])
    panel.set_xlabel("training images a class")
    panel.set_ylabel("images seen")
    panel.grid(False)
    panel.tick_params(length=0)


def _millions(seen: int) -> str:
    """`0.02 M`, `2.4 M`, `30 M`."""
    return f"{seen / 1e6:.2g} M" if seen < 10**7 else f"{seen / 1e6:,.0f} M"


def _zero(panel: Axes, cells: _Cells, ns: Sequence[int], budgets: Sequence[int]) -> None:
    """Where the gain and the ends of its interval cross 0, on axes whose steps are the cells."""
    x = np.array([float(ns.index(n)) for n, _ in cells])
    y = np.array([float(budgets.index(seen)) for _, seen in cells])
    value = np.array([each.value for each in cells.values()])
    half = np.array([each.half_width or 0.0 for each in cells.values()])
    if len(cells) > 2 and np.linalg.matrix_rank(np.stack([x - x[0], y - y[0]])) == 2:
        for level, line in ((value, "-"), (value - half, ":"), (value + half, ":")):
            if level.min() < 0 < level.max():
                panel.tricontour(x, y, level, levels=[0.0], colors=[_DARK], linewidths=1.2, linestyles=[line])
        return
    for low, at, high in crossings(x, value, half):
        panel.plot([low, high], [y[0] - 0.2] * 2, color=_DARK, linewidth=1.2)
        panel.plot([at], [y[0] - 0.2], "D", color=_DARK, markersize=4)


def crossings(x: np.ndarray, value: np.ndarray, half: np.ndarray) -> list[tuple[float, float, float]]:
    """Where a line through points crosses 0, and between which places its interval holds 0.

    Args:
        x: places, shape [n].
        value: differences there, shape [n].
        half: half widths of their intervals, shape [n].

    Returns:
        One (low, at, high) for each change of sign between neighbours; low and high end at the outermost places.
    """
    order = np.argsort(x)
    x, value, half = x[order], value[order], half[order]
    fine = np.linspace(x[0], x[-1], 1 + 200 * max(1, len(x) - 1))
    inside = np.abs(np.interp(fine, x, value)) <= np.interp(fine, x, half)
    found = []
    for left in range(len(x) - 1):
        a, b = value[left], value[left + 1]
        if a * b < 0:
            at = float(x[left] + (x[left + 1] - x[left]) * a / (a - b))
            nearest = int(np.argmin(np.abs(fine - at)))
            low = high = nearest
            while low > 0 and inside[low - 1]:
                low -= 1
            while high < len(fine) - 1 and inside[high + 1]:
                high += 1
            found.append((min(at, float(fine[low])), at, max(at, float(fine[high]))))
    return found


def _said(name: str, question: str, cells: _Cells) -> str:
    parts = [
        f"{n} a class, {_millions(seen)} seen: {style.value(each.value, each.half_width, signed=True)}"
        for (n, seen), each in sorted(cells.items(), key=lambda item: (item[0][1], item[0][0]))
    ]
    return f"{name}, {question}: {'; '.join(parts)}."
