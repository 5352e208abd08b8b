"""Figures made from records and from nothing else: `draw("bars", Source.of(records, store))`.

Every kind takes a `Source` and gives a `Drawing`: a matplotlib figure with its title, caption and alternative text. A kind
for which the records hold nothing raises `NothingToDraw`, whose remedy is a command. Nothing heavy is imported before.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slabench.core.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from slabench.plots.source import Drawing, Source


@dataclass(frozen=True)
class Kind:
    """A kind of figure.

    Attributes:
        summary: what it shows, in a line.
        target: the function that draws it, "module:function".
        rows: so many rows of a protocol are drawn on one page (`slabench.plots.page`).
    """

    summary: str
    target: str
    rows: int = 12


KINDS = {
    "summary": Kind("SLA beside the baseline and its controls, task by task", "summary:summary"),
    "bars": Kind("test accuracy by method and predictor, with intervals and seeds", "bars:bars"),
    "gains": Kind("difference of each method to its baselines, paired on the same test", "bars:gain_chart", rows=4),
    "map": Kind("where joint labels pay, by data and images seen", "map:where_it_pays"),
    "passes": Kind("validation accuracy against images seen in training", "curves:by_images_seen", rows=10),
    "groups": Kind("recall of many, medium and few classes of a long tail", "classes:by_size"),
    "per-class": Kind("recall class by class", "classes:per_class", rows=6),
    "reliability": Kind("accuracy against confidence of a classifier, with its ECE", "calibration:diagrams", rows=4),
    "shots-ways": Kind("accuracy over the shots and ways of episodes", "sweeps:shots_and_ways", rows=6),
    "transforms": Kind("accuracy by transformation set", "sweeps:transforms"),
    "training": Kind("loss, and accuracy in training and on validation, in its course", "curves:training", rows=8),
}


def draw(kind: str, source: Source) -> Drawing:
    """The figure `kind` of all records of `source`; `slabench.plots.page.draw_page` gives one that fits a page.

    Raises:
        UsageError: there is no such kind; says what is near.
        NothingToDraw: the records hold nothing for it; says what to run.
    """
    if kind not in KINDS:
        raise unknown_name("kind of plot", kind, KINDS)
    module, _, name = KINDS[kind].target.partition(":")
    drawing: Drawing = getattr(importlib.import_module(f"{__name__}.{module}"), name)(source)
    return drawing


def file_type(path: Path) -> str:
    """png, svg or pdf, from the end of the name.

    Raises:
        UsageError: another one, or none.
    """
    from slabench.plots.style import SUFFIXES

    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in SUFFIXES:
        raise UsageError(
            f"a plot cannot be written as '{path.name}'", f"the end of the name says the type: {', '.join(SUFFIXES)}"
        )
    return suffix


def picture(drawing: Drawing, suffix: str) -> bytes:
    """The drawing as a file that stands by itself, with title and caption below. It is drawn once: the figure grows by them."""
    from slabench.plots import style

    with style.style():
        style.add_caption(drawing.figure, drawing.title, drawing.caption)
    return style.render(drawing.figure, suffix)
