"""Which folder of records a command reads: the one asked for, the user's own, or the records shipped with slabench."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slabench import paths
from slabench.errors import UsageError
from slabench.results.record import RunRecord
from slabench.results.store import ResultStore


@dataclass
class Opened:
    """A folder with its records.

    Attributes:
        store: the folder.
        records: those that can be read.
        problems: a line for each that cannot.
        note: why these are the shipped records although nobody asked for them; None where they are what was asked for.
    """

    store: ResultStore
    records: list[RunRecord]
    problems: list[str] = field(default_factory=list)
    note: str | None = None


def open_results(
    results: Path | None, *, shipped: bool = False, serves: Callable[[RunRecord], bool] = lambda record: True
) -> Opened:
    """The records of `results`, or of the user's own folder; the shipped ones on request, or where the user's own serve nothing.

    Args:
        results: the folder asked for; it is never replaced by another.
        shipped: the records that travel with slabench.
        serves: whether a record is of use to the caller.

    Raises:
        UsageError: `shipped` and a folder.
    """
    if shipped and results is not None:
        raise UsageError("--shipped and --results name two folders", "give one of them")
    travelling = paths.shipped_results()
    store = ResultStore(travelling if shipped else paths.results(results))
    opened = Opened(store, *store.scan())
    if shipped or results is not None or any(map(serves, opened.records)):
        return opened
    if travelling.resolve() == store.root.resolve():
        return opened
    other = ResultStore(travelling)
    records, problems = other.scan()
    if not any(map(serves, records)):
        return opened
    note = f"{absence(store, opened.records)}: these are the results shipped with this version"
    return Opened(other, records, [*opened.problems, *problems], note)


def absence(store: ResultStore, records: Sequence[RunRecord]) -> str:
    """Why records give nothing to show."""
    if not records:
        return f"{store.folder} holds no records"
    if all(record.status != "done" for record in records):
        return f"none of the {len(records)} records in {store.folder} is of a finished trial"
    return f"the records in {store.folder} are all of quick runs (--include-quick shows them)"
