"""`slabench embed`: the images of a data set through a frozen pre-trained network, once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from slabench.cli.common import names
from slabench.cli.streams import Screen
from slabench.core.errors import UsageError, unknown_name

_VIEWS_NONE = "none"


def embed(
    model: Annotated[str, typer.Option(help="timm:NAME or clip:NAME, such as timm:tf_efficientnet_lite0.")],
    dataset: Annotated[str, typer.Option(help="Whose images (slabench list datasets).")],
    weights: Annotated[
        Path | None, typer.Option(help="Its weights: safetensors, or a torch file of tensors alone.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the feature set. Default: the model's, and the size.")] = None,
    splits: Annotated[
        str | None, typer.Option(help="Such as test,val. Default: every image of the prepared data.")
    ] = None,
    views: Annotated[str, typer.Option(help="none, or the transformations to embed: rotation, ...")] = _VIEWS_NONE,
    size: Annotated[int | None, typer.Option(help="Height and width of the input. Default: the model's own.")] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    dtype: Annotated[str, typer.Option(help="Of what is kept: float16 or float32.")] = "float16",
    batch: Annotated[int | None, typer.Option(help="Images at once. Default: few on a CPU, many on a GPU.")] = None,
    maps: Annotated[
        bool, typer.Option("--maps", help="Keep what goes into the last block too, for --adapter last-block.")
    ] = False,
    pretraining: Annotated[str | None, typer.Option(help="What it was trained on, for the tables.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights. Default: what the model says.")] = None,
    contaminated: Annotated[
        str | None, typer.Option(help="Whether it has seen the test classes: yes, no or unknown.")
    ] = None,
    contaminated_why: Annotated[str | None, typer.Option(help="How you know.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Begin the feature set anew.")] = False,
) -> None:
    """Embed images once a view, and keep the features: for slabench score --features.

    Stopped with Ctrl-C or killed, it goes on where it was when the same command is typed again. Nothing is downloaded.

    \b
    slabench embed --model timm:tf_efficientnet_lite0 --weights FILE --dataset fc100 --splits test
    """
    if batch is not None and batch < 1:
        raise UsageError(f"--batch {batch} is not positive", "give --batch 1 or more")
    for flag, value, known in (
        ("--precision", precision, ("auto", "float32", "bfloat16")),
        ("--dtype", dtype, ("float16", "float32")),
        ("--contaminated", contaminated, ("yes", "no", "unknown")),
    ):
        if value is not None and value not in known:
            raise unknown_name(f"value of {flag}", value, known)
    from slabench.data.catalog import info

    info(dataset)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from slabench.embedders.embedding import embed_images, plan_embedding
    from slabench.embedders.facts import default_name, overlap
    from slabench.embedders.networks import open_network
    from slabench.embedders.store import remove_set, set_folder
    from slabench.sla.transforms import IDENTITY, transform_set
    from slabench.training.device import choose_device, choose_precision, use_threads

    console = Screen()
    where = choose_device(device)
    use_threads(threads)
    autocast = choose_precision(precision, where)
    transforms = IDENTITY if views == _VIEWS_NONE else transform_set(views)
    network = open_network(model, weights, size)
    chosen = name or default_name(model, network.size)
    seen, why = (contaminated, contaminated_why) if contaminated else overlap(pretraining, info(dataset).store)
    told = {"pretraining": pretraining, "licence": licence, "contaminated": seen, "contaminated_why": why}
    if replace:
        remove_set(set_folder(chosen, dataset))
    plan = plan_embedding(
        network,
        chosen,
        dataset,
        splits=names(splits, "--splits") if splits else None,
        transforms=transforms,
        precision="float32" if autocast is None else "bfloat16",
        dtype=dtype,
        told=told,
        maps=maps,
    )
    kept = f", {plan.kept:,} are there already" if plan.kept else ""
    console.print(
        f"{chosen}: {plan.count:,} images of {dataset} x {transforms.M} at {network.size} px{kept}",
        markup=False,
        soft_wrap=True,
    )
    if plan.manifest.maps is not None:
        shape, size_of = plan.manifest.maps.shape, plan.manifest.bytes_of(plan.manifest.n)
        told_of = f"maps before {plan.manifest.maps.block}: {' x '.join(map(str, shape))}"
        console.print(
            f"{told_of}; {size_of / 1e9:.2g} GB for all {plan.manifest.n:,} images", markup=False, soft_wrap=True
        )
    begin = time.perf_counter()
    bar = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*bar, console=console, transient=True) as progress:
        task = progress.add_task("embedding", total=plan.count)
        try:
            embed_images(
                network,
                plan,
                transforms,
                device=where,
                autocast=autocast,
                batch=batch,
                done=lambda n: progress.advance(task, n),
            )
        except KeyboardInterrupt:
            progress.stop()
            console.print("stopped; the same command goes on where it was", markup=False)
            raise
    seconds = time.perf_counter() - begin
    if plan.count:
        rate = plan.count * transforms.M / seconds
        console.print(f"{seconds:.0f} s, {rate:,.0f} images a second", style="dim", markup=False)
    console.print(
        f"next: slabench score --features {chosen} --dataset {dataset} --shots 1,5", markup=False, soft_wrap=True
    )
