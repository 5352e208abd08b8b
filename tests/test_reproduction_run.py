"""A small table of one's own: planned, run by one process and by two, interrupted, and read against its records."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import finish, here, start
from scipy import stats

import slabench
from slabench.executors.jobs import Settings, trial_jobs
from slabench.executors.local import Local
from slabench.ranking.published import COLUMNS
from slabench.recipes import load_recipe
from slabench.records.store import ResultStore
from slabench.reproduction.planning import plan_table

TABLE = """
title = "Glyphs, a small table"

[presets]
quick = "fewshot/quick"

[[published]]
file = "mine.csv"

[[columns]]
name = "glyphs"
label = "glyphs, 1 shot"
set.data.dataset = "glyphs"
set.protocol = { shots = 1, queries = 3, episodes = 12 }
set.train = { steps = STEPS, queries = 1, precision = "float32" }
set.select = { points = 1, episodes = 5 }
"""
ROWS = """
[[rows]]
name = "protonet"
label = "ProtoNet"

[[rows]]
name = "protonet+sla"
label = "ProtoNet+SLA+AG"
baseline = "protonet"
predictor = "aggregated"
set.sla.objective = "sla"
"""
FAILING = """
[[rows]]
name = "too-fast"
label = "ProtoNet, too fast"
set.train.lr = 1e30
"""
ABSENT = """
[[columns]]
name = "fc100"
label = "FC100"
set.data.dataset = "fc100"
set.protocol = { shots = 1, queries = 5, episodes = 50 }
"""
NUMBERS = f"""{",".join(COLUMNS)}
P,Table 1,paper,fewshot,glyphs,5,1,,,s,Conv4,m,a,accuracy,55.0,0.5,last,yes,seen,,,episodic,protonet,,,,,baseline,,single,conv4
P,Table 1,memory,fewshot,glyphs,5,1,,,s,Conv4,m,b,accuracy,60.0,,last,no,memory,,,episodic,protonet,,,,,sla,,aggregated,conv4
"""


@pytest.fixture
def table(tmp_path: Path, glyphs: Path) -> Path:
    return write(tmp_path, TABLE + ROWS)


def write(folder: Path, text: str, steps: int = 5) -> Path:
    path = folder / "small.toml"
    path.write_text(text.replace("STEPS", str(steps)), encoding="utf-8")
    (folder / "mine.csv").write_text(NUMBERS, encoding="utf-8")
    return path


@pytest.mark.usefixtures("narrow_conv4")
def test_the_table_is_made_of_its_records(table: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    made = slabench.reproduce(str(table), "quick", results=results, threads=1)
    assert [outcome.state for outcome in made.outcomes] == ["ran"] * 3  # the baseline is its own control of views
    store = ResultStore(results)
    by_name = {record.name: record for record in store.records()}
    assert set(by_name) == {"small/protonet", "small/protonet+sla", "small/protonet-equal-passes"}

    def accuracies(name: str, predictor: str) -> np.ndarray[Any, Any]:
        return np.asarray(store.episodes(by_name[f"small/{name}"])[predictor], dtype=np.float64)

    plain, sla = made.rows
    assert (plain.state, sla.state) == ("done", "done")
    assert plain.measured is not None
    assert sla.measured is not None
    ours = accuracies("protonet+sla", "aggregated")
    assert sla.measured.value == pytest.approx(ours.mean())
    low, high = stats.t.interval(0.95, len(ours) - 1, ours.mean(), stats.sem(ours))
    assert sla.measured.ci95 == pytest.approx((high - low) / 2)
    assert sla.difference == pytest.approx(ours.mean() - 0.6)
    assert plain.difference == pytest.approx(accuracies("protonet", "single").mean() - 0.55)
    assert plain.measured.images_seen * 4 == sla.measured.images_seen == 5 * 5 * 2 * 4
    assert sla.controls["equal images seen"].images_seen == sla.measured.images_seen
    assert plain.gains == {}
    against = {
        "baseline": ("protonet", "single"),
        "aggregated": ("protonet", "aggregated"),
        "equal images seen": ("protonet-equal-passes", "single"),
        "both": ("protonet-equal-passes", "aggregated"),
    }
    assert set(sla.gains) == set(against)
    for name, (recipe, predictor) in against.items():
        test = stats.ttest_rel(ours, accuracies(recipe, predictor))
        low, high = test.confidence_interval(0.95)
        gain = sla.gains[name]  # type: ignore[index]
        assert gain.value == pytest.approx((low + high) / 2)
        assert gain.half_width == pytest.approx((high - low) / 2)

    # Nothing is run twice: neither by the same table, nor by `slabench run` with the same settings, nor the other way round.
    assert slabench.reproduce(str(table), "quick", results=results).outcomes == []
    same: dict[str, Any] = {
        "data.dataset": "glyphs", "protocol.shots": 1, "protocol.queries": 3, "protocol.episodes": 12, "train.steps": 5,
        "train.queries": 1, "train.precision": "float32", "select.points": 1, "select.episodes": 5,
    }  # fmt: skip
    for objective, name in (("baseline", "protonet"), ("sla", "protonet+sla")):
        (trial,) = slabench.plan(load_recipe("fewshot/quick", same | {"sla.objective": objective}), results=results)
        assert trial.done is not None
        assert trial.done.name == f"small/{name}"


@pytest.mark.usefixtures("narrow_conv4")
def test_the_command_goes_on_after_a_failure_and_without_data(tmp_path: Path, glyphs: Path) -> None:
    path = write(tmp_path, TABLE + ABSENT + FAILING + ROWS)
    arguments = ["reproduce", str(path), "--preset", "quick", "--results", str(tmp_path / "results"), "--threads", "1"]
    code, output = here(*arguments, "--dry-run", "--only", "glyphs")
    assert code == 0, output
    assert re.search(r"4 trials: 0 done; 4 to run, about \d+ (s|min) (\(\d+ .+ to .+\) )?on this cpu", output)
    assert not (tmp_path / "results").exists()

    code, output = here(*arguments)
    assert code == 1, output
    states = {record.name: record.status for record in ResultStore(tmp_path / "results").records()}
    assert states == {
        "small/too-fast": "failed",
        "small/protonet": "done",
        "small/protonet+sla": "done",
        "small/protonet-equal-passes": "done",
    }
    assert "needs data: 'fc100'" in output
    assert "slabench data get cifar100" in output
    assert re.search(r"ProtoNet, too fast +failed", output)
    assert re.search(r"ProtoNet\+SLA\+AG +\d+\.\d\d ± \d\.\d\d ~60\.0\? unverified [+-]\d", output)
    assert "failed: glyphs 5w1s protonet/conv4 baseline 5 steps seed 0: the loss is no longer finite" in output

    # One of the two rows of the other column, whose data is not here, and nothing of this one.
    code, output = here(*arguments, "--only", "fc100/protonet")
    assert code == 2
    assert "slabench data get cifar100" in output


def test_jobs_share_the_work_and_stop_together(tmp_path: Path, glyphs: Path) -> None:
    write(tmp_path, TABLE + ROWS, steps=40)
    command = ["reproduce", "small.toml", "--preset", "quick", "--jobs", "2", "--threads", "1"]
    process = start(command, tmp_path, SLABENCH_CHECKPOINT_SECONDS="0")
    checkpoints = tmp_path / "results" / "checkpoints"
    end = time.monotonic() + 120
    while not list(checkpoints.glob("*.safetensors")) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    children = _jobs(process.pid)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert len(children) == 2, output
    assert "the state of the others is saved" in output
    assert "Traceback" not in output
    assert all(not _alive(child) for child in children)
    assert list(checkpoints.glob("*.safetensors"))
    before = len(ResultStore(tmp_path / "results").records())
    assert before < 3
    code, status = here("status", folder=tmp_path)
    assert (code, f"{3 - before} stopped" in status) == (0, True), status

    code, output = here(*command, folder=tmp_path)
    assert code == 0, output
    assert f"[1] 1/{3 - before} glyphs" in output or f"[2] 1/{3 - before} glyphs" in output
    assert f"{3 - before} of {3 - before} trials have ended" in output
    assert here("status", folder=tmp_path)[1].startswith("3 done in results\n")
    assert "continuing at step" in output
    assert len(ResultStore(tmp_path / "results").records()) == 3
    assert len(re.findall(r"test \(%\): single", output)) == 3 - before  # each trial once


def _jobs(pid: int) -> list[int]:
    """The processes that a process has started to work for it, and not what Python keeps beside them."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for thread in threads for child in thread.read_text(encoding="ascii").split()]
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_process_that_dies_fails_its_trial_alone(table: Path, tmp_path: Path) -> None:
    from slabench.reproduction.running import in_order

    results = tmp_path / "results"
    trials = in_order(plan_table(str(table), "quick", results=results))
    assert len(trials) == 3
    killed: list[int] = []

    def say(line: str) -> None:
        """Kill the process at its first line, as the kernel does where memory is short."""
        if not killed:
            killed.extend(_jobs(os.getpid()))
            os.kill(killed[0], signal.SIGKILL)

    ended = Local(1).run(trial_jobs(trials), Settings(results, threads=1), say)
    assert [result.state for result in ended] == ["failed", "ran", "ran"]
    assert str(ended[0].error) == "its process ended by signal 9 (Killed): out of memory?"
    assert len(ResultStore(results).records()) == 2


@pytest.mark.usefixtures("registries")
def test_jobs_know_the_plug_ins_of_their_parent(tmp_path: Path, glyphs: Path) -> None:
    from slabench.plugins import load_plugin
    from slabench.reproduction.running import in_order

    load_plugin(Path(__file__).parents[1] / "examples" / "own_methods.py")
    rows = ROWS.replace('label = "ProtoNet"\n', 'label = "Mine"\nset.model.head = "nearest"\n')
    table = write(tmp_path, TABLE + rows)
    (trial, *_) = in_order(plan_table(str(table), "quick", results=tmp_path / "results"))
    assert trial.recipe.model.head == "nearest"  # type: ignore[union-attr]
    (result,) = Local(1).run(trial_jobs([trial]), Settings(tmp_path / "results", threads=1))
    assert (result.state, result.error) == ("ran", None)
    assert ResultStore(tmp_path / "results").find(trial.key) is not None


def test_jobs_do_not_outlive_a_parent_that_is_killed(tmp_path: Path, glyphs: Path) -> None:
    write(tmp_path, TABLE + ROWS, steps=5000)
    process = start(["reproduce", "small.toml", "--preset", "quick", "--jobs", "2", "--threads", "1"], tmp_path)
    locks = tmp_path / "results" / "checkpoints"
    end = time.monotonic() + 120
    while len(list(locks.glob("*.lock"))) < 2 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    jobs = _jobs(process.pid)
    process.kill()
    _, output = finish(process)
    assert len(jobs) == 2, output
    while any(map(_alive, jobs)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(_alive, jobs))


def test_with_the_data_the_trials_are_those_of_the_committed_records(cifar100: Path) -> None:
    root = Path(__file__).parent.parent / "results"
    few = plan_table("sla2020/few-shot", only=["fc100-5shot/protonet*"], seeds=[0, 1, 2], results=root)
    done = {trial.key for trials in few.trials.values() for trial in trials if trial.done is not None}
    names = ("fewshot/controls/baseline", "fewshot/controls/sla", "fewshot/controls/baseline-equal-passes")
    records = ResultStore(root).records()
    assert done == {r.key for r in records if r.protocol == "fewshot/fc100/5w5s15q" and r.name in names}
    assert len(done) == 7
    tail = plan_table("sla2020/imbalanced", only=["cifar100-r100/ce"], results=root)
    assert tail.missing == []
