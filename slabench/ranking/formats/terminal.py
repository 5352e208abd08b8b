"""The leaderboard for people at a terminal: a table per group of comparable rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from slabench.ranking.boards import GROUPS, Board, boards, notes
from slabench.ranking.columns import Format, LeaderboardRow, columns
from slabench.ranking.order import in_order

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 120
"""Columns of a terminal from which on published numbers stand beside the rows."""

ELISION = "..."
"""Three characters that every terminal can print, where one of Unicode would do."""

_NAMES = {"name": 15, "published_backbone": 8}
"""Columns that give way where a line is too long, the last first, and what is left to them at least."""

_COST = ("train_seconds", "images_seen")
"""Left out, one after the other, where two recipes could not be told apart otherwise; files and the records have them."""


def table(rows: Sequence[LeaderboardRow], width: int = 80) -> Table:
    """The rows for people, a table per group: accuracies in percent, the two uncertainties in columns of their own.

    Protocols stand in the order in which people ask for them (`slabench.ranking.order`).

    Args:
        rows: as `slabench.ranking.rows.rows` gives them.
        width: of the terminal.
    """
    from rich.markup import escape
    from rich.table import Table

    output: Format = "wide" if width >= WIDE else "table"
    made = Table.grid()
    made.add_column()
    tables = boards(in_order(rows), output)
    for board in tables:
        digests = ", ".join(f"{name} {board.digests[name] or '-'}" for name in ("data", "episodes"))
        made.add_row(f"[bold]{escape(board.title)}[/bold], {escape(', '.join(board.facts))}; {escape(digests)}")
        if board.stale:
            made.add_row(f"[yellow]stale: {escape(board.stale)}[/yellow]")
        made.add_row(_group_table(board, width))
        made.add_row("")
    made.add_row(f"[dim]{escape(' '.join(notes(tables)))}[/dim]")
    return made


def _group_table(board: Board, width: int) -> Table:
    from rich.markup import escape
    from rich.table import Table

    # Names are elided, numbers never: it is to be read in 80 columns.
    cells = {
        column.name: [column.text(row) or ("n/a" if column.name in GROUPS else "-") for row in board.rows]
        for column in board.columns
    }
    fitted = _fitted(board, cells, width)
    for name in _COST:
        if len(set(fitted["name"])) == len(set(cells["name"])):
            break
        cells.pop(name, None)
        fitted = _fitted(board, cells, width)
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in board.columns:
        if column.name in fitted:
            made.add_column(column.heading, justify="right" if column.numeric else "left", no_wrap=True)
    place = list(fitted).index("name")
    names = max(map(len, fitted["name"]))
    room = max(names, names + width - _width(board, fitted))  # what the line leaves
    for line, apart in zip(zip(*fitted.values(), strict=True), _apart(board), strict=True):
        below = [f"[dim]{escape(text)}[/dim]" for words in apart for text in wrap(words, room)]
        shown = [escape(cell) for cell in line]
        shown[place] = "\n".join([shown[place], *below])
        made.add_row(*shown)
    return made


def _width(board: Board, cells: Mapping[str, Sequence[str]]) -> int:
    """Columns of the terminal that these cells take, headings among them."""
    from rich.cells import cell_len

    shown = ((column.heading, *cells[column.name]) for column in board.columns if column.name in cells)
    return sum(max(map(cell_len, texts)) + 1 for texts in shown)


def _fitted(board: Board, cells: Mapping[str, Sequence[str]], width: int) -> dict[str, Sequence[str]]:
    """The cells by column, with names short enough for lines of `width`."""
    from rich.cells import cell_len

    fitted = dict(cells)
    wide = {
        # Where a terminal has no ±, it shows +- (slabench.cli.streams).
        column.name: max(cell_len(text.replace("±", "+-")) for text in (column.heading, *cells[column.name])) + 1
        for column in board.columns
        if column.name in cells
    }
    for name, least in reversed(_NAMES.items()):
        over = sum(wide.values()) - width
        if name in cells and over > 0:
            wide[name] = max(least + 1, wide[name] - over)
            fitted[name] = elided(cells[name], wide[name] - 1)
    return fitted


def elided(names: Sequence[str], width: int) -> list[str]:
    """The names in `width` characters at most, cut in the middle: `pretrained/b...+cosine`.

    All are cut at the same place, so that they stay comparable: the one that keeps the most of them apart, and of those the
    one nearest to the middle.
    """
    if all(len(name) <= width for name in names):
        return list(names)
    room = max(1, width - len(ELISION))

    def cut(name: str, head: int) -> str:
        return name if len(name) <= width else name[:head] + ELISION + name[len(name) - (room - head) :]

    heads = sorted(range(1, room), key=lambda head: abs(head - room / 2)) or [room]
    best = max(heads, key=lambda head: len({cut(name, head) for name in set(names)}))  # max() takes the first of equals
    return [cut(name, best) for name in names]


def _apart(board: Board) -> list[list[str]]:
    """What tells each row from others of its name and predictor: a head, a loss, ...; nothing where its name does.

    Files have a column for each of these; on a screen there is no room for them.
    """
    telling = [column for column in columns() if column.fold and "latex" in column.shown]
    found = []
    for row in board.rows:
        others = [other for other in board.rows if (other.name, other.predictor) == (row.name, row.predictor)]
        odd = [column for column in telling if len({column.text(other) for other in others}) > 1]
        words = [f"{column.heading} {column.text(row) or '-'}" for column in odd]
        if sum(all(column.text(other) == column.text(row) for column in odd) for other in others) > 1:
            words.append(f"recipe {row.recipe_digest[:6]}")
        found.append(words)
    return found
