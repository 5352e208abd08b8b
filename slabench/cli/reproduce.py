"""`slabench reproduce`: a published table, row by row, beside its printed numbers. To be read at 80 columns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from slabench.cli.common import WAIT, names, numbers, public_argv
from slabench.cli.executing import (
    EXECUTOR,
    JOBS,
    PARTITION,
    RESOURCE,
    executor_of,
    measured_on,
    show_jobs,
    submitted_alone,
)
from slabench.cli.streams import Screen, forgive
from slabench.core import paths
from slabench.core.errors import DataMissingError
from slabench.progress import ConsoleListener, duration
from slabench.ranking.columns import UNVERIFIED, marked

if TYPE_CHECKING:
    from slabench.recipes import AnyRecipe
    from slabench.reproduction.definition import Column
    from slabench.reproduction.outcome import Against, Measured, Reproduction, RowResult
    from slabench.reproduction.planning import TablePlan
    from slabench.runner.estimate import Estimator, Seconds


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
    executor: Annotated[str | None, typer.Option(help=EXECUTOR)] = None,
    jobs: Annotated[int | None, typer.Option(help=JOBS, min=1)] = None,
    partition: Annotated[str | None, typer.Option(help=PARTITION)] = None,
    resources: Annotated[list[str] | None, typer.Option("--resource", help=RESOURCE, metavar="KEY=VALUE")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show trials, time, missing data and the table as it stands; run nothing.")
    ] = False,
    list_tables: Annotated[bool, typer.Option("--list", help="List the tables.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help=WAIT)] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads of each process.", min=1)] = None,
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
) -> None:
    """Plan a published table, run what is missing, and print it beside the published one.

    Records are shared with `slabench run`: a trial that is done is never run again. Every gain is shown over the
    baseline as it is, with as many views of a test image, and with as many images seen in training.

    \b
    slabench reproduce
    slabench reproduce sla2020/few-shot --only 'fc100-5shot/protonet*' --dry-run
    slabench reproduce sla2020/imbalanced --only cifar100-r100 --seeds 0,1,2 --jobs 2
    """
    console = Screen()
    if name is None or list_tables:
        _list(console)
        return
    from slabench.executors.jobs import trial_jobs
    from slabench.executors.resources import Request
    from slabench.reproduction.outcome import collect
    from slabench.reproduction.planning import plan_table
    from slabench.reproduction.running import in_order, needed, run_missing
    from slabench.training.device import choose_device

    where = executor_of(executor, jobs, partition, resources, device=device, wait=wait)
    choose_device(measured_on(where, device))
    globs = [glob for text in only or [] for glob in names(text, "--only")]
    with paths.nothing_stays() if dry_run else nullcontext():
        plan = plan_table(name, preset, only=globs, seeds=numbers(seeds, "--seeds", least=0), results=results)
    if plan.wanted and not plan.trials and not plan.recorded and not dry_run:
        lines = "\n       ".join(f"{needs.dataset}: {needs.command}" for needs in plan.wanted)
        raise DataMissingError(f"nothing of {name} can be run: the data of its rows is not on this machine", lines)
    estimator = _show_plan(console, plan, measured_on(where, device), threads, dry_run)
    needs = needed(plan, Request.parse(resources or (), partition), where, device, estimator) if where else None
    if where is not None and dry_run:
        show_jobs(console, where, trial_jobs(in_order(plan), needs), plan.results)
    console.print()
    if dry_run:
        show_result(console, collect(plan))
        return
    forgive()
    listener = ConsoleListener(console)
    try:
        outcomes = run_missing(
            plan,
            executor=where,
            resources=needs,
            device=device,
            threads=threads,
            wait=wait,
            listener=listener,
            say=lambda line: console.print(line, markup=False, soft_wrap=True),
            argv=public_argv(sys.argv[1:]),
        )
    finally:
        listener.close()
    if submitted_alone(where, wait, outcomes) and any(outcome.state == "busy" for outcome in outcomes):
        return
    result = collect(plan, outcomes)
    if outcomes:
        console.print()
    show_result(console, result)
    for outcome in [*result.failed, *result.busy]:
        console.print(f"{outcome.state}: {outcome.trial.label}: {outcome.error}", markup=False, soft_wrap=True)
    if result.failed or result.busy:
        raise typer.Exit(1)


def _show_plan(console: Console, plan: TablePlan, device: str, threads: int | None, dry_run: bool) -> Estimator | None:
    """The plan with measured times, of what is to be run; a dry run measures rows without data too. Returns what has measured."""

    if not plan.missing and not (dry_run and plan.wanted):
        show_plan(console, plan)
        return None

    from slabench.runner.estimate import Estimator
    from slabench.training.device import choose_device, use_threads

    use_threads(threads)
    where = choose_device(device)
    estimator = Estimator(where)

    def seconds(recipe: AnyRecipe) -> Seconds | None:
        trials = plan.trials.get(recipe.digest, [])
        if not trials and not dry_run:
            return None
        with console.status(f"measuring {recipe.model.backbone}, {recipe.sla.objective} ..."):
            return estimator.estimate(recipe, trials[0] if trials else None).total

    show_plan(console, plan, seconds, where.type, lambda total: estimator.remarks(total, duration))
    return estimator


def _list(console: Console) -> None:
    from slabench.reproduction.definition import load_table, table_names

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("table", "rows", ""):
        shown.add_column(heading, no_wrap=heading != "")
    for name in table_names():
        table = load_table(name)
        shown.add_row(name, str(len(table.columns) * len(table.rows)), table.title)
    console.print(shown)


_HEADINGS: dict[Against, str] = {
    "baseline": "over the\nbaseline",
    "aggregated": "as many\nviews",
    "equal images seen": "as many\nimages seen",
    "both": "both",
}


def show_plan(
    console: Console,
    plan: TablePlan,
    seconds: Callable[[AnyRecipe], Seconds | None] | None = None,
    device: str = "cpu",
    remarks: Callable[[float], list[str]] = lambda total: [],
) -> None:
    """Every recipe with its trials, images seen and time, and the sum.

    Args:
        console: where to.
        plan: of a table.
        seconds: of one trial of a recipe, measured; None leaves time out.
        device: what the time is for.
        remarks: how sure the times are; given the seconds of all that is open.
    """
    from slabench.runner.estimate import NOTHING
    from slabench.runner.workload import workload

    console.print(_title(plan), soft_wrap=True)
    table = _grid(("recipe", "state"), ("images", "a trial", "to run"))
    sums = {"run": NOTHING, "needs data": NOTHING}
    counts = {"done": 0, "run": 0, "needs data": 0}
    for column in plan.table.columns:
        own = {digest: recipe for digest, recipe in plan.recipes.items() if digest in _digests(plan, column)}
        if own:
            table.add_row(f"[bold]{_plain(column.label)}[/bold]")
        for digest, recipe in own.items():
            trials, n = plan.trials.get(digest, []), plan.n_seeds(recipe)
            done = plan.n_done(recipe)
            open_trials = n - done
            kind = "needs data" if digest in plan.needs else "run"
            state = "done" if not open_trials else f"{done} of {n} done" if kind == "run" or done else "needs data"
            counts["done"] += done
            counts[kind] += open_trials
            time = seconds(recipe) if seconds is not None and open_trials else None
            if time is not None:
                sums[kind] += time * open_trials
            table.add_row(
                f"  {_plain(recipe.name.removeprefix(plan.table.name + '/'))}",
                state,
                _millions(workload(recipe, trials[0] if trials else None).images),
                "-" if time is None else duration(time.typical),
                "-" if time is None else duration(time.typical * open_trials),
            )
    console.print(table)
    parts = [f"{counts['done']} done", f"{counts['run']} to run"]
    if seconds is not None and counts["run"]:
        parts[1] += f", {sums['run'].told(duration)} on this {device}"
    if counts["needs data"]:
        parts.append(f"{counts['needs data']} need data")
        parts[2] += (
            f", {sums['needs data'].told(duration)}" if seconds is not None and sums["needs data"].typical else ""
        )
    console.print(f"{sum(counts.values())} trials: {'; '.join(parts)}.", soft_wrap=True)
    if seconds is not None:
        for line in remarks((sums["run"] + sums["needs data"]).typical):
            console.print(line, style="dim")
    show_needs(console, plan)


def show_needs(console: Console, plan: TablePlan) -> None:
    """The data that is missing, and how it comes here."""
    for needs in plan.wanted:
        console.print(f"needs data: '{needs.dataset}' ({needs.why})", markup=False, soft_wrap=True)
        for line in needs.command.splitlines():
            console.print(f"    {line}", markup=False, soft_wrap=True)


def show_result(console: Console, result: Reproduction) -> None:
    """The table beside the published one, then every gain against its controls."""
    plan = result.plan
    console.print(_title(plan), soft_wrap=True)
    table = _grid(("", "ours", "published"), ("diff", "n", "images"))
    gains = _grid(("gain of",), tuple(_HEADINGS.values()))
    for column in plan.table.columns:
        rows = [row for row in result.rows if row.cell.column is column]
        if not rows:
            continue
        table.add_row(f"[bold]{_plain(column.label)}[/bold]")
        for row in rows:
            table.add_row(*_line(row))
        with_gain = [row for row in rows if row.gains]
        if with_gain:
            gains.add_row(f"[bold]{_plain(column.label)}[/bold]")
        for row in with_gain:
            gains.add_row(f" {_plain(row.cell.row.label)}", *(_gain(row, against) for against in _HEADINGS))
    console.print(table)
    _legend(console, result)
    if gains.row_count:
        console.print(gains)
        console.print(
            "[dim]Points over the baseline: as it is; scored with as many views of a test image; trained on as many images "
            "seen (one view); both. ±: paired, half of the 95 % interval over the test. =: the row takes one view, as the "
            "baseline does. *: over fewer seeds. -: not run. A gain above 0 in every column is due to the joint labels.[/dim]"
        )


def _legend(console: Console, result: Reproduction) -> None:
    plan, rows = result.plan, result.rows
    lines = ["%; ±: half of the 95 % interval over the test; n: seeds; images: seen in training, copies counted."]
    if any(row.published and not row.published.verified for row in rows):
        lines.append(f"{UNVERIFIED}.")
    if plan.table.source:
        lines.append(f"Published: {plan.table.source}.")
    if plan.preset != "paper":
        lines.append(f"The preset {plan.preset} is not the paper's protocol: differences compare two protocols.")
    elif plan.table.note:
        lines.append(f"Not as in the paper: {plan.table.note}.")
    if any(recipe.limited for recipe in plan.recipes.values()):
        lines.append("Quick runs show that everything works; their numbers mean nothing.")
    for line in lines:
        console.print(line, style="dim", markup=False)


def _line(row: RowResult) -> Sequence[str]:
    published = "-"
    if row.published is not None:
        published = marked(row.published.text, row.published.verified)
        published += "" if row.published.verified else " unverified"
    label = f" {_plain(row.cell.row.label)}"
    if row.measured is None:
        return (label, row.state, published, "", "", "")
    m = row.measured
    mark = "" if row.state == "done" else f" ({row.state})"
    return (
        label,
        _value(m) + mark,
        published,
        "" if row.difference is None else f"{100 * row.difference:+.2f}",
        str(len(m.seeds)),
        _millions(m.images_seen),
    )


def _value(measured: Measured) -> str:
    interval = "" if measured.ci95 is None else f" ± {100 * measured.ci95:.2f}"
    return f"{100 * measured.value:.2f}{interval}"


def _gain(row: RowResult, against: Against) -> str:
    if row.cell.control_predictor == "single" and against in ("aggregated", "both"):
        return "="
    gain = row.gains.get(against)
    if gain is None:
        return "-"
    interval = "" if gain.half_width is None else f" ± {100 * gain.half_width:.2f}"
    fewer = "*" if row.measured and len(gain.seeds) < len(row.measured.seeds) else ""
    return f"{100 * gain.value:+.2f}{interval}{fewer}"


def _title(plan: TablePlan) -> str:
    seeds = f", seeds {','.join(map(str, plan.seeds))}" if plan.seeds else ""
    return f"[bold]{_plain(plan.table.title)}[/bold]\n{plan.table.name}, preset {plan.preset}{seeds}"


def _digests(plan: TablePlan, column: Column) -> set[str]:
    from slabench.reproduction.planning import of_cell

    return {recipe.digest for cell in plan.cells if cell.column is column for recipe in of_cell(cell)}


def _grid(left: Sequence[str], right: Sequence[str]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for place, heading in enumerate(left):
        made.add_column(heading, overflow="fold", no_wrap=place > 0)
    for heading in right:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def _millions(images: int) -> str:
    return f"{images / 1e6:.2f}M" if images >= 10_000 else f"{images:,}"


def _plain(text: str) -> str:
    return escape(text)
