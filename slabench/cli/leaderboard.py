"""`slabench leaderboard`: every finished record as a table for people or a CSV for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.results.leaderboard import LeaderboardRow

FORMATS = ("table", "csv")
_FILE_WIDTH = 160


def leaderboard(
    output_format: Annotated[
        str | None, typer.Option("--format", help="table or csv. Default: a table on the screen, CSV into a file.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write into this file, atomically.")] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="The folder of results. Default: SLABENCH_RESULTS, else results/ here."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="The records that travel with slabench, not your own.")
    ] = False,
    include_quick: Annotated[
        bool, typer.Option("--include-quick", help="Show runs of a reduced budget too, without a rank.")
    ] = False,
) -> None:
    """Rank every recipe and predictor, protocol by protocol, from the records alone.

    Your own results are shown; where there are none, those that travel with slabench. Accuracies are percent in the
    table and fractions in the CSV. Runs on other data, splits or episodes are never ranked together.
    """
    from rich.console import Console

    from slabench.errors import UsageError, unknown_name
    from slabench.fsio import write_text
    from slabench.results.leaderboard import to_csv
    from slabench.results.leaderboard_table import table

    if output_format is None:
        output_format = "csv" if output else "table"
    if output_format not in FORMATS:
        raise unknown_name("leaderboard format", output_format, FORMATS)
    if published and results is not None:
        raise UsageError("--published and --results name two folders", "give one of them")

    notes = Console(stderr=True, highlight=False, markup=False)
    rows = _collect(notes, results, published, include_quick)
    if output is not None:
        text = to_csv(rows) if output_format == "csv" else _as_text(table(rows))
        write_text(output, text)
        notes.print(f"{len(rows)} rows in {output}", soft_wrap=True)
    elif output_format == "csv":
        typer.echo(to_csv(rows), nl=False)
    else:
        Console(highlight=False).print(table(rows))


def _collect(notes: Console, results: Path | None, published: bool, include_quick: bool) -> list[LeaderboardRow]:
    """The rows of the folder asked for; of the published records when none was asked for and the user's has none."""
    from slabench import paths
    from slabench.errors import SlabenchError

    shipped = paths.published_results() if published or results is None else None
    if published:
        assert shipped is not None
        rows, why = _read(notes, shipped, include_quick)
    else:
        own = paths.results(results)
        rows, why = _read(notes, own, include_quick)
        if not rows and shipped is not None and shipped.resolve() != own.resolve():
            others, _ = _read(notes, shipped, include_quick)
            if others:
                notes.print(f"{why}: these are the published results of this version", soft_wrap=True)
                return others
    if not rows:
        raise SlabenchError(
            f"the leaderboard is empty: {why}", "make a record: slabench run fewshot --dataset fc100 --shots 5 --sla"
        )
    return rows


def _read(notes: Console, root: Path, include_quick: bool) -> tuple[list[LeaderboardRow], str]:
    """The rows of `root`, and why there are none when there are none. Damaged files are named on stderr."""
    import warnings

    from slabench.results.leaderboard import rows
    from slabench.results.store import ResultStore

    store = ResultStore(root)
    records, problems = store.scan()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = rows(records, include_limited=include_quick, episodes=store.episodes)
    for problem in [*problems, *(str(warning.message) for warning in caught)]:
        notes.print(f"warning: {problem}", soft_wrap=True)
    done = [record for record in records if record.status == "done"]
    if not records:
        return made, f"{store.folder} holds no records"
    if not done:
        return made, f"none of the {len(records)} records in {store.folder} is of a finished trial"
    return made, f"the records in {store.folder} are all of quick runs (--include-quick shows them)"


def _as_text(renderable: object) -> str:
    """What the screen would show, as plain text of a fixed width."""
    import io

    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=_FILE_WIDTH, color_system=None, highlight=False).print(renderable)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"
