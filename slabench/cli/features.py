"""`slabench features import|export|list`: features of one's own, in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from slabench.cli.streams import Screen

app = typer.Typer(help="Your own features: bring them in, list them, take them out.", no_args_is_help=True)


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="What the feature set is to be called, such as my-clip.")],
    file: Annotated[Path, typer.Argument(help="npz, safetensors or parquet: features, and ids or labels.")],
    dataset: Annotated[
        str | None,
        typer.Option(help="Whose images the ids are rows of. Default: a data set of its own, of the labels."),
    ] = None,
    transforms: Annotated[str | None, typer.Option(help="The set that made the views: rotation, ...")] = None,
    embedder: Annotated[str | None, typer.Option(help="The network. Default: the set's name.")] = None,
    pretraining: Annotated[str | None, typer.Option(help="What it was trained on: ImageNet-1k, ...")] = None,
    resolution: Annotated[int | None, typer.Option(help="Height and width of its input in pixels.")] = None,
    weights_sha256: Annotated[str | None, typer.Option(help="Of the file of its weights.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of its weights.")] = None,
    precision: Annotated[str | None, typer.Option(help="That it was run in.")] = None,
    contaminated: Annotated[
        str | None, typer.Option(help="Whether it has seen the test classes: yes, no or unknown.")
    ] = None,
    contaminated_why: Annotated[str | None, typer.Option(help="How you know.")] = None,
    seed: Annotated[int, typer.Option(help="Of the class split that is drawn where none is given.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Write over the features of that name.")] = False,
) -> None:
    """Bring features of your own, to be scored on the frozen episodes of a data set, or on their own.

    \b
    slabench features import my-clip FILE.npz --dataset fc100
    """
    from slabench.embedders.importing import import_features

    facts = {
        "embedder": embedder,
        "pretraining": pretraining,
        "resolution": resolution,
        "weights_sha256": weights_sha256,
        "licence": licence,
        "precision": precision,
        "contaminated": contaminated,
        "contaminated_why": contaminated_why,
    }
    made = import_features(name, file, dataset, facts=facts, transforms=transforms, seed=seed, replace=replace)
    console = Screen()
    of = dataset or made.dataset
    console.print(
        f"{name}: {made.n:,} images of {of}, {made.M} x {made.D} {made.dtype}; {made.embedder.embedder}, "
        f"contaminated: {made.embedder.contaminated}",
        markup=False,
        soft_wrap=True,
    )
    where = f" --dataset {dataset}" if dataset else ""
    console.print(f"next: slabench score --features {name}{where} --shots 1,5", markup=False, soft_wrap=True)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The first characters of a few-shot run's key.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="npz, safetensors or parquet.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """Write the features of a trained run's images to a file, with ids, labels and class names.

    \b
    slabench features export KEY -o features.npz
    """
    from slabench.suites.fewshot.export_features import export_features

    console = Screen()
    n, m, d = export_features(
        run,
        output,
        split=split,
        device=device,
        results=results,
        told=lambda text: console.print(text, style="dim", markup=False),
    )
    console.print(f"{output}: {n:,} images, {m} x {d}", markup=False, soft_wrap=True)


@app.command("list")
def list_() -> None:
    """The feature sets of the data folder.

    \b
    slabench features list
    """
    from rich.table import Table

    from slabench.core.errors import DataError
    from slabench.embedders.store import feature_sets, features_folder, images_there, read_manifest

    console = Screen()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    found = feature_sets()
    longest = max((len(path.parent.name) for path in found), default=0)
    for heading in ("name", "of", "images", "views", "D", "maps", "embedder", "trained on", "px", "contam."):
        side: Literal["left", "right"] = "right" if heading in ("images", "views", "D", "maps", "px") else "left"
        table.add_column(heading, justify=side, no_wrap=True, min_width=min(longest, 40) if heading == "name" else None)
    for path in found:
        try:
            m = read_manifest(path)
        except DataError as error:
            console.print(f"{path.parent.name}/{path.name}: {error.message}", markup=False, soft_wrap=True)
            continue
        e = m.embedder
        try:
            there = images_there(path, m)
            images = f"{there:,}" if there == m.n else f"{there:,}/{m.n:,}"
        except DataError:  # without the images, nobody knows how many a group has
            images = f"?/{m.n:,}"
        pixels = str(e.resolution or "-")
        maps = "x".join(map(str, m.maps.shape)) if m.maps else "-"
        row = (m.name, m.dataset, images, str(m.M), str(m.D), maps, e.embedder, e.pretraining, pixels, e.contaminated)
        table.add_row(*row)
    if not found:
        console.print(
            f"no features in {features_folder()}: slabench embed, or slabench features import", soft_wrap=True
        )
        return
    console.print(table)
