"""What is queued, running, stopped, failed and done in a folder of results: from agendas, locks, checkpoints and records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from slabench.core.errors import DataError
from slabench.core.files import SHORT
from slabench.records.agenda import Agenda, Planned, agendas, held
from slabench.records.folder import Known, RecordFolder
from slabench.records.record import RunRecord

State = Literal["running", "queued", "stopped", "failed", "done"]
STATES: tuple[State, ...] = ("running", "queued", "stopped", "failed", "done")
"""In the order in which they are shown."""


@dataclass(frozen=True)
class Standing:
    """Where a trial stands.

    Attributes:
        state: `stopped` is what was begun or queued by a process that is gone; it goes on when its command is run again.
        key: of the trial; its first letters where nothing but a checkpoint is known.
        name: of its recipe, without its suite and with the objective; "" where it is not known.
        protocol: readable id; "" where it is not known.
        seed: None where it is not known.
        step: updates that its checkpoint holds; None without one.
        steps: updates of its training; None where they are not known.
        seconds: training time in the checkpoint.
        record: of a trial that failed or is done.
        error: of one that failed and left no record.
    """

    state: State
    key: str
    name: str = ""
    protocol: str = ""
    seed: int | None = None
    step: int | None = None
    steps: int | None = None
    seconds: float = 0.0
    record: RunRecord | None = None
    error: str | None = None

    @property
    def left(self) -> float | None:
        """Seconds of training that are left, at the speed so far; None before the first checkpoint."""
        if self.state != "running" or not self.step or self.steps is None:
            return None
        return self.seconds / self.step * (self.steps - self.step)


class Survey:
    """Looks at a folder of results; a record that has not changed since the last look is not read again.

    Args:
        root: the folder.
        more: agendas that are told elsewhere, such as in the queue of a cluster.

    Attributes:
        problems: a line for each damaged record, of the last look.
    """

    def __init__(self, root: Path, more: Callable[[Path], list[Agenda]] = lambda root: []) -> None:
        self.root = Path(root)
        self._more = more
        self.problems: list[str] = []
        self._folder = RecordFolder(self.root / "runs")
        self._known: Known = {}

    def look(self) -> list[Standing]:
        """Every trial of the folder, in the order of `STATES`; queued ones in the order in which they will be run."""
        told = self._more(self.root) + agendas(
            self.root
        )  # before the records: a trial that ends in between is seen as running, not as stopped
        checkpoints = self._checkpoints()
        records = {record.key: record for record in self._records()}
        found: dict[str, Standing] = {}
        for agenda in sorted(told, key=lambda agenda: not agenda.alive):
            for trial in agenda.trials:
                standing = _standing(trial, agenda, records.get(trial.key), checkpoints)
                before = found.get(trial.key)
                if before is None or STATES.index(standing.state) < STATES.index(before.state):
                    found[trial.key] = standing
        for key, record in records.items():
            if key not in found:
                found[key] = _ended(record)
        for short, (key, step, seconds) in checkpoints.items():
            if key not in found:
                running = held(self.root / "checkpoints" / short)  # by a process that tells nothing of itself
                found[key] = Standing("running" if running else "stopped", key, step=step, seconds=seconds)
        return sorted(found.values(), key=lambda one: STATES.index(one.state))  # sorted() is stable

    def _records(self) -> list[RunRecord]:
        found = self._folder.read(self._known)
        self.problems = [str(one) for one in found if isinstance(one, DataError)]
        return [one for one in found if isinstance(one, RunRecord)]

    def _checkpoints(self) -> dict[str, tuple[str, int, float]]:
        """Key, step and seconds of every checkpoint, by the first letters of its key."""
        found = {}
        for path in sorted((self.root / "checkpoints").glob("*.safetensors")):
            says = _header(path)
            if says is not None:
                found[path.stem] = says
        return found


def _standing(
    trial: Planned, agenda: Agenda, record: RunRecord | None, checkpoints: dict[str, tuple[str, int, float]]
) -> Standing:
    """Where a trial of an agenda stands. A record from before the agenda is of an earlier attempt."""
    _, step, seconds = checkpoints.get(trial.key[:SHORT], (trial.key, None, 0.0))
    name = _name(trial.name, trial.objective)
    facts: dict[str, Any] = {"key": trial.key, "name": name, "protocol": trial.protocol, "seed": trial.seed}
    facts |= {"steps": trial.steps, "step": step, "seconds": seconds}
    if agenda.alive and agenda.current == trial.key:
        return Standing("running", **facts)
    if record is not None and ((record.status == "done" and not agenda.alive) or _since(record, agenda)):
        return _ended(record)
    if agenda.failed is not None:
        return Standing("failed", error=agenda.failed, **facts)
    return Standing("queued" if agenda.alive else "stopped", **facts)


def _since(record: RunRecord, agenda: Agenda) -> bool:
    return datetime.fromisoformat(record.finished) >= datetime.fromisoformat(agenda.started)


def _ended(record: RunRecord) -> Standing:
    state: State = "stopped" if record.status == "interrupted" else record.status
    name = _name(record.name, record.setting("sla", "objective"))
    return Standing(state, record.key, name, record.protocol, record.seed, record=record)


def _name(recipe: str, objective: str | None) -> str:
    """`standard sla`: with flags, recipes of one name are trained on several objectives."""
    name = recipe.partition("/")[2] or recipe
    return name if objective is None or objective in name else f"{name} {objective}"


def _header(path: Path) -> tuple[str, int, float] | None:
    """Key, step and seconds that a checkpoint's header says; None where it cannot be read. Nothing else of it is."""
    try:
        with safe_open(path, framework="np") as file:
            says = json.loads(file.metadata()["slabench"])
        return str(says["key"]), int(says["progress"]["step"]), float(says["progress"]["seconds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return None
