"""The leaderboard as Markdown (GitHub's), for a README."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slabench.results.leaderboard_row import Board, LeaderboardRow, boards, notes

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
