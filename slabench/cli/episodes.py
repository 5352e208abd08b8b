"""`slabench episodes make|verify|show`: frozen episode files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.common import Frozen, find_file, verify_files
from slabench.cli.streams import Screen

if TYPE_CHECKING:
    from slabench.data.imageset import ImageSet
    from slabench.episodes.files import EpisodeFile

app = typer.Typer(help="Freeze test episodes, check them, read them.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="Such as fc100/test-5w5s15q-2000, or the path of a .npy file.")]


@app.command()
def make(
    dataset: Annotated[str, typer.Argument(help="fc100, cifar-fs, mini-imagenet, glyphs, or one of your own.")],
    ways: Annotated[int, typer.Option(help="Classes of an episode.")] = 5,
    shots: Annotated[int, typer.Option(help="Support images of a class.")] = 5,
    queries: Annotated[int, typer.Option(help="Query images of a class.")] = 15,
    episodes: Annotated[int, typer.Option(help="How many.")] = 2000,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    support_profile: Annotated[
        str, typer.Option(help="balanced, or unequal shots: linear:9, step:9, exp:9, dirichlet:2.")
    ] = "balanced",
    query_profile: Annotated[str, typer.Option(help="The same of the queries: dirichlet:2, ...")] = "balanced",
    open_set: Annotated[
        int, typer.Option(help="So many further classes have queries and no supports.", metavar="U")
    ] = 0,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="No episodes: ten draws of --shots training images of every class.")
    ] = False,
    folder: Annotated[Path | None, typer.Option("-o", "--folder", help="Where to. Default: your data folder.")] = None,
) -> None:
    """Draw balanced episodes: every class, and every image of a class, is used equally often.

    \b
    slabench episodes make fc100 --ways 10 --shots 5
    slabench episodes make cifar100 --all-classes --shots 4
    """

    from slabench.core.errors import UsageError
    from slabench.data import load
    from slabench.episodes.files import VALIDATION_IMAGES, make, open_file

    if episodes < 1:
        raise UsageError(f"--episodes {episodes} is not positive", "give 1 or more")
    if all_classes:
        from slabench.data.loading import load_rows, whole_dataset
        from slabench.episodes import draws

        train = load_rows(whole_dataset(dataset).name, "image-train")
        file = draws.open_file(draws.make(train, dataset, shots, folder), train)
        facts = f"{draws.DRAWS} draws of {shots} of the training images of each of {train.n_classes} classes"
        Screen().print(f"{file.name}: {facts}\n  {file.path}\n  sha256: {file.digest}", soft_wrap=True, markup=False)
        return
    if open_set < 0:
        raise UsageError(f"--open-set {open_set} is negative", "give 0 or more")
    images = load(dataset, split)
    cap = max(VALIDATION_IMAGES, shots + queries) if split == "val" else None
    profiles = support_profile, query_profile
    path = make(images, dataset, split, ways, shots, queries, episodes, folder, cap, *profiles, open_set)
    _print(Screen(), open_file(path, images), images)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or paths. Default: every file.")] = None,
) -> None:
    """Check episode files, and draws of all classes, against their digests and the data: exit code 1 if one does not match.

    \b
    slabench episodes verify
    """
    from slabench.data.loading import load_rows
    from slabench.episodes import draws
    from slabench.episodes.files import list_files

    def read(path: Path) -> Frozen:
        if path.parent.parent.name == draws.FOLDER:
            return draws.open_file(path, load_rows(draws.read_manifest(path).dataset, "image-train"))
        return _open(path)[0]

    verify_files([_find(name) for name in names] if names else [*list_files(), *draws.list_files()], read)


@app.command()
def show(name: _Name, first: Annotated[int, typer.Option(help="Print so many episodes.")] = 0) -> None:
    """Say what a file holds, and print its first episodes: rows of the split, supports before the bar.

    \b
    slabench episodes show fc100/test-5w5s15q-2000 --first 2
    """
    console = Screen()
    file, images = _open(_find(name))
    _print(console, file, images)
    for number, (rows, classes) in enumerate(
        zip(file.episodes.rows[:first], file.episodes.classes[:first], strict=True)
    ):
        console.print(f"episode {number}")
        for way, label in zip(rows.tolist(), classes.tolist(), strict=True):
            shots = file.episodes.shots
            line = f"  {images.class_names[label]}: {_numbers(way[:shots])} | {_numbers(way[shots:])}"
            console.print(line, soft_wrap=True, markup=False)


def _numbers(values: list[int]) -> str:
    return " ".join(str(value) for value in values if value >= 0)


def _profiles(file: EpisodeFile) -> str:
    """`supports linear:9 (1 to 9 a class), queries balanced (15 a class)`."""
    parts = []
    for what, profile, rows in (
        ("supports", file.manifest.support_profile, file.episodes.support),
        ("queries", file.manifest.query_profile, file.episodes.query),
    ):
        counts = (rows >= 0).sum(-1)
        least, most = int(counts.min()), int(counts.max())
        parts.append(f"{what} {profile} ({least if least == most else f'{least} to {most}'} a class)")
    return ", ".join(parts)


def _find(name: str) -> Path:
    from slabench.episodes.files import find, list_files

    return find_file(name, "episode", find, list_files)


def _open(path: Path) -> tuple[EpisodeFile, ImageSet]:
    from slabench.data import load
    from slabench.episodes.files import open_file, read_manifest

    manifest = read_manifest(path)
    images = load(manifest.dataset, manifest.split)
    return open_file(path, images), images


def _print(console: object, file: EpisodeFile, images: ImageSet) -> None:
    from rich.console import Console

    from slabench.episodes.files import usage

    assert isinstance(console, Console)
    m, use = file.manifest, usage(file, images)
    lines = {
        "file": str(file.path),
        "episodes": f"{m.episodes:,} of {m.ways} ways, {m.shots} shots, {m.queries} queries"
        + (f", and {m.unknown} unknown classes with {m.queries} queries" if m.unknown else "")
        + (f" on average; {_profiles(file)}" if m.columns else ""),
        "drawn from": f"{images.name}: {images.n_classes} classes"
        + (f", the first {m.images_per_class} images of each" if m.images_per_class else ""),
        "a class is used": "{} to {} times".format(*use["class_uses"]),
        "images used": f"{use['images_used']:,} of {len(images):,}, each {use['image_uses'][0]} to {use['image_uses'][1]} times",
        "sha256": file.digest,
        "data": "the data it was drawn from"
        if (m.dataset_digest, m.split_digest) == (images.digest, images.split_digest)
        else "OTHER data than it was drawn from: results on it are ranked apart",
    }
    console.print(f"[bold]{file.name}[/bold]")
    for key, value in lines.items():
        console.print(f"  {key + ':':17}{value}", soft_wrap=True, markup=False)
