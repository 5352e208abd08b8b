"""`slabench status` on folders made by hand: agendas, locks, checkpoints and records. Nothing is trained."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from processes import here
from result_records import digest, make_recipe, make_record
from safetensors.numpy import save_file

from slabench.records.agenda import Planned, agendas, announce
from slabench.records.status import Survey
from slabench.records.store import ResultStore

PROTOCOL = "fewshot/fc100/5w5s15q"


def planned(name: str, seed: int = 0) -> Planned:
    return Planned(digest(name, seed), f"fewshot/{name}", "sla", PROTOCOL, seed, steps=4000, images=400_000)


def checkpoint(root: Path, key: str, step: int, seconds: float) -> None:
    """A checkpoint as far as its header goes, written by the library of its format."""
    says = {"key": key, "progress": {"step": step, "seconds": seconds}, "sha256": "0"}
    (root / "checkpoints").mkdir(parents=True, exist_ok=True)
    path = root / "checkpoints" / f"{key[:12]}.safetensors"
    save_file({"model.w": np.zeros(3, np.float32)}, path, metadata={"slabench": json.dumps(says)})


def record(root: Path, trial: Planned, status: str = "done", hours_ago: float = 0.0) -> None:
    finished = (datetime.now(UTC) - timedelta(hours=hours_ago)).isoformat(timespec="seconds")
    accuracies = {"single": [0.5, 0.25]}
    more = (
        {}
        if status == "done"
        else {"error": "the loss is no longer finite", "scores": [], "cost": None, "selection": None}
    )
    recipe = make_recipe(name=trial.name, sla__objective="sla")
    made = make_record(
        "sla",
        trial.seed,
        accuracies,
        name=trial.name,
        key=trial.key,
        recipe=recipe,
        status=status,
        finished=finished,
        **more,
    )
    ResultStore(root).save(made, accuracies if status == "done" else {})


def states(root: Path) -> list[tuple[str, str, int | None, int | None]]:
    return [(one.state, one.name, one.seed, one.step) for one in Survey(root).look()]


def test_a_trial_goes_from_queued_to_done(tmp_path: Path) -> None:
    first, second = planned("a"), planned("b", 1)
    assert states(tmp_path) == []
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing behind"
    with announce(tmp_path, [first, second]) as agenda:
        assert states(tmp_path) == [("queued", "a sla", 0, None), ("queued", "b sla", 1, None)]
        agenda.at(first.key)
        checkpoint(tmp_path, first.key, 1000, 30.0)
        assert states(tmp_path) == [("running", "a sla", 0, 1000), ("queued", "b sla", 1, None)]
        assert Survey(tmp_path).look()[0].left == pytest.approx(90.0)  # 3,000 steps at 30 ms
        (tmp_path / "checkpoints" / f"{first.key[:12]}.safetensors").unlink()
        record(tmp_path, first)
        agenda.at(second.key)
        assert states(tmp_path) == [("running", "b sla", 1, None), ("done", "a sla", 0, None)]
        record(tmp_path, second, "failed")
        agenda.at(None)
        assert states(tmp_path) == [("failed", "b sla", 1, None), ("done", "a sla", 0, None)]
    assert states(tmp_path) == [("failed", "b sla", 1, None), ("done", "a sla", 0, None)]
    assert not list((tmp_path / "checkpoints").glob("agenda-*"))


def test_what_a_process_leaves_when_it_is_stopped_is_told_until_it_is_run_again(tmp_path: Path) -> None:
    first, second = planned("a"), planned("b")

    def interrupted() -> None:
        with announce(tmp_path, [first, second]) as agenda:
            agenda.at(first.key)
            checkpoint(tmp_path, first.key, 12, 1.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert states(tmp_path) == [("stopped", "a sla", 0, 12), ("stopped", "b sla", 0, None)]
    with announce(tmp_path, [first]):
        assert states(tmp_path) == [("queued", "a sla", 0, 12), ("stopped", "b sla", 0, None)]
        assert len(agendas(tmp_path)) == 2
        record(tmp_path, first)
    with announce(tmp_path, [second]):
        assert len(agendas(tmp_path)) == 1, "all of the old one is run again now, or has a record"
        record(tmp_path, second)
    assert states(tmp_path) == [("done", "a sla", 0, None), ("done", "b sla", 0, None)]
    with pytest.raises(KeyboardInterrupt), announce(tmp_path, [first]):
        raise KeyboardInterrupt
    with announce(tmp_path, []):
        assert agendas(tmp_path) == [], "a run that finds everything done, too"


def test_what_a_killed_process_left_half_written_goes_with_the_next_run(tmp_path: Path) -> None:
    """A lock without an agenda, and an agenda that was being written. What a living process holds stays."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("agenda-0123456789ab.lock", ".agenda-0123456789ab.json.abcdefgh.tmp", "0123456789ab.lock"):
        (folder / name).touch()
    with FileLock(folder / "agenda-ba9876543210.lock"), announce(tmp_path, [planned("a")]):
        assert len(list(folder.glob("agenda-*.json"))) == 1
        assert len(list(folder.glob("agenda-*.lock"))) == 2
        assert not list(folder.glob("*0123456789ab.json*"))
    assert {path.name for path in folder.iterdir()} <= {"0123456789ab.lock", "agenda-ba9876543210.lock"}
    assert (folder / "0123456789ab.lock").exists(), "that of a trial is not this file's to remove"


def test_a_failed_or_forced_trial_that_is_run_again_is_queued(tmp_path: Path) -> None:
    failed, forced = planned("a"), planned("b")
    record(tmp_path, failed, "failed", hours_ago=1)
    record(tmp_path, forced, hours_ago=1)
    with announce(tmp_path, [failed, forced]):
        assert [state for state, *_ in states(tmp_path)] == ["queued", "queued"]


def test_one_that_waits_in_a_parent_and_runs_in_its_child_is_running(tmp_path: Path) -> None:
    first, second = planned("a"), planned("b")
    with announce(tmp_path, [first, second]), announce(tmp_path, [second]) as child:
        child.at(second.key)
        assert states(tmp_path) == [("running", "b sla", 0, None), ("queued", "a sla", 0, None)]


def test_a_checkpoint_that_nobody_tells_of_is_running_where_its_lock_is_held(tmp_path: Path) -> None:
    key = digest("old")
    checkpoint(tmp_path, key, 70, 1.0)
    with FileLock(tmp_path / "checkpoints" / f"{key[:12]}.lock"):
        assert states(tmp_path) == [("running", "", None, 70)]
    assert states(tmp_path) == [("stopped", "", None, 70)]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 64, b'{"schema": "slabench.agenda/1"}', b"\x05\0\0\0\0\0\0\0hello"])
def test_damaged_files_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    record(tmp_path, planned("a"))
    (tmp_path / "checkpoints").mkdir()
    for name in ("agenda-0.json", "0123456789ab.safetensors"):
        (tmp_path / "checkpoints" / name).write_bytes(damage)
    assert [state for state, *_ in states(tmp_path)] == ["done"]
    (tmp_path / "runs" / "broken.json").write_bytes(b"{")
    code, printed = here("status", "--results", str(tmp_path))
    assert (code, "broken.json" in printed, "1 done" in printed) == (0, True, True)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_is_readable_at_its_width(tmp_path: Path, width: int) -> None:
    long = planned("pretrained/baseline-equal-passes+baseline-plus-plus", 3)
    for seed in range(7):
        record(tmp_path, planned("done", seed))
    record(tmp_path, planned("bad"), "failed")
    with announce(tmp_path, [long]) as agenda:
        agenda.at(long.key)
        checkpoint(tmp_path, long.key, 2000, 3600.0)
        code, printed = here("status", "--results", str(tmp_path), COLUMNS=str(width))
    lines = [line.rstrip() for line in printed.splitlines()]
    assert code == 0
    assert lines[0].startswith("1 running, 1 failed, 7 done in ")
    assert max(map(len, lines[1:])) <= width
    assert printed.isascii()
    assert [line.split()[0] for line in lines[1:]] == ["state", "running", "failed", *["done"] * 5, "2"]
    assert "2,000/4,000, 60 min left" in lines[2]
    assert "no longer finite" in lines[3]
    assert "single 37.50 %" in lines[4]
    assert "2 more are done" in lines[-1]
    every = here("status", "--results", str(tmp_path), "--all", COLUMNS=str(width))[1]
    assert every.count("single 37.50 %") == 7


def test_json_is_for_programs(tmp_path: Path) -> None:
    record(tmp_path, planned("a"))
    read = json.loads(here("status", "--results", str(tmp_path), "--json")[1])
    assert [(one["state"], one["key"], one["scores"]) for one in read] == [
        ("done", planned("a").key, {"single": 0.375})
    ]
    assert here("status", "--watch", "--json")[0] == 2
    assert json.loads(here("status", "--results", str(tmp_path / "none"), "--json")[1]) == []


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_ends_when_nothing_runs_any_more(tmp_path: Path, terminal: bool) -> None:
    trial = planned("a")
    began = threading.Event()

    def work() -> None:
        with announce(tmp_path, [trial]) as agenda:
            agenda.at(trial.key)
            began.set()
            time.sleep(0.6)
            record(tmp_path, trial)

    thread = threading.Thread(target=work)
    thread.start()
    began.wait(10)
    settings = {"FORCE_COLOR": "1"} if terminal else {}
    code, printed = here("status", "--results", str(tmp_path), "--watch", "--every", "0.1", **settings)
    thread.join()
    assert code == 0
    assert "1 running in " in printed
    assert printed.index("1 running in ") < printed.index("1 done in ")
    assert "single 37.50 %" in printed
    assert ("\x1b[" in printed) == terminal
    if not terminal:
        assert printed.count("1 running in ") == 1, "a line only when something has changed"
