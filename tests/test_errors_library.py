"""Errors of the public functions that no command reaches first, of tampered episode files, and of a second interrupt."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from line_task import Line
from model_outputs import make_outputs
from processes import here
from told import names

import slabench
from slabench.cli import app
from slabench.core.errors import DataError, SlabenchError, UsageError
from slabench.core.files import read_json, sha256_file, write_json
from slabench.core.registry import HEADS
from slabench.data import load
from slabench.data.imageset import ImageSet
from slabench.episodes.files import make
from slabench.episodes.profiles import parse_profile
from slabench.heads.logistic import logistic_solution
from slabench.losses.loss import build_loss, class_weights
from slabench.posthoc.methods import logit_adjust
from slabench.recipes.fewshot import Select, Train
from slabench.records.outputs import load_weights
from slabench.reproduction.planning import plan_table
from slabench.reproduction.running import run_missing
from slabench.training.loop import StepResult, fit


def told(call: Callable[[], object], kind: type[SlabenchError] = UsageError) -> SlabenchError:
    """The error of a call."""
    with pytest.raises(kind) as caught:
        call()
    return caught.value


class TestEpisodeFiles:
    """Files whose digest agrees and whose content does not."""

    @pytest.fixture
    def characters(self, glyphs: Path) -> ImageSet:
        return load("glyphs", "test")

    def tampered(self, path: Path, change: Callable[[np.ndarray], np.ndarray]) -> str:
        """What `episodes verify` says of the file after `change`, its digest in the manifest made to fit."""
        np.save(path, change(np.load(path)))
        manifest = path.with_suffix(".json")
        write_json(manifest, read_json(manifest) | {"sha256": sha256_file(path)})
        code, output = here("episodes", "verify", str(path))
        assert code == 1
        assert "Traceback" not in output
        return output

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda rows: rows[:30], "uint16 [30, 5, 5]"),
            (lambda rows: rows.astype(np.int64), "int64 [40, 5, 5]"),
            (lambda rows: rows[..., 0], "uint16 [40, 5]"),
        ],
    )
    def test_another_shape_or_type(
        self, characters: ImageSet, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], found: str
    ) -> None:
        path = make(characters, "glyphs", "test", 5, 2, 3, 40, tmp_path)
        names((self.tampered(path, change), ""), path, found, "manifest says uint16 [40, 5, 5]", remedy=())

    def unequal(self, characters: ImageSet, tmp_path: Path) -> tuple[Path, int]:
        """A file of unequal supports, and its columns of supports."""
        path = make(characters, "glyphs", "test", 5, 3, 3, 12, tmp_path, None, "linear:3", "balanced")
        return path, read_json(path.with_suffix(".json"))["columns"][0]

    def test_a_class_without_supports(self, characters: ImageSet, tmp_path: Path) -> None:
        path, shots = self.unequal(characters, tmp_path)

        def change(rows: np.ndarray) -> np.ndarray:
            rows[7, 2, :shots] = 65_535  # no image
            return rows

        names((self.tampered(path, change), ""), path, "no support image", remedy=())

    def test_another_number_of_supports(self, characters: ImageSet, tmp_path: Path) -> None:
        path, shots = self.unequal(characters, tmp_path)

        def change(rows: np.ndarray) -> np.ndarray:
            """One support less in every episode, of the class that has most."""
            for episode in rows:
                most = (episode[:, :shots] < 65_535).sum(1).argmax()
                last = np.flatnonzero(episode[most, :shots] < 65_535)[-1]
                episode[most, last] = 65_535
            return rows

        names((self.tampered(path, change), ""), path, "14 supports", "manifest says 15", remedy=())


def test_a_profile_of_too_few_images() -> None:
    profile = parse_profile("linear:3")
    said = told(lambda: profile.counts(5, 0, 2, np.random.default_rng(0), 1))
    names(said, "0 images", "5 classes", "at least 1", remedy=("--shots", "--queries"))


def test_logit_adjustment_without_images_of_a_class() -> None:
    outputs = replace(make_outputs(), counts=(40, 0, 10))
    names(told(lambda: logit_adjust(outputs)), "logit adjustment", "'bee'", remedy="training set that has all classes")


def test_a_split_that_outputs_do_not_have() -> None:
    whole = make_outputs()
    said = told(lambda: make_outputs(splits={**whole.splits, "dev": whole.splits["val"]}), SlabenchError)
    names(said, "split 'dev'", remedy="train, val, test")


@pytest.mark.parametrize(("support", "labels"), [((2, 4), (2, 4)), ((2, 4, 3), (2, 5)), ((2, 4, 3), (4,))])
def test_supports_and_labels_of_the_logistic_head(support: tuple[int, ...], labels: tuple[int, ...]) -> None:
    said = told(lambda: logistic_solution(torch.zeros(support), torch.zeros(labels, dtype=torch.long), 2, 1.0))
    names(said, support, labels, remedy=("[episodes, samples, features]", "[episodes, samples]"))


class TestLosses:
    """What a loss is built with."""

    @pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
    def test_smoothing(self, smoothing: float) -> None:
        said = told(lambda: build_loss("ce", [5, 3], smoothing=smoothing))
        names(said, f"smoothing {smoothing}", "[0, 1)", remedy=("0 is none", "0.1"))

    @pytest.mark.parametrize("counts", [[], [7]])
    def test_counts(self, counts: list[int]) -> None:
        for call in (lambda: build_loss("ce", counts), lambda: class_weights("inverse", counts)):
            names(told(call), "at least 2 classes", f"counts of {len(counts)}", remedy="images of each class")


def test_a_function_has_no_inverse() -> None:
    functions = slabench.function_set("mine", [lambda x: x, lambda x: x.flip(-1)])
    names(told(lambda: functions.undo(torch.zeros(1, 3, 4, 4), 1)), "'mine'", "functions", remedy="set of views")


def test_a_view_of_a_registry_is_a_mapping() -> None:
    """`view[name]` is a KeyError, as of any mapping: `get`, `in` and `Mapping.__eq__` rest on it."""
    view = HEADS.summaries()
    with pytest.raises(KeyError, match="protonett"):
        view["protonett"]
    assert view.get("protonett") is None


@pytest.mark.skipif(importlib.util.find_spec("learn2learn") is None, reason="needs learn2learn")
def test_tasks_that_differ_in_ways() -> None:
    from types import SimpleNamespace

    from slabench.episodes.learn2learn import episodes_from_taskset

    described = {0: [0, 1, 3, 4], 1: [0, 1, 3, 4, 6, 7]}
    tasks = SimpleNamespace(
        num_tasks=2,
        sampled_descriptions={n: [SimpleNamespace(index=i) for i in rows] for n, rows in described.items()},
        dataset=SimpleNamespace(indices_to_labels={i: i // 3 for i in range(9)}),
    )
    said = told(lambda: episodes_from_taskset(tasks, 2, shots=1, seed=0))
    names(said, "ways or samples", "2 x 2", "3 x 2", remedy="Taskset")


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("jobs", [0, -2])
def test_no_process(jobs: int, tmp_path: Path) -> None:
    """The command's option has a least value; the function is called from Python too."""
    plan = plan_table("sla2020/few-shot", "quick", only=["fc100-5shot/protonet"], results=tmp_path)
    names(told(lambda: run_missing(plan, jobs=jobs)), f"--jobs {jobs}", remedy="--jobs 2")
    code, output = here("reproduce", "sla2020/few-shot", f"--jobs={jobs}")
    assert code == 2
    assert "Invalid value for '--jobs'" in output


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "none.safetensors", "No such file or directory"), (tmp_path, "Is a directory")):
        said = told(lambda path=path: load_weights(path, "0" * 64), DataError)  # type: ignore[misc]
        names(said, path, why, remedy=("--resume force", "restore the file"))


class TestInterrupts:
    """Ctrl-C once saves and stops, twice stops at once; the command ends with 130 either way."""

    def test_the_second_one_stops_at_once(self, tmp_path: Path) -> None:
        class Impatient(Line):
            def step(self, step: int) -> StepResult:
                if step == 3:
                    for _ in range(2):
                        os.kill(os.getpid(), signal.SIGINT)
                return super().step(step)

        before = signal.getsignal(signal.SIGINT)
        task = Impatient()
        with pytest.raises(KeyboardInterrupt):
            fit(task, Train(steps=10, lr=0.05), Select(points=1), "k", tmp_path / "state.safetensors")
        assert task.steps == [0, 1, 2]
        assert signal.getsignal(signal.SIGINT) is before

    def test_the_command_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(app, "app", stop)
        assert here("run", "fewshot") == (130, "interrupted\n")


class TestPlaces:
    """Paths that no file can be written to, through whatever command: no traceback."""

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "work" / "folder").mkdir(parents=True)
        (tmp_path / "work" / "file").touch()
        monkeypatch.chdir(tmp_path / "work")
        monkeypatch.delenv("SLABENCH_RESULTS", raising=False)

    def refused(self, *words: str) -> str:
        code, output = here(*words)
        assert code == 1
        assert "Traceback" not in output
        assert "another place" in output
        return output

    @pytest.mark.usefixtures("glyphs")
    def test_results_in_a_file(self) -> None:
        words = ("run", "fewshot", "--dataset", "glyphs", "--preset", "quick", "--steps", "1", "--results", "file")
        assert "error: file/checkpoints: Not a directory" in self.refused(*words)

    def test_data_in_a_file(self) -> None:
        assert "error: file: File exists" in self.refused("--data-dir", "file", "data", "get", "digits")

    @pytest.mark.usefixtures("glyphs")
    def test_episodes_in_a_file(self) -> None:
        words = ("episodes", "make", "glyphs", "--episodes", "3", "-o", "file")
        assert "error: file" in self.refused(*words)

    def test_a_full_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full() -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(app, "app", full)
        assert self.refused().startswith("error: No space left on device\n")

    def test_a_mistake_of_ours_keeps_its_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> None:
            raise OSError("no file has to do with it")

        monkeypatch.setattr(app, "app", broken)
        with pytest.raises(OSError, match="no file has to do with it"):
            here()


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize(
    ("words", "values", "remedy"),
    [
        (
            "imbalanced --dataset digits --data-seed 4294967296 --ratio 2",
            ("--data-seed 4294967296", "0 to 4294967295"),
            "seed in this range",
        ),
        (
            "imbalanced --dataset digits --set data.counts=[5,3] --profile counts",
            ("2 counts", "digits", "10 classes"),
            "one for each class",
        ),
    ],
)
def test_wrong_numbers_of_a_long_tail(words: str, values: tuple[str, ...], remedy: str, tmp_path: Path) -> None:
    code, output = here("run", *words.split(), "--dry-run", "--results", str(tmp_path))
    assert code == 2
    names((output, output), *values, remedy=remedy)


def test_a_count_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("class,count\n0,-5\n", encoding="utf-8")
    code, output = here("run", "imbalanced", "--dataset", "digits", "--counts", str(tmp_path / "counts.csv"))
    assert code == 1
    names((output, output), tmp_path / "counts.csv", "line 2", "'-5'", "'0'", remedy="1 or more")
