"""The executor that a command line names."""

from __future__ import annotations

from slabench.core.errors import UsageError, unknown_name
from slabench.executors.local import Local
from slabench.executors.resources import Request
from slabench.executors.running import Executor

NAMES = ("local", "slurm", "ray")


def choose(
    name: str | None,
    jobs: int | None,
    request: Request,
    *,
    device: str = "auto",
    resume: str = "auto",
    wait: bool = True,
) -> Executor | None:
    """The executor; None where the command itself is to run one trial after the other.

    Args:
        name: one of `NAMES`; None: `local` where there are to be several jobs, or where resources are asked for.
        jobs: at most so many at a time; None: as the executor sees fit.
        request: what `--resource` and `--partition` say.
        device: as in `slabench.run`.
        resume: as in `slabench.run`.
        wait: for jobs that do not need this command, and for those of other commands.

    Raises:
        UsageError: an unknown one, or one that cannot do this here.
    """
    if name is not None and name not in NAMES:
        raise unknown_name("executor", name, NAMES)
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one process does the work", "write for example --jobs 2")
    if name is None and (jobs is None or jobs == 1) and request == Request():
        return None
    if name in ("slurm", "ray") and resume != "auto":
        # A job that is started anew after it was stopped could not tell which of the two it is.
        raise UsageError(
            f"--resume {resume} is for this machine: with --executor {name} a job goes on with what was begun",
            "leave --resume out, or --executor local",
        )
    if name == "slurm":
        from slabench.executors.slurm import Slurm

        return Slurm.here(request, jobs, wait)
    if name == "ray":
        from slabench.executors.ray import Ray

        return Ray.here(request, jobs)
    request.only_for("local", ())
    return Local.here(jobs, device)
