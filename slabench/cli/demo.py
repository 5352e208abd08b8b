"""`slabench demo`: baseline against SLA on the embedded dataset, offline, in about a minute."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from slabench.cli.streams import Screen
from slabench.evaluation.intervals import paired_difference


def demo(
    results: Annotated[
        Path | None, typer.Option(help="Keep the records in this folder. Default: a temporary one, removed afterwards.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
) -> None:
    """Train ProtoNet with and without SLA on drawn characters, and compare them on the same episodes."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from slabench.cli.after import say_next
    from slabench.cli.run import all_done, execute
    from slabench.recipes import load_recipe
    from slabench.records.store import ResultStore

    console = Screen()
    recipes = load_recipe("fewshot/demo")
    with tempfile.TemporaryDirectory(prefix="slabench-demo-") as temporary:
        folder = results or Path(temporary)
        outcomes = execute(console, recipes, None, folder, device=device)
        if not all_done(outcomes):
            raise typer.Exit(1)
        store = ResultStore(folder)
        digests = {recipe.digest for recipe in recipes}
        records = [record for record in store.records() if record.recipe_digest in digests and record.status == "done"]
        episodes = {record.recipe["sla"]["objective"]: store.episodes(record) for record in records}
    records.sort(key=lambda record: record.recipe["sla"]["objective"])
    reference = episodes["baseline"]["single"]
    first = records[0]
    # Narrow enough for a terminal of 80 columns.
    table = Table(
        title=f"{first.protocol}: {first.scores[0].n:,} frozen test episodes, accuracy in %",
        title_justify="left",
        caption="±: half of the 95 % interval over the episodes. One seed, a small budget: never ranked.",
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for heading in ("objective", "predictor"):
        table.add_column(heading)
    for heading in ("accuracy", "paired difference", "images seen", "seconds"):
        table.add_column(heading, justify="right")
    for record in records:
        objective = record.recipe["sla"]["objective"]
        for score in record.scores:
            values = episodes[objective][score.predictor]
            is_reference = objective == "baseline" and score.predictor == "single"
            paired = None if is_reference else paired_difference(values, reference)
            assert record.cost is not None
            table.add_row(
                objective,
                score.predictor,
                f"{100 * score.value:.2f} ± {100 * (score.ci95 or 0):.2f}",
                f"{100 * paired.mean:+.2f} ± {100 * paired.half_width:.2f}" if paired else "reference",
                f"{record.cost.images_seen:,}",
                f"{record.cost.train_seconds:.0f}",
            )
    console.print(table)
    real = "slabench run fewshot --dataset fc100 --shots 5 --sla"
    if results is None:
        console.print(f"Next: {real}", style="bold")
    else:
        say_next(console, outcomes, results, real)
