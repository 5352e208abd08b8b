"""The leaderboard as one HTML page: no network, sorted by click and by keyboard, for a desk and for a phone, light and dark."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from slabench.ranking.boards import Board, boards, notes
from slabench.ranking.columns import LeaderboardRow, columns
from slabench.ranking.formats import html_table

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1a1c1f; --quiet: #5a6270; --line: #d6dae0; --band: #f4f6f8;
  --link: #0b57a4; --warn: #8a4b00; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181c; --text: #e6e8eb; --quiet: #a3abb7; --line: #353b44;
  --band: #1e2329; --link: #7cb7ff; --warn: #ffb866; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 110rem; background: var(--ground); color: var(--text);
  font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; overflow-wrap: anywhere; }
p { margin: .25rem 0 .5rem; max-width: 75ch; } .facts, .notes { color: var(--quiet); font-size: .875rem; }
.facts { overflow-wrap: anywhere; } .stale { color: var(--warn); } nav { font-size: .9rem; } nav ul { padding-left: 1.2rem; }
a { color: var(--link); }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
:is(.scroll, button, a, summary):focus-visible { outline: 3px solid var(--link); outline-offset: 1px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
td.num, th.num { text-align: right; } thead th { background: var(--band); padding: 0; }
tbody tr:last-child > * { border-bottom: 0; } tbody tr:hover > * { background: var(--band); }
tbody th { font-weight: 600; }
.key { position: sticky; left: 0; background: var(--ground); z-index: 1; } thead .key { background: var(--band); }
thead button { all: unset; box-sizing: border-box; width: 100%; padding: .4rem .6rem; cursor: pointer; font-weight: 600;
  text-align: inherit; white-space: nowrap; }
thead button::after { content: "\\2195"; opacity: .35; padding-left: .3em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
@media (max-width: 40rem) { body { padding: .6rem; } th, td { padding: .3rem .45rem; }
  tbody .key { min-width: 8.5rem; max-width: 42vw; white-space: normal; overflow-wrap: anywhere; }
  thead button { padding: .35rem .45rem; } th:not([aria-sort]) button::after { content: none; } }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; } dt { font-weight: 600; } dd { margin: 0; }
summary { cursor: pointer; }
@media print { .scroll { overflow: visible; border: 0; } thead button::after { content: ""; } }
"""


def to_html(rows: Sequence[LeaderboardRow], title: str = "slabench leaderboard") -> str:
    """The page: a table for each group of comparable rows, with every column that people read, and the notes."""
    tables = boards(rows, "html")
    places = [_anchor(board, place) for place, board in enumerate(tables)]
    links = "".join(
        f'<li><a href="#{anchor}">{escape(board.title)}</a>{" (stale)" if board.stale else ""}, {_count(board)}</li>'
        for board, anchor in zip(tables, places, strict=True)
    )
    sections = "\n".join(_section(board, anchor) for board, anchor in zip(tables, places, strict=True))
    remarks = "\n".join(f"<p>{escape(note)}</p>" for note in notes(tables))
    shown = {column.name: column for board in tables for column in board.columns}
    terms = "\n".join(
        f"<dt>{escape(column.heading)}</dt><dd>{escape(column.help)}</dd>"
        for column in columns()
        if column.name in shown
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p>Each table holds rows of one protocol on the same data and the same frozen test: only these may be compared. A heading
sorts its table, by click or by Enter.</p>
<nav aria-label="Tables"><ul>{links}</ul></nav>
{sections}
<section class="notes" aria-label="Notes">
<h2>How to read it</h2>
{remarks}
<details>
<summary>What each column means</summary>
<dl>
{terms}
</dl>
</details>
</section>
</main>
<script>
{html_table.script()}
</script>
</body>
</html>
"""


def _anchor(board: Board, place: int) -> str:
    return f"t{place}-" + re.sub(r"[^a-z0-9]+", "-", board.title.lower()).strip("-")


def _count(board: Board) -> str:
    return f"{len(board.rows)} row{'s' if len(board.rows) != 1 else ''}"


def _section(board: Board, anchor: str) -> str:
    stale = f'<p class="stale"><strong>Stale</strong>, not ranked: {escape(board.stale)}.</p>' if board.stale else ""
    cells = [[html_table.cell(column, row) for column in board.columns] for row in board.rows]
    return f"""<section>
<h2 id="{anchor}">{escape(board.title)}</h2>
{stale}<p class="facts">{escape(board.caption)}</p>
{html_table.table(html_table.heads(board), cells, labelled_by=anchor)}</section>"""
