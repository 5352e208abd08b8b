"""`slabench.reproduce`: plan a published table, run what is missing, and read the table.

>>> from slabench import reproduce                                                              # doctest: +SKIP
>>> table = reproduce("sla2020/few-shot", only=["fc100-5shot/protonet*"], seeds=[0, 1, 2])       # doctest: +SKIP
>>> for row in table.rows:                                                                      # doctest: +SKIP
...     print(row.cell.name, row.measured, row.published, row.gains)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from slabench.core.errors import UsageError
from slabench.recipes import AnyRecipe
from slabench.reproduction.outcome import Reproduction, collect
from slabench.reproduction.planning import TablePlan, plan_table
from slabench.reproduction.workers import run_parallel
from slabench.runner import RunListener, run
from slabench.runner.trials import Outcome, Trial
from slabench.training.device import choose_device


def reproduce(
    name: str,
    preset: str = "standard",
    *,
    only: Sequence[str] = (),
    seeds: Iterable[int] | None = None,
    jobs: int = 1,
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    wait: bool = True,
) -> Reproduction:
    """A published table: what is missing is run, rows whose data is not here are left open.

    Args:
        name: `sla2020/few-shot`, or a path that ends in `.toml`.
        preset: `paper` (the paper's protocol), `standard` or `quick`.
        only: globs over `column/row`, columns or rows; none takes all.
        seeds: overrides the recipes' own.
        jobs: processes that share the work.
        results: the folder of records.
        data_folder: of prepared data.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: CPU threads of each process.
        wait: before it ends, wait for the trials that other commands run, and take over those whose process has died.

    Raises:
        UsageError: an unknown table, preset, row or device.
        DataError: the table's file is damaged.
        Interrupted: with the state saved.
    """
    plan = plan_table(name, preset, only=only, seeds=seeds, results=results, data_folder=data_folder)
    outcomes = run_missing(plan, jobs=jobs, data_folder=data_folder, device=device, threads=threads, wait=wait)
    return collect(plan, outcomes)


def run_missing(
    plan: TablePlan,
    *,
    jobs: int = 1,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    wait: bool = True,
    listener: RunListener | None = None,
    say: Callable[[str], None] = lambda line: None,
    argv: Sequence[str] = (),
) -> list[Outcome]:
    """Run the trials of a plan that have no record; arguments as of `reproduce`.

    Args:
        plan: see `plan_table`.
        jobs: above 1, trials run in processes of their own and are told to `say` line by line, else to `listener`.
        data_folder: of prepared data.
        device: of all processes.
        threads: CPU threads of each process.
        wait: before it ends, wait for the trials that other commands run, and take over those whose process has died.
        listener: told about progress.
        say: told every line of a process.
        argv: the command line, for the records.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one process does the work", "write for example --jobs 2")
    missing = plan.missing
    if not missing:
        return []
    choose_device(device)  # a wrong one is an error before any process starts
    settings: dict[str, Any] = {"data_folder": data_folder, "device": device, "threads": threads, "argv": argv}

    def here(recipes: Sequence[AnyRecipe], seeds: Sequence[int] | None) -> list[Outcome]:
        return run(recipes, seeds, results=plan.results, wait=wait, listener=listener, **settings)

    if jobs == 1:
        return here(missing, plan.seeds)
    outcomes = run_parallel(in_order(plan), jobs, plan.results, say=say, **settings)
    if not wait:
        return outcomes
    # What another command ran meanwhile; `run` waits for it, or takes it over.
    return [
        here([outcome.trial.recipe], [outcome.trial.seed])[0] if outcome.state == "busy" else outcome
        for outcome in outcomes
    ]


def in_order(plan: TablePlan) -> list[Trial]:
    """The trials to run: all recipes at the first seed, then all at the next."""
    depth = max((len(trials) for trials in plan.trials.values()), default=0)
    every = (trials[place] for place in range(depth) for trials in plan.trials.values() if place < len(trials))
    found = {trial.key: trial for trial in every if trial.done is None}
    return list(found.values())
