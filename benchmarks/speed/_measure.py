"""What the speed benchmarks share: interleaved timing, the data, the peers, the report.

A figure is a ratio of two medians of runs that alternate in one process, so that a busy machine slows both. Seconds and
rates are printed beside it for orientation; they are this machine's on this day.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from slabench.core.files import write_json

SETTLE = 0.1  # seconds


@dataclass(frozen=True)
class Row:
    """One comparison: how many times faster `ours` is than `reference`, both in units a second."""

    benchmark: str
    ours: str
    reference: str
    unit: str
    ours_rate: float
    reference_rate: float
    ratio: float
    low: float
    high: float
    repeats: int
    note: str = ""


def rates_of(function: Callable[[], object], units: int, repeats: int) -> list[float]:
    """Units a second of each of `repeats` turns, after one that does not count."""
    function()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        rates.append(units / (time.perf_counter() - start))
    return rates


def against(row: Row, ours: Sequence[float], reference: str, rates: Sequence[float]) -> Row:
    """The comparison of `row` with a reference that was timed at another time, in the same process."""
    mine, theirs = statistics.median(ours), statistics.median(rates)
    return replace(
        row,
        reference=reference,
        ours_rate=mine,
        reference_rate=theirs,
        ratio=mine / theirs,
        low=min(ours) / max(rates),
        high=max(ours) / min(rates),
        repeats=len(rates),
    )


def compare(
    benchmark: str,
    ours: tuple[str, Callable[[], object], int],
    references: Sequence[tuple[str, Callable[[], object], int]],
    unit: str,
    repeats: int = 5,
    note: str = "",
) -> list[Row]:
    """Time `(name, function, units of work)` against each reference, turn by turn.

    `low` and `high` are the least and the greatest ratio of neighbouring turns. Everything runs once before it counts, and a
    pause precedes each turn: threads of another library (OpenBLAS behind numpy) spin for some milliseconds after their work,
    and a turn of a few milliseconds that followed at once would be timed on half of the machine.
    """
    for _, function, _ in (ours, *references):
        function()
    rates: dict[str, list[float]] = {name: [] for name, _, _ in (ours, *references)}
    for _ in range(repeats):
        for name, function, units in (ours, *references):
            time.sleep(SETTLE)
            start = time.perf_counter()
            function()
            rates[name].append(units / (time.perf_counter() - start))
    mine = rates[ours[0]]
    rows = []
    for name, _, _ in references:
        by_turn = [a / b for a, b in zip(mine, rates[name], strict=True)]
        rows.append(
            Row(
                benchmark,
                ours[0],
                name,
                unit,
                statistics.median(mine),
                statistics.median(rates[name]),
                statistics.median(mine) / statistics.median(rates[name]),
                min(by_turn),
                max(by_turn),
                repeats,
                note,
            )
        )
    return rows


def peer(module: str) -> Any | None:
    """A peer's module, or None with a line that says so."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # a peer may fail at import in its own ways; the others are measured all the same
        sys.stderr.write(f"left out: {module} cannot be imported ({type(error).__name__}: {error})\n")
        return None


def test_images() -> tuple[str, np.ndarray, np.ndarray]:
    """FC100's test images uint8 `[12000, 32, 32, 3]` and labels, or as many random pixels where it is not prepared."""
    from slabench.core.paths import data
    from slabench.data import load
    from slabench.data.catalog import info
    from slabench.data.store import is_prepared, store_folder

    if is_prepared(store_folder(info("fc100"), data())):
        images = load("fc100", "test")
        return "FC100 test", np.array(images.images), np.array(images.labels)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12_000, 32, 32, 3), dtype=np.uint8)
    return "random pixels in the shape of FC100 test", pixels, np.repeat(np.arange(20), 600)


def report(rows: Sequence[Row], output: Path | None = None) -> None:
    """Print rows as a table; write them as JSON where asked to."""
    for row in rows:
        print(
            f"{row.benchmark:24} {row.ours:34} {row.ours_rate:>12,.1f} {row.unit:14}"
            f" {row.ratio:>7.2f} x {row.reference} ({row.reference_rate:,.1f}; turns {row.low:.2f} to {row.high:.2f})"
            + (f"  [{row.note}]" if row.note else "")
        )
    if output is not None:
        write_json(output, [asdict(row) for row in rows])


def read(path: Path) -> list[Row]:
    """Rows that `report` wrote."""
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def main(measure: Callable[[], list[Row]]) -> None:
    """`python benchmarks/speed/NAME.py [OUTPUT.json]`."""
    report(measure(), Path(sys.argv[1]) if len(sys.argv) > 1 else None)
