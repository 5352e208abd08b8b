"""Give jobs to an executor, each to one owner: what another command has is waited for, and run where that one left it open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from slabench.core.locks import hold
from slabench.executors.claims import Claims, Owner
from slabench.executors.jobs import Job, Result, Settings
from slabench.executors.work import do
from slabench.records.store import ResultStore
from slabench.runner import RunListener

Say = Callable[[str], None]


class Executor(Protocol):
    """Where jobs run."""

    @property
    def name(self) -> str:
        """As typed after `--executor`."""
        ...

    def plan(self, jobs: Sequence[Job]) -> list[str]:
        """What would be started or submitted, in lines, for `--dry-run`."""
        ...

    def run(self, jobs: Sequence[Job], settings: Settings, say: Say, claims: Claims | None) -> list[Result]:
        """Run jobs and say what became of each. Where `claims` are made, jobs that outlive this command are handed over there."""
        ...

    def lives(self, owner: Owner) -> bool:
        """Whether another command's claim still holds."""
        ...


def run_jobs(
    executor: Executor,
    jobs: Sequence[Job],
    settings: Settings,
    say: Say = lambda line: None,
    *,
    wait: bool = True,
    listener: RunListener | None = None,
) -> list[Result]:
    """Run jobs; one result each, in their order.

    Args:
        executor: see `slabench.executors.choose`.
        jobs: see `slabench.executors.jobs`.
        settings: of all jobs.
        say: told every line of progress.
        wait: for what other commands have, and run what they leave open; else those results are `busy`.
        listener: told about the progress of what this process itself runs in the end.

    Raises:
        Interrupted: after Ctrl-C; says what became of the jobs.
    """
    if not jobs:
        return []
    found: dict[str, Result]
    if executor.name == "local" and _can_lock(settings.results):
        # A lock ends with its process, which no claim does.
        found = {result.key: result for result in executor.run(jobs, settings, say, None)}
        for job in jobs if wait else ():
            if found[job.key].state == "busy":
                found[job.key] = do(job, settings, listener)
        return _in_order(jobs, list(found.values()))
    claims = Claims(settings.results, Owner.this_command(executor.name), executor.lives)
    store, found = ResultStore(settings.results), {}
    left, said = list(jobs), False
    while left:
        owners = {job.key: claims.take(job.key) for job in left}
        own = [job for job in left if owners[job.key] is None]
        try:
            # Another command may have finished some since they were planned.
            done = store.finished_among([job.key for job in own]) if settings.resume != "force" else {}
            found |= {key: Result(key, "skipped") for key in done}
            todo = [job for job in own if job.key not in done]
            found |= {result.key: result for result in (executor.run(todo, settings, say, claims) if todo else [])}
        finally:
            claims.release(job.key for job in own if not _goes_on(claims, job.key, found))
        left = [job for job in left if job.key not in found]
        if left and not wait:
            found |= {job.key: Result(job.key, "busy", f"{owners[job.key]} has this trial") for job in left}
            break
        if left and not said:
            said = True
            say(_waiting(left, owners, settings.results))
        while left and all(claims.of_others(job.key) for job in left):
            time.sleep(1.0)
    return _in_order(jobs, list(found.values()))


def _goes_on(claims: Claims, key: str, found: dict[str, Result]) -> bool:
    """Whether a submission has the job, and goes on without this command."""
    return claims.submitted(key) and (key not in found or found[key].state == "busy")


def _waiting(left: Sequence[Job], owners: dict[str, Owner | None], root: Path) -> str:
    which = "a trial" if len(left) == 1 else f"{len(left)} trials"
    return (
        f"waiting for {which} of another command ({owners[left[0].key]}): what it leaves open is run here (--no-wait ends at "
        f"once). If it is gone for good, remove {root}/checkpoints/{left[0].key[:12]}.owner"
    )


def _can_lock(root: Path) -> bool:
    probe = Path(root) / "checkpoints" / "probe.lock"
    with hold(probe, seconds=5) as state:
        can = not isinstance(state, OSError)
    if not can:  # the file was made, and nobody could hold it
        probe.unlink(missing_ok=True)
    return can


def _in_order(jobs: Sequence[Job], results: Sequence[Result]) -> list[Result]:
    of = {result.key: result for result in results}
    return [of[job.key] for job in jobs if job.key in of]
