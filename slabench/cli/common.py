"""What several commands share: words of a command line, notes on stderr, the records of a page or figure, frozen files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from slabench.cli.streams import Screen
from slabench.core.errors import DataMissingError, SlabenchError, UsageError, did_you_mean
from slabench.core.files import SHORT, write_bytes

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.plots.source import Source
    from slabench.records.record import RunRecord
    from slabench.records.store import ResultStore


WAIT = "Before ending, wait for trials that other processes run, and take over those of a killed one."
"""The help of `--wait/--no-wait`."""


def numbers(text: str | None, flag: str, *, least: int = 1) -> list[int] | None:
    """`0,1,2` as distinct whole numbers of at least `least`; None where the flag was not given.

    Raises:
        UsageError: they are not.
    """
    if text is None:
        return None
    example = f"write for example {flag} {'0,1,2' if least == 0 else '5,10'}"
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{flag} {text} are not numbers", example) from error
    if min(found) < least or len(set(found)) < len(found):
        wanted = "not negative" if least == 0 else f"at least {least}"
        raise UsageError(f"{flag} {text}: {flag.strip('-')} must be distinct and {wanted}", example)
    return found


def names(text: str, flag: str) -> list[str]:
    """`a, b` as its names.

    Raises:
        UsageError: there are no names in it.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise UsageError(f"{flag} '{text}' names nothing", f"leave {flag} out, or write for example {flag} a,b")
    return found


def public_argv(words: list[str]) -> list[str]:
    """The command line for the record, which others will read: without the folders of this machine."""
    public, skip = ["slabench"], False
    for word in words:
        if skip or word.startswith(("--results=", "--data-dir=")):
            skip = False
        elif word in ("--results", "--data-dir"):
            skip = True
        elif word.startswith("--plugin=") or public[-1] == "--plugin":
            flag, equals, file = word.partition("=") if word.startswith("--plugin=") else ("", "", word)
            public.append(f"{flag}{equals}{Path(file).name}")  # its digest is in the record's environment
        else:
            public.append(Path(word).name if Path(word).is_absolute() else word)
    return public


def notes_console() -> Console:
    """The console on stderr; text is printed as it is."""
    return Screen(stderr=True, markup=False)


def warn(notes: Console, problems: Iterable[str]) -> None:
    """A line for each distinct problem, such as a damaged file."""
    for problem in dict.fromkeys(problems):
        notes.print(f"warning: {problem}", soft_wrap=True)


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
    from slabench.plots.source import Source
    from slabench.records.store import open_results

    opened = open_results(results, shipped=shipped)
    if opened.note:
        notes.print(opened.note, soft_wrap=True)
    store, records = opened.store, opened.records
    wanted = [record for record in records if keep(record)]
    source = Source.of(wanted, store, include_limited=include_quick, columns=columns, among=records)
    source.problems[:0] = opened.problems
    warn(notes, source.problems)
    if not source.entries:
        raise SlabenchError(*_why(store, records, wanted))
    return source


def deliver(output: Path, data: bytes) -> None:
    """Write `data` to `output` atomically; a place that cannot be written to is an error of the request."""
    try:
        write_bytes(output, data)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}", "name another file with -o") from error


def refuse_folder(output: Path) -> None:
    """Before anything is drawn: `-o` names a file, not a folder."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder", f"name a file in it: -o {output / 'FILE'}")


def _why(store: ResultStore, records: list[RunRecord], wanted: list[RunRecord]) -> tuple[str, str]:
    from slabench.records.store import absence

    if not records:
        remedy = "make some: slabench run fewshot/controls --dataset glyphs --preset quick"
        return absence(store, records), remedy
    if not wanted:
        protocols = ", ".join(sorted({record.protocol for record in records}))
        return (
            f"none of the {len(records)} records in {store.folder} is of what you asked for",
            f"there are: {protocols}",
        )
    if all(record.status != "done" for record in wanted):
        return absence(store, wanted), "see: slabench list runs"
    return f"the {len(wanted)} records are all of quick runs", "show them with --include-quick"


class Frozen(Protocol):
    """A verified file."""

    @property
    def name(self) -> str:
        """As it is called."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the index file."""
        ...


def verify_files(paths: Iterable[Path], read: Callable[[Path], Frozen]) -> None:
    """Check each file against its digest and its data, one line each; exit code 1 if one does not match."""
    console = Screen()
    bad = 0
    for path in paths:
        try:
            file = read(path)
            console.print(f"ok      {file.name}  {file.digest[:SHORT]}", soft_wrap=True)
        except DataMissingError as error:
            console.print(f"unread  {path}: {error.message}", soft_wrap=True, markup=False)
        except SlabenchError as error:
            bad += 1
            console.print(f"BAD     {error}", soft_wrap=True, markup=False)
    if bad:
        raise typer.Exit(1)


def find_file(name: str, kind: str, find: Callable[[str], Path | None], list_files: Callable[[], list[Path]]) -> Path:
    """The file called `name`, or at the path `name`; otherwise a usage error with a did-you-mean."""
    path = Path(name) if name.endswith(".npy") else find(name)
    if path is None or not path.is_file():
        known = [f"{file.parent.name}/{file.stem}" for file in list_files()]
        raise UsageError(f"there is no {kind} file '{name}'", did_you_mean(name, known))
    return path
