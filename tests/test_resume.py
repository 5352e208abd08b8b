"""Killed at any moment, a run goes on and ends with the record of one that was never disturbed."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from narrow import narrow_conv4
from processes import QUICK, Process, finish, here, start

from slabench.records.store import ResultStore

SLA = [*QUICK, "--sla"]
EVERY_STEP = {"SLABENCH_CHECKPOINT_SECONDS": "0"}


def outcome(folder: Path) -> dict[str, Any]:
    """The one finished record without times, and its per-episode accuracies."""
    store = ResultStore(folder / "results")
    (record,) = store.records()
    assert record.status == "done"
    plain = record.model_dump(mode="json", exclude={"started", "finished", "argv", "environment"})
    for name in ("train_seconds", "eval_seconds", "images_per_second", "peak_memory_bytes"):
        plain["cost"].pop(name)
    for point in plain["curve"]:
        point.pop("seconds")
    return plain | {"episodes": {name: values.tolist() for name, values in store.episodes(record).items()}}


def empty(path: Path) -> Path:
    path.mkdir()
    return path


pytestmark = pytest.mark.usefixtures("glyphs", "narrow_conv4")


@pytest.fixture(scope="module")
def undisturbed(_drawn_glyphs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with narrow_conv4():
        code, output = here(*SLA, folder=folder, SLABENCH_DATA=str(_drawn_glyphs))
    assert code == 0, output
    return outcome(folder)


def wait_for(process: Process, folder: Path, saves: int = 1, seconds: float = 120) -> bool:
    """Wait until the process has written `saves` checkpoints. False if it ended before."""
    end = time.monotonic() + seconds
    seen = _state(folder)
    while time.monotonic() < end and process.poll() is None:
        if (now := _state(folder)) != seen:
            saves, seen = saves - 1, now
        if saves <= 0:
            return True
        time.sleep(0.01)
    return False


def _state(folder: Path) -> tuple[int, int] | None:
    """What tells a checkpoint from the one before it: each is put in the place of the last, whole."""
    for path in (folder / "results" / "checkpoints").glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            return stat.st_ino, stat.st_mtime_ns
    return None


def test_killed_again_and_again(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    folder = empty(tmp_path / "killed")
    dice = random.Random(0)
    resumed: list[int] = []
    # Twice in training, after some steps each; and between them while the command is still starting.
    for saves in (dice.randint(1, 6), 0, dice.randint(1, 6)):
        process = start(SLA, folder, fresh=not saves, **EVERY_STEP)
        if saves:
            assert wait_for(process, folder, saves), finish(process)[1]
        else:
            time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        code, output = finish(process)
        assert code == -signal.SIGKILL, f"the trial is too short to be killed: {output}"
        resumed.append(_saved_step(folder))
    assert 0 < resumed[0] == resumed[1] < resumed[2]  # nothing already computed is lost
    code, output = here(*SLA, folder=folder)
    assert code == 0, output
    assert "continuing at step" in output
    assert outcome(folder) == undisturbed
    assert not list((folder / "results" / "checkpoints").rglob("*.safetensors"))


def _saved_step(folder: Path) -> int:
    from safetensors import safe_open

    (path,) = (folder / "results" / "checkpoints").glob("*.safetensors")
    with safe_open(path, framework="np") as file:
        return int(json.loads(file.metadata()["slabench"])["progress"]["step"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_and_exits_130(
    number: signal.Signals, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder = empty(tmp_path / "stopped")
    # The interval is long: what is found in the end was saved because of the signal, or at a validation.
    process = start(SLA, folder, SLABENCH_CHECKPOINT_SECONDS="1000")
    assert wait_for(process, folder)
    process.send_signal(number)
    code, output = finish(process)
    assert code == 130, output
    assert "the state is saved" in output
    assert "run the same command again" in output
    assert "Traceback" not in output
    step = _saved_step(folder)
    assert step < 40

    code, output = here(*SLA, folder=folder)
    assert code == 0, output
    assert f"{step}" in output
    assert outcome(folder) == undisturbed


def test_never_starts_anew_and_a_damaged_checkpoint_says_so(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    folder = empty(tmp_path / "damaged")
    process = start(SLA, folder, **EVERY_STEP)
    assert wait_for(process, folder)
    process.kill()
    finish(process)
    (path,) = (folder / "results" / "checkpoints").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    code, output = here(*SLA, folder=folder)
    assert code == 1
    assert "cannot be read" in output
    assert "--resume never" in output
    code, output = here(*SLA, "--resume", "never", folder=folder)
    assert code == 0, output
    folder_records = ResultStore(folder / "results").records()
    assert [record.status for record in folder_records] == ["done"]
    assert outcome(folder) == undisturbed


def test_two_at_once_share_the_work(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    folder = empty(tmp_path / "shared")
    both = [start(SLA, folder) for _ in range(2)]
    results = [finish(process) for process in both]
    # The second found the trial busy and waited for it, or it came late enough to find it finished.
    assert [code for code, _ in results] == [0, 0]
    assert all("Traceback" not in output for _, output in results)
    assert sum("(finished before)" in output for _, output in results) == 1
    assert outcome(folder) == undisturbed
    code, output = here(*SLA, folder=folder)
    assert code == 0
    assert "(finished before)" in output
