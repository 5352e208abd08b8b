"""The leaderboard as tidy CSV, for programs, and as Markdown (GitHub's), for a README."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from slabench.ranking.boards import Board, boards, notes
from slabench.ranking.columns import Column, LeaderboardRow, columns

_OLD_NAMES = {"images_seen": "image_passes"}
"""Columns that are written once more at the end, under the name that they had until version 0.1; to go with the next one."""


def to_csv(rows: Sequence[LeaderboardRow]) -> str:
    """The rows as CSV with one header row: fractions with six digits, seconds with one, several values of a field with blanks
    between them.

    Nothing is empty but what is not defined; booleans are true and false.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = [*columns(), *(column for column in columns() if column.name in _OLD_NAMES)]
    writer.writerow([*(column.name for column in columns()), *_OLD_NAMES.values()])
    for row in rows:
        writer.writerow([_cell(column, getattr(row, column.name)) for column in shown])
    return text.getvalue()


def _cell(column: Column, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return " ".join(str(part) for part in value)
    if isinstance(value, float):
        return f"{value:.{column.digits}f}"
    return str(value)


# What would begin or end some markup inside a line or a cell: a cell's bar, emphasis, code, links, HTML, strikethrough.
_MARKUP = re.compile(r"([\\|*_`\[\]<>~&])")


def escape(text: str) -> str:
    """`text` so that Markdown shows it as it is, in one line."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def to_markdown(rows: Sequence[LeaderboardRow]) -> str:
    """A heading, a line of facts and a table for each group of comparable rows, and the notes at the end."""
    tables = boards(rows, "markdown")
    lines: list[str] = []
    for board in tables:
        lines += _section(board)
    lines += [line for note in notes(tables) for line in (escape(note), "")]
    return "\n".join(lines).rstrip("\n") + "\n"


def _section(board: Board) -> list[str]:
    lines = [f"### {escape(board.title)}" + (" (stale)" if board.stale else ""), ""]
    if board.stale:
        lines += [f"**Stale:** {escape(board.stale)}.", ""]
    lines += [escape(board.caption), ""]
    lines.append(_line([escape(column.heading) for column in board.columns]))
    lines.append(_line(["--:" if column.numeric else "---" for column in board.columns]))
    lines += [_line([escape(column.text(row)) for column in board.columns]) for row in board.rows]
    return [*lines, ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
