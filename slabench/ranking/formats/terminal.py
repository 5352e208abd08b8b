"""The leaderboard for people at a terminal: a table per group of comparable rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slabench.ranking.columns import GROUPS, Board, Format, LeaderboardRow, boards, columns, notes

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 120
"""Columns of a terminal from which on published numbers stand beside the rows."""


def table(rows: Sequence[LeaderboardRow], width: int = 80) -> Table:
    """The rows for people, a table per group: accuracies in percent, the two uncertainties in columns of their own.

    Args:
        rows: as `slabench.ranking.entries.rows` gives them.
        width: of the terminal.
    """
    from rich.markup import escape
    from rich.table import Table

    output: Format = "wide" if width >= WIDE else "table"
    made = Table.grid()
    made.add_column()
    tables = boards(rows, output)
    for board in tables:
        digests = ", ".join(f"{name} {board.digests[name] or '-'}" for name in ("data", "episodes"))
        made.add_row(f"[bold]{escape(board.title)}[/bold], {escape(', '.join(board.facts))}; {escape(digests)}")
        if board.stale:
            made.add_row(f"[yellow]stale: {escape(board.stale)}[/yellow]")
        made.add_row(_group_table(board))
        made.add_row("")
    made.add_row(f"[dim]{escape(' '.join(notes(tables)))}[/dim]")
    return made


def _group_table(board: Board) -> Table:
    from rich.markup import escape
    from rich.table import Table

    # Names fold, numbers never: it is to be read in 80 columns.
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in board.columns:
        fold = column.name in ("name", "published_backbone")
        made.add_column(
            column.heading,
            justify="right" if column.numeric else "left",
            no_wrap=not fold,
            overflow="fold" if fold else "ellipsis",
        )
    for row, apart in zip(board.rows, _apart(board), strict=True):
        cells = [escape(column.text(row)) or ("n/a" if column.name in GROUPS else "-") for column in board.columns]
        if apart:
            place = next(i for i, column in enumerate(board.columns) if column.name == "name")
            cells[place] += f"\n[dim]{escape(apart)}[/dim]"
        made.add_row(*cells)
    return made


def _apart(board: Board) -> list[str]:
    """What tells each row from others of its name and predictor: a head, a loss, ...; "" where its name does.

    Files have a column for each of these; on a screen there is no room for them.
    """
    found = []
    for row in board.rows:
        others = [other for other in board.rows if (other.name, other.predictor) == (row.name, row.predictor)]
        texts = [
            f"{column.heading} {column.text(row) or '-'}"
            for column in columns()
            if column.fold and "latex" in column.shown and len({column.text(other) for other in others}) > 1
        ]
        alone = len({tuple(column.text(other) for column in columns() if column.fold) for other in others}) == len(
            others
        )
        found.append(", ".join(texts if alone else [*texts, f"recipe {row.recipe_digest[:6]}"]))
    return found
