"""`slabench run --dry-run`: the resolved recipe, the trials, the images to pass and a measured estimate of the time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from slabench.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.recipes import AnyRecipe


def show(
    console: Console,
    recipes: list[AnyRecipe],
    seeds: list[int] | None,
    results: Path | None,
    device: str,
    threads: int | None,
) -> None:
    """Print the plan. Data and episode files are prepared if need be; nothing is trained but a few measured steps."""
    import torch
    from rich.table import Table

    from slabench.runner import plan
    from slabench.suites import estimate, estimate_scoring, suite_of
    from slabench.training.device import choose_device, choose_precision, keep_heap

    keep_heap()
    if threads is not None:
        torch.set_num_threads(threads)
    where = choose_device(device)
    for recipe in recipes:
        console.print(f"[bold]{recipe.name}[/bold] [dim]{recipe.digest[:12]}[/dim]")
        for section, values in recipe.resolved().items():
            console.print(f"  {section} = {json.dumps(values)}", markup=False, soft_wrap=True)
    trials = plan(recipes, seeds, results)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "state", "images to pass", "images/s", "training", "scoring"):
        table.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
    measured: dict[str, tuple[dict[str, float], float, int, int]] = {}
    total, missing = 0.0, 0
    for trial in trials:
        recipe = trial.recipe
        if recipe.digest not in measured:
            precision = choose_precision(recipe.train.precision, where)
            task = suite_of(recipe).build_task(recipe, trial.seed, trial.prepared, where, precision)
            speed = estimate(task)
            measured[recipe.digest] = (speed, estimate_scoring(task), task.images_per_step, task.optimisation.steps)
        speed, scoring, images, steps = measured[recipe.digest]
        training = speed["seconds_per_step"] * steps
        if trial.done is None:
            total, missing = total + training + scoring, missing + 1
        table.add_row(
            trial.label,
            "to run" if trial.done is None else "done",
            f"{images * steps:,}",
            f"{speed['images_per_second']:,.0f}",
            duration(training),
            duration(scoring),
        )
    console.print(table)
    count = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"
    console.print(
        f"{count}: {len(trials) - missing} done, {missing} to run, about {duration(total)} on this {where.type}"
        " (from a few measured steps). 0 B to download: the data is here.",
        soft_wrap=True,
    )
