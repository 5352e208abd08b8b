"""`slabench data get|import|verify`: bring data sets here, and hold what is here against its digests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli import complete

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.data.catalog import DatasetInfo
    from slabench.data.store import Store

app = typer.Typer(help="Bring data sets here; check what is here.", no_args_is_help=True)

_Replace = Annotated[bool, typer.Option("--replace", help="Write over data that is already prepared.")]


@app.command()
def get(
    name: Annotated[
        str, typer.Argument(help="A data set: see `slabench list datasets`.", autocompletion=complete.datasets)
    ],
    replace: _Replace = False,
) -> None:
    """Download a data set (or draw it, if it is embedded) and prepare it."""
    from rich.console import Console

    from slabench import paths
    from slabench.data.catalog import info
    from slabench.data.loading import prepare_store
    from slabench.data.store import is_prepared, store_folder

    console = Console()
    entry = info(name)
    path = store_folder(entry, paths.data())
    if is_prepared(path) and not replace:
        console.print(f"{entry.store} is already prepared in {path}", soft_wrap=True)
        return
    store, notes = prepare_store(entry, console=console, replace=replace)
    _tell(console, entry, store, notes)


@app.command("import")
def import_(
    name: Annotated[
        str, typer.Argument(help="A data set: see `slabench list datasets`.", autocompletion=complete.datasets)
    ],
    path: Annotated[
        Path, typer.Argument(help="Its files: a folder or an archive, in any layout of `slabench show dataset`.")
    ],
    replace: _Replace = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Go on when images are missing; results on it are never ranked with others."),
    ] = False,
) -> None:
    """Prepare a data set from files that are here. What PATH is, is found out."""
    from rich.console import Console

    from slabench.data.catalog import info
    from slabench.data.sources.detect import import_dataset

    console = Console()
    entry = info(name)
    store, notes = import_dataset(entry, path, replace=replace, partial=partial)
    _tell(console, entry, store, notes)


@app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(help="A data set; all that are prepared, if left out.", autocompletion=complete.datasets),
    ] = None,
) -> None:
    """Read every byte of the prepared data and hold it against its sha256. Exit code 1 when something has changed."""
    from rich.console import Console

    from slabench import paths
    from slabench.data.catalog import DATASETS, info
    from slabench.data.store import differences, is_prepared, open_store, store_folder, verify_store
    from slabench.errors import DataError, DataMissingError

    console = Console()
    entries = [info(name)] if name else list({entry.store: entry for entry in DATASETS.values()}.values())
    prepared = [entry for entry in entries if is_prepared(store_folder(entry, paths.data()))]
    if name and not prepared:
        raise DataMissingError(f"the data of '{name}' is not prepared in {paths.data()}", _command(entries[0]))
    if not prepared:
        console.print(f"nothing is prepared in {paths.data()}", soft_wrap=True)
    failed = False
    for entry in prepared:
        path = store_folder(entry, paths.data())
        try:
            problems = verify_store(path)
            notes = differences(entry, open_store(path))
        except DataError as error:
            problems, notes = [error.message], []
        failed = failed or bool(problems)
        console.print(f"{entry.store}: {'[red]damaged[/red]' if problems else '[green]whole[/green]'}", highlight=False)
        for line in problems:
            console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
        if problems:
            console.print(
                f"  bring it anew: {_command(entry)} --replace", soft_wrap=True, markup=False, highlight=False
            )
        for line in notes:
            console.print(f"  note: {line}", soft_wrap=True, markup=False, highlight=False)
    if failed:
        raise typer.Exit(1)


def _command(entry: DatasetInfo) -> str:
    """The command that brings the data here."""
    here = entry.downloadable or entry.embedded
    return f"slabench data get {entry.store}" if here else f"slabench data import {entry.store} PATH"


def _tell(console: Console, entry: DatasetInfo, store: Store, notes: list[str]) -> None:
    manifest = store.manifest
    console.print(
        f"{entry.store}: {manifest['n_images']:,} images of {len(store.class_names)} classes "
        f"from {manifest['source']['kind']}, in {store.folder}",
        soft_wrap=True,
        highlight=False,
    )
    known = " (as published)" if entry.digest == store.digest else ""
    console.print(f"digest {store.digest}{known}", soft_wrap=True, highlight=False)
    for line in notes:
        console.print(f"[yellow]warning:[/yellow] {line}", soft_wrap=True, highlight=False)
    if entry.digest is None and not entry.embedded:
        console.print(
            "no digest of a trusted copy is known for this data set: nothing to compare with", highlight=False
        )
