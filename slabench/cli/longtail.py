"""`slabench longtail make|verify|show`: frozen long-tail subsets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.common import find_file, verify_files
from slabench.cli.streams import Screen, export
from slabench.core.errors import UsageError

if TYPE_CHECKING:
    from slabench.data.imageset import ImageSet
    from slabench.data.longtail_files import SubsetFile

app = typer.Typer(help="Freeze long-tail subsets, check them, read them.", no_args_is_help=True)


@app.command()
def make(
    dataset: Annotated[str, typer.Option(help="See: slabench list datasets.")] = "cifar100",
    ratio: Annotated[
        float | None, typer.Option(help="Largest over smallest class, at least 1.", show_default="100")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="exp or step.", show_default="exp")] = None,
    counts: Annotated[Path | None, typer.Option(help="Own counts: a CSV with the columns class,count.")] = None,
    class_order: Annotated[
        str | None,
        typer.Option(help="Most frequent class first: label, reversed or random:SEED.", show_default="label"),
    ] = None,
    data_seed: Annotated[int, typer.Option(help="Of the draw; 0 is that of the published subsets.", min=0)] = 0,
    folder: Annotated[Path | None, typer.Option("-o", "--folder", help="Where to. Default: your data folder.")] = None,
) -> None:
    """Draw a subset of the training images by LDAM-DRW's rule, and keep it.

    \b
    slabench longtail make --dataset cifar100 --ratio 50
    """
    from slabench.data.loading import load_images
    from slabench.data.longtail import read_counts
    from slabench.data.longtail_files import make_subset, open_subset

    if counts is not None and (ratio, profile, class_order) != (None, None, None):
        raise UsageError(
            "--counts says how many images each class keeps", "leave --ratio, --profile and --class-order out"
        )
    _, images, _ = load_images(dataset)
    path = make_subset(
        images,
        dataset,
        profile=profile or "exp",
        ratio=100 if ratio is None else ratio,
        class_order=class_order or "label",
        seed=data_seed,
        counts=None if counts is None else read_counts(counts, images.class_names),
        folder=folder,
    )
    _print(open_subset(path, images), images)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or paths. Default: every file.")] = None,
) -> None:
    """Hold subset files against their digests and against the data: exit code 1 if one does not fit.

    \b
    slabench longtail verify
    """
    from slabench.data.longtail_files import list_files

    verify_files([_find(name) for name in names] if names else list_files(), lambda path: _open(path)[0])


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Such as cifar100/exp-r100-label-s0, or the path of a .npy file.")],
    counts: Annotated[bool, typer.Option("--counts", help="Print the count of every class, as CSV.")] = False,
) -> None:
    """Say what a file holds: ratios, groups, a histogram of the counts.

    \b
    slabench longtail show cifar100/exp-r100-label-s0
    """
    file, images = _open(_find(name))
    if counts:
        pairs = zip(images.class_names, file.subset.counts, strict=True)
        export("class,count\n" + "".join(f"{class_name},{count}\n" for class_name, count in pairs))
    else:
        _print(file, images)


def _find(name: str) -> Path:
    from slabench.data.longtail_files import find, list_files

    return find_file(name, "long-tail", find, list_files)


def _open(path: Path) -> tuple[SubsetFile, ImageSet]:
    from slabench.data.loading import load_images
    from slabench.data.longtail_files import open_subset, read_manifest

    _, images, _ = load_images(read_manifest(path).dataset)
    return open_subset(path, images), images


def _print(file: SubsetFile, images: ImageSet) -> None:
    from slabench.data.longtail_files import describe

    screen = Screen(markup=False)
    for line in [*describe(file, images.class_names), f"file: {file.path}"]:
        screen.print(line, soft_wrap=True)
