"""The leaderboard as LaTeX: booktabs tables, to be put into a paper with \\input."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slabench.ranking.boards import Board, boards, notes
from slabench.ranking.columns import Column, LeaderboardRow

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"$\sim$",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "--": "-{}-",  # two hyphens would become a dash
}
_SPECIAL = re.compile("|".join(re.escape(sign) for sign in _SIGNS))

_HEAD = """\
% slabench leaderboard. In the preamble: \\usepackage{booktabs}, \\usepackage{graphicx}.
"""


def escape(text: str) -> str:
    """`text` so that LaTeX prints it as it is, in one line."""
    return _SPECIAL.sub(lambda found: _SIGNS[found[0]], " ".join(text.split()))


def _cell(column: Column, row: LeaderboardRow) -> str:
    """A cell; a negative number gets a minus sign instead of a hyphen."""
    text = escape(column.text(row))
    return re.sub(r"^-(?=\d)", "$-$", text) if column.numeric else text


def to_latex(rows: Sequence[LeaderboardRow]) -> str:
    """A table environment for each group of comparable rows; the notes stand under the last one."""
    tables = boards(rows, "latex")
    parts = [_HEAD]
    last = len(tables) - 1
    parts += [_table(board, notes(tables) if place == last else []) for place, board in enumerate(tables)]
    return "\n".join(parts)


def _table(board: Board, notes: Sequence[str]) -> str:
    stale = f" Stale, not ranked: {board.stale}." if board.stale else ""
    label = re.sub(r"[^a-z0-9]+", "-", f"{board.title}-{board.rows[0].protocol_digest}".lower()).strip("-")
    # The protocol's digest covers the others; they stand in a comment.
    facts = "; ".join([*board.facts, f"protocol {board.digests['protocol']}"])
    caption = f"{board.title}: {facts}.{stale}"
    lines = [
        f"% {' '.join(board.caption.split())}",
        r"\begin{table}[htbp]",
        r"\centering\small\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\smallskip",
        # Only a table wider than the page is made smaller.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in board.columns)}}}",
        r"\toprule",
        _line([escape(column.heading) for column in board.columns]),
        r"\midrule",
        *(_line([_cell(column, row) for column in board.columns]) for row in board.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if notes:
        lines += [r"\par\smallskip", rf"{{\footnotesize\raggedright {escape(' '.join(notes))}\par}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
