"""Own methods: `--plugin FILE` for one command, and `slabench check FILE|NAME`, the conformance suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.complete import anything
from slabench.cli.streams import Screen
from slabench.core.errors import SlabenchError, UsageError, unknown_name
from slabench.core.registry import REGISTRIES

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.conformance import Finding


_TOLERANT = ("list", "show", "doctor")
"""Commands that tell what there is: a broken plug-in is named, and the rest is told."""


def load(files: list[Path], command: str | None) -> None:
    """Load plug-in files; `list`, `show` and `doctor` go on without one that is broken."""
    from slabench.plugins import load_plugin

    for file in files:
        try:
            load_plugin(file)
        except SlabenchError as error:
            if command not in _TOLERANT:
                raise
            warn(error)


def warn(error: Exception) -> None:
    """Name what is wrong with a plug-in on stderr, and go on."""
    typer.secho(f"warning: {error}", fg="yellow", err=True)


def warn_of_problems(plural: str | None) -> None:
    """Name the broken plug-ins of a kind (None: of all) on stderr; those that must be imported to list them, too."""
    for key, kind in REGISTRIES.items():
        if plural not in (None, key):
            continue
        for entry in kind:
            if not entry.built_in:
                try:
                    kind.get(entry.name)
                except SlabenchError as error:
                    kind.problems.setdefault(entry.name, error)
        for problem in kind.problems.values():
            warn(problem)


def check(
    target: Annotated[
        str,
        typer.Argument(
            help="A plug-in file, or the name of something registered.", metavar="FILE|NAME", autocompletion=anything
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="heads, backbones, losses, transforms or datasets, where a name means several."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check heads, backbones, losses, transformations or data sets against what slabench relies on.

    Tiny inputs, on the CPU. Exit code 1 when something is wrong.

    \b
    slabench check my_head.py
    slabench check protonet
    """
    from slabench.conformance import check as run

    subjects = _subjects(target, kind)
    results = [(of, name, run(of, name)) for of, name in subjects]
    console = Screen()
    if as_json:
        told = [
            {"kind": of, "name": name, "checks": [finding.__dict__ for finding in findings]}
            for of, name, findings in results
        ]
        typer.echo(json.dumps(told, indent=2))
    else:
        for of, name, findings in results:
            _print(console, of, name, findings)
    if any(finding.state == "wrong" for _, _, findings in results for finding in findings):
        raise typer.Exit(1)


def _subjects(target: str, kind: str | None) -> list[tuple[str, str]]:
    """(plural of the kind, name) of all that is to be checked."""
    if kind is not None and kind not in REGISTRIES:
        raise unknown_name("kind", kind, REGISTRIES)
    kinds = [kind] if kind else list(REGISTRIES)
    if target.endswith(".py") or Path(target).is_file():
        from slabench.plugins import load_plugin

        file = load_plugin(target).file
        found = [
            (of, entry.name)
            for of in kinds
            for entry in REGISTRIES[of]
            if entry.origin == file and Path(str(entry.file)) == Path(target).expanduser().resolve()
        ]
        if not found:
            raise UsageError(f"{target} registers nothing of the kind {kind}", "leave --kind out")
        return found
    found = [(of, target) for of in kinds if target in REGISTRIES[of] or target in REGISTRIES[of].problems]
    if len(found) > 1:
        several = ", ".join(of for of, _ in found)
        raise UsageError(f"'{target}' is the name of several things: {several}", f"say which: --kind {found[0][0]}")
    if not found:
        raise unknown_name("name (or plug-in file)", target, [name for of in kinds for name in REGISTRIES[of].names()])
    return found


_SIGNS = {"ok": "[green]ok[/green]", "wrong": "[red]WRONG[/red]", "skipped": "[dim]skipped[/dim]"}


def _print(console: Console, kind: str, name: str, findings: list[Finding]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = escape(finding.message)
        if finding.remedy:
            text += f"\n[bold]{escape('remedy: ' + finding.remedy)}[/bold]"
        table.add_row(_SIGNS[finding.state], finding.check, text)
    wrong = sum(finding.state == "wrong" for finding in findings)
    verdict = f"[red]{wrong} of {len(findings)} checks fail[/red]" if wrong else "[green]conforms[/green]"
    console.print(f"[bold]{kind}: {name}[/bold]  {verdict}")
    console.print(table)
    console.print()
