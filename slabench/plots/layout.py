"""Where the panels of a figure stand: their texts are measured once, and what is left of the paper is theirs.

matplotlib's constrained layout measures everything twice and solves equations for cases that do not occur here, which was
a third of the time of a report. As there, all columns of panels are equally wide, and heights keep their ratios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import LayoutEngine
    from matplotlib.transforms import Bbox

_PAD = (0.06, 0.07)
"""Inches around each panel with its texts, across and upwards."""

_OVERHANG = 0.12
"""Inches at the right of a panel at least: half of a number below its end."""

FIRST_GUESS = {"left": 0.3, "right": 0.95, "bottom": 0.15, "top": 0.92}
"""About where panels will stand, so that they are measured with the ticks that they will have."""


def one_pass() -> LayoutEngine:
    """`lay_out` as the engine of a figure, so that matplotlib's own `savefig` lays out too; `set(strip=...)` takes inches."""
    from matplotlib.layout_engine import LayoutEngine

    class OnePass(LayoutEngine):
        _adjust_compatible = False
        _colorbar_gridspec = True
        strip = 0.0

        def set(self, **settings: Any) -> None:
            self.strip = settings["strip"]

        def execute(self, fig: Figure) -> None:
            lay_out(fig, self.strip)

    return OnePass()


def lay_out(figure: Figure, strip: float = 0.0) -> None:
    """Move the panels of a grid to where neither their texts touch nor the edge cuts them.

    Legends of the figure get a strip of their own at the top.

    Args:
        figure: its panels stand in one grid, one in each place, which may be incomplete; others stay where they are.
        strip: inches that stay free at the bottom.
    """
    width, height = (float(size) for size in figure.get_size_inches())
    across, up = _PAD
    panels = []
    rows: dict[int, list[float]] = {}
    columns: dict[int, list[float]] = {}
    ratios: dict[int, float] = {}
    for axes in figure.axes:
        spec = axes.get_subplotspec()
        if spec is None:  # placed by hand
            continue
        row, column = spec.rowspan.start, spec.colspan.start
        box, panel = _inches(figure, axes.get_tightbbox(for_layout_only=True)), axes.get_position()
        left, right = panel.x0 * width - box.x0 + across, box.x1 - panel.x1 * width + across
        below, above = panel.y0 * height - box.y0 + up, box.y1 - panel.y1 * height + up
        _widen(columns.setdefault(column, [0.0, _OVERHANG]), left, right)
        _widen(rows.setdefault(row, [0.0, 0.0]), below, above)
        heights: Any = spec.get_gridspec().get_height_ratios()
        ratios[row] = float(heights[row])
        panels.append((axes, row, column))
    if not panels:
        return
    top = height - max(
        (_inches(figure, legend.get_tightbbox()).height + 2 * up for legend in figure.legends), default=0
    )
    inner = max(0.2, (width - sum(map(sum, columns.values()))) / len(columns))
    scale = max(0.1, top - strip - sum(map(sum, rows.values()))) / sum(ratios.values())
    for axes, row, column in panels:
        x = sum(sum(columns[before]) + inner for before in range(column)) + columns[column][0]
        y = top - sum(sum(rows[before]) + ratios[before] * scale for before in range(row)) - rows[row][1]
        own = ratios[row] * scale
        axes.set_position((x / width, (y - own) / height, inner / width, own / height))


def _widen(margins: list[float], first: float, second: float) -> None:
    margins[:] = max(margins[0], first), max(margins[1], second)


def _inches(figure: Figure, box: Bbox | None) -> Bbox:
    assert box is not None
    return box.transformed(figure.dpi_scale_trans.inverted())
