"""Pieces of a page: escaped text, tables that scroll within their box and sort, figures as inline SVG in the page's colours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from slabench.plots import style
from slabench.plots.source import Drawing

_THEMED = {style.INK: "ink", style.MUTED: "muted", style.RULE: "rule", style.PAPER: "paper"}


@dataclass(frozen=True)
class Cell:
    """What a table shows in a cell, and by what it is sorted.

    Attributes:
        text: plain text; it is escaped.
        sort: number or text; a number that is None stays last in both directions, a name goes by its text.
        colour: of a mark before the text, "#rrggbb".
        mark: "good" or "bad" for a value beyond doubt; the text says it too, by its sign.
        also: of a key column, what else tells the row from others; shown where the page is narrow and that scrolls away.
    """

    text: str
    sort: float | str | None = None
    colour: str | None = None
    mark: str = ""
    also: str = ""


@dataclass(frozen=True)
class Column:
    """A heading; `numeric` columns stand at the right and sort by number; `title` explains it.

    One that `rises` sorts the smallest first at first. A `key` column says what a row is: where the page is narrow it stays in
    sight while the others scroll.
    """

    name: str
    numeric: bool = True
    title: str = ""
    key: bool = False
    rises: bool = False

    @property
    def kind(self) -> str:
        """Its CSS classes."""
        return ("num" if self.numeric else "text") + (" key" if self.key else "")


def table(caption: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in a box of its own that scrolls where the page is too narrow; every heading sorts."""
    heads = []
    for column in columns:
        tip = f' title="{escape(column.title)}"' if column.title else ""
        tip += ' data-first="ascending"' if column.rises else ""
        heads.append(
            f'<th scope="col" class="{column.kind}"{tip}><button type="button">{escape(column.name)}</button></th>'
        )
    body = "\n".join("<tr>" + "".join(map(_cell, columns, row)) + "</tr>" for row in rows)
    label = escape(caption, quote=True)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">\n<table class="sortable">\n'
        f"<caption><span>{escape(caption)}</span></caption>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        "</table>\n</div>\n"
    )


def _cell(column: Column, cell: Cell) -> str:
    kind = f"{column.kind} {cell.mark}".strip()
    sort = "" if cell.sort is None else f' data-sort="{escape(str(cell.sort))}"'
    dot = "" if cell.colour is None else f'<span class="dot" style="background:{cell.colour}"></span>'
    also = f'<span class="also" aria-hidden="true">{escape(cell.also)}</span>' if cell.also else ""
    return f'<td class="{kind}"{sort}>{dot}{escape(cell.text)}{also}</td>'


def figure(drawing: Drawing, name: str) -> str:
    """The drawing as inline SVG with its caption as text; `name` is unique in the page."""
    svg = inline(style.render(drawing.figure, "svg", salt=name).decode(), drawing.alt)
    caption = f"<strong>{escape(drawing.title)}.</strong> {escape(drawing.caption)}"
    return f'<figure id="{escape(name)}">\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>\n'


def inline(svg: str, alt: str) -> str:
    """An SVG file as an element of a page: named for readers of the screen, of any width, in the colours of the theme.

    Ids that nothing refers to are left out, since they occur in every figure; the others are made unique by their salt.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r'\s+id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(f": {colour}", f": var(--{variable})")
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    width, height = box[1].split()[2:]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box[1]}" '
        f'role="img" aria-label="{escape(alt, quote=True)}" style="aspect-ratio:{width}/{height}">'
    )
    return re.sub(r"<svg\b[^>]*>", lambda _: opening, svg, count=1).strip()


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{f' class={kind!r}' if kind else ''}>{escape(text)}</p>\n"


def anchor(text: str) -> str:
    """`text` as an id of the page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
