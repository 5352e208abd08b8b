"""`slabench doctor`: what this machine has, and what it can run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SIGNS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "problem": "[red]PROBLEM[/red]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """Say what this machine has, what it can run and what to type. Exit code 1 when something is broken."""
    from slabench.doctor import diagnose

    facts = diagnose(results)
    broken = sum(fact.state == "problem" for fact in facts)
    if as_json:
        import json

        typer.echo(json.dumps({"ok": not broken, "facts": [fact.__dict__ for fact in facts]}, indent=2))
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False)
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        section = ""
        for fact in facts:
            if fact.section != section and section:
                table.add_row()
            text = escape(fact.found) + (f"\n[bold]{escape(fact.remedy)}[/bold]" if fact.remedy else "")
            heading = f"[bold]{fact.section}[/bold]" if fact.section != section else ""
            table.add_row(heading, fact.name, _SIGNS[fact.state], text)
            section = fact.section
        console = Console(highlight=False)
        console.print(table)
        console.print(f"\n[red]{broken} problems[/red]" if broken else "\n[green]no problems[/green]")
    if broken:
        raise typer.Exit(1)
