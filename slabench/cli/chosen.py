"""The records that a page or a figure is made from: those of a folder, the user's own, or those that travel with slabench."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.results.plots.source import Source
    from slabench.results.record import RunRecord


def chosen(
    notes: Console,
    results: Path | None,
    published: bool,
    *,
    include_quick: bool = False,
    keep: Callable[[RunRecord], bool] = lambda record: True,
    columns: int = 1,
) -> Source:
    """The finished records of the folder asked for; the published ones where none was asked for and the user has none.

    Damaged files are named on stderr, and in the source's problems.

    Raises:
        UsageError: both `--published` and `--results`.
        SlabenchError: nothing is left to show; says why, and what to run.
    """
    from slabench import paths
    from slabench.errors import SlabenchError, UsageError
    from slabench.results.plots.source import Source
    from slabench.results.store import ResultStore

    if published and results is not None:
        raise UsageError("--published and --results name two folders", "give one of them")
    root = paths.published_results() if published else paths.results(results)
    store = ResultStore(root)
    records, problems = store.scan()
    if not records and not published and results is None:
        shipped = paths.published_results()
        if shipped.resolve() != root.resolve():
            notes.print(
                f"{store.folder} holds no records: these are the published results of this version", soft_wrap=True
            )
            store = ResultStore(shipped)
            records, more = store.scan()
            problems += more
    wanted = [record for record in records if keep(record)]
    source = Source.of(wanted, store, include_limited=include_quick, columns=columns)
    source.problems[:0] = problems
    for problem in source.problems:
        notes.print(f"warning: {problem}", soft_wrap=True)
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


def _why(store: object, records: list[RunRecord], wanted: list[RunRecord]) -> tuple[str, str]:
    from slabench.results.store import ResultStore

    assert isinstance(store, ResultStore)
    if not records:
        return (
            f"{store.folder} holds no records",
            "make some: slabench run fewshot/controls --dataset glyphs --preset quick",
        )
    if not wanted:
        protocols = ", ".join(sorted({record.protocol for record in records}))
        return (
            f"none of the {len(records)} records in {store.folder} is of what was asked for",
            f"there are: {protocols}",
        )
    if all(record.status != "done" for record in wanted):
        return f"none of the {len(wanted)} records is of a finished trial", "see: slabench list runs"
    return f"the {len(wanted)} records are all of quick runs", "show them with --include-quick"
