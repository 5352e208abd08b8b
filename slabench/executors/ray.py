"""`--executor ray`: one task a job on a Ray cluster, or on this machine alone.

A task whose worker or node is lost is run again elsewhere, from its last checkpoint where the machines share the folder of
results. Where they do not, a task works in a folder of its own machine and sends back the files of its record. The tasks belong
to this command: Ctrl-C has them save and stop.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from slabench.core.errors import DataError, SlabenchError, UsageError
from slabench.core.files import write_bytes, write_text
from slabench.executors.claims import Claims, Owner, process_lives
from slabench.executors.jobs import Job, Result, Settings
from slabench.executors.resources import Request
from slabench.executors.work import do
from slabench.records.agenda import announce
from slabench.records.reading import read_record
from slabench.training.loop import Interrupted, stop_requests

if TYPE_CHECKING:
    from slabench.executors.running import Say

_RETRIES = 20
"""Times that a task is run again whose worker was lost."""
_GLANCE = 0.5
"""Seconds between two looks whether all are to stop."""
_SAVING_SECONDS = 120
"""That the tasks have to save after Ctrl-C."""
_LISTENING_SECONDS = 10
"""For the cluster to accept a connection."""
_SIZE_LIMIT = 4 << 30
"""Bytes of the files of one record that a task sends back."""


@dataclass(frozen=True)
class Ray:
    """Tasks of a Ray cluster.

    Attributes:
        request: what the user said.
        jobs: at most so many run at a time; None: as many as the cluster holds.
    """

    request: Request
    jobs: int | None = None
    name = "ray"

    @classmethod
    def here(cls, request: Request, jobs: int | None = None) -> Ray:
        """With the installed Ray.

        Raises:
            UsageError: there is none.
        """
        if importlib.util.find_spec("ray") is None:
            raise UsageError(
                "--executor ray needs the package ray, which is not installed", "pip install 'slabench[ray]'"
            )
        request.only_for("ray", ("address",))
        return cls(request, jobs)

    @property
    def address(self) -> str | None:
        """Of the cluster; None: one of this machine, which lives as long as the command."""
        return self.request.address or os.environ.get("RAY_ADDRESS") or None

    def lives(self, owner: Owner) -> bool:
        """Tasks end with their command."""
        return process_lives(owner)

    def plan(self, jobs: Sequence[Job]) -> list[str]:
        """Every task with what it asks for. No cluster is asked."""
        where = (
            f"the cluster at {self.address}" if self.address else "a Ray of this machine, which ends with the command"
        )
        at_once = "as many at a time as it holds" if self.jobs is None else f"{self.jobs} at a time"
        lines = [f"executor ray: {len(jobs)} tasks, {at_once}, on {where}"]
        return lines + [f"  {place}. {job.label}: {job.resources}" for place, job in enumerate(jobs, 1)]

    def run(self, jobs: Sequence[Job], settings: Settings, say: Say, claims: Claims | None) -> list[Result]:
        """Run jobs as tasks.

        Raises:
            Interrupted: after Ctrl-C, when the tasks have saved and ended.
            UsageError: there is no such cluster, or none of its nodes can hold a job.
        """
        settings = replace(settings, results=Path(settings.results).resolve())
        results: list[Result] = []
        with self._connected(), _token(settings.results) as token:
            self._check(jobs)
            with announce(settings.results, [job.planned for job in jobs if job.planned is not None]):
                tasks = _Tasks(jobs, settings, token, self.jobs or len(jobs))
                # Not by KeyboardInterrupt: one that is raised within a callback of Ray's is lost.
                with stop_requests() as stop:
                    for job, answer in tasks.answers(stop):
                        results.append(_received(job, answer, settings.results))
                        result = results[-1]
                        why = f": {result.error}" if result.error else ""
                        say(f"{result.state}: {job.label}{why}; {len(results)} of {len(jobs)} trials have ended")
                    if stop.is_set() and len(results) < len(jobs):
                        tasks.stop()
                        raise Interrupted(
                            f"stopped after {len(results)} of {len(jobs)} trials; the state of the others is saved",
                            "run the same command again to go on from there",
                        )
        return results

    @contextmanager
    def _connected(self) -> Iterator[None]:
        ray = _ray()
        if ray.is_initialized():  # by the program that called us
            yield
            return
        os.environ.setdefault(
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
        )  # a task without a GPU sees what the machine has
        own: dict[str, Any] = {"include_dashboard": False} if self.address is None else {"address": self.address}
        try:
            if self.address is not None:
                _require_listening(self.address)
            ray.init(log_to_driver=False, logging_level="ERROR", **own)
        except Exception as error:  # Ray raises bare ones
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            where = f"cannot join the cluster at {self.address}" if self.address else "cannot start on this machine"
            raise UsageError(
                f"--executor ray {where}: {why}",
                "start a cluster with: ray start --head; or --executor local",
            ) from error
        try:
            yield
        finally:
            ray.shutdown()

    def _check(self, jobs: Sequence[Job]) -> None:
        """Refuse a job that no node could ever hold: Ray would wait for one that can."""
        ray = _ray()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for job in jobs:
            wanted = {name: amount for name, amount in _options(job).items() if name != "max_retries" and amount}
            names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
            if not any(all(node.get(names[n], 0) >= amount for n, amount in wanted.items()) for node in nodes):
                most = {n: max((node.get(n, 0) for node in nodes), default=0) for n in names.values()}
                raise UsageError(
                    f"no node of the cluster holds a job that needs {job.resources}: the largest has {most['CPU']:g} cores, "
                    f"{most['GPU']:g} GPUs, {most['memory'] / 2**30:.1f} GiB",
                    "ask for less: --resource memory=2G, --resource gpus=0, --resource cores=1",
                )


class _Tasks:
    """The tasks of a command, a window of them at a time."""

    def __init__(self, jobs: Sequence[Job], settings: Settings, token: str, window: int) -> None:
        self._ray = _ray()
        self._function = self._ray.remote(run_task)
        self._waiting, self._window = deque(jobs), window
        self._settings, self._token = settings.text(), token
        self._given: dict[Any, Job] = {}

    def answers(self, stop: threading.Event) -> Iterator[tuple[Job, Mapping[str, Any]]]:
        """What each task sends back, as it ends, until all have or are to stop."""
        while (self._waiting or self._given) and not stop.is_set():
            while self._waiting and len(self._given) < self._window:
                job = self._waiting.popleft()
                task = self._function.options(**_options(job)).remote(job.text(), self._settings, self._token)
                self._given[task] = job
            found, _ = self._ray.wait(list(self._given), num_returns=1, timeout=_GLANCE)
            if not found:
                continue
            (ended,) = found
            job = self._given.pop(ended)
            try:
                yield job, self._ray.get(ended)
            except self._ray.exceptions.RayError as error:
                why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                if "No module named 'slabench'" in why:
                    why = "the node that it was given to has no slabench\ninstall slabench on every node of the cluster"
                yield job, {"state": "failed", "error": why}

    def stop(self) -> None:
        """Have those that run save and end."""
        for task in self._given:
            self._ray.cancel(task, force=False)
        if self._given:
            self._ray.wait(list(self._given), num_returns=len(self._given), timeout=_SAVING_SECONDS)


def _require_listening(address: str) -> None:
    """Raise OSError where nobody listens at `host:port`: Ray would try for minutes. Other addresses are Ray's to read."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LISTENING_SECONDS).close()


def _ray() -> Any:
    import ray

    return ray


def run_task(job_text: str, settings_text: str, token: str) -> dict[str, Any]:
    """Run a job in a worker of Ray: its state and error, and the files of its record where the folder is not shared."""
    job, settings = Job.read(job_text), Settings.read(settings_text)
    if not job.resources.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # those of the machine are other tasks'
    if _token_file(settings.results, token).is_file():
        result = do(job, settings)
        return {"state": result.state, "error": result.error}
    with tempfile.TemporaryDirectory(prefix="slabench-") as folder:
        result = do(job, replace(settings, results=Path(folder)))
        runs = sorted(path for path in (Path(folder) / "runs").rglob("*") if path.is_file())
        if sum(path.stat().st_size for path in runs) > _SIZE_LIMIT:
            raise SlabenchError("the files of the record are too large to send", "share the folder of results")
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in runs}
    return {"state": result.state, "error": result.error, "files": files}


def _received(job: Job, answer: Mapping[str, Any], root: Path) -> Result:
    """What became of a job; the files that it sent are in the folder of results then, the record last."""
    files: Mapping[str, bytes] = answer.get("files") or {}
    try:
        for name in sorted(files, key=lambda name: name.endswith(".json")):
            place = PurePosixPath(name)
            if place.is_absolute() or place.parts[0] != "runs" or ".." in place.parts:
                raise DataError(f"a worker sent a file that is no part of a record: {name}", "look at that machine")
            write_bytes(root / place, files[name])
            if name.endswith(".json"):
                read_record(root / place)
    except (DataError, OSError) as error:
        return Result(job.key, "failed", str(error))
    return Result(job.key, answer["state"], answer["error"])


def _options(job: Job) -> dict[str, Any]:
    """What Ray is asked for. Memory in bytes; nothing of what is not known."""
    needs = job.resources
    options: dict[str, Any] = {"num_cpus": needs.cores, "num_gpus": needs.gpus, "max_retries": _RETRIES}
    return options | ({"memory": needs.memory_mb << 20} if needs.memory_mb else {})


@contextmanager
def _token(root: Path) -> Iterator[str]:
    """A file in the folder of results for as long as the tasks run: a machine that sees it shares the folder."""
    token = uuid.uuid4().hex
    path = _token_file(root, token)
    write_text(path, token)
    try:
        yield token
    finally:
        path.unlink(missing_ok=True)


def _token_file(root: Path, token: str) -> Path:
    return Path(root) / "checkpoints" / f"ray-{token}.token"
