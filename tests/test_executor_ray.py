"""`--executor ray` on a real cluster of two nodes on this machine, one of which is killed half-way."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import QUICK, finish, here, start

from slabench.executors.jobs import Job, Result
from slabench.records.store import ResultStore

pytest.importorskip("ray", reason="needs Ray: make test-ray")

# A head that notes each call, and waits in its fourth until it may go on: whoever waits there has trained three updates.
HEAD = """
import hashlib, os, time
from pathlib import Path
import slabench
from slabench.heads.metric import prototype_logits

FOLDER = Path({folder!r})
calls = 0

def logits(support, labels, query, n):
    global calls
    calls += 1
    with open(FOLDER / "calls", "a") as file:
        file.write(f"{{os.getpid()}} {{hashlib.sha256(support.detach().numpy().tobytes()).hexdigest()}}\\n")
    while calls == 4 and not (FOLDER / "go").exists():
        time.sleep(0.05)
    return prototype_logits(support, labels, query, n)

slabench.HEADS.add("waits", slabench.Head("waits", logits, True), "waits")
"""


def until(true: Any, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether it runs; one that has ended, and that nobody asked how, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def cluster(_drawn_glyphs: Path) -> Iterator[Any]:
    """A Ray of one node; its workers have the environment that is set here."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLABENCH_DATA", str(_drawn_glyphs))
        patch.setenv("SLABENCH_CHECKPOINT_SECONDS", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield made
        made.shutdown()


def words(cluster: Any, folder: Path, steps: int, seeds: str) -> tuple[list[str], list[str]]:
    """A command with the head that waits, and what has Ray run it."""
    head = folder / "own.py"
    head.write_text(HEAD.format(folder=str(folder)), encoding="utf-8")
    command = [*("--plugin", str(head)), *QUICK, "--head", "waits", "--steps", str(steps), "--seeds", seeds]
    return command, ["--executor", "ray", "--resource", f"address={cluster.address}", "--resource", "memory=500M"]


def calls(folder: Path) -> list[tuple[int, str]]:
    """Of the head, so far: the process, and what it was asked."""
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines]


def left_behind(folder: Path) -> set[str]:
    """The kinds of files beside the records."""
    return {path.suffix for path in (folder / "results" / "checkpoints").iterdir()}


def test_a_table_is_complete_though_a_node_dies(cluster: Any, glyphs: Path, tmp_path: Path) -> None:
    lost = cluster.add_node(num_cpus=1)
    command, on_ray = words(cluster, tmp_path, 16, "0,1,2")
    process = start([*command, *on_ray], tmp_path)
    try:
        until(lambda: len(calls(tmp_path)) == 8 or process.poll() is not None)
        last = dict(calls(tmp_path))
        assert len(last) == 2, finish(process)[1]
        cluster.remove_node(lost, allow_graceful=False)
        until(lambda: sum(map(running, last)) == 1)  # a lost worker ends by itself
        (broken_off,) = (what for pid, what in last.items() if not running(pid))
        (tmp_path / "go").touch()
        code, output = finish(process)
    finally:
        process.kill()
    assert code == 0, output
    assert "3 of 3 trials are done" in output
    assert left_behind(tmp_path) <= {".lock"}
    asked = [what for _, what in calls(tmp_path)]
    # The step that broke off was done again, and none before it: its trial went on from the checkpoint.
    assert {what: asked.count(what) for what in asked[:8]} == {what: 1 + (what == broken_off) for what in asked[:8]}

    code, output = here(*command, "--results", "alone", folder=tmp_path)
    assert code == 0, output
    ours, alone = ResultStore(tmp_path / "results"), ResultStore(tmp_path / "alone")
    found = {record.key: record for record in ours.records() if record.status == "done"}
    assert len(found) == 3
    for record in alone.records():
        assert found[record.key].scores == record.scores
        mine, theirs = ours.episodes(found[record.key]), alone.episodes(record)
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_ctrl_c_has_tasks_save_and_ends_with_130(cluster: Any, glyphs: Path, tmp_path: Path) -> None:
    """The one task that fits runs, the other waits for its turn."""
    command, on_ray = words(cluster, tmp_path, 100_000, "0,1")
    (tmp_path / "go").touch()
    process = start([*command, *on_ray], tmp_path)
    try:
        until(lambda: len(calls(tmp_path)) > 4 or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        code, output = finish(process)
    finally:
        process.kill()
    assert code == 130, output
    assert "stopped after 0 of 2 trials; the state of the others is saved" in output
    assert left_behind(tmp_path) == {".json", ".safetensors"}  # what was planned, for `slabench status`
    ended = len(calls(tmp_path))
    time.sleep(1)
    assert len(calls(tmp_path)) == ended
    assert list(ResultStore(tmp_path / "results").records()) == []


def test_an_address_where_nobody_listens_is_an_error_at_once(glyphs: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code, output = here(*QUICK, "--executor", "ray", "--resource", f"address={address}", folder=tmp_path)
    assert code == 2
    assert f"cannot join the cluster at {address}" in output
    assert "ray start --head" in output


@pytest.mark.parametrize("name", ["../evil.json", "/tmp/evil", "runs/../../evil.json", "checkpoints/a.owner"])
def test_a_worker_that_sends_something_else_fails_its_job(name: str, tmp_path: Path) -> None:
    from slabench.executors.ray import _received

    job = Job("trial", "a" * 64, "a", {})
    found = _received(job, {"state": "ran", "error": None, "files": {name: b"{}"}}, tmp_path / "results")
    assert isinstance(found, Result)
    assert found.state == "failed"
    assert f"no part of a record: {name}" in str(found.error)
    assert not (tmp_path / "results").exists()
    assert "evil.json" not in os.listdir(tmp_path)


def test_a_record_that_is_sent_is_written_after_its_files_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of a machine that does not share the folder: what it made lies in this one then."""
    from slabench.executors.jobs import Resources, Settings, trial_jobs
    from slabench.executors.ray import _received, run_task
    from slabench.recipes import load_recipe
    from slabench.runner.trials import plan

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as the task sets it, which asked for no GPU
    tiny = {"data.dataset": "glyphs", "train.steps": 2, "protocol.episodes": 10, "select.points": 1}
    (trial,) = plan(load_recipe("fewshot/quick", tiny), [0], tmp_path / "results")
    (job,) = trial_jobs([trial], {trial.key: Resources()})
    answer = run_task(job.text(), Settings(tmp_path / "results").text(), "a token that is not there")
    assert answer["state"] == "ran"
    assert not (tmp_path / "results").exists()
    result = _received(job, answer, tmp_path / "results")
    assert (result.key, result.state) == (trial.key, "ran")
    record = ResultStore(tmp_path / "results").find(trial.key)
    assert record is not None
    assert ResultStore(tmp_path / "results").episodes(record).keys() == {"single", "aggregated"}
    damaged = {name: b"{" if name.endswith(".json") else data for name, data in answer["files"].items()}
    assert _received(job, answer | {"files": damaged}, tmp_path / "other").state == "failed"
