"""The HTML table of the leaderboard's page and of the report: escaped text, in a box that scrolls, sorted by its headings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from slabench.ranking.boards import Board
from slabench.ranking.columns import Column, LeaderboardRow


@dataclass(frozen=True)
class Head:
    """A heading.

    Attributes:
        text: what it says.
        numeric: its cells stand at the right, and sort by number.
        help: an explanation, shown as a tip.
        key: its cells say what a row is: where the page is narrow they stay in sight while the others scroll.
        rises: the first click sorts the smallest first; other numbers begin with the greatest.
        sorted: the rows are in its order already, the smallest first.
    """

    text: str
    numeric: bool = True
    help: str = ""
    key: bool = False
    rises: bool = False
    sorted: bool = False


@dataclass(frozen=True)
class Cell:
    """What a table shows in a cell, and by what it is sorted.

    Attributes:
        text: plain text; it is escaped.
        sort: number or text; a number that is None stays last in both directions, a name goes by its text.
        colour: of a mark before the text, "#rrggbb".
        mark: "good" or "bad" for a difference whose interval lies on one side of 0; the text says it too, by its sign.
        also: in a key column, what else tells the row from others; shown only on a narrow page, where the rest scrolls away.
        interval: behind the text, such as "± 0.4"; on a narrow page below it.
    """

    text: str
    sort: float | str | None = None
    colour: str | None = None
    mark: str = ""
    also: str = ""
    interval: str = ""


def table(
    heads: Sequence[Head],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str = "",
    labelled_by: str = "",
    kind: str = "",
) -> str:
    """The table in a box of its own, which scrolls where the page is too narrow.

    Args:
        heads: of the columns.
        rows: a cell for each column.
        caption: stands above the table, and names the box for readers of the screen.
        labelled_by: instead of a caption, the id of the heading that names the box.
        kind: a further class of the box, for a style sheet.
    """
    label = f'aria-labelledby="{escape(labelled_by)}"' if labelled_by else f'aria-label="{escape(caption)}"'
    box = f"scroll {kind}".strip()
    above = f"<caption><span>{escape(caption)}</span></caption>\n" if caption else ""
    body = "\n".join("<tr>" + "".join(map(_cell, heads, row)) + "</tr>" for row in rows)
    return (
        f'<div class="{box}" role="region" tabindex="0" {label}>\n<table class="sortable">\n{above}'
        f"<thead><tr>{''.join(map(_head, heads))}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>\n"
    )


def heads(board: Board) -> list[Head]:
    """The headings of one table of the leaderboard."""
    return [
        Head(
            column.heading,
            numeric=column.numeric,
            help=column.help,
            key=column.name == "name",
            rises=column.name == "rank",
            sorted=column.name == "rank",
        )
        for column in board.columns
    ]


def cell(column: Column, row: LeaderboardRow) -> Cell:
    """A cell of the leaderboard; numbers sort by their plain value."""
    return Cell(column.text(row), getattr(row, column.name) if column.numeric else None)


def script() -> str:
    """What sorts the tables of a page, JavaScript."""
    return (files(__package__) / "sorting.js").read_text(encoding="utf-8").strip()


def _classes(head: Head, mark: str = "") -> str:
    names = [name for name, holds in (("num", head.numeric), ("key", head.key), (mark, mark)) if holds]
    return f' class="{" ".join(names)}"' if names else ""


def _head(head: Head) -> str:
    order = ' aria-sort="ascending"' if head.sorted else ""
    order += ' data-first="ascending"' if head.rises else ""
    tip = f' title="{escape(head.help)}"' if head.help else ""
    return f'<th scope="col"{_classes(head)}{order}><button type="button"{tip}>{escape(head.text)}</button></th>'


def _cell(head: Head, cell: Cell) -> str:
    kind, scope = ("th", ' scope="row"') if head.key else ("td", "")
    value = f"{cell.sort:.6g}" if isinstance(cell.sort, float) else str(cell.sort)
    # A name that is all there is to see sorts by itself; pages of a thousand rows are the smaller for it.
    itself = value == cell.text and not (head.numeric or cell.also or cell.interval)
    sort = "" if cell.sort is None or itself else f' data-sort="{escape(value)}"'
    dot = "" if cell.colour is None else f'<span class="dot" style="background:{cell.colour}"></span>'
    text = escape(cell.text)
    if head.key:
        text = text.replace("/", "/<wbr>")  # on a phone names break there
    also = f'<span class="also" aria-hidden="true">{escape(cell.also)}</span>' if cell.also else ""
    half = f' <span class="half">{escape(cell.interval)}</span>' if cell.interval else ""
    return f"<{kind}{scope}{_classes(head, cell.mark)}{sort}>{dot}{text}{half}{also}</{kind}>"
