"""Pieces of the page: text, figures as inline SVG in the page's colours, and the leaderboard's table of a protocol."""

from __future__ import annotations

import re
from html import escape

from slabench.core.files import SHORT
from slabench.plots import style
from slabench.plots.source import Drawing, Group
from slabench.ranking.boards import boards
from slabench.ranking.columns import Column, LeaderboardRow
from slabench.ranking.formats import html_table
from slabench.ranking.formats.html_table import Cell, table
from slabench.ranking.rows import ranked
from slabench.report.svg import inline


def figure(drawing: Drawing, name: str, narrow: Drawing | None = None) -> str:
    """The drawing as inline SVG with its caption as text; `name` is unique in the page.

    `narrow` shows the same, and stands in its place on a phone.
    """
    svg = _svg(drawing, name)
    if narrow is not None:
        svg = f'<div class="wide">{svg}</div>\n<div class="narrow">{_svg(narrow, f"{name}-narrow")}</div>'
    caption = f"<strong>{escape(drawing.title)}.</strong> {escape(drawing.caption)}"
    return f'<figure id="{escape(name)}">\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>\n'


def _svg(drawing: Drawing, salt: str) -> str:
    return inline(style.render(drawing.figure, "svg", salt=salt).decode(), drawing.alt)


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{f' class={kind!r}' if kind else ''}>{escape(text)}</p>\n"


def anchor(text: str) -> str:
    """`text` as an id of the page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def facts(group: Group) -> str:
    """What the rows of this protocol have in common, as a sentence."""
    first = group.first
    parts = [f"{group.size:,} {'frozen test episodes' if group.unit == 'episodes' else 'test images'}"]
    if first.train_classes and first.test_classes:
        own = "of their own" if first.suite == "fewshot" else ""
        parts.append(f"{first.train_classes} training classes, {first.test_classes} test classes {own}".strip())
    training = first.training_set or {}
    if isinstance(training.get("images"), int):
        parts.append(f"{training['images']:,} training images")
    if isinstance(training.get("realised_ratio"), int | float):
        parts.append(f"largest to smallest class {training['realised_ratio']:g}")
    parts.append(f"protocol {first.protocol}, version {first.protocol_version}")
    stale = paragraph(f"Stale, not ranked: {group.stale}.", "bad") if group.stale else ""
    return stale + paragraph("; ".join(parts) + ".", "facts")


def leaderboard(group: Group) -> str:
    """The leaderboard's table of this protocol, under the names and in the colours of the figures."""
    made = ranked(group.entries)
    (board,) = boards(made, "wide")
    colours = {entry.records[0].recipe_digest[:SHORT]: group.colours()[entry.objective] for entry in group.entries}
    names = {digest[:SHORT]: name for digest, name in group.names.items()}

    def cell(column: Column, row: LeaderboardRow) -> Cell:
        if column.name != "name":
            return html_table.cell(column, row)
        name = names[row.recipe_digest]
        return Cell(name, name, colours[row.recipe_digest], also=row.predictor)

    cells = [[cell(column, row) for column in board.columns] for row in board.rows]
    return table(html_table.heads(board), cells, caption=f"{group.title}: all rows, the best first") + _notes(made)


def _notes(made: list[LeaderboardRow]) -> str:
    selection = sorted({row.selection for row in made})
    devices = sorted({row.device for row in made})
    text = f"Weights scored: {', '.join(selection)}. Device: {', '.join(devices)}."
    if any(row.ci95_from == "mean-of-seeds" for row in made):
        text += " Where accuracies of single episodes cannot be read, ± test is the mean of the records' own intervals."
    return paragraph(text, "note")
