"""Draw the house of docs/architecture.md from the code's own imports: `python scripts/draw_house.py [FILE]`.

Rooms (packages and modules right under `slabench`) stand on the floors that the layering contract in pyproject.toml gives them,
as wide as they have lines. An arrow is an import; one that a longer way through other rooms implies is left out.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
FIGURE = ROOT / "docs" / "assets" / "house.svg"
_WIDTH, _FLOOR, _BOX, _GAP = 860, 58, 34, 14
_STYLE = """
svg { --ink: #1f2328; --muted: #656d76; --room: #ddeaf7; --edge: #0072b2; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --muted: #9aa5b1; --room: #17324a; --edge: #4aa8e0; } }
rect { fill: var(--room); stroke: var(--edge); rx: 4px; }
text { fill: var(--ink); text-anchor: middle; }
.lines { fill: var(--muted); font-size: 10px; }
path { fill: none; stroke: var(--muted); stroke-width: 1; opacity: 0.75; marker-end: url(#tip); }
#tip path { fill: var(--muted); stroke: none; marker-end: none; }
"""


@dataclass(frozen=True)
class House:
    """What is drawn.

    Attributes:
        floors: rooms from the top floor down, as the contract lists them.
        arrows: (room, room that it imports), those that no longer way implies.
        lines: of each room's Python files.
    """

    floors: tuple[tuple[str, ...], ...]
    arrows: tuple[tuple[str, str], ...]
    lines: Mapping[str, int]


def house() -> House:
    """The house as the contract and the code have it."""
    graph = grimp.build_graph("slabench")
    found = {
        (_room(module), _room(imported))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    }
    floors = floors_of_contract()
    rooms = [room for floor in floors for room in floor]
    arrows = {(a, b) for a, b in found if a != b and a in rooms and b in rooms}
    return House(floors, tuple(sorted(_without_implied(arrows))), {room: _lines(room) for room in rooms})


def floors_of_contract() -> tuple[tuple[str, ...], ...]:
    """The floors of the layering contract, from the top down."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    return tuple(tuple(room.strip() for room in layer.replace("|", ":").split(":")) for layer in layers)


def draw(what: House) -> str:
    """The figure as SVG."""
    places: dict[str, tuple[float, float, float]] = {}
    for number, floor in enumerate(what.floors):
        widths = [max(90.0, what.lines[room] / 18, 8.5 * len(room) + 16) for room in floor]
        left = (_WIDTH - sum(widths) - _GAP * (len(floor) - 1)) / 2
        for room, width in zip(floor, widths, strict=True):
            places[room] = (left, 12 + number * _FLOOR, width)
            left += width + _GAP
    height = 12 + len(what.floors) * _FLOOR
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-label="The rooms of slabench on their floors; an arrow leads from a room to one that it imports">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    parts += [_arrow(what, places, a, b) for a, b in what.arrows]
    for room, (left, top, width) in places.items():
        middle = left + width / 2
        parts.append(
            f'<g data-room="{room}"><rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BOX}"/>'
            f'<text x="{middle:.1f}" y="{top + 15}">{room}</text>'
            f'<text class="lines" x="{middle:.1f}" y="{top + 28}">{round(what.lines[room], -2):,} lines</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _arrow(what: House, places: Mapping[str, tuple[float, float, float]], a: str, b: str) -> str:
    """A line from the lower edge of a room to the upper edge of one below; ends are spread over the edge."""

    def end(room: str, others: Iterable[str], other: str) -> float:
        left, _, width = places[room]
        ordered = sorted(others, key=lambda name: places[name][0] + places[name][2] / 2)
        return left + width * (ordered.index(other) + 1) / (len(ordered) + 1)

    x1, y1 = end(a, (there for here, there in what.arrows if here == a), b), places[a][1] + _BOX
    x2, y2 = end(b, (here for here, there in what.arrows if there == b), a), places[b][1] - 1
    floors = (y2 - y1) / _FLOOR
    bend = 0 if floors < 1 else (70 + 40 * floors) * (1 if (x1 + x2) / 2 >= _WIDTH / 2 else -1)
    return (
        f'<path data-arrow="{a} {b}" d="M{x1:.1f} {y1}C{x1 + bend:.1f} {y1 + 20 + 10 * floors:.1f} '
        f'{x2 + bend:.1f} {y2 - 20 - 10 * floors:.1f} {x2:.1f} {y2}"/>'
    )


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _without_implied(arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows of the transitive reduction; there are no circles (another contract)."""
    below: dict[str, set[str]] = {}
    for a, b in arrows:
        below.setdefault(a, set()).add(b)

    def reached(room: str) -> set[str]:
        found: set[str] = set()
        for other in below.get(room, ()):
            found |= {other} | reached(other)
        return found

    return {(a, b) for a, b in arrows if not any(b in reached(other) for other in below[a] - {b})}


def _lines(room: str) -> int:
    place = ROOT / "slabench" / room
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the house from the code's own imports.")
    parser.add_argument("file", type=Path, nargs="?", default=FIGURE)
    parser.parse_args().file.write_text(draw(house()), encoding="utf-8")
