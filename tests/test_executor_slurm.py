"""`--executor slurm` against a real SLURM on this machine: controller and two nodes, started by scripts/start_slurm.sh."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import QUICK, finish, here, start

from slabench.executors.submissions import queue
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore

pytest.importorskip("submitit", reason="needs submitit: pip install 'slabench[slurm]'")
SCRIPT = Path(__file__).parents[1] / "scripts" / "start_slurm.sh"
WORDS = [*QUICK, "--steps", "60", "--seeds", "0,1,2,3"]
SLURM = [*WORDS, "--executor", "slurm", "--resource", "minutes=10"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration of a SLURM that lives as long as this file's tests; they skip where none can be started."""
    folder = tmp_path_factory.mktemp("slurm")
    done = subprocess.run(["sh", SCRIPT, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a SLURM: {done.stderr.strip()}")
    yield folder / "slurm.conf"
    subprocess.run(["sh", SCRIPT, "--stop", folder], check=False)


@pytest.fixture
def cluster(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    monkeypatch.setenv("SLABENCH_CHECKPOINT_SECONDS", "0")
    return slurm


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the command; whatever a test that fails has left of it is killed."""
    found: list[subprocess.Popen[str]] = []

    def again() -> subprocess.Popen[str]:
        found.append(start(SLURM, tmp_path))
        return found[-1]

    yield again
    for process in found:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=60)


def until(true: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)


def records(folder: Path) -> dict[int, RunRecord]:
    return {record.seed: record for record in ResultStore(folder).records() if record.status == "done"}


def running(folder: Path) -> dict[str, str]:
    """SLURM's number of each job that trains, and the first letters of its trial's key."""
    found = {}
    for log in sorted((folder / "logs").rglob("*_log.out")):
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("1/1 glyphs")]
        if lines and (folder / "checkpoints" / f"{lines[-1].split()[-1]}.safetensors").exists():
            found[log.name.removesuffix("_0_log.out")] = lines[-1].split()[-1]
    return found


def test_a_table_is_complete_and_equal_whatever_happens_to_its_jobs(
    cluster: Path, glyphs: Path, tmp_path: Path, started: Callable[[], subprocess.Popen[str]]
) -> None:
    """One job is cancelled and queued again half-way, one is told that its time is over; the command is interrupted, and typed
    again meanwhile."""
    results = tmp_path / "results"
    first = started()
    until(lambda: len(running(results)) == 2 or first.poll() is not None)
    requeued, warned = running(results)
    subprocess.run(["scontrol", "requeue", requeued], check=True)
    # In the background: it asks for half a minute more where the job has ended before SLURM has answered.
    signalling = subprocess.Popen(["scancel", "--signal=USR2", warned], stderr=subprocess.DEVNULL)
    code, output = here("status", folder=tmp_path)
    assert code == 0, output
    assert sum(output.count(f"\n{state} ") for state in ("running", "queued", "done")) == 4, output
    assert "queued" in output
    second = started()  # the same table at once: each trial has one owner
    for job in (requeued, warned):  # SLURM would let them wait for two minutes
        until(lambda job=job: (queue() or {}).get(job) == "PENDING")  # type: ignore[misc]
        subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], check=True)
    signalling.kill()
    signalling.wait()
    first.send_signal(signal.SIGINT)
    code, output = finish(first)
    assert code == 130, output
    assert "stopped waiting; the jobs stay in SLURM's queue and go on" in output
    assert "scancel " in output
    code, output = finish(second)
    assert code == 0, output
    assert "waiting for 4 trials of another command (SLURM job " in output
    assert "4 of 4 trials are done" in output
    assert "SLURM job" not in output.partition("waiting for")[0]  # it submitted nothing

    logs = "".join(path.read_text(encoding="utf-8") for path in results.glob("logs/slurm/*/*.out"))
    assert logs.count("continuing at step") == 2
    assert "Requeued job" in logs
    assert logs.count("test (%): single") == 4  # no trial was run twice
    code, output = here("status", folder=tmp_path)
    assert output.startswith("4 done in results\n")
    left = [path.name for path in (results / "checkpoints").iterdir() if path.suffix != ".json"]
    assert left == [], left

    code, output = here(*WORDS, "--results", "alone", folder=tmp_path)
    assert code == 0, output
    alone, ours = records(tmp_path / "alone"), records(results)
    assert len(ours) == 4
    for seed, record in alone.items():
        assert ours[seed].key == record.key
        assert ours[seed].scores == record.scores
        assert [point.val for point in ours[seed].curve] == [point.val for point in record.curve]
        mine, theirs = ResultStore(results).episodes(ours[seed]), ResultStore(tmp_path / "alone").episodes(record)
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
