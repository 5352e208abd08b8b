"""`slabench leaderboard`: every finished record, as a table for people, for programs, for a paper or for the web."""

from __future__ import annotations

import io
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.common import notes_console, refuse_folder, warn
from slabench.cli.streams import Screen, export
from slabench.core.errors import SlabenchError, UsageError, did_you_mean, unknown_name
from slabench.core.files import write_text
from slabench.core.suites import SUITE_NAMES
from slabench.ranking.formats.html import to_html
from slabench.ranking.formats.latex import to_latex
from slabench.ranking.formats.terminal import table
from slabench.ranking.order import best_of_each

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.comparison.summary import Line
    from slabench.ranking.columns import LeaderboardRow
    from slabench.ranking.entries import Entry
    from slabench.records.store import ResultStore

FORMATS = ("table", "csv", "markdown", "latex", "html")
_SUFFIXES = {
    "": "csv",
    ".csv": "csv",
    ".md": "markdown",
    ".tex": "latex",
    ".html": "html",
    ".htm": "html",
    ".txt": "table",
}
_FILE_WIDTH = 160
_FILTERS = "Which rows"


def _filter(name: str, help: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(f"--{name}", help=help, rich_help_panel=_FILTERS)
    return option


def leaderboard(
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="table, csv, markdown, latex or html. Default: a table on the screen; in a file what its name ends in "
            "(.csv, .md, .tex, .html, .txt).",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write into this file, atomically.")] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="The folder of results. Default: SLABENCH_RESULTS, else results/ here."),
    ] = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="The records that travel with slabench, not your own.")
    ] = False,
    include_quick: Annotated[
        bool, typer.Option("--include-quick", help="Show runs with a reduced budget too, without a rank.")
    ] = False,
    suite: Annotated[list[str] | None, _filter("suite", f"{SUITE_NAMES}. May be repeated.")] = None,
    dataset: Annotated[list[str] | None, _filter("dataset", "Such as fc100.")] = None,
    protocol: Annotated[list[str] | None, _filter("protocol", "Such as fewshot/fc100/5w5s15q.")] = None,
    objective: Annotated[list[str] | None, _filter("objective", "What was trained on: baseline, da, sla ...")] = None,
    predictor: Annotated[list[str] | None, _filter("predictor", "single, aggregated or distilled.")] = None,
    backbone: Annotated[list[str] | None, _filter("backbone", "Such as conv4.")] = None,
    head: Annotated[list[str] | None, _filter("head", "Such as protonet; a classifier's is linear or cosine.")] = None,
    top: Annotated[
        int | None, typer.Option("--top", help="Only the best N of each protocol.", min=1, rich_help_panel=_FILTERS)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every row on the screen, as in a file.", rich_help_panel=_FILTERS)
    ] = False,
) -> None:
    """Rank every recipe and predictor, protocol by protocol, from the records alone.

    On the screen several protocols are a line each, with the best row and SLA
    beside its controls; a filter, --top or --all shows rows. Your own results are
    shown; where there are none, those that travel with slabench. Accuracies are
    percent for people and fractions in the CSV. Runs on different data, splits or
    episodes are never ranked together, and stale runs are never ranked. A filter
    does not change ranks. Published numbers stand beside the rows they belong to, on
    screens of 120 columns and in files.

    \b
    slabench leaderboard
    slabench leaderboard --dataset fc100 --predictor aggregated
    slabench leaderboard --top 3
    slabench leaderboard -o board.html
    """

    from slabench.ranking.rows import ranked

    if output is not None:
        if output.suffix.lower() not in _SUFFIXES:
            raise UsageError(
                f"a leaderboard cannot be written as '{output.name}'",
                f"the end of the name says the format: {', '.join(end for end in _SUFFIXES if end)}",
            )
        refuse_folder(output)
    if output_format is None:
        output_format = _SUFFIXES[output.suffix.lower()] if output else "table"
    if output_format not in FORMATS:
        raise unknown_name("leaderboard format", output_format, FORMATS)
    if every and top is not None:
        raise UsageError(f"--all and --top {top} contradict each other", "give one of the two")
    notes = notes_console()
    store, found = _collect(notes, results, shipped, include_quick)
    wanted = {
        name: values
        for name, values in (
            ("suite", suite),
            ("dataset", dataset),
            ("protocol", protocol),
            ("objective", objective),
            ("predictor", predictor),
            ("backbone", backbone),
            ("head", head),
        )
        if values
    }
    if output is None and output_format == "table" and not (wanted or every or top):
        from slabench.cli.summary import show_summary
        from slabench.comparison.summary import summary

        lines = summary(found, store)
        if len(lines) > 1:
            console = Screen()
            show_summary(console, lines)
            _say_more(console, lines, found, results, shipped, include_quick)
            return
    rows = _filtered(ranked(found), wanted)
    if top is not None:
        rows = best_of_each(rows, top)
    if output is not None:
        write_text(output, _text(rows, output_format))
        notes.print(f"{len(rows)} rows in {output}", soft_wrap=True)
    elif output_format == "table":
        console = Screen()
        console.print(table(rows, console.width))
    else:
        export(_text(rows, output_format))


def _say_more(
    console: Console, lines: Sequence[Line], found: Sequence[Entry], results: Path | None, shipped: bool, quick: bool
) -> None:
    """What the summary leaves out, and the command for the rows of its first protocol."""
    same = [
        *(["--results", str(results)] if results is not None else []),
        *(["--shipped"] if shipped else []),
        *(["--include-quick"] if quick else []),
    ]
    stale = sum(entry.stale is not None for entry in found)
    console.print(
        f"{len(found)} rows of {len(lines)} protocols" + (f"; {stale} stale, not shown here." if stale else ".")
    )
    for words in (["--protocol", lines[0].protocol], ["--top", "3"], ["--all"]):
        console.print(f"  {shlex.join(['slabench', 'leaderboard', *words, *same])}", markup=False, soft_wrap=True)


def _text(rows: Sequence[LeaderboardRow], output_format: str) -> str:
    """The leaderboard in one of `FORMATS`."""
    from slabench.ranking.formats.plain import to_csv, to_markdown

    if output_format == "table":
        return _as_text(table(rows, _FILE_WIDTH))
    writers = {"csv": to_csv, "markdown": to_markdown, "latex": to_latex, "html": to_html}
    return writers[output_format](rows)


def _filtered(rows: list[LeaderboardRow], asked: dict[str, list[str]]) -> list[LeaderboardRow]:
    """The rows that have one of the values asked for, of each filter.

    Raises:
        UsageError: no row at all has such a value; says which one may have been meant.
        SlabenchError: each value occurs, but not together.
    """
    for name, values in asked.items():
        known = {str(value) for row in rows if (value := getattr(row, name)) is not None}
        for value in values:
            if value not in known:
                raise UsageError(f"no row of the leaderboard has the {name} '{value}'", did_you_mean(value, known))
    kept = [row for row in rows if all(getattr(row, name) in values for name, values in asked.items())]
    if not kept:
        flags = " ".join(f"--{name} {value}" for name, values in asked.items() for value in values)
        raise SlabenchError(f"no row of the leaderboard matches {flags} together", "leave one of them out")
    return kept


def _collect(
    notes: Console, results: Path | None, shipped: bool, include_quick: bool
) -> tuple[ResultStore, list[Entry]]:
    """The entries of the folder asked for; of the shipped records when none was asked for and the user's has none."""
    from slabench.ranking.entries import entries
    from slabench.records.store import absence, open_results

    opened = open_results(
        results,
        shipped=shipped,
        serves=lambda record: record.status == "done" and (include_quick or not record.limited),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = entries(opened.records, opened.store.episodes, include_quick)
    warn(notes, [*opened.problems, *(str(warning.message) for warning in caught)])
    if opened.note:
        notes.print(opened.note, soft_wrap=True)
    if not made:
        raise SlabenchError(
            f"the leaderboard is empty: {absence(opened.store, opened.records)}",
            "make a record: slabench run fewshot --dataset fc100 --shots 5 --sla",
        )
    return opened.store, made


def _as_text(renderable: object) -> str:
    """What the screen would show, as plain text of a fixed width."""
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=_FILE_WIDTH, color_system=None, highlight=False).print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
