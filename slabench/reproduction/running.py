"""`slabench.reproduce`: plan a published table, run what is missing, and read the table.

>>> from slabench import reproduce                                                              # doctest: +SKIP
>>> table = reproduce("sla2020/few-shot", only=["fc100-5shot/protonet*"], seeds=[0, 1, 2])       # doctest: +SKIP
>>> for row in table.rows:                                                                      # doctest: +SKIP
...     print(row.cell.name, row.measured, row.published, row.gains)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from slabench.executors.choose import choose
from slabench.executors.jobs import Resources, Settings, outcomes, trial_jobs
from slabench.executors.resources import Request, resources_of_all
from slabench.executors.running import Executor, run_jobs
from slabench.records.store import ResultStore
from slabench.reproduction.outcome import Reproduction, collect
from slabench.reproduction.planning import TablePlan, plan_table
from slabench.runner import RunListener, run
from slabench.runner.estimate import Estimator, seconds_of
from slabench.runner.trials import Outcome, Trial
from slabench.training.device import choose_device


def reproduce(
    name: str,
    preset: str = "standard",
    *,
    only: Sequence[str] = (),
    seeds: Iterable[int] | None = None,
    jobs: int | None = None,
    executor: str | None = None,
    resources: Sequence[str] = (),
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
        jobs: that run at a time; None: one in this process, or as the executor sees fit.
        executor: `local`, `slurm` or `ray`.
        resources: of each trial, such as `["gpus=1", "minutes=240"]`.
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
    request = Request.parse(resources)
    chosen = choose(executor, jobs, request, device=device, wait=wait)
    plan = plan_table(name, preset, only=only, seeds=seeds, results=results, data_folder=data_folder)
    needs = needed(plan, request, chosen, device) if chosen else None
    found = run_missing(
        plan, executor=chosen, resources=needs, data_folder=data_folder, device=device, threads=threads, wait=wait
    )
    return collect(plan, found)


def needed(
    plan: TablePlan, request: Request, executor: Executor, device: str, estimator: Estimator | None = None
) -> dict[str, Resources]:
    """What each trial of a plan that is to be run needs, by key; time is measured where the executor asks for it."""
    return resources_of_all(in_order(plan), request, executor.name, device, seconds_of(estimator))


def run_missing(
    plan: TablePlan,
    *,
    jobs: int | None = None,
    executor: Executor | None = None,
    resources: Mapping[str, Resources] | None = None,
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
        jobs: above 1 and without an executor, so many processes of this machine.
        executor: see `slabench.executors.choose`; None runs one trial after the other in this process.
        resources: of each trial, by key.
        data_folder: of prepared data.
        device: of all processes.
        threads: CPU threads of each process.
        wait: before it ends, wait for the trials that other commands run, and take over those whose process has died.
        listener: told about the progress of this process.
        say: told every line of an executor.
        argv: the command line, for the records.
    """
    executor = executor or choose(None, jobs, Request(), device=device)
    missing = plan.missing
    if not missing:
        return []
    if executor is None:
        return run(
            missing,
            plan.seeds,
            results=plan.results,
            wait=wait,
            listener=listener,
            data_folder=data_folder,
            device=device,
            threads=threads,
            argv=argv,
        )
    if executor.name == "local":
        choose_device(device)  # a wrong one is an error before any process starts
    trials = in_order(plan)
    settings = Settings(plan.results, data_folder, device, threads, argv=tuple(argv))
    results = run_jobs(executor, trial_jobs(trials, resources), settings, say, wait=wait, listener=listener)
    return outcomes(trials, results, ResultStore(plan.results))


def in_order(plan: TablePlan) -> list[Trial]:
    """The trials to run: all recipes at the first seed, then all at the next."""
    depth = max((len(trials) for trials in plan.trials.values()), default=0)
    every = (trials[place] for place in range(depth) for trials in plan.trials.values() if place < len(trials))
    found = {trial.key: trial for trial in every if trial.done is None}
    return list(found.values())
