"""One visual language for all figures: colour is the objective, shade and dash the predictor, marker the recipe.

No pyplot and no backend are chosen: a `Figure` is made by itself and saved by the canvas of its file type. Equal figures
give equal bytes: no date is written, and ids within an SVG come from a fixed salt.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slabench.plots.layout import FIRST_GUESS, one_pass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#1b1f24", "#59636e", "#d4d9df", "#ffffff"
"""Text and axes, notes, grid lines, ground."""

DARK = {INK: "#e8eaed", MUTED: "#a9b2bd", RULE: "#3a424c", PAPER: "#14171b"}
"""The same four in a dark theme; the report has them in its style sheet."""

OBJECTIVES = {
    "baseline": "#7a7a7a",
    "sla": "#0072b2",
    "sla+sd": "#2f9ad1",
    "da": "#c77b00",
    "mt": "#2e8b57",
    "rotated-classes": "#a83c82",
}
"""Colours by objective, after those of Okabe and Ito (2008) but of a middling lightness: seen on white and on black alike."""

OTHERS = ("#d55e00", "#8a63c9", "#a0704f", "#5d8a1f")
"""For objectives of plug-ins, in order of their names."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = {"single": (0, (4, 2)), "aggregated": "-", "distilled": (0, (1, 1))}
SUFFIXES = ("png", "svg", "pdf")

WIDTH = 5.4
"""Inches of one column of panels: 390 CSS pixels show its letters at two thirds, which can be read."""

ROW = 0.205
"""Inches of one row of a chart whose rows carry text."""

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # nothing stands at the top that a title would have to make room for
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "hatch.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "path.simplify": False,
}


@contextmanager
def style(salt: str = "slabench") -> Iterator[None]:
    """The settings of every figure, put back afterwards; `salt` makes the ids of an SVG its own."""
    import matplotlib

    # The defaults first: a user's matplotlibrc changes no figure.
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    settings: Any = {**defaults, **_SETTINGS, "svg.hashsalt": salt}
    with matplotlib.rc_context(settings):
        yield


def panels(heights: Sequence[float], columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with one panel for each of `heights` (inches), row by row in `columns`."""
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(heights)))
    rows = [max(heights[start : start + columns]) for start in range(0, len(heights), columns)]
    figure = Figure(figsize=(WIDTH * columns, sum(rows) + 0.1 * len(rows) + 0.2), layout=one_pass())
    grid = figure.add_gridspec(len(rows), columns, height_ratios=rows, **FIRST_GUESS)
    return figure, [figure.add_subplot(grid[index // columns, index % columns]) for index in range(len(heights))]


def one_panel(width: float, height: float) -> Figure:
    """A figure of a single panel, in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=one_pass())
    figure.add_subplot(figure.add_gridspec(1, 1, **FIRST_GUESS)[0, 0])
    return figure


def colours(objectives: Sequence[str]) -> dict[str, str]:
    """The colour of each objective; unknown ones share out the further colours in order of their names."""
    unknown = sorted(set(objectives) - set(OBJECTIVES))
    return {
        name: OBJECTIVES.get(name) or OTHERS[unknown.index(name) % len(OTHERS)] for name in dict.fromkeys(objectives)
    }


def fill(colour: str, predictor: str) -> dict[str, Any]:
    """How a bar of a predictor is filled: `single` light, `aggregated` full, any other hatched."""
    from matplotlib.colors import to_rgba

    if predictor == "aggregated":
        return {"facecolor": colour, "edgecolor": colour, "linewidth": 0.8}
    hatch = None if predictor == "single" else "////"
    return {"facecolor": to_rgba(colour, 0.3), "edgecolor": colour, "hatch": hatch, "linewidth": 0.8}


def dot(colour: str, predictor: str) -> dict[str, Any]:
    """How a marker of a predictor is filled, as its bar would be."""
    faces = {"single": PAPER, "aggregated": colour}
    return {"markeredgecolor": colour, "markerfacecolor": faces.get(predictor, RULE), "markeredgewidth": 1.2}


def value(mean: float, half_width: float | None, signed: bool = False) -> str:
    """A fraction in percent with its interval, "53.8 ± 0.4"; `signed` for differences."""
    text = f"{100 * mean:+.1f}" if signed else f"{100 * mean:.1f}"
    text = text.replace("-", "\N{MINUS SIGN}")
    return text if half_width is None else f"{text} ± {100 * half_width:.1f}"


def percent_axis(axes: Axes, right: float) -> None:
    """Percent from 0 on, with room for a value at the right of the longest bar, and no tick beyond 100."""
    axes.set_xlim(0, right * 1.3)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= min(100.0, right * 1.3)])


def predictor_legend(figure: Figure, predictors: Sequence[str]) -> None:
    """Say above the panels what the fillings of bars mean; nothing when there is one predictor alone."""
    from matplotlib.patches import Patch

    if len(predictors) > 1:
        handles = [Patch(label=name, **fill(MUTED, name)) for name in predictors]
        figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))


@dataclass(frozen=True)
class End:
    """The last point of a line (data coordinates), its name, colour and marker."""

    x: float
    y: float
    text: str
    colour: str
    marker: str = "none"


MOST_LABELS = 10
"""Lines of a panel that are named where they end; more are named in a legend beside it."""

_LEGEND = 6.5
"""Points of the letters in such a legend."""


def line_panel(lines: int, least: float = 2.9) -> float:
    """Inches of height of a panel with so many lines, at least `least`: those of a legend want room."""
    return least if lines <= MOST_LABELS else max(least, 0.6 + lines * _LEGEND * 1.3 / 72)


def name_lines(axes: Axes, ends: Sequence[End]) -> None:
    """Name few lines where they end, and many in a legend at the right of the panel, in the order of their ends."""
    if len(ends) <= MOST_LABELS:
        end_labels(axes, ends)
        return
    from matplotlib.lines import Line2D

    ordered = sorted(ends, key=lambda end: (-end.y, end.text))
    handles = [Line2D([], [], color=end.colour, marker=end.marker, markersize=4, label=end.text) for end in ordered]
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.02, 1),
        borderaxespad=0,
        fontsize=_LEGEND,
        frameon=False,
        labelspacing=0.3,
        handlelength=1.4,
    )


def end_labels(axes: Axes, ends: Sequence[End], size: float = 7.5) -> None:
    """Name lines at the right of where they end, moved apart where they would touch.

    Args:
        axes: with its data and limits.
        ends: one a line.
        size: points.
    """
    low, high = axes.get_ylim()
    last = max(end.x for end in ends)
    line = (high - low) * size * 1.3 / 72 / _height(axes)
    # Lines that end within a tenth of the last one are named with it: their names would lie on each other.
    places_of = {end.x: last if end.x >= 0.9 * last else end.x for end in ends}
    beside = axes.get_yaxis_transform()
    leaders: list[tuple[End, float]] = []
    for x in sorted(set(places_of.values())):
        ordered = sorted((end for end in ends if places_of[end.x] == x), key=lambda end: (end.y, end.text))
        wrapped = [wrap(end.text, 16) for end in ordered]
        places = _apart([end.y for end in ordered], [line * (text.count("\n") + 1.15) for text in wrapped])
        for end, wrapped_text, place in zip(ordered, wrapped, places, strict=True):
            if x == last:
                leaders.append((end, place))
                axes.text(1.02, place, wrapped_text, transform=beside, va="center", fontsize=size)
            else:  # within the panel, over other lines
                axes.annotate(
                    end.text,
                    (end.x, end.y),
                    (8, 72 * (place - end.y) / (high - low) * _height(axes)),
                    textcoords="offset points",
                    va="center",
                    fontsize=size,
                    bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
                    arrowprops={"arrowstyle": "-", "color": end.colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3},
                    annotation_clip=False,
                )
    _lead(axes, leaders)


def _lead(axes: Axes, leaders: Sequence[tuple[End, float]]) -> None:
    """Thin lines from where lines end to their names beside the panel. Plain ones: an arrow costs ten times as much."""
    from matplotlib.collections import LineCollection

    to_panel = axes.transData + axes.transAxes.inverted()
    starts = to_panel.transform([(end.x, end.y) for end, _ in leaders])
    stops = [(1.015, to_panel.transform((end.x, place))[1]) for end, place in leaders]
    lines = LineCollection(
        list(zip(starts, stops, strict=True)),
        colors=[end.colour for end, _ in leaders],
        linewidths=0.7,
        transform=axes.transAxes,
        clip_on=False,
    )
    axes.add_artist(lines)


def _apart(places: list[float], heights: Sequence[float]) -> list[float]:
    """`places`, in ascending order, moved until labels of these heights do not touch."""
    for _ in range(300):
        moved = False
        for index in range(len(places) - 1):
            short = (heights[index] + heights[index + 1]) / 2 - (places[index + 1] - places[index])
            if short > heights[index] * 1e-2:
                places[index] -= short / 2
                places[index + 1] += short / 2
                moved = True
        if not moved:
            break
    return places


def _height(axes: Axes) -> float:
    """About the inches that the data of this panel will have once it is laid out."""
    spec, figure = axes.get_subplotspec(), axes.get_figure(root=True)
    assert spec is not None
    assert figure is not None
    ratios: Any = spec.get_gridspec().get_height_ratios()
    own = float(ratios[spec.rowspan.start]) / float(sum(ratios)) * float(figure.get_size_inches()[1])
    return max(own - 0.75, own / 2)


def render(figure: Figure, suffix: str, salt: str = "slabench", ground: bool = True) -> bytes:
    """The figure as a file of the type `suffix`: png (150 dots an inch), svg or pdf. Equal figures give equal bytes.

    Without `ground` what the picture lies on shows through.
    """
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    file = io.BytesIO()
    engine, paper = figure.get_layout_engine(), PAPER if ground else "none"
    with style(salt):
        if engine is not None:
            engine.execute(figure)
        figure.set_layout_engine(None)  # with one, savefig draws twice
        try:
            figure.savefig(file, format=suffix, dpi=150, facecolor=paper, metadata=metadata[suffix])
        finally:
            if engine is not None:
                figure.set_layout_engine(engine)
    return file.getvalue()


def darkened(svg: bytes) -> bytes:
    """An SVG of `render` in the colours of a dark theme."""
    return re.sub("|".join(DARK).encode(), lambda match: DARK[match[0].decode()].encode(), svg)


def caption_height(figure: Figure, title: str, caption: str) -> float:
    """Inches that `add_caption` puts below the panels."""
    return 0.16 * len(_caption_lines(figure, title, caption)) + 0.12


def _caption_lines(figure: Figure, title: str, caption: str) -> list[str]:
    return textwrap.wrap(f"{title}. {caption}", int(float(figure.get_size_inches()[0]) * 15.5))


def add_caption(figure: Figure, title: str, caption: str) -> None:
    """Write title and caption below the panels of a picture that goes into the world without the report around it."""
    width, height = figure.get_size_inches()
    lines, strip = _caption_lines(figure, title, caption), caption_height(figure, title, caption)
    figure.set_size_inches(width, height + strip)
    engine: Any = figure.get_layout_engine()
    if engine is not None:
        engine.set(strip=strip)
    figure.text(0.1 / width, (strip - 0.04) / (height + strip), "\n".join(lines), fontsize=7.5, color=MUTED, va="top")


def wrap(text: str, width: int = 24) -> str:
    """`text` broken after hyphens, blanks and plus signs into lines of about `width` letters."""
    if len(text) <= width:
        return text
    parts = text.replace("+", "+\0").replace("-", "-\0").replace(" ", " \0").split("\0")
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def row_name(text: str, rows: int) -> str:
    """The name of so many rows of a chart, broken into as many lines as they have room for."""
    width = 22
    while wrap(text, width).count("\n") > rows:
        width += 2
    return wrap(text, width)
