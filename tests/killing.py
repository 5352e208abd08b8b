"""Commands that are killed at any moment, and what the next run makes of what they left.

The promise: after SIGKILL at whatever moment, running the same command again completes, and its result is that of a run that
nobody disturbed; until then every record that is there can be read. Each attempt is a fork of this process, which has torch
loaded already; by an audit hook a child kills itself before its n-th change to the file system.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
EVENTS = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
)
SECONDS = 600


@dataclass(frozen=True)
class Scenario:
    """A command in a folder.

    Attributes:
        prepare: fills an empty folder with what the command needs.
        command: runs it there; raises where it does not complete.
        result: what it left, as plain values without times and machines.
        check: raises where what a killed command left would mislead a reader.
    """

    prepare: Callable[[Path], object]
    command: Callable[[Path], object]
    result: Callable[[Path], Any]
    check: Callable[[Path], object] = lambda folder: None


def forked(
    work: Callable[[], object], *, die_at: int | None = None, root: Path | None = None, after: float | None = None
) -> tuple[int, int]:
    """Run `work` in a child of this process.

    Args:
        work: what it does.
        die_at: it kills itself before so many changes below `root`, counted from 1.
        root: the folder whose changes count.
        after: it is killed after so many seconds.

    Returns:
        Its exit code (-9: killed), and the changes it counted.
    """
    inward, outward = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, die_at, root, inward, outward)
    os.close(outward)
    code = _wait(child, after)
    with os.fdopen(inward, "rb") as pipe:
        counted = pipe.read()
    return code, int(counted or b"0")


def _child(work: Callable[[], object], die_at: int | None, root: Path | None, inward: int, outward: int) -> None:
    code, seen = 1, 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if root is None or not _changes(event, arguments, str(root)):
            return
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        os.close(inward)
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            sys.addaudithook(watch)
            work()
        code = 0
    finally:
        root = None
        os.write(outward, str(seen).encode())
        os._exit(code)


def _changes(event: str, arguments: tuple[Any, ...], root: str) -> bool:
    if event == "open":
        path, _, flags = arguments
        return bool(flags & WRITES) and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(root)
    return event in EVENTS and any(str(argument).startswith(root) for argument in arguments)


def _wait(child: int, after: float | None) -> int:
    end = time.monotonic() + (SECONDS if after is None else after)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if after is None:
        raise TimeoutError(f"a command took more than {SECONDS} s")
    return code


def undisturbed(scenario: Scenario, folder: Path) -> tuple[Any, set[str], int, float]:
    """The result, the names of the files, the number of changes, and the seconds of a run that nobody disturbs."""
    folder.mkdir()
    scenario.prepare(folder)
    begin = time.monotonic()
    code, changes = forked(lambda: scenario.command(folder), root=folder)
    assert code == 0, f"the undisturbed command ended with {code}"
    return scenario.result(folder), _names(folder), changes, time.monotonic() - begin


def attempt(scenario: Scenario, folder: Path, expected: Any, names: set[str], **kill: Any) -> str:
    """Kill the command once and run it again: `completed` (it was faster), `recovered`, `recovered, files left`, or a `FAULT`."""
    folder.mkdir()
    scenario.prepare(folder)
    code, _ = forked(lambda: scenario.command(folder), root=folder, **kill)
    try:
        scenario.check(folder)
    except Exception as error:
        return f"FAULT what it left misleads: {error}"
    again, _ = forked(lambda: scenario.command(folder))
    if again != 0:
        return f"FAULT the next run ended with {again}"
    if scenario.result(folder) != expected:
        return "FAULT the next run has another result"
    if code == 0:
        return "completed"
    return "recovered, files left" if _names(folder) - names else "recovered"


def attack(
    scenario: Scenario,
    root: Path,
    moments: int,
    events: int | None = None,
    seed: int = 0,
    told: Callable[[str], object] = lambda line: None,
) -> Counter[str]:
    """Kill a command at random moments and at changes of the file system.

    Args:
        scenario: the command.
        root: an empty folder for all attempts.
        moments: how many random ones.
        events: how many changes, evenly over all; None for every one.
        seed: of the moments.
        told: hears of each fault.
    """
    expected, names, changes, seconds = undisturbed(scenario, root / "undisturbed")
    draw, found = random.Random(seed), Counter[str]()
    found["changes"] = changes
    every = range(1, changes + 1)
    chosen = (
        every
        if events is None
        else sorted({every[round(i * (changes - 1) / max(1, events - 1))] for i in range(events)})
    )
    kills = [{"die_at": number} for number in chosen] + [{"after": draw.random()} for _ in range(moments)]
    for number, drawn in enumerate(kills):
        what = "event" if "die_at" in drawn else "moment"
        kill = {"after": drawn["after"] * seconds} if "after" in drawn else drawn
        begin = time.monotonic()
        outcome = attempt(scenario, root / str(number), expected, names, **kill)
        if outcome == "completed":  # it ran twice: where the machine has become less busy, later kills come earlier
            seconds = min(seconds, (time.monotonic() - begin) / 2)
        if outcome.startswith("FAULT"):
            told(f"{what} {kill}: {outcome}; see {root / str(number)}")
        else:
            _remove(root / str(number))
        found[f"{what}: {outcome}"] += 1
    return found


def _names(folder: Path) -> set[str]:
    """Names below a folder; of those that hold digests of times (side files, records) the beginning is enough."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)


def plain_record(value: dict[str, Any]) -> dict[str, Any]:
    """A record without times, costs of time and the machine."""
    value = {key: item for key, item in value.items() if key not in ("started", "finished", "environment", "argv")}
    cost = value.get("cost") or {}
    value["cost"] = {key: cost.get(key) for key in ("images_seen", "steps", "episodes", "parameters")}
    value["curve"] = [{key: item for key, item in point.items() if key != "seconds"} for point in value["curve"]]
    return value


def records_of(folder: Path) -> dict[str, Any]:
    """Every record below a folder of results as plain values, by its place; the digests in them cover the side files."""
    files = sorted((folder / "results" / "runs").rglob("*.json"))
    return {file.name: plain_record(json.loads(file.read_text())) for file in files}
