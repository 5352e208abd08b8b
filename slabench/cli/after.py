"""What one types after a run: two commands with their arguments, which work as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slabench.core import paths
from slabench.core.errors import UsageError
from slabench.core.files import SHORT

if TYPE_CHECKING:
    from rich.console import Console

    from slabench.ranking.entries import Entry
    from slabench.records.record import RunRecord
    from slabench.runner.trials import Outcome


def say_next(console: Console, outcomes: Sequence[Outcome], results: Path | None, *more: str) -> None:
    """Print the `next_commands`, and `more` below them."""
    console.print("Next:")
    for command in (*next_commands(outcomes, results), *more):
        console.print(f"  {command}", soft_wrap=True, markup=False)


def next_commands(outcomes: Sequence[Outcome], results: Path | None) -> list[str]:
    """Two commands: where the finished trials stand, and what they are compared with; what went wrong, where something has.

    Args:
        outcomes: of `slabench.runner.run`, at least one.
        results: the folder that was asked for; None for that of the environment, which the next command will find as well.
    """
    where = [] if results is None else ["--results", str(results)]
    finished = [one.record for one in outcomes if one.record is not None and one.state in ("ran", "skipped")]
    failed = [one for one in outcomes if one.state == "failed"]
    found: list[list[str]] = []
    if failed:
        found.append(["show", "run", failed[0].trial.key[:SHORT], *where])
    if len(found) + len(finished) < len(outcomes):
        found.append(["status", *where])
    if finished:
        first = finished[0]
        quick = ["--include-quick"] * first.limited
        found.append(["leaderboard", "--protocol", first.protocol, *quick, *where])
        pair = _pair(finished, paths.results(results))
        found.append(
            ["compare", *pair, "--protocol", first.protocol, *where]
            if pair
            else ["show", "run", first.key[:SHORT], *where]
        )
    return [shlex.join(["slabench", *words]) for words in found[:2]]


def _pair(finished: Sequence[RunRecord], root: Path) -> tuple[str, str] | None:
    """Joint labels and the plain baseline of the same model on the first protocol, one of them of this run; None without."""
    from slabench.comparison.controls import Control, controls
    from slabench.comparison.sides import choose
    from slabench.ranking.entries import entries
    from slabench.records.store import ResultStore

    protocol, keys = finished[0].protocol, {record.key for record in finished}
    store = ResultStore(root)
    known = store.scan()[0]
    here = [record for record in known if record.protocol == protocol]
    found = entries(here, None, include_limited=True, among=known)
    for entry in found:
        if not entry.objective.startswith("sla") or entry.records[0].derived:
            continue
        group = [other for other in found if other.group == entry.group]
        plain = dict(controls(entry, group)).get(Control.BASELINE)
        if plain is None or not keys & {record.key for record in (*entry.records, *plain.records)}:
            continue
        names = _name(entry), _name(plain)
        try:
            choose(store, known, *names, protocol)
        except UsageError:  # two recipes of one name: runs by their keys
            names = entry.records[0].key[:SHORT], plain.records[0].key[:SHORT]
        return names
    return None


def _name(entry: Entry) -> str:
    """As the leaderboard prints it."""
    first = entry.records[0]
    return first.name.removeprefix(f"{first.suite}/")
