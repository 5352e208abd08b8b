"""Several processes on one folder of results: each trial once, none left open, and folders that cannot lock."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import QUICK, here

from slabench import load_recipe, plan, runner
from slabench.core.locks import hold
from slabench.executors import running
from slabench.executors.claims import Claims, Owner
from slabench.executors.jobs import Job, Result, Settings, trial_jobs
from slabench.executors.local import Local

WORDS = [*QUICK, "--steps", "4"]
# Two steps, and a look at few episodes: here it is asked who runs a trial, not how well.
SMALL = {
    "data.dataset": "glyphs",
    "train.steps": 2,
    "protocol.episodes": 10,
    "select.points": 1,
    "select.episodes": 4,
}
_HOLDER = (
    "import sys, time; from filelock import FileLock\n"
    "lock = FileLock(sys.argv[1]); lock.acquire(); print(flush=True); time.sleep(600)"
)


@contextmanager
def holder(lock: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds `lock`, and does nothing else."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(lock)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class TestLock:
    def test_held_busy_and_gone(self, tmp_path: Path) -> None:
        path = tmp_path / "checkpoints" / "a.lock"
        with holder(path) as process:
            with hold(path) as state:
                assert state == "busy"
            assert path.exists()
            process.kill()
            process.wait()
            assert path.exists()  # what a killed process leaves
        with hold(path) as state:
            assert state == "held"
        assert list(path.parent.iterdir()) == []

    def test_it_is_not_held_twice_over_a_file_that_is_gone(self, tmp_path: Path) -> None:
        """A process that opened the lock file before it was removed does not hold the removed one beside another's new one."""
        path = tmp_path / "a.lock"
        script = (
            "import sys; from pathlib import Path; from slabench.core.locks import hold\n"
            "place, counter = Path(sys.argv[1]), Path(sys.argv[2])\n"
            "for _ in range(100):\n"
            "    with hold(place, seconds=60) as state:\n"
            "        assert state == 'held'\n"
            "        counter.write_text(str(int(counter.read_text()) + 1))\n"
        )
        counter = tmp_path / "counter"
        counter.write_text("0", encoding="ascii")
        both = [subprocess.Popen([sys.executable, "-c", script, str(path), str(counter)]) for _ in range(2)]
        assert [process.wait(60) for process in both] == [0, 0]
        assert counter.read_text(encoding="ascii") == "200"

    @pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.EIO])
    def test_a_file_system_without_locks_is_not_busy(
        self, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)
        with hold(tmp_path / "a.lock") as state:
            assert isinstance(state, OSError)
            assert state.errno == number


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs", "narrow_conv4")
class TestARun:
    def test_it_waits_and_takes_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Seed 0 is held by a process that is killed, seed 1 by one that ends with it, seed 2 by nobody."""
        recipe = load_recipe("fewshot/quick", SMALL)
        results = tmp_path / "results"
        killed, ending, _ = plan(recipe, [0, 1, 2], results)
        other = tmp_path / "other"
        runner.run(recipe, [1], results=other)
        locks = [results / "checkpoints" / f"{trial.key[:12]}.lock" for trial in (killed, ending)]
        with holder(locks[0]) as first, holder(locks[1]) as second:
            (not_waiting, *_) = runner.run(recipe, [0], results=results, wait=False)
            assert not_waiting.state == "busy"
            pauses = 0

            def pause() -> None:
                nonlocal pauses
                pauses += 1
                if pauses == 2:
                    first.kill()
                    first.wait()
                if pauses == 4:
                    shutil.copytree(other / "runs", results / "runs", dirs_exist_ok=True)
                    second.kill()
                    second.wait()

            monkeypatch.setattr(runner, "_pause", pause)
            with pytest.warns(runner.RunWarning, match="waiting for 2 trials that other processes run"):
                outcomes = runner.run(recipe, [0, 1, 2], results=results)
        assert [(outcome.trial.seed, outcome.state) for outcome in outcomes] == [(0, "ran"), (1, "skipped"), (2, "ran")]
        assert all(outcome.record is not None and outcome.record.status == "done" for outcome in outcomes)
        assert pauses == 4
        assert list((results / "checkpoints").iterdir()) == []

    def test_it_ends_without_waiting_on_request(self, tmp_path: Path) -> None:
        recipes = load_recipe("fewshot/quick", {"data.dataset": "glyphs"})
        (trial,) = plan(recipes, [0], tmp_path / "results")
        words = ("run", "fewshot", "--dataset", "glyphs", "--preset", "quick", "--seeds", "0", "--no-wait")
        with holder(tmp_path / "results" / "checkpoints" / f"{trial.key[:12]}.lock"):
            code, output = here(*words, folder=tmp_path)
        assert code == 1
        assert "busy: another process is running this trial" in output
        assert "0 of 1 trials are done" in output

    def test_what_another_process_forced_meanwhile_is_not_forced_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = load_recipe("fewshot/quick", SMALL)
        (before,) = runner.run(recipe, [0], results=tmp_path)
        assert before.record is not None
        planned = plan(recipe, [0], tmp_path)
        store = runner.ResultStore(tmp_path)
        again = before.record.model_copy(update={"finished": "2100-01-01T00:00:00+00:00"})
        store.save(again, store.episodes(before.record))
        monkeypatch.setattr(runner, "plan", lambda *arguments: planned)
        (outcome,) = runner.run(recipe, [0], results=tmp_path, resume="force")
        assert outcome.state == "skipped"

    def test_a_folder_that_cannot_lock_is_said_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*arguments: Any) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)
        code, output = here(*WORDS, "--seeds", "0,1", folder=tmp_path)
        assert code == 0, output
        assert output.count("results/checkpoints cannot lock files (No locks available)") == 1
        assert "Run one process in this folder, or name one on a local disk with --results" in output
        assert "2 of 2 trials are done" in output


class Passing:
    """An executor of processes that passes by the first job, whose trial another command holds."""

    name = "local"

    def run(self, jobs: list[Job], *arguments: Any) -> list[Result]:
        return [Result(job.key, "ran" if place else "busy") for place, job in enumerate(jobs)]


def test_a_command_takes_over_what_its_processes_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--jobs`: trials that another command held are run, or waited for, by the command itself in the end."""
    jobs, asked = [Job("trial", key * 64, key, {}) for key in "ab"], []

    def do(job: Job, *arguments: Any) -> Result:
        asked.append(job.key)
        return Result(job.key, "ran")

    monkeypatch.setattr(running, "do", do)
    passing: Any = Passing()
    assert [result.state for result in running.run_jobs(passing, jobs, Settings(tmp_path))] == ["ran", "ran"]
    assert asked == ["a" * 64]
    results = running.run_jobs(passing, jobs, Settings(tmp_path), wait=False)
    assert [result.state for result in results] == ["busy", "ran"]


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
def test_an_executor_needs_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that cannot lock, a second command waits for the trial that the first one's claim names, and runs the other."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    recipe = load_recipe("fewshot/quick", SMALL)
    jobs = trial_jobs(plan(recipe, [0, 1], tmp_path))
    other = Claims(tmp_path, Owner.this_command("local"))
    assert other.take(jobs[0].key) is None
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "waiting for a trial of another command" in line:
            other.release([jobs[0].key])

    results = running.run_jobs(Local(2), jobs, Settings(tmp_path, threads=1), say)
    assert [result.state for result in results] == ["ran", "ran"], results
    assert sum("waiting for a trial" in line for line in said) == 1
    assert not any("cannot lock files" in line for line in said)
    assert [path for path in (tmp_path / "checkpoints").iterdir() if path.suffix != ".json"] == []
