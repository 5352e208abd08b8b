"""`slabench report`: one self-contained HTML page of everything that the records say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write, atomically.")] = Path(
        "report.html"
    ),
    results: Annotated[
        Path | None,
        typer.Option("--results", help="The folder of results. Default: SLABENCH_RESULTS, else results/ here."),
    ] = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="The records that travel with slabench, not your own.")
    ] = False,
    include_quick: Annotated[
        bool, typer.Option("--include-quick", help="Show runs of a reduced budget too, without a rank.")
    ] = False,
) -> None:
    """Write one HTML page with tables, figures and provenance, and a summary of what SLA buys and costs.

    The page holds its style, script and figures in itself and needs no network. Your own results are shown; where there are
    none, those that travel with slabench.
    """
    from slabench.cli.chosen import chosen, deliver, refuse_folder
    from slabench.cli.notes import notes_console, warn
    from slabench.errors import UsageError
    from slabench.results.report import build

    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"a report is an HTML page, and '{output.name}' does not end in .html", "slabench report -o report.html"
        )
    refuse_folder(output)
    notes = notes_console()
    source = chosen(notes, results, shipped, include_quick=include_quick)
    known = set(source.problems)
    page = build(source, progress=notes.print)
    warn(notes, (problem for problem in source.problems if problem not in known))
    deliver(output, page.encode())
    notes.print(f"{len(page.encode()) / 1e6:.1f} MB in {output}", soft_wrap=True)
