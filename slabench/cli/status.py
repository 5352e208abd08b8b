"""`slabench status`: what is queued, running, stopped, failed and done in a folder of results, once or again and again."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slabench.cli.common import notes_console, warn
from slabench.cli.streams import Screen, export
from slabench.core import paths
from slabench.core.errors import UsageError
from slabench.executors.submissions import told
from slabench.progress import duration
from slabench.ranking.formats.terminal import elided
from slabench.records.status import STATES, Standing, Survey

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_DONE = 5
"""Finished trials that are shown without `--all`: the latest."""

_NAME = 10
"""Characters of a name that are shown at least."""

_COLOURS = {"running": "bold green", "queued": "", "stopped": "yellow", "failed": "red", "done": "dim"}


def status(
    results: Annotated[Path | None, typer.Option(help="Folder of records. Default: results/ here.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Draw the table anew until nothing runs or waits any more; Ctrl-C ends it.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1)] = 2.0,
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Every finished trial, not the latest {_DONE} alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what is queued, running, stopped, failed and done in a folder of results.

    Read from what running commands tell of themselves, from locks, checkpoints and records. A trial that is stopped goes on
    where it was when its command is run again.

    \\b
    slabench status
    slabench status --watch
    slabench status --results results --json
    """
    if watch and as_json:
        raise UsageError("--watch is for people and --json for programs", "give one of the two")
    survey = Survey(paths.results(results), told)
    if as_json:
        found = survey.look()
        warn(notes_console(), survey.problems)
        export(json.dumps([_facts(one) for one in found], indent=2) + "\n")
        return
    console = Screen()
    if watch:
        _watch(console, survey, every, show_all)
        return
    found = survey.look()
    warn(notes_console(), survey.problems)
    _print(console, survey, found, show_all)


def _print(console: Console, survey: Survey, found: Sequence[Standing], show_all: bool) -> None:
    console.print(_counts(survey, found), soft_wrap=True, markup=False)
    if found:
        console.print(_table(console.width, found, show_all))


def _watch(console: Console, survey: Survey, every: float, show_all: bool) -> None:
    """Until nothing runs or waits; where the output is no terminal, a line whenever something has changed, and the table last."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def busy(found: Sequence[Standing]) -> bool:
        return any(one.state in ("running", "queued") for one in found)

    found = survey.look()
    if not console.is_terminal:
        said = ""
        while busy(found):
            if (counts := _counts(survey, found)) != said:
                said = counts
                console.print(said, soft_wrap=True, markup=False)
            time.sleep(every)
            found = survey.look()
        _print(console, survey, found, show_all)
        return

    def drawn() -> Group:
        return Group(Text(_counts(survey, found)), _table(console.width, found, show_all))

    with Live(drawn(), console=console, auto_refresh=False) as live:
        try:
            while busy(found):
                time.sleep(every)
                found = survey.look()
                live.update(drawn(), refresh=True)
        except KeyboardInterrupt:
            return


def _counts(survey: Survey, found: Sequence[Standing]) -> str:
    """`1 running, 2 queued, 5 done in results`."""
    counts = Counter(one.state for one in found)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    return f"{', '.join(parts) or 'nothing'} in {survey.root}"


def _table(width: int, found: Sequence[Standing], show_all: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    done = [one for one in found if one.state == "done"]
    done.sort(key=lambda one: one.record.finished if one.record else "", reverse=True)
    shown = [*(one for one in found if one.state != "done"), *(done if show_all else done[:_DONE])]
    states, keys = [one.state for one in shown], [one.key[:8] for one in shown]
    seeds = ["-" if one.seed is None else str(one.seed) for one in shown]
    far = [_far(one) for one in shown]
    taken = sum(
        1 + max(map(len, (heading, *texts)))
        for heading, texts in (("state", states), ("key", keys), ("seed", seeds), ("how far", far))
    )
    # What is left goes to protocols, half of it at most, and to recipes.
    room = width - taken - 2
    protocols = elided([one.protocol or "-" for one in shown], max(_NAME, room // 2))
    recipes = elided([one.name or "-" for one in shown], max(_NAME, room - max(map(len, protocols), default=0)))
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("state", "key", "recipe", "protocol", "seed", "how far"):
        table.add_column(heading, justify="right" if heading == "seed" else "left", no_wrap=True)
    for state, *texts in zip(states, keys, recipes, protocols, seeds, far, strict=True):
        table.add_row(Text(state, style=_COLOURS[state]), *(Text(text) for text in texts))
    if len(done) > _DONE and not show_all:
        table.add_row("", "", Text(f"{len(done) - _DONE} more are done", style="dim"))
    return table


def _far(one: Standing) -> str:
    """Steps and time left of what is unfinished, the accuracy of what is done, the error of what failed."""
    if one.record is not None and one.record.scores:
        best = max(one.record.scores, key=lambda score: score.value)
        return f"{best.predictor} {100 * best.value:.2f} %"
    error = one.record.error if one.record is not None else one.error
    if error:
        return elided([error.strip().splitlines()[-1]], 30)[0]
    step = one.step or 0
    text = f"step {step:,}" if one.steps is None else f"{step:,}/{one.steps:,}"
    return text if one.left is None else f"{text}, {duration(one.left)} left"


def _facts(one: Standing) -> dict[str, Any]:
    return {
        "state": one.state,
        "key": one.key,
        "name": one.name or None,
        "protocol": one.protocol or None,
        "seed": one.seed,
        "step": one.step,
        "steps": one.steps,
        "seconds_left": None if one.left is None else round(one.left, 1),
        "scores": {score.predictor: score.value for score in one.record.scores} if one.record else None,
        "error": one.record.error if one.record else one.error,
    }
