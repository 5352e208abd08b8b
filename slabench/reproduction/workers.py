"""`--jobs N`: processes that run the trials of a table side by side.

Every job has a process pool of one process, since Python's pool gives up all it holds once one of its processes is gone: a
process that dies (out of memory, a segmentation fault) fails its own trial alone. The runner's locks guard every trial, so that a
second command in the same folder shares the work as well. Interrupting the command asks every process once to save and stop.
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
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, cast

from rich.console import Console

from slabench import plugins
from slabench.progress import ConsoleListener, Tally
from slabench.recipes import parse_recipe
from slabench.records.agenda import announce
from slabench.records.store import ResultStore
from slabench.runner import run
from slabench.runner.trials import Outcome, Trial
from slabench.training.loop import Interrupted

State = Literal["ran", "skipped", "failed", "busy"]


def run_parallel(
    trials: Sequence[Trial],
    jobs: int,
    results: Path,
    *,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    argv: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Run trials in `jobs` processes; a trial that fails leaves the others alone.

    Args:
        trials: to run, in this order.
        jobs: processes.
        results: the folder of records.
        data_folder: of prepared data.
        device: as in `slabench.run`.
        threads: CPU threads of each process; None shares the cores out.
        argv: the command line, for the records.
        say: told every line of progress, from one thread at a time.

    Raises:
        Interrupted: after SIGINT or SIGTERM, when all processes have saved and ended.
    """
    settings: dict[str, Any] = {
        "results": results,
        "data_folder": data_folder,
        "device": device,
        "threads": threads or max(1, (os.cpu_count() or 1) // jobs),
        "argv": list(argv),
        "wait": False,  # a job takes another trial instead
    }
    waiting, outcomes = deque(enumerate(trials, 1)), list[Outcome]()
    one_at_a_time = threading.Lock()

    def tell(line: str) -> None:
        with one_at_a_time:
            say(line)

    stopped = threading.Event()
    tally = Tally({trial.key: trial.planned.images for trial in trials}, min(jobs, len(trials)))
    workers = [_Job(number, settings, tell, stopped, tally) for number in range(1, min(jobs, len(trials)) + 1)]
    # Each process announces the trial that it is at; this one, all that wait.
    with announce(results, [trial.planned for trial in trials]):
        with _stop_requests(workers, stopped), ThreadPoolExecutor(max(1, len(workers))) as pool:
            try:
                for future in as_completed([pool.submit(worker.work, waiting, outcomes) for worker in workers]):
                    future.result()
            except BaseException:  # the screen is closed, say: no process is left to work on alone
                stopped.set()
                for worker in workers:
                    worker.interrupt()
                raise
        if stopped.is_set():
            raise Interrupted(
                f"stopped after {len(outcomes)} of {len(trials)} trials; the state of the others is saved",
                "run the same command again to go on from there",
            )
    return outcomes


class _Job:
    """One process after another that takes trials until none is left; its number, from 1, stands before its lines."""

    def __init__(
        self,
        number: int,
        settings: dict[str, Any],
        say: Callable[[str], None],
        stopped: threading.Event,
        tally: Tally,
    ) -> None:
        self.number, self.settings, self.say, self.stopped, self.tally = number, settings, say, stopped, tally
        self.store = ResultStore(settings["results"])
        self.pool: ProcessPoolExecutor | None = None
        self.lines: Connection | None = None
        self.process: BaseProcess | None = None

    def work(self, waiting: deque[tuple[int, Trial]], outcomes: list[Outcome]) -> None:
        """Take trials from `waiting` and add what became of them to `outcomes`; runs in a thread of its own."""
        # A new process takes this over: Ctrl-C in the terminal, which reaches it too, has to wait until it can deal with it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            while not self.stopped.is_set():
                try:
                    place, trial = waiting.popleft()
                except IndexError:
                    return
                self.tally.begin(trial.key)
                outcome = self._run(trial, place)
                if outcome is not None:
                    outcomes.append(outcome)
                    self.say(self.tally.end(trial.key, outcome.state == "ran"))
        finally:
            self._close()

    def interrupt(self) -> None:
        """Ask the process to save and stop, if there is one."""
        process = self.process
        if process is not None and process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)

    def _run(self, trial: Trial, place: int) -> Outcome | None:
        """What became of a trial, which is number `place` of all; None where it was stopped."""
        reader, writer = None, None
        if self.pool is None:
            context = multiprocessing.get_context("spawn")
            reader, writer = context.Pipe(duplex=False)
            self.pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=(writer,))
            self.lines = reader
        recipe = trial.recipe.model_dump(mode="json")
        of_all = place, self.tally.count
        future = self.pool.submit(_run_trial, plugins.files(), recipe, trial.seed, self.settings, of_all)
        if writer is not None:
            writer.close()  # the process has its own: when that one is closed, it has died
        assert self.lines is not None
        with suppress(EOFError):
            while self.lines.poll(0.1) or not future.done():
                if self.lines.poll():
                    self._receive(self.lines.recv())
        try:
            state, error = future.result()
        except BrokenProcessPool:
            if self.stopped.is_set():
                return None
            why = f"its process ended{self._how()}"
            self._close()
            self.say(f"[{self.number}] failed: {why}")
            return Outcome(trial, "failed", None, why)
        if state is None:
            return None
        return Outcome(trial, state, self.store.find(trial.key) if state in ("ran", "skipped") else None, error)

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
def _stop_requests(workers: Sequence[_Job], stopped: threading.Event) -> Iterator[None]:
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


def _begin(lines: Connection) -> None:
    """Make this process one that Ctrl-C in the terminal does not reach, and that does not outlive its parent."""
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


def _run_trial(
    files: Sequence[Path], recipe: dict[str, Any], seed: int, settings: dict[str, Any], place: tuple[int, int]
) -> tuple[State | None, str | None]:
    """Run a trial with the plug-ins of these files; its state, None where it was stopped, and its error."""
    listener = ConsoleListener(
        Console(file=cast(IO[str], _Lines(_Own.lines.send)), highlight=False, color_system=None, width=120), place
    )
    try:
        _Own.working = True
        if _Own.asked_to_stop:
            return None, None
        for file in files:
            plugins.load_plugin(file)
        (outcome,) = run(parse_recipe(recipe), [seed], listener=listener, **settings)
    except (Interrupted, KeyboardInterrupt):
        _Own.lines.send("stopped; its state is saved")
        return None, None
    except Exception as error:  # the others go on: the parent says what became of this one
        return "failed", str(error) or type(error).__name__
    finally:
        _Own.working = False
        listener.close()
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(130)  # nobody is left to take a result or to give another trial
    return outcome.state, outcome.error


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
