"""matplotlib's SVG as part of a page: small, in the page's colours, and with one style sheet for all figures together."""

from __future__ import annotations

import re
from html import escape

from slabench.plots import style

_THEMED = {style.INK: "ink", style.MUTED: "muted", style.RULE: "rule", style.PAPER: "paper"}


def inline(svg: str, alt: str) -> str:
    """An SVG file as an element of a page: named for readers of the screen, of any width, in the colours of the theme.

    Ids that nothing refers to are left out, since they occur in every figure; the others are made unique by their salt.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r'\s+id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    for colour, variable in _THEMED.items():
        svg = svg.replace(f": {colour}", f": var(--{variable})")
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    width, height = box[1].split()[2:]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box[1]}" '
        f'role="img" aria-label="{escape(alt, quote=True)}" style="aspect-ratio:{width}/{height}">'
    )
    return re.sub(r"<svg\b[^>]*>", lambda _: opening, _compact(svg), count=1).strip()


def _compact(svg: str) -> str:
    """Without what a page does not need: a third digit of a point, turns by nothing, fonts (the page says them), empty groups."""
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda match: re.sub(r"-?\d+\.\d{3,}", _two_digits, match[0]).replace("\n", " "), svg)
    svg = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r'"([^"]*?)\s+"', r'"\1"', re.sub(r">\s*\n\s*<", "><", svg))
    parts: list[str] = []
    groups: list[str] = []
    for part in re.split(r"(</?g\b[^>]*>)", svg.replace("<g/>", "")):
        if part == "</g>":
            part = groups.pop()
        elif part.startswith("<g"):
            groups.append("" if part == "<g>" else "</g>")
            part = "" if part == "<g>" else part
        parts.append(part)
    return "".join(parts)


def _two_digits(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def share_styles(page: str) -> tuple[str, str]:
    """The page with a class in place of each style within its figures, and the rules of these classes."""
    names: dict[str, str] = {}

    def named(match: re.Match[str]) -> str:
        name = names.setdefault(match[1], f"s{len(names)}")
        return f'class="{name}"'

    def figure(match: re.Match[str]) -> str:
        opening, rest = match[0].split(">", 1)
        return f"{opening}>" + re.sub(r'style="([^"]*)"', named, rest)

    page = re.sub(r"<svg\b.*?</svg>", figure, page, flags=re.DOTALL)
    return page, "".join(f".{name}{{{rule}}}\n" for rule, name in names.items())
