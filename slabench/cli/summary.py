"""`slabench leaderboard` without a filter: a line a protocol instead of every row of every protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slabench.cli.streams import plain
from slabench.comparison.controls import Control
from slabench.ranking.columns import percent
from slabench.ranking.formats.terminal import WIDE, elided
from slabench.ranking.standard import standard_setting

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.comparison.summary import Line
    from slabench.ranking.entries import Entry

_HEADINGS = {
    Control.BASELINE: "base-\nline",
    Control.AGGREGATED: "equal\nviews",
    Control.EQUAL_IMAGES_SEEN: "equal\nimages",
}
_NAME, _WHOLE = 12, 36
"""Characters of a recipe's name that are shown at least, and those from which on its predictor stands beside it."""

_NOTE = (
    "Accuracy in percent, of open sets AUROC. SLA: the row with joint labels that has the most controls, never chosen by its "
    "accuracy. Its controls, of the same model: the baseline in one view; with as many views of a test image; trained on as "
    "many images. SLA gains: over the strongest of them, in points; the joint labels have earned what lies above 0 beyond its "
    "95 % interval. -: not run."
)


def show_summary(console: Console, lines: Sequence[Line]) -> None:
    """The best row of each protocol, and its row with joint labels beside its controls. To be read at 80 columns.

    Args:
        console: where to; how wide it is says which columns there are.
        lines: as `slabench.comparison.summary.summary` gives them.
    """
    from rich.table import Table
    from rich.text import Text

    wide = console.width >= WIDE
    lines = sorted(lines, key=lambda line: _KINDS.index(_kind(line)))
    columns = {"protocol": [f" {line.protocol.partition('/')[2]}" for line in lines]}
    if wide:
        columns["rows"] = [str(line.rows) for line in lines]
    columns["best"] = [percent(line.best.mean) for line in lines]
    for control, heading in _HEADINGS.items():
        columns[heading] = [_accuracy(line.controls.get(control)) for line in lines]
    columns["SLA"] = [_accuracy(line.sla) for line in lines]
    columns["SLA\ngains"] = [plain(_gain(line, wide), console.encoding) for line in lines]
    numbers = set(columns) - {"protocol"}
    above = {"protocol": {_heading(line) for line in lines}}  # stand in the first column, between the protocols
    left = console.width - sum(
        1 + max(map(len, (*name.split("\n"), *texts, *above.get(name, ())))) for name, texts in columns.items()
    )
    room = max(_NAME, max(map(len, columns["protocol"])) + min(left, 0))  # numbers are never cut
    columns["protocol"] = elided(columns["protocol"], room)
    columns |= _names(lines, left)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in columns:
        table.add_column(heading, justify="right" if heading in numbers else "left", vertical="bottom", no_wrap=True)
    said = ""
    for line, cells in zip(lines, zip(*columns.values(), strict=True), strict=True):
        if said != _heading(line):
            table.add_row(Text(said := _heading(line), style="bold"))
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(_NOTE, style="dim")


_KINDS = ("", ", pre-trained", ", transductive", ", others")


def _kind(line: Line) -> str:
    """What tells its table from others of the same protocol or suite, as its heading says it."""
    first = line.best.records[0]
    if first.transductive or first.pretrained:
        return ", transductive" if first.transductive else ", pre-trained"
    return "" if standard_setting(line.protocol) else ", others"


def _heading(line: Line) -> str:
    return line.protocol.partition("/")[0] + _kind(line)


def _names(lines: Sequence[Line], left: int) -> dict[str, list[str]]:
    """The columns of recipes that `left` characters have room for: of the best row, then of SLA's."""
    named: dict[str, list[Entry | None]] = {
        "best recipe": [line.best for line in lines],
        "SLA's recipe": [line.sla for line in lines],
    }
    if left // 2 < _WHOLE:
        del named["SLA's recipe"]
    share = left // len(named) - 1
    if share < _NAME:
        return {}
    # Each for itself: these are names of different tables, which need not be told apart.
    return {
        heading: [elided([_name(entry, share >= _WHOLE)], share)[0] for entry in entries]
        for heading, entries in named.items()
    }


def _accuracy(entry: Entry | None) -> str:
    return percent(entry.mean if entry else None)


def _gain(line: Line, wide: bool) -> str:
    """Over the strongest control, with its interval where there is room."""
    if line.least is None:
        return "-"
    half = line.least.half_width
    return f"{100 * line.least.value:+.2f}" + (f" ± {100 * half:.2f}" if wide and half is not None else "")


def _name(entry: Entry | None, predictor: bool) -> str:
    if entry is None:
        return "-"
    first = entry.records[0]
    name = first.name.removeprefix(f"{first.suite}/") + (f" {entry.predictor}" if predictor else "")
    return name + (" (quick)" if first.limited else "")
