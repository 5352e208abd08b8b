"""`slabench data get|import|import-folder|verify`, `slabench list datasets` and `slabench show dataset NAME`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slabench.cli import complete
from slabench.cli.import_folder import import_folder
from slabench.cli.streams import Screen
from slabench.core import paths
from slabench.core.errors import DataError, DataMissingError
from slabench.data.catalog import DATASETS, info

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
    """Download a data set (or draw it, if it is embedded) and prepare it.

    \b
    slabench data get cifar100
    """

    from slabench.data.loading import is_current, prepare_store
    from slabench.data.store import is_prepared, store_folder

    console = Screen(highlight=True)
    entry = info(name)
    path = store_folder(entry, paths.data())
    if is_current(entry, path) and not replace:
        console.print(f"{entry.store} is already prepared in {path}", soft_wrap=True)
        return
    if is_prepared(path) and not replace:
        console.print(f"{entry.store} was made by other code: it is made again", soft_wrap=True)
    store, notes = prepare_store(entry, console=console, replace=is_prepared(path))
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
        typer.Option(
            "--partial", help="Continue when images are missing; results on such data are never ranked with others."
        ),
    ] = False,
) -> None:
    """Prepare a data set from files that are here. The layout of PATH is recognised.

    \b
    slabench data import cifar100 PATH
    """

    from slabench.data.sources.detect import import_dataset

    console = Screen(highlight=True)
    entry = info(name)

    def told(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)
        console.file.flush()  # where the output is a file or a pipe, too

    store, notes = import_dataset(entry, path, replace=replace, partial=partial, told=told)
    _tell(console, entry, store, notes)


app.command("import-folder")(import_folder)


@app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(help="A data set; all that are prepared, if left out.", autocompletion=complete.datasets),
    ] = None,
) -> None:
    """Read all prepared data and check it against its sha256. Exit code 1 when something has changed.

    \b
    slabench data verify
    slabench data verify cifar100
    """

    from slabench.data.own_facts import changed_splits
    from slabench.data.store import differences, doubts, is_prepared, open_store, remarks, store_folder, verify_store

    console = Screen(highlight=True)
    entries = [info(name)] if name else list({entry.store: entry for entry in DATASETS.values()}.values())
    prepared = [entry for entry in entries if is_prepared(store_folder(entry, paths.data()))]
    if name and not prepared:
        raise DataMissingError(f"the data of '{name}' is not prepared in {paths.data()}", entries[0].command)
    if not prepared:
        console.print(f"nothing is prepared in {paths.data()}", soft_wrap=True)
    failed = False
    for entry in prepared:
        path = store_folder(entry, paths.data())
        try:
            problems = verify_store(path) + changed_splits(entry)
            store = open_store(path)
            odd, notes = bool(differences(entry, store) or doubts(entry, store)), remarks(entry, store)
        except DataError as error:
            problems, odd, notes = [error.message], False, []
        failed = failed or bool(problems)
        intact = "[yellow]intact, but not as published[/yellow]" if odd else "[green]whole[/green]"
        console.print(f"{entry.store}: {'[red]damaged[/red]' if problems else intact}", highlight=False)
        for line in problems:
            console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
        if problems:
            console.print(
                f"  bring it here again: {entry.command} --replace", soft_wrap=True, markup=False, highlight=False
            )
        for line in notes:
            console.print(f"  note: {line}", soft_wrap=True, markup=False, highlight=False)
    if failed:
        raise typer.Exit(1)


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


def list_datasets(console: Console, as_json: bool) -> None:
    """Print every data set of the catalog, and whether its data is here."""
    rows = [
        {
            "name": entry.name,
            "splits": list(entry.splits),
            "image_size": entry.image_size,
            "n_classes": entry.n_classes,
            "state": _state(entry),
            "summary": entry.summary,
        }
        for entry in DATASETS.values()
    ]
    if as_json:
        console.out(json.dumps(rows, indent=2), highlight=False)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("dataset", "kind", "pixels", "classes", "data", "what it is"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "dataset")
    for entry in DATASETS.values():
        table.add_row(
            entry.name,
            "few-shot" if entry.fewshot else "classes",
            f"{entry.image_size}x{entry.image_size}",
            str(entry.n_classes),
            _state(entry),
            entry.summary,
        )
    console.print(table)


def show_dataset(console: Console, name: str) -> None:
    """Print one data set: classes per split, images, size, source, licence, digests, and whether its data is here."""
    from rich.table import Table

    entry = info(name)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in _facts(entry):
        table.add_row(heading, text)
    console.print(table, highlight=False, markup=False)


def _facts(entry: DatasetInfo) -> list[tuple[str, str]]:
    from slabench.data.splits import load_split

    store, problem = _opened(entry)
    facts = [
        ("dataset", f"{entry.name}: {entry.summary}"),
        ("images", f"{entry.image_size} x {entry.image_size} RGB, uint8" + _counts(entry, store)),
        ("source", entry.source),
        ("licence", entry.licence),
        ("normalisation", f"mean {_triple(entry.mean)}, std {_triple(entry.std)} (units of 0..255)"),
        ("store", entry.store + (" (this data set is a view of it)" if entry.store != entry.name else "")),
    ]
    if entry.note:
        facts.append(("note", entry.note))
    if entry.digest:
        facts.append(("digest", f"{entry.digest} (expected)"))
    if problem:
        facts.append(("here", problem))
    elif store is None:
        facts.append(("here", _state(entry)))
    else:
        from slabench.data.store import remarks

        facts.append(("here", f"{store.folder}, from {store.manifest['source']['kind']}"))
        facts.append(("digest here", store.digest + (" (as expected)" if store.digest == entry.digest else "")))
        facts += [("remark", line) for line in remarks(entry, store)]
    if entry.fewshot:
        split = load_split(entry.name)
        facts += [("split", split.source), ("split digest", split.digest)]
        per_class = _images_per_class(entry, store)
        for part, names in split.classes.items():
            n_images = sum(per_class.get(name, sum(entry.per_class)) for name in names)
            images = f"{n_images:,} images of " if n_images else ""
            facts.append((part, f"{images}{len(names)} classes: {', '.join(names)}"))
    else:
        names = entry.classes or (store.class_names if store else ())
        if names:
            facts.append((f"classes ({len(names)})", ", ".join(names)))
    if entry.own is not None:
        facts += _own_split(entry, store)
    elif not entry.embedded:
        from slabench.data.sources.detect import layouts

        facts += [("import from" if number == 0 else "", layout) for number, layout in enumerate(layouts(entry))]
    return facts


def _own_split(entry: DatasetInfo, store: Store | None) -> list[tuple[str, str]]:
    """The split of the images of an imported data set, and its file."""
    from slabench.data.own_facts import changed_splits, read_facts
    from slabench.data.splits import IMAGE_SPLIT

    assert entry.own is not None
    own = read_facts(entry.own)
    counts = f": {sum(store.counts(0)):,} to train on, {sum(store.counts(1)):,} for the test" if store else ""
    return [
        ("images split", f"{own.images_from}{counts}"),
        ("", f"{entry.own / IMAGE_SPLIT}, sha256 {own.sha256.get(IMAGE_SPLIT, 'unknown')}"),
        *(("remark", line) for line in changed_splits(entry)),
    ]


def _opened(entry: DatasetInfo) -> tuple[Any, str]:
    """The prepared store and no problem, or no store and the problem (empty: it is simply not here)."""
    from slabench.data.store import is_prepared, open_store, store_folder

    path = store_folder(entry, paths.data())
    if not is_prepared(path):
        return None, ""
    try:
        return open_store(path), ""
    except DataError as error:
        return None, str(error)


def _images_per_class(entry: DatasetInfo, store: Any) -> dict[str, int]:
    if store is None:
        return {}
    return {
        name: train + test
        for name, train, test in zip(store.class_names, store.counts(0), store.counts(1), strict=True)
    }


def _counts(entry: DatasetInfo, store: Any) -> str:
    if store is not None:
        return f"; {store.manifest['n_images']:,} of them"
    return f"; {entry.n_published:,} of them" if entry.n_published else ""


def _state(entry: DatasetInfo) -> str:
    if (paths.data() / entry.store / "manifest.json").is_file():
        return "prepared"
    return "drawn on first use" if entry.embedded else "not here"


def _triple(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
