"""`slabench compare`: two runs, or two recipes over their seeds, on the very same test episodes or images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slabench.cli.common import notes_console, warn
from slabench.cli.streams import Screen, export
from slabench.core.errors import UsageError, unknown_name

FORMATS = ("table", "json", "csv")


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A recipe as the leaderboard prints it, or the start of a key.")
    ],
    b: Annotated[
        str | None, typer.Argument(metavar="B", help="What A is compared with; the difference is A - B.")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Compare A alone with published numbers (results/published).")
    ] = False,
    predictor_a: Annotated[
        str | None,
        typer.Option(
            "--predictor-a", help="single, aggregated, ... Default: every predictor with a useful counterpart."
        ),
    ] = None,
    predictor_b: Annotated[str | None, typer.Option("--predictor-b", help="The same for B.")] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol", help="All or part of the protocol's name, such as fc100/5w5s, where both were run on several."
        ),
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, json or csv.")] = "table",
    results: Annotated[
        Path | None,
        typer.Option("--results", help="The folder of results. Default: SLABENCH_RESULTS, else results/ here."),
    ] = None,
) -> None:
    """Is A better than B on the same test, and against the controls of SLA?

    Paired differences with an interval for each source of chance: episodes drawn again, images without re-use, classes and
    training seeds. Runs on different data, splits or episodes are refused. The table has percentage points, json and csv
    fractions.

        slabench compare controls/sla controls/baseline --protocol fc100/5w5s
        slabench compare controls/baseline --published --protocol fc100/5w5s
    """
    from slabench.comparison import compare as compare_runs
    from slabench.comparison.table import render, to_csv, to_json

    if output_format not in FORMATS:
        raise unknown_name("format", output_format, FORMATS)
    if published:
        given = (("B", b), ("--predictor-a", predictor_a), ("--predictor-b", predictor_b))
        extra = [name for name, value in given if value is not None]
        if extra or output_format != "table":
            raise UsageError(
                f"--published compares one recipe with papers: {', '.join(extra) or '--format'} has no effect with it",
                "slabench compare A --published",
            )
        _published(a, protocol, results)
        return
    if b is None:
        raise UsageError(
            f"nothing to compare {a} with", "name a second run, or give --published for the numbers of papers"
        )
    made = compare_runs(a, b, results, predictor_a=predictor_a, predictor_b=predictor_b, protocol=protocol)
    warn(notes_console(), made.warnings)
    if output_format != "table":
        export(to_json(made) if output_format == "json" else to_csv(made))
        return
    console = Screen()
    for part in render(made):
        console.print(part, markup=False)
    console.print()
    console.print(made.conclusion, markup=False)


def _published(a: str, protocol: str | None, results: Path | None) -> None:

    from slabench.comparison.published import compare_published
    from slabench.comparison.sides import choose_one
    from slabench.records.store import open_results

    opened = open_results(results)
    store, records = opened.store, opened.records
    warn(notes_console(), [*opened.problems, *([opened.note] if opened.note else [])])
    console = Screen(markup=False)
    for line in compare_published(choose_one(store, records, a, protocol), store, width=min(console.width, 120)):
        console.print(line, soft_wrap=True)
