"""`--executor local`, `--jobs N`: processes of this machine that run jobs side by side.

Every slot has a process pool of one process, since Python's pool gives up all it holds once one of its processes is gone: a
process that dies (out of memory, a segmentation fault) fails its own job alone. A job has a device of its own where there are
devices, and waits for its memory. The runner's locks guard every trial, so that a second command in the same folder shares the
work as well. Interrupting the command asks every process once to save and stop.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import IO, cast

from rich.console import Console

from slabench.core.errors import UsageError
from slabench.core.memory import free_memory_mb
from slabench.executors import machine
from slabench.executors.claims import Claims, Owner, process_lives
from slabench.executors.jobs import Job, Result, Settings
from slabench.executors.work import do
from slabench.progress import ConsoleListener, Tally
from slabench.records.agenda import announce
from slabench.training.loop import Interrupted


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Attributes:
        jobs: at most so many side by side; None: one for each device, on a CPU one for each core. (Two trials of one thread
            each take less time than one after the other with two threads: docs/cluster.md.)
        devices: what `CUDA_VISIBLE_DEVICES` is to say for each device; empty on a CPU.
        cores: of this machine.
        memory_mb: that all jobs may take together, in MiB; None: nobody knows, and nothing waits for it.
    """

    jobs: int | None = None
    devices: tuple[str, ...] = ()
    cores: int = 1
    memory_mb: int | None = None
    name = "local"

    @classmethod
    def here(cls, jobs: int | None = None, device: str = "auto") -> Local:
        """With what this machine has."""
        if jobs is not None and jobs < 1:
            raise UsageError(f"--jobs {jobs}: at least one process does the work", "write for example --jobs 2")
        return cls(jobs, tuple(machine.devices(device)), machine.cores(), free_memory_mb())

    def slots(self, jobs: Sequence[Job]) -> int:
        """How many of these jobs run side by side."""
        each = max((job.resources.cores for job in jobs), default=1)
        fitting = len(self.devices) or max(1, self.cores // each)
        asked = fitting if self.jobs is None else min(self.jobs, len(self.devices) or self.jobs)
        return max(1, min(asked, len(jobs)))

    def threads(self, slots: int) -> int:
        """Of each job, where the user has not said: a share of the cores."""
        return max(1, self.cores // slots)

    def plan(self, jobs: Sequence[Job]) -> list[str]:
        """What would be started, for `--dry-run`."""
        slots = self.slots(jobs)
        lines = [f"executor local: {len(jobs)} jobs, {slots} side by side, {self.threads(slots)} threads each"]
        if self.devices:
            lines.append(f"each has a device of its own: CUDA_VISIBLE_DEVICES = {' or '.join(self.devices[:slots])}")
            if self.jobs is not None and self.jobs > len(self.devices):
                lines.append(f"--jobs {self.jobs} is more than the {len(self.devices)} devices: the others wait")
        if self.memory_mb is not None and any(job.resources.memory_mb for job in jobs):
            lines.append(f"a job waits until its memory is free: {self.memory_mb / 1024:.1f} GiB for all of them")
        return lines

    def lives(self, owner: Owner) -> bool:
        """Jobs end with their command."""
        return process_lives(owner)

    def run(
        self,
        jobs: Sequence[Job],
        settings: Settings,
        say: Callable[[str], None] = lambda line: None,
        claims: Claims | None = None,
    ) -> list[Result]:
        """Run jobs in their order; one that fails leaves the others alone, one whose trial another process holds is `busy`.

        Args:
            jobs: what to do.
            settings: of all.
            say: told every line of progress, from one thread at a time.
            claims: nothing outlives this command, so that nothing is handed over.

        Raises:
            Interrupted: after SIGINT or SIGTERM, when all processes have saved and ended.
        """
        slots = self.slots(jobs)
        # With one device to see, it is the first.
        device = "cuda" if self.devices else settings.device
        settings = replace(settings, device=device, threads=settings.threads or self.threads(slots))
        queue, results = _Queue(jobs, self.memory_mb), list[Result]()
        one_at_a_time = threading.Lock()

        def tell(line: str) -> None:
            with one_at_a_time:
                say(line)

        stopped = threading.Event()
        tally = Tally({job.key: job.images for job in jobs}, slots)
        workers = [
            _Slot(number, settings.text(), self.devices[number - 1] if self.devices else None, tell, stopped, tally)
            for number in range(1, slots + 1)
        ]
        # Each process announces the trial that it is at; this one, all that wait.
        with announce(settings.results, [job.planned for job in jobs if job.planned is not None]):
            with _stop_requests(workers, stopped), ThreadPoolExecutor(slots) as pool:
                try:
                    for future in as_completed([pool.submit(worker.work, queue, results) for worker in workers]):
                        future.result()
                except BaseException:  # the screen is closed, say: no process is left to work on alone
                    stopped.set()
                    for worker in workers:
                        worker.interrupt()
                    raise
            if stopped.is_set():
                raise Interrupted(
                    f"stopped after {len(results)} of {len(jobs)} trials; the state of the others is saved",
                    "run the same command again to go on from there",
                )
        return results


class _Queue:
    """Jobs in their order, each given out when its memory is free.

    Args:
        jobs: numbered from 1.
        memory_mb: for all that run; None: as much as they want.
    """

    def __init__(self, jobs: Sequence[Job], memory_mb: int | None) -> None:
        self._waiting, self._free, self._running = deque(enumerate(jobs, 1)), memory_mb, 0
        self._changed = threading.Condition()

    def take(self, stopped: threading.Event) -> tuple[int, Job] | None:
        """The next one and its number; None where none is left, or all are to stop. Waits for memory.

        A job that is alone is given out whatever it wants: it may need less than was estimated.
        """
        with self._changed:
            while self._waiting and not stopped.is_set():
                wanted = self._waiting[0][1].resources.memory_mb
                if self._free is None or wanted <= self._free or not self._running:
                    self._running += 1
                    self._free = None if self._free is None else self._free - wanted
                    return self._waiting.popleft()
                self._changed.wait(0.2)  # and see whether all are to stop
        return None

    def give_back(self, job: Job) -> None:
        """The memory of a job that has ended."""
        with self._changed:
            self._running -= 1
            self._free = None if self._free is None else self._free + job.resources.memory_mb
            self._changed.notify_all()


class _Slot:
    """One process after another that takes jobs until none is left; its number, from 1, stands before its lines."""

    def __init__(
        self,
        number: int,
        settings: str,
        device: str | None,
        say: Callable[[str], None],
        stopped: threading.Event,
        tally: Tally,
    ) -> None:
        self.number, self.settings, self.device = number, settings, device
        self.say, self.stopped, self.tally = say, stopped, tally
        self.pool: ProcessPoolExecutor | None = None
        self.lines: Connection | None = None
        self.process: BaseProcess | None = None

    def work(self, queue: _Queue, results: list[Result]) -> None:
        """Take jobs from `queue` and add what became of them to `results`; runs in a thread of its own."""
        # A new process takes this over: Ctrl-C in the terminal, which reaches it too, has to wait until it can deal with it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            while (taken := queue.take(self.stopped)) is not None:
                place, job = taken
                self.tally.begin(job.key)
                try:
                    result = self._run(job, place)
                finally:
                    queue.give_back(job)
                if result is not None:
                    results.append(result)
                    self.say(self.tally.end(job.key, result.state == "ran"))
        finally:
            self._close()

    def interrupt(self) -> None:
        """Ask the process to save and stop, if there is one."""
        process = self.process
        if process is not None and process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)

    def _run(self, job: Job, place: int) -> Result | None:
        """What became of a job, which is number `place` of all; None where it was stopped."""
        reader, writer = None, None
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            reader, writer = context.Pipe(duplex=False)
            self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(writer, self.device))
            self.lines = reader
        future = self.pool.submit(_run_job, job.text(), self.settings, (place, self.tally.count))
        if writer is not None:
            writer.close()  # the process has its own: when that one is closed, it has died
        assert self.lines is not None
        with suppress(EOFError):
            while self.lines.poll(0.1) or not future.done():
                if self.lines.poll():
                    self._receive(self.lines.recv())
        try:
            return future.result()
        except BrokenProcessPool:
            if self.stopped.is_set():
                return None
            why = f"its process ended{self._how()}"
            self._close()
            self.say(f"[{self.number}] failed: {why}")
            return Result(job.key, "failed", why)

    def _receive(self, message: str | int) -> None:
        """A line, or the number of the process, which is the first message."""
        if isinstance(message, str):
            self.say(f"[{self.number}] {message}")
            return
        self.process = next((child for child in multiprocessing.active_children() if child.pid == message), None)
        if self.stopped.is_set():  # asked while the process was starting
            self.interrupt()

    def _how(self) -> str:
        if self.process is None:
            return " before it had begun"
        code = self.process.exitcode
        end = time.monotonic() + 5
        while code is None and time.monotonic() < end:  # the pool waits for it in a thread of its own
            time.sleep(0.01)
            code = self.process.exitcode
        if code is None:
            return ""
        if code >= 0:
            return f" with code {code}"
        return f" by signal {-code} ({signal.strsignal(-code)})" + (
            ": out of memory?" if code == -signal.SIGKILL else ""
        )

    def _close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown()
        if self.lines is not None:
            self.lines.close()
        self.pool, self.lines, self.process = None, None, None


@contextmanager
def _stop_requests(workers: Sequence[_Slot], stopped: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event and are passed on to every process."""

    def handle(number: int, frame: FrameType | None) -> None:
        stopped.set()
        for worker in workers:
            worker.interrupt()

    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# From here on: what runs in the process of a job.


class _Own:
    """The state of this process."""

    lines: Connection
    working = False
    asked_to_stop = False


def _begin(lines: Connection, device: str | None) -> None:
    """Make this process one that Ctrl-C in the terminal does not reach, and that does not outlive its parent.

    It sees no other device than its own: CUDA asks only when it is used for the first time.
    """
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    os.setsid()

    def handle(number: int, frame: FrameType | None) -> None:
        _Own.asked_to_stop = True
        if _Own.working:  # and not in the training loop, which sets a handler of its own
            raise KeyboardInterrupt

    def follow() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    threading.Thread(target=follow, daemon=True).start()
    _Own.lines = lines
    lines.send(os.getpid())


def _run_job(job: str, settings: str, place: tuple[int, int]) -> Result | None:
    """Run a job; None where it was stopped."""
    listener = ConsoleListener(
        Console(file=cast(IO[str], _Lines(_Own.lines.send)), highlight=False, color_system=None, width=120), place
    )
    try:
        _Own.working = True
        if _Own.asked_to_stop:
            return None
        return do(Job.read(job), Settings.read(settings), listener, wait=False)  # it takes another job instead
    except (Interrupted, KeyboardInterrupt):
        _Own.lines.send("stopped; its state is saved")
        return None
    finally:
        _Own.working = False
        listener.close()
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(130)  # nobody is left to take a result or to give another job


class _Lines:
    """A text file that hands whole lines on."""

    def __init__(self, hand: Callable[[str], None]) -> None:
        self.hand, self.rest = hand, ""

    def write(self, text: str) -> int:
        """Hand on the whole lines, keep the rest."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.hand(line.rstrip())
        return len(text)

    def flush(self) -> None:
        """Lines are handed on as they end."""

    def isatty(self) -> bool:
        """False: progress comes in lines."""
        return False
