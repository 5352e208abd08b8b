"""Where the numbers come from: environments, digests, every record, and what could not be read."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import Any

from slabench.core.files import SHORT
from slabench.core.versions import __version__
from slabench.plots.source import Source
from slabench.ranking.formats.html_table import Cell, Head, table
from slabench.records.record import RunRecord
from slabench.report import html

_ENVIRONMENT = (
    "slabench",
    "commit",
    "dirty",
    "python",
    "torch",
    "numpy",
    "device",
    "processor",
    "threads",
    "precision",
    "host",
)


def section(source: Source) -> str:
    """The section as HTML."""
    records = list({record.key: record for entry in source.entries for record in entry.records}.values())
    parts = [
        html.paragraph(
            f"Made by slabench {__version__} from {len(records)} records. Digests and keys: the first {SHORT} letters."
        ),
        "<h3>Environments</h3>\n",
        _environments(records),
        "<h3>Data, splits and episodes</h3>\n",
        _digests(source),
        "<h3>Records</h3>\n",
        f"<details>\n<summary>All {len(records)} records</summary>\n{_records(records)}</details>\n",
    ]
    doubts = [(record, line) for record in records for line in record.warnings]
    if doubts or source.problems:
        said = [f"{record.name}, seed {record.seed}: {line}" for record, line in doubts]
        items = "".join(f"<li>{escape(line)}</li>\n" for line in dict.fromkeys([*source.problems, *said]))
        parts.append(f"<h3>What to know of them</h3>\n<ul>\n{items}</ul>\n")
    return "".join(parts)


def _environments(records: list[RunRecord]) -> str:
    found: dict[tuple[str, ...], int] = defaultdict(int)
    for record in records:
        found[tuple(_short(name, record.environment.get(name)) for name in _ENVIRONMENT)] += 1
    columns = [Head("trials"), *(Head(_HEADINGS.get(name, name), numeric=False) for name in _ENVIRONMENT)]
    rows = [[Cell(str(count), count), *(Cell(v, v) for v in values)] for values, count in sorted(found.items())]
    return table(columns, rows, caption="Machines and versions of the runs")


_HEADINGS = {"dirty": "sources changed"}


def _short(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)[:SHORT] if name in ("commit", "host") else str(value)


def _digests(source: Source) -> str:
    columns = [Head(name, numeric=False) for name in ("task", "protocol", "data", "split", "episodes", "episode file")]
    rows = []
    for group in source.groups():
        first = group.first
        values = (first.protocol_digest, first.dataset_digest, first.split_digest or "–", first.episodes_digest or "–")
        cells = [group.title, *(value[:SHORT] for value in values), first.episodes or "–"]
        rows.append([Cell(cell, cell) for cell in cells])
    return table(columns, rows, caption="What had to agree before rows were compared")


def _records(records: list[RunRecord]) -> str:
    columns = [Head(name, numeric=False) for name in ("key", "recipe", "protocol")]
    columns += [
        Head("seed"),
        Head("steps"),
        Head("parameters"),
        Head("finished (UTC)", numeric=False),
    ]
    rows = []
    for record in sorted(records, key=lambda record: (record.protocol, record.name, record.seed, record.key)):
        steps, parameters = (record.cost.steps, record.cost.parameters) if record.cost else (0, 0)
        rows.append(
            [
                Cell(record.key[:SHORT]),
                Cell(record.name),
                Cell(record.protocol),
                Cell(str(record.seed), record.seed),
                Cell(f"{steps:,}", steps),
                Cell(f"{parameters:,}", parameters),
                Cell(record.finished[:16].replace("T", " ")),
            ]
        )
    return table(columns, rows, caption="Every record behind this page")
