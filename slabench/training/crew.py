"""The processes that torchrun started for one command: the first leads, the others do what it tells them.

Only the leader plans, locks, prints and writes. It tells the others which trial is next through torchrun's store; for each trial
they open a process group of their own, so that one that fails in all of them can be followed by the next.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from slabench.core.errors import SlabenchError, UsageError
from slabench.core.team import PeerLostError, gone
from slabench.core.torchrun import Launch, launched
from slabench.training.loop import Interrupted

_GLANCE = 0.05
"""Seconds between two looks at the store: a wait within torch would hear no signal, and grumbles on stderr."""
_PATIENCE = 1800.0  # seconds: for the data to be opened, and for the slowest process to end its part of a trial
_ALONE = 3.0
"""Seconds after which a process that fails is taken to fail alone: the others would be at the same step."""
_FAREWELL = 5.0
_ANSWER = timedelta(minutes=10)


class Crew:
    """One process's side of a command that torchrun started.

    Args:
        launch: which process this is.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self._store, *_ = next(rendezvous("env://"))
        self._said = self._trials = 0
        self.broken = False

    @classmethod
    def assemble(cls) -> Crew | None:
        """The crew of this process; None for a process alone."""
        launch = launched()
        return None if launch is None else cls(launch)

    def facts(self, device: torch.device) -> dict[str, Any]:
        """For the record."""
        return {"count": self.launch.size, "backend": _backend(device), "batch_norm": "synchronised"}

    def tell(self, **what: Any) -> None:
        """Tell the others something; the leader alone does."""
        self._store.set(f"told/{self._said}", json.dumps(what))
        self._said += 1

    def listen(self) -> dict[str, Any]:
        """What the leader tells next, however long it takes."""
        name, self._said = f"told/{self._said}", self._said + 1
        self._wait(name, None)
        found: dict[str, Any] = json.loads(self._store.get(name))
        if found["do"] == "end":
            self._store.set(f"gone/{self.launch.rank}", "")
        return found

    @contextmanager
    def dismissed(self) -> Iterator[None]:
        """After the block the others are told to end; the store may be in this process, which waits until they have heard it."""
        whole = False
        try:
            yield
            whole = True
        finally:
            with suppress(RuntimeError, PeerLostError):
                self.tell(do="end")
                for rank in range(1, self.launch.size if whole else 1):
                    self._wait(f"gone/{rank}", _FAREWELL)

    def ready(self, error: str = "") -> None:
        """Tell the leader that this process can begin, or why it cannot."""
        self._store.set(f"ready/{self.launch.rank}", error)

    def require_ready(self) -> None:
        """Wait until all others can begin.

        Raises:
            UsageError: one of them cannot; says why.
        """
        for rank in range(1, self.launch.size):
            self._wait(f"ready/{rank}", _PATIENCE)
            if error := self._store.get(f"ready/{rank}").decode():
                raise UsageError(f"process {rank} of {self.launch.size}: {error}")

    @contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """The block is one trial's, in all processes at once; its end waits for all of them.

        An error of one process is the trial's. Whoever has it says so and leaves the group, which breaks off what the others wait
        for; the next trial has a group of its own.

        Raises:
            PeerLostError: another process has gone.
            SlabenchError: one process failed and another did not; says which rank, and with what.
        """
        self._trials += 1
        _use(device)
        with _gone():
            dist.init_process_group(
                _backend(device),
                store=_part(self._store, f"trial/{self._trials}/group"),
                rank=self.launch.rank,
                world_size=self.launch.size,
                timeout=_ANSWER,
            )
        problem: Exception | None = None
        try:
            yield
            # Who closes the group first would cut the last message off for the others.
            failed = self._leave("", _PATIENCE)
        except Exception as error:
            problem = error
            lost = isinstance(error, PeerLostError | dist.DistError)
            own = "" if lost or isinstance(error, Interrupted) else _described(error)
            failed = self._leave(own, 0.0 if lost else _ALONE)
            if isinstance(error, dist.DistError) and not failed:
                raise gone(error) from error
            if not failed or len(failed) == self.launch.size:
                raise
        finally:
            with suppress(RuntimeError):
                dist.destroy_process_group()
        if failed:
            self.broken = device.type == "cuda"
            rank, text = next(iter(failed.items()))
            raise SlabenchError(f"rank {rank} of {self.launch.size} processes: {text}") from problem

    def require_whole(self) -> None:
        """End this process where a trial on GPUs failed in some of the processes only.

        The others' devices wait in the middle of its step: NCCL's messages end with their processes, gloo's with their group.

        Raises:
            SlabenchError: it did.
        """
        if self.broken:
            raise SlabenchError(
                "a trial failed in one of the processes alone, which ends all of them",
                "run the same command again; --seeds leaves the failed trial out",
            )

    def _leave(self, error: str, seconds: float) -> dict[int, str]:
        """Tell the others that the trial is over here, or its error; the errors, by rank, once all have or time is up."""
        of, ranks = _part(self._store, f"trial/{self._trials}/left"), range(self.launch.size)
        try:
            of.set(str(self.launch.rank), error)
            end = time.monotonic() + seconds
            while time.monotonic() < end and not of.check([str(rank) for rank in ranks]):
                time.sleep(_GLANCE)
            told = {rank: of.get(str(rank)).decode() for rank in ranks if of.check([str(rank)])}
        except RuntimeError:  # the store has gone with its process
            return {}
        return {rank: text for rank, text in told.items() if text}

    def _wait(self, name: str, seconds: float | None) -> None:
        """Until `name` is there."""
        begin = time.monotonic()
        while seconds is None or time.monotonic() - begin < seconds:
            try:
                if self._store.check([name]):
                    return
            except RuntimeError as error:
                raise PeerLostError("the process that holds torchrun's store is gone") from error
            time.sleep(_GLANCE)
        raise PeerLostError(f"another process has not answered for {seconds:,.0f} s")


def _part(store: Any, name: str) -> Any:
    """The keys of `store` that begin with `name`."""
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


def own_device(name: str, launch: Launch) -> str:
    """The device of one of several processes: `cuda` is that of its own number.

    Raises:
        UsageError: there are fewer, or one is named that all would share.
    """
    cuda = torch.cuda.is_available() if name == "auto" else name == "cuda"
    if name.startswith("cuda:"):
        raise UsageError(
            f"--device {name} is one device, and torchrun started {launch.size} processes", "--device cuda"
        )
    if not cuda:
        return name
    if launch.local_rank >= (count := torch.cuda.device_count()):
        raise UsageError(
            f"process {launch.local_rank} of this machine has no device of its own: torch sees {count}",
            f"torchrun --nproc-per-node {count}, or --device cpu" if count else "--device cpu",
        )
    return f"cuda:{launch.local_rank}"


def _described(error: Exception) -> str:
    """An error for a process that has not got it: with its place, where slabench did not foresee it."""
    if isinstance(error, SlabenchError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def _backend(device: torch.device) -> str:
    """Tensors of a GPU go by NCCL; questions between steps are asked on the CPU, by gloo."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _use(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise PeerLostError(f"the processes do not find each other ({str(error).splitlines()[0][:120]})") from error


def same_plan(told: Sequence[str], own: Sequence[str]) -> str:
    """Why this process cannot take part in the leader's trials; empty where it can."""
    if list(told) == list(own):
        return ""
    return (
        f"it plans {len(own)} trials with other keys than the first process's {len(told)}: "
        "code, plug-ins and data must be the same on all machines"
    )
