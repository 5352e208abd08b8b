"""`slabench report`, one HTML page of everything that the records say, and `slabench plot KIND`, one figure of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.common import chosen, deliver, notes_console, refuse_folder, warn
from slabench.core.errors import UsageError, unknown_name
from slabench.core.suites import SUITE_NAMES
from slabench.plots import KINDS, draw, file_type, picture

if TYPE_CHECKING:
    from slabench.records.record import RunRecord


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
    from slabench.report import build

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


def plot(
    kind: Annotated[str, typer.Argument(help="One of: " + ", ".join(KINDS) + ".")],
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.png, .svg or .pdf, written atomically.")],
    suite: Annotated[str | None, typer.Option(help=f"Only {SUITE_NAMES}.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Only protocols with this in their name, such as fc100/5w5s.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", help="The folder of results. Default: SLABENCH_RESULTS, else results/ here."),
    ] = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="The records that travel with slabench, not your own.")
    ] = False,
    include_quick: Annotated[bool, typer.Option("--include-quick", help="Draw runs of a reduced budget too.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Every row of every protocol, on a page of any length.")
    ] = False,
) -> None:
    """Draw one kind of figure on one page: the standard protocols, and of each the rows that matter most.

    A note in the picture says what was left out.

    slabench list plots says what each kind shows. Your own results are drawn; where you have none, those that come with it.
    """
    # What is wrong with the request is said before a file is read.
    if kind not in KINDS:
        raise unknown_name("kind of plot", kind, KINDS)
    suffix = file_type(output)
    refuse_folder(output)

    def keep(record: RunRecord) -> bool:
        return (
            (suite is None or record.suite == suite)
            and (dataset is None or record.dataset == dataset)
            and (protocol is None or protocol in record.protocol)
        )

    from slabench.plots.page import draw_page

    notes = notes_console()
    source = chosen(notes, results, shipped, include_quick=include_quick, keep=keep, columns=2)
    known = len(source.problems)
    drawing = draw(kind, source) if everything else draw_page(kind, source)
    warn(notes, source.problems[known:])
    deliver(output, picture(drawing, suffix))
    notes.print(f"{drawing.title} in {output}", soft_wrap=True)
