"""`slabench reproduce`: a published table, row by row, beside its printed numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slabench.cli.words import names, numbers, public_argv

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.recipe import AnyRecipe
    from slabench.reproduction.plan import TablePlan


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="A table such as sla2020/few-shot, or a TOML file. Without: the list.")
    ] = None,
    preset: Annotated[str, typer.Option(help="paper (its protocol), standard, or quick (never ranked).")] = "standard",
    only: Annotated[
        list[str] | None,
        typer.Option(help="Rows, columns or column/row, globs allowed; several by commas or by repeating it."),
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", "--seed", help="Trials of each recipe: 0 or 0,1,2")] = None,
    jobs: Annotated[int, typer.Option(help="Processes that share the work.", min=1)] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show trials, time, missing data and the table as it stands; run nothing.")
    ] = False,
    list_tables: Annotated[bool, typer.Option("--list", help="List the tables.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each process.", min=1)] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """Plan a published table, run what is missing, and print it beside the published one.

    Records are shared with `slabench run`: a trial that is done is never run again. Every gain is shown against the
    baseline that looked, and the baseline that trained, as often.

    \b
    slabench reproduce
    slabench reproduce sla2020/few-shot --only 'fc100-5shot/protonet*' --dry-run
    slabench reproduce sla2020/imbalanced --only cifar100-r100 --seeds 0,1,2 --jobs 2
    """
    from rich.console import Console

    console = Console(highlight=False)
    if name is None or list_tables:
        _list(console)
        return
    from slabench.cli.progress import ConsoleListener
    from slabench.cli.reproduce_table import show_result
    from slabench.errors import DataMissingError
    from slabench.reproduction.outcome import collect
    from slabench.reproduction.plan import plan_table
    from slabench.reproduction.run import run_missing
    from slabench.training.device import choose_device

    choose_device(device)
    globs = [glob for text in only or [] for glob in names(text, "--only")]
    plan = plan_table(name, preset, only=globs, seeds=numbers(seeds, "--seeds", least=0), results=results)
    if plan.wanted and not plan.trials and not plan.recorded and not dry_run:
        lines = "\n       ".join(f"{needs.dataset}: {needs.command}" for needs in plan.wanted)
        raise DataMissingError(f"nothing of {name} can be run: the data of its rows is not on this machine", lines)
    _show_plan(console, plan, device, threads, dry_run)
    console.print()
    if dry_run:
        show_result(console, collect(plan))
        return
    listener = ConsoleListener(console)
    try:
        outcomes = run_missing(
            plan,
            jobs=jobs,
            device=device,
            threads=threads,
            listener=listener,
            say=lambda line: console.print(line, markup=False, soft_wrap=True),
            argv=public_argv(sys.argv[1:]),
        )
    finally:
        listener.close()
    result = collect(plan, outcomes)
    if outcomes:
        console.print()
    show_result(console, result)
    for outcome in [*result.failed, *result.busy]:
        console.print(f"{outcome.state}: {outcome.trial.label}: {outcome.error}", markup=False, soft_wrap=True)
    if result.failed or result.busy:
        raise typer.Exit(1)


def _show_plan(console: Console, plan: TablePlan, device: str, threads: int | None, dry_run: bool) -> None:
    """The plan with measured times, of what is to be run; a dry run measures rows without data too."""
    from slabench.cli.reproduce_table import show_plan

    if not plan.missing and not (dry_run and plan.wanted):
        show_plan(console, plan)
        return
    import torch

    from slabench.reproduction.estimate import Estimator
    from slabench.training.device import choose_device

    if threads is not None:
        torch.set_num_threads(threads)
    where = choose_device(device)
    estimator = Estimator(where)

    def seconds(recipe: AnyRecipe) -> float | None:
        trials = plan.trials.get(recipe.digest, [])
        if not trials and not dry_run:
            return None
        with console.status(f"measuring {recipe.model.backbone}, {recipe.sla.objective} ..."):
            return estimator.seconds(recipe, trials[0] if trials else None)

    show_plan(console, plan, seconds, where.type, lambda: estimator.share)


def _list(console: Console) -> None:
    from rich.table import Table

    from slabench.reproduction.definition import load_table, table_names

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("table", "rows", ""):
        shown.add_column(heading, no_wrap=heading != "")
    for name in table_names():
        table = load_table(name)
        shown.add_row(name, str(len(table.columns) * len(table.rows)), table.title)
    console.print(shown)
