"""What `slabench run --dry-run` prints: recipes, trials, images and time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from slabench.core.files import SHORT
from slabench.progress import duration

if TYPE_CHECKING:
    from slabench.recipes import AnyRecipe
    from slabench.runner.trials import Trial


def show_plan(
    console: Console,
    recipes: list[AnyRecipe],
    seeds: list[int] | None,
    results: Path | None,
    device: str,
    threads: int | None,
) -> list[Trial]:
    """What `--dry-run` prints: recipes, trials, images and time. Returns the trials.

    Data is prepared if need be; episodes and subsets that nobody has frozen yet are drawn and not kept. Nothing is trained but a
    few measured steps.
    """

    from slabench.runner.estimate import NOTHING, Estimator
    from slabench.runner.trials import plan
    from slabench.training.device import choose_device, keep_heap, use_threads

    keep_heap()
    use_threads(threads)
    where = choose_device(device)
    for recipe in recipes:
        console.print(f"[bold]{recipe.name}[/bold] [dim]{recipe.digest[:SHORT]}[/dim]")
        for section, values in recipe.resolved().items():
            console.print(f"  {section} = {json.dumps(values)}", markup=False, soft_wrap=True)
    trials = plan(recipes, seeds, results)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "state", "images seen", "images/s", "training", "scoring"):
        table.add_column(heading, justify="left" if heading in ("trial", "state") else "right")
    estimator = Estimator(where)
    total, missing = NOTHING, 0
    for trial in trials:
        images = trial.planned.images
        if trial.done is not None and (cost := trial.done.cost) is not None:
            speed, training, scoring = cost.images_per_second or 0.0, cost.train_seconds, cost.eval_seconds
        else:
            found = estimator.estimate(trial.recipe, trial)
            training, scoring = found.training.typical, found.scoring.typical
            speed = images / training if training else 0.0
            if trial.done is None:
                total, missing = total + found.total, missing + 1
        table.add_row(
            trial.label,
            "to run" if trial.done is None else "done",
            f"{images:,}",
            f"{speed:,.0f}",
            duration(training),
            duration(scoring),
        )
    console.print(table)
    count = f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"
    console.print(
        f"{count}: {len(trials) - missing} done, {missing} to run, {total.told(duration)} on this {where.type}."
        " 0 B to download: the data is here.",
        soft_wrap=True,
    )
    for line in estimator.remarks(total.typical, duration) if missing else ():
        console.print(line, style="dim", soft_wrap=True)
    return trials
