"""`slabench data import-folder NAME PATH`: own images become a data set, with a progress bar and its splits shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.streams import Screen
from slabench.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.data.sources.images import Fit
    from slabench.data.sources.own_import import Imported
    from slabench.data.sources.own_layouts import Listing

_FITS: dict[str, Fit] = {"centre": "centre", "whole": "scale"}
"""What is typed, and what the decoder calls it."""
_TOLD = 5
"""Kinds of files that are no images; a folder has seldom more."""
_QUERIES = 15


def import_folder(
    name: Annotated[str, typer.Argument(help="What to call the data set: lower-case words joined by '-'.")],
    path: Annotated[
        Path,
        typer.Argument(
            help="Class folders, with or without train, val and test; or a CSV or parquet of path (or image) and label."
        ),
    ],
    size: Annotated[int, typer.Option(help="Height and width that every image is resized to, in pixels.")] = 84,
    seed: Annotated[int, typer.Option(help="Of the splits that PATH does not give.")] = 0,
    fit: Annotated[
        str, typer.Option(help="centre: the shorter side scaled, the middle kept; whole: all of it, squeezed.")
    ] = "centre",
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over the data set of this name that was imported before.")
    ] = False,
) -> None:
    """Make a data set of your own images; NAME then works wherever a shipped data set does.

    \b
    slabench data import-folder my-birds PATH
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from slabench.data.sources import own_import

    if fit not in _FITS:
        raise UsageError(f"--fit {fit} is neither of {', '.join(_FITS)}", "--fit centre keeps the proportions")
    console = Screen()
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("decoding", total=None)

        def found(listing: Listing) -> None:
            _say(console, f"{len(listing.images):,} images found in {path}: {listing.kind}")
            progress.update(task, total=len(listing.images))

        made = own_import.import_folder(
            name,
            path,
            size=size,
            seed=seed,
            fit=_FITS[fit],
            replace=replace,
            found=found,
            done=lambda n: progress.advance(task, n),
        )
    _tell(console, made)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
    console.file.flush()  # where the output is a file or a pipe, too


def _tell(console: Console, made: Imported) -> None:
    """What was made, its splits with their digests, what is doubtful, and what to do next."""
    from slabench.data.own_facts import read_facts
    from slabench.data.splits import IMAGE_SPLIT, load_split, split_path

    info, store, splits = made.info, made.store, made.splits
    assert info.own is not None
    _say(console, f"{info.name}: {store.manifest['n_images']:,} images of {info.n_classes} classes, in {store.folder}")
    _say(console, f"digest {store.digest}")
    if splits.classes is None:
        _say(console, f"classes (few-shot): {splits.classes_from}")
    else:
        split = load_split(info.name)
        _say(console, f"classes (few-shot): {splits.classes_from}; {split_path(info.name)}, digest {split.digest}")
        for part, names in split.classes.items():
            _say(console, f"  {part:5} {len(names)}: {_some(names)}")
    train, test = sum(store.counts(0)), sum(store.counts(1))
    sha256 = read_facts(info.own).sha256[IMAGE_SPLIT]
    _say(console, f"images (classifiers): {splits.images_from}; {info.own / IMAGE_SPLIT}, sha256 {sha256}")
    _say(console, f"  {train:,} to train on, {test:,} for the test")
    if made.left_out:
        _say(console, f"left out: {_some(made.left_out, _TOLD)}")
    for line in made.remarks:
        console.print("[yellow]warning:[/yellow]", line, soft_wrap=True, markup=True, highlight=False)
    _say(console, "next:")
    for line in _next(made):
        _say(console, f"  {line}")


def _next(made: Imported) -> list[str]:
    """Commands that work as they stand on this data set."""
    name, classes = made.info.name, made.splits.classes
    lines = [f"slabench show dataset {name}"]
    if classes is not None:
        from slabench.recipes import load_recipe
        from slabench.recipes.fewshot import Recipe

        (standard,) = load_recipe("fewshot/standard")
        assert isinstance(standard, Recipe)
        ways = min(5, *(len(names) for names in classes.values()))
        counts = [train + test for train, test in zip(made.store.counts(0), made.store.counts(1), strict=True)]
        queries = min(_QUERIES, min(counts) - 1)
        few = ("" if ways == 5 else f" --ways {ways}") + ("" if queries == _QUERIES else f" --queries {queries}")
        if queries < standard.train.queries:
            few += f" --set train.queries={queries}"
        if ways > 1 and queries > 0:
            lines.append(f"slabench run fewshot --dataset {name} --shots 1{few} --sla")
    return [*lines, f"slabench run supervised --dataset {name} --sla"]


def _some(names: list[str] | tuple[str, ...], shown: int = 8) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
