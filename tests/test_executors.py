"""Executors without a cluster: jobs as data, what they need, who has them, processes and their devices, wrong requests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from processes import here

from slabench.backbones.fewshot import Conv4
from slabench.core import paths
from slabench.core.errors import UsageError
from slabench.core.memory import free_memory_mb
from slabench.executors import machine
from slabench.executors.choose import choose
from slabench.executors.claims import Claims, Owner
from slabench.executors.jobs import Job, Resources, Result, Settings
from slabench.executors.local import Local, _Queue
from slabench.executors.resources import Request, memory_mb, rounded
from slabench.executors.running import run_jobs
from slabench.executors.slurm import Partition, Slurm, _minutes
from slabench.recipes import load_recipe, parse_recipe
from slabench.records.agenda import Planned
from slabench.records.store import ResultStore

PLANNED = Planned("k" * 64, "fewshot/quick", "sla", "fewshot/glyphs/5w1s3q", 0, 5, 75)
JOB = Job(
    "trial", PLANNED.key, "glyphs 5w1s", {"recipe": {"name": "x"}, "seed": 0}, ("a.py",), Resources(2, 500), PLANNED
)


def job(key: str, **resources: int) -> Job:
    return Job("trial", key, f"trial {key}", {"recipe": {}, "seed": 0}, (), Resources(**resources))


def test_jobs_and_settings_cross_as_text(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path / "data", "cpu", 1, "auto", ("slabench", "run"))
    assert Job.read(JOB.text()) == JOB
    assert Job.read(replace(JOB, kind="scoring", planned=None).text()) == replace(JOB, kind="scoring", planned=None)
    assert Settings.read(settings.text()) == settings


class TestRequest:
    def test_what_is_said_is_taken_at_its_word(self) -> None:
        found = Request.parse(["cores=2", "memory=1.5G", "gpus=0", "minutes=90", "account=me"], "short")
        assert found == Request(2, 1536, 0, 90, "short", "me")
        assert Request.parse(["memory=500MB"]).memory_mb == 500

    @pytest.mark.parametrize(
        ("text", "message", "remedy"),
        [
            ("gpu=1", "unknown resource 'gpu'", "did you mean 'gpus'?"),
            ("gpus", "gpus is not KEY=VALUE", "--resource gpus=1"),
            ("cores=0", "cores=0 is not a whole number of at least 1", "cores=1"),
            ("memory=8", "memory=8 is no amount of memory", "memory=8G"),
            ("minutes=1h", "minutes=1h is not a whole number", "minutes=1"),
        ],
    )
    def test_what_is_wrong_is_named(self, text: str, message: str, remedy: str) -> None:
        with pytest.raises(UsageError) as caught:
            Request.parse([text])
        assert message in caught.value.message
        assert remedy in caught.value.remedy

    def test_a_key_is_said_once(self) -> None:
        with pytest.raises(UsageError, match="partition is said twice: short and long"):
            Request.parse(["partition=long"], "short")

    @pytest.mark.parametrize(("minutes", "asked"), [(0.1, 10), (10, 10), (61, 120), (2881, 4320), (4321, 5760)])
    def test_minutes_are_rounded_up(self, minutes: float, asked: int) -> None:
        assert rounded(minutes) == asked


def test_memory_is_enough_for_what_was_measured() -> None:
    """The shipped records say how much their processes took at most: never more than a trial would ask for, nor a fifth of it."""
    seen = 0
    for record in ResultStore(paths.shipped_results()).records():
        if record.derived or record.status != "done" or not record.cost or not record.cost.peak_memory_bytes:
            continue
        if record.pretrained:  # features in place of images, which are not here
            continue
        recipe = parse_recipe({**record.recipe, "seeds": [record.seed]})
        images = {"train": range(36_000), "val": range(12_000), "test": range(12_000)}
        prepared = SimpleNamespace(n_train=36_000, **images)
        asked = memory_mb(SimpleNamespace(recipe=recipe, prepared=prepared), cuda=False)  # type: ignore[arg-type]
        took = record.cost.peak_memory_bytes >> 20
        assert took <= asked <= 5 * took, record.key
        seen += 1
    assert seen > 40


def test_memory_is_of_the_network_that_has_the_name_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that is replaced under its name, as a plug-in edited in a notebook is, is measured anew."""
    recipe = load_recipe("fewshot/maml")[0]
    trial: Any = SimpleNamespace(recipe=recipe, prepared=SimpleNamespace(n_train=100))
    conv4 = memory_mb(trial, cuda=False)
    with monkeypatch.context() as patch:
        patch.setattr("slabench.backbones.fewshot.conv4", lambda image_size: Conv4(image_size, 8))
        narrow = memory_mb(trial, cuda=False)
    assert narrow < conv4
    assert memory_mb(trial, cuda=False) == conv4


class TestClaims:
    def test_a_trial_has_one_owner(self, tmp_path: Path) -> None:
        first, second = (Claims(tmp_path, Owner.this_command("slurm")) for _ in range(2))
        assert first.take("a" * 64) is None
        assert first.take("a" * 64) is None  # it is ours
        assert second.take("a" * 64) == first.owner
        assert second.of_others("a" * 64) == first.owner
        second.release(["a" * 64])  # not its own
        assert second.take("a" * 64) == first.owner
        first.release(["a" * 64])
        assert second.take("a" * 64) is None

    def test_the_claim_of_a_process_that_is_gone_is_taken_over(self, tmp_path: Path) -> None:
        process = subprocess.Popen([sys.executable, "-c", ""])
        process.wait()
        gone = replace(Owner.this_command("ray"), pid=process.pid)
        assert Claims(tmp_path, gone).take("a" * 64) is None
        ours = Claims(tmp_path, Owner.this_command("ray"))
        assert ours.take("a" * 64) is None
        elsewhere = replace(Owner.this_command("ray"), pid=process.pid, host="another machine")
        assert Claims(tmp_path, elsewhere).take("b" * 64) is None
        assert ours.take("b" * 64) == elsewhere  # nobody here can know

    def test_a_submission_keeps_it_when_the_command_is_gone(self, tmp_path: Path) -> None:
        queued = {"12_0"}
        first = Claims(tmp_path, Owner.this_command("slurm"))
        assert first.take("a" * 64) is None
        first.hand_over("a" * 64, "12_0")
        assert first.submitted("a" * 64)
        second = Claims(tmp_path, Owner.this_command("slurm"), lambda owner: owner.submission in queued)
        found = second.take("a" * 64)
        assert found is not None
        assert str(found) == "SLURM job 12_0"
        queued.clear()
        assert second.take("a" * 64) is None

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"executor": 1}'])
    def test_a_damaged_claim_holds_nobody_up(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "checkpoints" / f"{'a' * 12}.owner"
        path.parent.mkdir()
        path.write_text(text, encoding="ascii")
        assert Claims(tmp_path, Owner.this_command("ray")).take("a" * 64) is None

    def test_of_many_at_once_one_has_it(self, tmp_path: Path) -> None:
        stale = Claims(tmp_path, replace(Owner.this_command("ray"), command="stale"))
        stale.take("a" * 64)
        claims = [
            Claims(tmp_path, Owner.this_command("ray"), lambda owner: owner.command != "stale") for _ in range(16)
        ]
        found: list[Owner | None] = []
        threads = [threading.Thread(target=lambda one=one: found.append(one.take("a" * 64))) for one in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found.count(None) == 1


class Fake:
    """An executor of its own for tests: keeps what it was given."""

    name = "fake"

    def __init__(self, root: Path) -> None:
        self.root, self.given = root, list[str]()

    def plan(self, jobs: Sequence[Job]) -> list[str]:
        return []

    def lives(self, owner: Owner) -> bool:
        return owner.submission == "alive"

    def run(self, jobs: Sequence[Job], settings: Settings, say: Any, claims: Claims | None) -> list[Result]:
        self.given += [job.key for job in jobs]
        return [Result(job.key, "ran") for job in jobs]


class TestRunning:
    def other(self, root: Path, submission: str) -> Claims:
        claims = Claims(root, Owner.this_command("fake"))
        claims.take("b" * 64)
        claims.hand_over("b" * 64, submission)
        return claims

    def test_what_another_command_has_is_waited_for_and_taken_over(self, tmp_path: Path) -> None:
        other, fake, said = self.other(tmp_path, "alive"), Fake(tmp_path), list[str]()
        threading.Timer(0.5, lambda: other.hand_over("b" * 64, "dead")).start()
        results = run_jobs(fake, [job("a" * 64), job("b" * 64)], Settings(tmp_path), said.append)
        assert [(result.key[0], result.state) for result in results] == [("a", "ran"), ("b", "ran")]
        assert fake.given == ["a" * 64, "b" * 64]
        assert "waiting for a trial of another command (SLURM job alive)" in said[0]
        assert f"remove {tmp_path}/checkpoints/{'b' * 12}.owner" in said[0]
        assert list((tmp_path / "checkpoints").iterdir()) == []

    def test_or_is_busy(self, tmp_path: Path) -> None:
        self.other(tmp_path, "alive")
        results = run_jobs(Fake(tmp_path), [job("a" * 64), job("b" * 64)], Settings(tmp_path), wait=False)
        assert [result.state for result in results] == ["ran", "busy"]
        assert results[1].error == "SLURM job alive has this trial"


class TestLocal:
    def test_as_many_side_by_side_as_there_is_room_for(self) -> None:
        jobs = [job(str(number)) for number in range(8)]
        assert Local(None, (), cores=4).slots(jobs) == 4  # one thread each beats one after the other with four
        assert Local(None, (), cores=4).slots(jobs[:3]) == 3
        assert Local(6, (), cores=4).slots(jobs) == 6  # asked for
        assert Local(6, (), cores=4).threads(6) == 1
        assert Local(2, (), cores=4).threads(2) == 2
        assert Local(None, ("0", "1", "2"), cores=16).slots(jobs) == 3
        assert Local(5, ("0", "1"), cores=16).slots(jobs) == 2  # a device each
        assert "--jobs 5 is more than the 2 devices: the others wait" in Local(5, ("0", "1"), cores=16).plan(jobs)

    def test_a_job_waits_for_its_memory(self) -> None:
        never = threading.Event()
        queue = _Queue([job("a", memory_mb=600), job("b", memory_mb=600), job("c", memory_mb=5000)], 1000)
        taken = queue.take(never)
        assert taken is not None
        assert taken[1].key == "a"
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(queue.take(never)[1].key))  # type: ignore[index]
        thread.start()
        time.sleep(0.1)
        assert found == []
        queue.give_back(taken[1])
        thread.join(5)
        assert found == ["b"]
        queue.give_back(job("b", memory_mb=600))
        alone = queue.take(never)  # more than there is, and nothing else runs: it may be less than was thought
        assert alone is not None
        assert alone[1].key == "c"
        assert queue.take(never) is None

    def test_all_that_wait_end_when_asked_to(self) -> None:
        stopped = threading.Event()
        queue = _Queue([job("a", memory_mb=600), job("b", memory_mb=600)], 1000)
        queue.take(stopped)
        threading.Timer(0.1, stopped.set).start()
        assert queue.take(stopped) is None

    @pytest.mark.slow
    def test_each_process_sees_its_own_device(self, tmp_path: Path) -> None:
        """With a made-up list of devices: what a process sees is written down by a plug-in that it loads."""
        plugin = tmp_path / "tell.py"
        plugin.write_text(
            "import os, pathlib\n"
            f"folder = pathlib.Path({str(tmp_path)!r})\n"
            "(folder / f\"sees-{os.environ['CUDA_VISIBLE_DEVICES']}-{os.getpid()}\").touch()\n",
            encoding="utf-8",
        )
        jobs = [replace(job(key * 64), plugins=(str(plugin),)) for key in "abcd"]
        results = Local(None, ("3", "GPU-7"), cores=2).run(jobs, Settings(tmp_path / "results"))
        assert {result.state for result in results} == {"failed"}  # there is no such device, and no such recipe
        seen = sorted(path.name.split("-", 1)[1].rsplit("-", 1) for path in tmp_path.glob("sees-*"))
        assert [device for device, _ in seen] == ["3", "GPU-7"]
        assert len({pid for _, pid in seen}) == 2

    def test_the_devices_that_a_user_lets_see(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert machine.devices() == ["0", "1"]
        assert machine.devices("cuda:1") == ["1"]
        assert machine.devices("cpu") == []
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-ab")
        assert machine.devices("cuda:1") == ["GPU-ab"]


class TestArrays:
    JOBS = (job("a", minutes=10), job("b", minutes=60), job("c", minutes=10), job("d", minutes=4000))

    def test_jobs_that_ask_alike_are_one_array(self) -> None:
        slurm = Slurm(Request(), Partition("short", True, 120))
        found = [(needs.minutes, [one.key for one in own]) for needs, own in slurm._arrays(self.JOBS)]
        assert found == [(10, ["a", "c"]), (60, ["b"]), (120, ["d"])]
        lines = slurm.plan(self.JOBS)
        assert lines[0] == "array 1: 2 jobs in partition short, each 1 core, 10 min"
        assert "gives 120 min at most: longer trials save, queue again and go on" in lines[-1]

    def test_with_a_bound_all_are_one_array(self) -> None:
        slurm = Slurm(Request(), Partition("short", True, None), jobs=2)
        ((needs, own),) = slurm._arrays(self.JOBS)
        assert (needs.minutes, len(own)) == (4000, 4)
        assert slurm.plan(self.JOBS)[0] == "array 1: 4 jobs, 2 at a time in partition short, each 1 core, 4,000 min"

    @pytest.mark.parametrize(
        ("limit", "minutes"), [("infinite", None), ("30:00", 30), ("1:00:00", 60), ("2-12:00:00", 3600), ("n/a", None)]
    )
    def test_limits_of_partitions(self, limit: str, minutes: int | None) -> None:
        assert _minutes(limit) == minutes


class TestWrongRequests:
    @pytest.fixture
    def slurm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder of commands that answer as SLURM's do."""
        pytest.importorskip("submitit")
        for name in ("sbatch", "sinfo", "squeue"):
            self.command(tmp_path / name, "true")
        self.command(tmp_path / "sinfo", "printf 'short*|1:00:00\\nlong|infinite\\n'")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path

    def command(self, path: Path, text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
        path.chmod(0o755)

    @pytest.mark.parametrize(
        ("words", "message", "remedy"),
        [
            (["--executor", "slrum"], "unknown executor 'slrum'", "did you mean 'slurm'?"),
            (["--partition", "short"], "--partition has no effect with --executor local", "--executor slurm"),
            (["--resource", "gpu=1"], "unknown resource 'gpu'", "did you mean 'gpus'?"),
            (["--executor", "local", "--resource", "minutes=5"], "minutes=5 has no effect", "--executor slurm"),
        ],
    )
    @pytest.mark.parametrize("verb", ["run", "reproduce", "score"])
    def test_they_are_told_before_anything_is_done(
        self, verb: str, words: list[str], message: str, remedy: str, tmp_path: Path
    ) -> None:
        target = {"run": "fewshot", "reproduce": "sla2020/few-shot", "score": "abc"}[verb]
        code, output = here(verb, target, *words, folder=tmp_path)
        assert (code, message in output, remedy in output) == (2, True, True), output
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(("name", "package"), [("slurm", "submitit"), ("ray", "ray")])
    def test_without_its_package(self, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
        with pytest.raises(UsageError, match=f"needs the package {package}, which is not installed") as caught:
            choose(name, None, Request())
        assert caught.value.remedy == f"pip install 'slabench[{name}]'"

    def test_without_slurm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("submitit")
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(UsageError, match="SLURM's command sbatch is not on this machine") as caught:
            choose("slurm", None, Request())
        assert "--executor local" in caught.value.remedy

    def test_a_slurm_that_does_not_answer(self, slurm: Path) -> None:
        self.command(slurm / "sinfo", "echo 'Unable to contact slurm controller' >&2; exit 1")
        with pytest.raises(UsageError, match="SLURM does not answer: Unable to contact slurm controller"):
            choose("slurm", None, Request())

    def test_partitions(self, slurm: Path) -> None:
        found = choose("slurm", 3, Request())
        assert found == Slurm(Request(), Partition("short", True, 60), 3)
        found = choose("slurm", None, Request(partition="long"))
        assert found == Slurm(Request(partition="long"), Partition("long", False, None))
        with pytest.raises(UsageError, match="SLURM has no partition 'shrot'") as caught:
            choose("slurm", None, Request(partition="shrot"))
        assert caught.value.remedy == "did you mean 'short'?"
        self.command(slurm / "sinfo", "printf 'a|1:00:00\\nb|infinite\\n'")
        with pytest.raises(UsageError, match="no default partition") as caught:
            choose("slurm", None, Request())
        assert caught.value.remedy == "name one: --partition a or b"

    def test_what_a_job_that_was_stopped_could_not_know(self, slurm: Path) -> None:
        with pytest.raises(UsageError, match="--resume force is for this machine"):
            choose("slurm", None, Request(), resume="force")

    def test_no_process(self) -> None:
        with pytest.raises(UsageError, match="--jobs 0: at least one process does the work"):
            choose("local", 0, Request())

    def test_nothing_said_is_no_executor(self) -> None:
        assert choose(None, None, Request()) is None
        assert choose(None, 1, Request()) is None
        assert isinstance(choose(None, 2, Request()), Local)


def test_free_memory_and_cores_are_told() -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    free = free_memory_mb()
    assert free is None or free > 100
