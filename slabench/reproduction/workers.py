"""`--jobs N`: processes that run the trials of a table side by side.

Each process takes one trial after another. The runner's locks guard every trial, so that a second command in the same folder
shares the work as well. Interrupting the command asks every process once to save and stop.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, cast

from slabench.recipes import parse_recipe
from slabench.records.store import ResultStore
from slabench.runner import Outcome, Trial, run
from slabench.training.loop import Interrupted

_COMMAND = "from slabench.reproduction.workers import serve; serve()"
_STATES: dict[str, Literal["ran", "skipped", "failed", "busy"]] = {
    "ran": "ran",
    "skipped": "skipped",
    "failed": "failed",
    "busy": "busy",
}


@dataclass
class _Worker:
    """A process, and the trial it was given; `number` counts from 1 and stands before its lines."""

    number: int
    process: subprocess.Popen[str]
    trial: Trial | None = None
    error: list[str] = field(default_factory=list)
    errors: threading.Thread | None = None


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
        say: told every line that a process prints.

    Raises:
        Interrupted: after SIGINT or SIGTERM, when all processes have saved and ended.
    """
    waiting = deque(trials)
    events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
    settings = {
        "results": str(results),
        "data_folder": str(data_folder) if data_folder else None,
        "device": device,
        "threads": threads or max(1, (os.cpu_count() or 1) // jobs),
        "argv": list(argv),
    }
    store, outcomes = ResultStore(results), []
    alive: set[int] = set()
    workers: dict[int, _Worker] = {}

    def start(number: int) -> None:
        worker = _start(number, settings, events)
        workers[number] = worker
        alive.add(number)
        if stopped.is_set():  # asked to stop while it was being started
            worker.process.send_signal(signal.SIGINT)
        else:
            _give(worker, waiting)

    with _stop_requests(workers) as stopped:
        for number in range(1, min(jobs, len(waiting)) + 1):
            start(number)
        while alive:
            try:
                worker, event = events.get(timeout=0.2)
            except queue.Empty:
                continue
            if event is None:  # it has ended
                alive.discard(worker.number)
                code = worker.process.wait()
                if worker.errors is not None:
                    worker.errors.join(1)  # its last words
                if worker.trial is not None and not stopped.is_set():
                    why = f"its process ended with code {code}" + "".join(f"\n{line}" for line in worker.error[-5:])
                    outcomes.append(Outcome(worker.trial, "failed", None, why))
                    say(f"[{worker.number}] failed: {why}")
                    if waiting:
                        start(worker.number)
            elif "line" in event:
                say(f"[{worker.number}] {event['line']}")
            elif "state" in event and worker.trial is not None:
                state = _STATES.get(event["state"], "failed")
                record = store.find(worker.trial.key) if state in ("ran", "skipped") else None
                outcomes.append(Outcome(worker.trial, state, record, event.get("error")))
                worker.trial = None
                if stopped.is_set():
                    _close(worker)
                else:
                    _give(worker, waiting)
    if stopped.is_set():
        raise Interrupted(
            f"stopped after {len(outcomes)} of {len(trials)} trials; the state of the others is saved",
            "run the same command again to go on from there",
        )
    return outcomes


def serve() -> None:
    """The process of a job: settings and then trials, a JSON object a line, on stdin; lines and states on stdout."""
    from slabench.progress import ConsoleListener

    out = sys.stdout
    sys.stdout = sys.stderr  # nothing else may write between the lines

    def tell(**event: Any) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    from rich.console import Console

    lines = cast(IO[str], _Lines(lambda line: tell(line=line)))
    console = Console(file=lines, highlight=False, color_system=None, width=120)
    settings = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        asked = json.loads(line)
        listener = ConsoleListener(console)
        try:
            (outcome,) = run(
                parse_recipe(asked["recipe"]),
                [asked["seed"]],
                results=Path(settings["results"]),
                data_folder=Path(settings["data_folder"]) if settings["data_folder"] else None,
                device=settings["device"],
                threads=settings["threads"],
                listener=listener,
                argv=settings["argv"],
            )
        except (Interrupted, KeyboardInterrupt):
            tell(line="stopped; its state is saved")
            sys.exit(130)
        except Exception as error:  # the others go on: the parent says what became of this one
            tell(state="failed", error=str(error) or type(error).__name__)
        else:
            tell(state=outcome.state, error=outcome.error)
        finally:
            listener.close()


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


def _start(number: int, settings: dict[str, Any], events: queue.Queue[Any]) -> _Worker:
    # The same slabench as here, wherever this process found it.
    command = f"import sys; sys.path[:] = {sys.path!r}; {_COMMAND}"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        start_new_session=True,  # Ctrl-C reaches the parent alone, which passes it on once
    )
    worker = _Worker(number, process)
    assert process.stdin is not None
    _write(process, settings)

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            events.put((worker, json.loads(line)))
        events.put((worker, None))

    def complain() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            worker.error.append(line.rstrip())

    worker.errors = threading.Thread(target=complain, daemon=True)
    for thread in (worker.errors, threading.Thread(target=listen, daemon=True)):
        thread.start()
    return worker


def _give(worker: _Worker, waiting: deque[Trial]) -> None:
    """Hand the next trial over, or let the process go."""
    if not waiting:
        _close(worker)
        return
    worker.trial = waiting.popleft()
    recipe = worker.trial.recipe
    _write(worker.process, {"recipe": recipe.model_dump(mode="json"), "seed": worker.trial.seed})


def _write(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError, ValueError):  # it has ended, and its reader says so
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()


def _close(worker: _Worker) -> None:
    assert worker.process.stdin is not None
    with suppress(BrokenPipeError):
        worker.process.stdin.close()


@contextmanager
def _stop_requests(workers: dict[int, _Worker]) -> Iterator[threading.Event]:
    """SIGINT and SIGTERM are passed on to every process; afterwards none is left behind."""
    stopped = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        stopped.set()
        for worker in workers.values():
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGINT)

    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for worker in workers.values():
            if worker.process.poll() is None:
                worker.process.terminate()
                worker.process.wait()
