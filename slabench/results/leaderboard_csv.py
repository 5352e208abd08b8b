"""The leaderboard for programs: tidy CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from slabench.results.leaderboard_row import Column, LeaderboardRow, columns


def to_csv(rows: Sequence[LeaderboardRow]) -> str:
    """The rows as CSV with one header row: fractions with six digits, seconds with one, several values of a field with blanks
    between them.

    Nothing is empty but what is not defined; booleans are true and false.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns()])
    for row in rows:
        writer.writerow([_cell(column, getattr(row, column.name)) for column in columns()])
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
