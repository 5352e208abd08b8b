"""Draw the figures of docs/mathematics.md into docs/figures/: `python scripts/draw_figures.py [FOLDER]`.

SVG with letters as text. Ink and ground are CSS variables with a light and a dark value, which a browser chooses by the
reader's theme. Equal versions of matplotlib give equal bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from slabench.core.files import write_bytes
from slabench.plots.style import INK, MUTED, PAPER, RULE, render, style

WIDTH = 5.4
"""Inches; a unit of every drawing is one inch."""

CLASSES = ("#0072b2", "#c77b00", "#2e8b57")
NAMES = {INK: "ink", MUTED: "muted", RULE: "rule", CLASSES[0]: "first", CLASSES[1]: "second", CLASSES[2]: "third"}
DARK = {
    "ink": "#e6edf3",
    "muted": "#9aa5b1",
    "rule": "#4a525c",
    "first": "#4aa8e0",
    "second": "#e0a040",
    "third": "#5cbf87",
}
SHAPES = (
    (
        (0, 0),
        (0.28, 0),
        (0.28, 0.36),
        (0.7, 0.36),
        (0.7, 0.62),
        (0.28, 0.62),
        (0.28, 0.74),
        (1, 0.74),
        (1, 1),
        (0, 1),
    ),  # F
    ((0, 0), (0.9, 0), (0.9, 0.27), (0.28, 0.27), (0.28, 1), (0, 1)),  # L
    ((0.36, 0), (0.64, 0), (0.64, 0.73), (1, 0.73), (1, 1), (0, 1), (0, 0.73), (0.36, 0.73)),  # T
)
M = 4


def canvas(height: float) -> tuple[Figure, Axes]:
    """An empty drawing, inches as units, the origin at the lower left."""
    figure = Figure(figsize=(WIDTH, height), facecolor="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(0, height)
    axes.axis("off")
    return figure, axes


def write(axes: Axes, x: float, y: float, text: str, size: float = 9, colour: str = INK, **more: object) -> None:
    """Text centred at a point unless `ha` or `va` say otherwise."""
    settings = {"ha": "center", "va": "center", "fontsize": size, "color": colour, **more}
    axes.text(x, y, text, **settings)  # type: ignore[arg-type]


def image(axes: Axes, x: float, y: float, side: float, label: int, turns: int, faint: bool = False) -> None:
    """A picture of class `label`, turned counter-clockwise by quarter turns; (x, y) is its lower left corner."""
    axes.add_patch(Rectangle((x, y), side, side, facecolor="none", edgecolor=MUTED, linewidth=0.7))
    points = []
    for u, v in SHAPES[label]:
        a, b = u - 0.5, v - 0.5
        for _ in range(turns):
            a, b = -b, a
        points.append((x + side * (0.5 + 0.62 * a), y + side * (0.5 + 0.62 * b)))
    axes.add_patch(Polygon(points, closed=True, facecolor=CLASSES[label], edgecolor="none", alpha=0.55 if faint else 1))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
    """An arrow between two points."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, linewidth=1, color=MUTED, shrinkA=0, shrinkB=0,
            linestyle=(0, (3, 2)) if dashed else "-",
        )
    )  # fmt: skip


def box(
    axes: Axes, x: float, y: float, width: float, height: float, lines: str, colour: str = MUTED, **more: object
) -> None:
    """A rounded box around `lines`; (x, y) is its centre."""
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(
        FancyBboxPatch(
            corner,
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor="none",
            edgecolor=colour,
            linewidth=1.2,
        )
    )
    write(axes, x, y, lines, 8.5, linespacing=1.35, **more)


def joint_labels() -> Figure:
    """Two images of a batch, their interleaved copies, and the joint labels."""
    figure, axes = canvas(4.1)
    columns = (0.62, 1.75, 2.75, 3.75, 4.7)
    for x, text in zip(columns, ("image", "copy", "row  b·M + j", "class i", "i·M + j"), strict=True):
        write(axes, x, 3.92, text, 9, MUTED)
    for b, label in enumerate((2, 0)):
        top = 3.72 - b * 1.86
        image(axes, 0.3, top - 1.15, 0.64, label, 0)
        write(axes, 0.62, top - 1.32, f"x$_{b}$", 9)
        for j in range(M):
            y = top - 0.24 - j * 0.44
            arrow(axes, (1.0, top - 0.83), (1.5, y))
            image(axes, 1.56, y - 0.18, 0.36, label, j)
            write(axes, 2.0, y, f"t$_{j}$", 8, MUTED, ha="left")
            write(axes, columns[2], y, f"{b * M + j}")
            write(axes, columns[3], y, f"{label}", 9, CLASSES[label])
            write(axes, columns[4], y, f"{label * M + j}", 10, CLASSES[label], weight="bold")
        if not b:
            axes.plot([0.1, WIDTH - 0.1], [top - 1.8] * 2, color=RULE, linewidth=0.8)
    return figure


def logits() -> Figure:
    """The joint logits of one image, and which of them each predictor reads."""
    figure, axes = canvas(3.15)
    left, top, cell = 0.72, 2.3, 0.37
    for i, colour in enumerate(CLASSES):
        x = left + i * M * cell
        write(axes, x + 2 * cell, top + 0.52, f"class i = {i}", 9, colour)
        axes.plot([x + 0.04, x + M * cell - 0.04], [top + 0.36] * 2, color=colour, linewidth=1.5)
        for k in range(M):
            write(axes, x + (k + 0.5) * cell, top + 0.17, f"{i * M + k}", 8, MUTED)
            for j in range(M):
                corner = (x + k * cell, top - (j + 1) * cell)
                read = j == k
                axes.add_patch(Rectangle(corner, cell, cell, facecolor="none", edgecolor=RULE, linewidth=0.7))
                if read:
                    inner = (corner[0] + 0.03, corner[1] + 0.03)
                    axes.add_patch(
                        Rectangle(inner, cell - 0.06, cell - 0.06, facecolor=colour, alpha=0.55, linewidth=0)
                    )
                if read and j == 0:
                    axes.add_patch(Rectangle(corner, cell, cell, facecolor="none", edgecolor=INK, linewidth=2))
        write(axes, x + 2 * cell, 0.5, f"s$_{i}$ = mean", 8.5, colour)
        arrow(axes, (x + 2 * cell, top - M * cell - 0.04), (x + 2 * cell, 0.62))
    for j in range(M):
        image(axes, 0.36, top - (j + 1) * cell + 0.05, 0.27, 0, j)
        write(axes, 0.2, top - (j + 0.5) * cell, f"t$_{j}$", 8, MUTED)
    y = 0.17
    axes.add_patch(Rectangle((0.72, y - 0.08), 0.16, 0.16, facecolor="none", edgecolor=INK, linewidth=2))
    write(axes, 0.97, y, "single reads these three", 8, ha="left")
    axes.add_patch(Rectangle((2.72, y - 0.08), 0.16, 0.16, facecolor=MUTED, alpha=0.55, linewidth=0))
    write(axes, 2.97, y, "aggregated reads all shaded ones", 8, ha="left")
    return figure


def episode() -> Figure:
    """A 3-way 2-shot episode and the 12-way one that joint labels make of it."""
    figure, axes = canvas(4.35)

    def rows(left: float, labels: Sequence[tuple[int, int]], top: float, side: float, first: str) -> None:
        step = side + 0.05
        write(axes, left + step - 0.025, top + 0.14, "supports", 8, MUTED)
        write(axes, left + 3 * step - 0.1 + side / 2, top + 0.14, "query", 8, MUTED)
        for row, (label, j) in enumerate(labels):
            y = top - (row + 1) * step
            for shot in range(2):
                image(axes, left + shot * step, y, side, label, j)
            image(axes, left + 3 * step - 0.1, y, side, label, j, faint=True)
            write(axes, left - 0.1, y + side / 2, f"{row}", 8, CLASSES[label], ha="right", weight="bold")
        write(axes, left + 1.8 * step, top + 0.36, first, 9.5, weight="bold")

    rows(0.42, [(label, 0) for label in range(3)], 3.1, 0.36, "N = 3 ways")
    rows(3.35, [(label, j) for label in range(3) for j in range(M)], 3.85, 0.26, "N·M = 12 ways")
    arrow(axes, (2.3, 2.45), (2.95, 2.45))
    write(axes, 2.62, 2.62, "t$_0$ … t$_3$", 8.5)
    write(axes, 1.2, 1.5, "The head scores 12 classes.\nIt is told nothing of M.", 8.5, MUTED, linespacing=1.4)
    return figure


def self_distillation() -> Figure:
    """What SLA+SD trains: the joint layer on all copies, the student on the plain one."""
    figure, axes = canvas(3.5)
    for j in range(M):
        image(axes, 0.12, 3.0 - j * 0.42, 0.34, 0, j)
        write(axes, 0.56, 3.17 - j * 0.42, f"t$_{j}$x", 8, MUTED, ha="left")
    arrow(axes, (0.86, 2.55), (1.18, 2.55))
    box(axes, 1.62, 2.55, 0.84, 0.5, "backbone")
    joint, student = CLASSES[0], CLASSES[1]
    arrow(axes, (2.07, 2.65), (2.42, 2.8))
    box(axes, 2.92, 2.85, 0.96, 0.62, "joint layer w\nC·M outputs", joint)
    arrow(axes, (1.62, 2.28), (1.62, 0.95))
    write(axes, 1.56, 1.6, "plain copy\nt$_0$x alone", 8, MUTED, ha="right", linespacing=1.3)
    arrow(axes, (1.62, 0.95), (2.42, 0.75))
    box(axes, 2.92, 0.75, 0.96, 0.62, "student u\nC outputs", student)
    arrow(axes, (3.42, 2.95), (3.9, 2.95))
    box(axes, 4.6, 2.95, 1.36, 0.5, "cross-entropy with\nlabels i·M + j", joint)
    arrow(axes, (2.92, 2.52), (2.92, 2.1))
    box(axes, 2.92, 1.82, 0.96, 0.5, "aggregate\ns = mean", joint)
    arrow(axes, (3.42, 1.82), (3.9, 1.82), dashed=True)
    box(axes, 4.6, 1.82, 1.36, 0.5, "T² KL( softmax s/T\n∥ softmax u/T )", student)
    write(axes, 4.6, 2.22, "no gradient to s", 7.5, MUTED)
    arrow(axes, (3.42, 0.9), (3.98, 1.55))
    arrow(axes, (3.42, 0.7), (3.9, 0.7))
    box(axes, 4.6, 0.7, 1.36, 0.5, "β cross-entropy\nwith labels i", student)
    write(axes, WIDTH / 2, 0.17, "In the test distilled asks u once, about the plain image.", 8.5, MUTED)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "joint-labels": joint_labels,
    "logits": logits,
    "episode": episode,
    "self-distillation": self_distillation,
}


def drawn(name: str) -> bytes:
    """The SVG of one figure."""
    with style(name):
        text = render(FIGURES[name](), "svg", name).decode()
    text = text.replace(f"fill: {PAPER}", "fill: none", 1)  # the page is the ground
    for colour, name_of in NAMES.items():
        text = text.replace(colour, f"var(--{name_of}, {colour})")
    light = "; ".join(f"--{name_of}: {colour}" for colour, name_of in NAMES.items())
    dark = "; ".join(f"--{name_of}: {colour}" for name_of, colour in DARK.items())
    rules = f"<style>svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    head, sign, rest = text.partition(" <defs>")
    return (head + rules + "\n" + sign + rest).encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the figures of the pages.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent.parent / "docs" / "figures")
    folder = parser.parse_args().folder
    for figure_name in FIGURES:
        write_bytes(folder / f"{figure_name}.svg", drawn(figure_name))
