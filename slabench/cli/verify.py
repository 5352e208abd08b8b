"""`slabench verify RECORD...`: is what somebody hands in whole, and made on what slabench ships?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.streams import Screen

if TYPE_CHECKING:
    from rich.table import Table

    from slabench.runner.verification import Line, Verdict

_SIGNS = {"ok": "[green]ok[/green]", "wrong": "[red]WRONG[/red]", "unchecked": "[dim]unchecked[/dim]"}


def verify(
    records: Annotated[list[Path], typer.Argument(help="Records (JSON), or folders of them.", metavar="RECORD...")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check records before they are handed in, or taken: schema, digests, side files, accuracies, episodes, key, environment.

    Trains nothing and reads no pixel. Exit code 1 when something is wrong.

    \b
    slabench verify results/runs
    """
    from slabench.runner.verification import record_files
    from slabench.runner.verification import verify as run

    found = list(run(record_files(records)))
    if as_json:
        told = [
            {"record": str(one.path), "ok": one.ok, "checks": [line.__dict__ for line in one.lines]} for one in found
        ]
        typer.echo(json.dumps(told, indent=2))
    else:
        console = Screen()
        for one in found if len(found) == 1 else [one for one in found if not one.ok]:
            console.print(str(one.path), style="bold", markup=False, soft_wrap=True)
            console.print(_table(one.lines if len(found) == 1 else [x for x in one.lines if x.state == "wrong"]))
        if len(found) > 1:
            console.print(_counts(found))
        wrong = sum(not one.ok for one in found)
        verdict = f"{wrong} of {len(found)} records fail" if wrong else f"{len(found)} records: nothing is wrong"
        console.print(
            verdict if len(found) > 1 else ("something is wrong" if wrong else "nothing is wrong"), style="bold"
        )
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _table(lines: tuple[Line, ...] | list[Line]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row(_SIGNS[line.state], line.check, escape(line.message))
    return table


def _counts(found: list[Verdict]) -> Table:
    """Of several records: how many passed each check."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    for state in _SIGNS:
        table.add_column(state, justify="right")
    for check in dict.fromkeys(line.check for one in found for line in one.lines):
        counts: Counter[str] = Counter(line.state for one in found for line in one.lines if line.check == check)
        table.add_row(check, *(str(counts[state]) for state in _SIGNS))
    return table
