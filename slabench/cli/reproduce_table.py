"""What `slabench reproduce` prints: the plan, and our numbers beside the published ones. To be read at 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slabench.cli.progress import duration

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from slabench.recipe import AnyRecipe
    from slabench.reproduction.definition import Column
    from slabench.reproduction.outcome import Against, Measured, Reproduction, RowResult
    from slabench.reproduction.plan import TablePlan

_BUSY = 0.8
_HEADINGS: dict[Against, str] = {
    "baseline": "over the\nbaseline",
    "looked": "looked\nas often",
    "trained": "trained\nas often",
    "both": "both",
}


def show_plan(
    console: Console,
    plan: TablePlan,
    seconds: Callable[[AnyRecipe], float | None] | None = None,
    device: str = "cpu",
    share: Callable[[], float] = lambda: 1.0,
) -> None:
    """Every recipe with its trials, image passes and time, and the sum.

    Args:
        console: where to.
        plan: of a table.
        seconds: of one trial of a recipe, measured; None leaves time out.
        device: what the time is for.
        share: of the machine, that this process had while the times were measured.
    """
    from slabench.reproduction.estimate import workload

    console.print(_title(plan), soft_wrap=True)
    table = _grid(("recipe", "state"), ("passes", "a trial", "to run"))
    sums = {"run": 0.0, "needs data": 0.0}
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
                "-" if time is None else duration(time),
                "-" if time is None else duration(time * open_trials),
            )
    console.print(table)
    parts = [f"{counts['done']} done", f"{counts['run']} to run"]
    if seconds is not None and counts["run"]:
        parts[1] += f", about {duration(sums['run'])} on this {device}"
    if counts["needs data"]:
        parts.append(f"{counts['needs data']} need data")
        parts[2] += f", about {duration(sums['needs data'])}" if seconds is not None and sums["needs data"] else ""
    console.print(f"{sum(counts.values())} trials: {'; '.join(parts)}.", soft_wrap=True)
    if seconds is not None:
        console.print("Times are scaled from a few steps on images of noise, in one process.", style="dim")
        if share() < _BUSY:
            whole = sums["run"] + sums["needs data"]
            console.print(
                f"The machine is busy: this process had {100 * share():.0f} % of the CPU time it asked for. Alone on it, "
                f"all that is open would take about {duration(whole * share())}.",
            )
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
    table = _grid(("", "ours", "published"), ("diff", "n", "passes"))
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
            "[dim]Points over the baseline: as it is; scored with as many looks at a test image; trained with as many image "
            "passes (one look); both. ±: paired, half of the 95 % interval over the test. =: the row looks once, as the baseline "
            "does. *: over fewer seeds. -: not run. What is above 0 in every column is earned by the labels.[/dim]"
        )


def _legend(console: Console, result: Reproduction) -> None:
    from slabench.results.published import UNVERIFIED

    plan, rows = result.plan, result.rows
    lines = ["%; ±: half of the 95 % interval over the test; n: seeds; passes: images passed in training."]
    if any(row.published and not row.published.verified for row in rows):
        lines.append(f"{UNVERIFIED}.")
    if plan.table.source:
        lines.append(f"Published: {plan.table.source}.")
    if plan.preset != "paper":
        lines.append(f"The preset {plan.preset} is not the paper's protocol: differences to it are of two protocols.")
    elif plan.table.note:
        lines.append(f"Not as in the paper: {plan.table.note}.")
    if any(recipe.limited for recipe in plan.recipes.values()):
        lines.append("Quick runs show that everything is in place; their numbers mean nothing.")
    for line in lines:
        console.print(line, style="dim", markup=False)


def _line(row: RowResult) -> Sequence[str]:
    from slabench.results.published import marked

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
        _millions(m.passes),
    )


def _value(measured: Measured) -> str:
    interval = "" if measured.ci95 is None else f" ± {100 * measured.ci95:.2f}"
    return f"{100 * measured.value:.2f}{interval}"


def _gain(row: RowResult, against: Against) -> str:
    if row.cell.looks == "single" and against in ("looked", "both"):
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
    from slabench.reproduction.plan import of_cell

    return {recipe.digest for cell in plan.cells if cell.column is column for recipe in of_cell(cell)}


def _grid(left: Sequence[str], right: Sequence[str]) -> Table:
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for place, heading in enumerate(left):
        made.add_column(heading, overflow="fold", no_wrap=place > 0)
    for heading in right:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def _millions(images: int) -> str:
    return f"{images / 1e6:.2f}M" if images >= 10_000 else f"{images:,}"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
