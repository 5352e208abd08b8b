"""`--executor ray` on a real cluster of two nodes on this machine, one of which is killed half-way."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import QUICK, finish, here, start

from slabench.executors.jobs import Job, Result
from slabench.records.store import ResultStore

pytest.importorskip("ray", reason="needs Ray: pip install 'slabench[ray]'")
WORDS = [*QUICK, "--steps", "60", "--seeds", "0,1,2,3"]


def until(true: Any, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def test_a_table_is_complete_though_a_node_dies(glyphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("SLABENCH_CHECKPOINT_SECONDS", "0")
    results = tmp_path / "results"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = cluster.add_node(num_cpus=1)
        command = [*WORDS, "--executor", "ray", "--resource", f"address={cluster.address}", "--resource", "memory=500M"]
        process = start(command, tmp_path)
        checkpoints = results / "checkpoints"
        until(lambda: len(list(checkpoints.glob("*.safetensors"))) == 2 or process.poll() is not None)
        begun = {path.stem for path in checkpoints.glob("*.safetensors")}
        cluster.remove_node(lost, allow_graceful=False)
        code, output = finish(process, 900)
        assert code == 0, output
        assert "4 of 4 trials are done" in output
        assert len(begun) == 2
        left = [path.name for path in checkpoints.iterdir() if path.suffix in (".owner", ".token", ".safetensors")]
        assert left == [], left
    finally:
        cluster.shutdown()

    code, output = here(*WORDS, "--results", "alone", folder=tmp_path)
    assert code == 0, output
    ours, alone = ResultStore(results), ResultStore(tmp_path / "alone")
    found = {record.key: record for record in ours.records() if record.status == "done"}
    for record in alone.records():
        assert found[record.key].scores == record.scores
        mine, theirs = ours.episodes(found[record.key]), alone.episodes(record)
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    assert len(found) == 4


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
