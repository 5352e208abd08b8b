"""The records that a page or a figure is made from: those of a folder, the user's own, or those that travel with slabench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.results.plots.source import Source
    from slabench.results.record import RunRecord
    from slabench.results.store import ResultStore


def chosen(
    notes: Console,
    results: Path | None,
    shipped: bool,
    *,
    include_quick: bool = False,
    keep: Callable[[RunRecord], bool] = lambda record: True,
    columns: int = 1,
) -> Source:
    """The finished records of the folder asked for; the shipped ones where none was asked for and the user has none.

    Damaged files are named on stderr, and in the source's problems.

    Raises:
        UsageError: both `--shipped` and `--results`.
        SlabenchError: nothing is left to show; says why, and what to run.
    """
    from slabench.cli.notes import warn
    from slabench.errors import SlabenchError
    from slabench.results.opening import open_results
    from slabench.results.plots.source import Source

    opened = open_results(results, shipped=shipped)
    if opened.note:
        notes.print(opened.note, soft_wrap=True)
    store, records = opened.store, opened.records
    wanted = [record for record in records if keep(record)]
    source = Source.of(wanted, store, include_limited=include_quick, columns=columns)
    source.problems[:0] = opened.problems
    warn(notes, source.problems)
    if not source.entries:
        raise SlabenchError(*_why(store, records, wanted))
    return source


def deliver(output: Path, data: bytes) -> None:
    """Write `data` to `output` atomically; a place that cannot be written to is an error of the request."""
    from slabench.errors import UsageError
    from slabench.fsio import write_bytes

    try:
        write_bytes(output, data)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}", "name another file with -o") from error


def refuse_folder(output: Path) -> None:
    """Before anything is drawn: `-o` names a file, not a folder."""
    from slabench.errors import UsageError

    if output.is_dir():
        raise UsageError(f"{output} is a folder", f"name a file in it: -o {output / 'FILE'}")


def _why(store: ResultStore, records: list[RunRecord], wanted: list[RunRecord]) -> tuple[str, str]:
    from slabench.results.opening import absence

    if not records:
        remedy = "make some: slabench run fewshot/controls --dataset glyphs --preset quick"
        return absence(store, records), remedy
    if not wanted:
        protocols = ", ".join(sorted({record.protocol for record in records}))
        return (
            f"none of the {len(records)} records in {store.folder} is of what was asked for",
            f"there are: {protocols}",
        )
    if all(record.status != "done" for record in wanted):
        return absence(store, wanted), "see: slabench list runs"
    return f"the {len(wanted)} records are all of quick runs", "show them with --include-quick"
