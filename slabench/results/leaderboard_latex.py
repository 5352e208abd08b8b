"""The leaderboard as LaTeX: booktabs tables, to be put into a paper with \\input."""

from __future__ import annotations

import re
from collections.abc import Sequence

from slabench.results.leaderboard_row import Board, LeaderboardRow, boards, notes

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
}
_SPECIAL = re.compile("|".join(re.escape(sign) for sign in _SIGNS))

_HEAD = """\
% slabench leaderboard. In the preamble: \\usepackage[T1]{fontenc}, \\usepackage{booktabs}, \\usepackage{graphicx}.
"""


def escape(text: str) -> str:
    """`text` so that LaTeX prints it as it is, in one line."""
    return _SPECIAL.sub(lambda found: _SIGNS[found[0]], " ".join(text.split()))


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
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(board.title)}: {escape('; '.join(board.facts))}.{escape(stale) and ' ' + escape(stale)}}}",
        rf"\label{{tab:{label}}}",
        # Only a table wider than the page is made smaller.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in board.columns)}}}",
        r"\toprule",
        _line([escape(column.heading) for column in board.columns]),
        r"\midrule",
        *(_line([escape(column.text(row)) for column in board.columns]) for row in board.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    if notes:
        lines += [r"\par\smallskip", rf"{{\footnotesize {escape(' '.join(notes))}\par}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
