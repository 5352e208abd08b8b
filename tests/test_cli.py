"""The command as a user types it: exit codes, suggestions, what is imported, what is printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processes import COMMAND, QUICK, finish, here, start

from slabench.recipes import load_recipe

# pydantic is not among them: typer itself loads it for a command with options.
HEAVY = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "sklearn", "scipy", "torchvision")


def slabench(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    return here(*arguments, folder=folder, **environment)


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from slabench.cli.app import main
for arguments in (["--help"], ["run", "--help"], ["--version"], ["data", "--help"]):
    sys.argv = ["slabench", *arguments]
    try:
        main()
    except SystemExit as done:
        assert not done.code, (arguments, done.code)
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, (arguments, heavy)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_python_m_slabench_is_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "slabench", "--version"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.split()[0]) == (0, "slabench")


def test_the_shell_sees_the_exit_code(tmp_path: Path) -> None:
    """Once in a process of its own; the other tests here read what `main` exits with."""
    code, output = finish(start(["run", "fewshoot"], tmp_path, fresh=True))
    assert code == 2, output
    assert "did you mean 'fewshot'" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "fewshot", "--dataset", "fc10"], "did you mean 'fc100'"),
        (["run", "fewshoot"], "did you mean 'fewshot'"),
        (["run", "fewshot/standart"], "did you mean 'fewshot/standard'"),
        (["run", "fewshot", "--preset", "quik"], "did you mean 'quick'"),
        (["run", "fewshot", "--objective", "sal"], "did you mean 'sla'"),
        (["run", "fewshot", "--transforms", "rotations"], "did you mean 'rotation'"),
        (["run", "fewshot", "--backbone", "conv5"], "did you mean 'conv4'"),
        (["run", "fewshot", "--set", "train.stepz=3"], "did you mean 'train.steps'"),
        (["run", "fewshot", "--set", "train.steps"], "is not key=value"),
        (["run", "fewshot", "--steps", "3", "--set", "train.steps=4"], "contradicts a flag"),
        (["run", "fewshot", "--sla", "--objective", "da"], "contradict each other"),
        (["run", "fewshot", "--seeds", "0,x"], "--seeds 0,x are not numbers"),
        (["run", "fewshot", "--seeds", "1,1"], "seeds must be distinct"),
        (["run", "fewshot/standard", "--preset", "quick"], "is for a suite"),
        (["run", "fewshot", "--dataset", "glyphs", "--ways", "1"], "--ways 1"),
        (["run", "fewshot", "--dataset", "glyphs", "--ways", "500"], "500 ways were asked for"),
        (["run", "fewshot", "--dataset", "glyphs", "--shots", "95"], "has 100 images"),
        (["run", "fewshot", "--dataset", "glyphs", "--shots", "-1"], "protocol.shots = -1"),
        (["run", "fewshot", "--dataset", "glyphs", "--resume", "maybe"], "--resume maybe is unknown"),
        (["run", "fewshot", "--dataset", "glyphs", "--device", "cuda:99"], "CUDA devices"),
        (["run", "fewshot", "--stepz", "3"], "--steps"),
        (["list", "dataset"], "did you mean 'datasets'"),
        (["show", "recipe", "fewshot/quik"], "did you mean 'fewshot/quick'"),
        (["show", "dataset", "cifr-fs"], "did you mean 'cifar-fs'"),
        (["show", "run", "abc"], "abc"),
        (["leaderboard", "--format", "xls"], "xls"),
    ],
)
def test_bad_usage_exits_2_with_a_remedy_and_no_traceback(
    arguments: list[str], expected: str, glyphs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    code, output = slabench(folder, *arguments)
    assert code == 2, output
    assert expected in output
    assert "Traceback" not in output
    assert list(folder.iterdir()) == []


def test_missing_data_lists_the_ways_to_get_it(tmp_path: Path) -> None:
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    code, output = slabench(tmp_path, "run", "fewshot", "--dataset", "fc100", "--shots", "5", "--sla", **offline)
    assert code == 2, output
    for way in ("slabench data get cifar100", "slabench data import cifar100 PATH", "--dataset glyphs", "parquet"):
        assert way in output
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("narrow_conv4")
def test_from_run_to_leaderboard(glyphs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    code, output = slabench(folder, *QUICK, "--sla", "--seeds", "0,1")
    assert code == 0, output
    assert "2 of 2 trials are done" in output
    assert "single" in output
    assert "aggregated" in output
    assert sorted(path.name for path in folder.iterdir()) == ["results"]
    commands = re.findall(r"^  slabench (.+)$", output, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        code, printed = slabench(folder, *shlex.split(command))
        assert code == 0, printed
    code, status = slabench(folder, "status")
    assert (code, status.splitlines()[0]) == (0, "2 done in results")

    code, again = slabench(folder, *QUICK, "--sla", "--seeds", "0,1")
    assert code == 0
    assert again.count("(finished before)") == 2

    code, runs = slabench(folder, "list", "runs", "--json")
    assert code == 0
    keys = [run["key"] for run in json.loads(runs)]
    assert len(keys) == 2
    code, shown = slabench(folder, "show", "run", keys[0][:8])
    assert code == 0
    assert keys[0] in shown

    code, output = slabench(folder, "leaderboard", "--format", "csv", "-o", "leaderboard.csv")
    assert code == 0, output
    rows = (folder / "leaderboard.csv").read_text(encoding="utf-8").splitlines()
    own = [row for row in rows if "glyphs" in row]
    assert len(own) == 2  # one a predictor
    assert all("5w1s5q" in row for row in own)


@pytest.mark.usefixtures("narrow_conv4")
def test_a_failed_trial_exits_1_and_is_recorded(glyphs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    code, output = slabench(folder, *QUICK, "--set", "train.lr=1e30")
    assert code == 1
    assert "no longer finite at step" in output
    assert "0 of 1 trials are done" in output
    code, runs = slabench(folder, "list", "runs", "--json")
    assert [run["status"] for run in json.loads(runs)] == ["failed"]


@pytest.mark.usefixtures("narrow_conv4")
def test_a_dry_run_shows_everything_and_runs_nothing(glyphs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    code, output = slabench(
        folder, "run", "fewshot/controls", "--dataset", "glyphs", "--shots", "5", "--seeds", "0,1", "--dry-run"
    )
    assert code == 0, output
    recipes = load_recipe("fewshot/controls", {"data.dataset": "glyphs"})
    steps = {recipe.name: recipe.train.steps for recipe in recipes}
    for recipe in recipes:
        copies = 4 if recipe.sla.objective in ("sla", "da") else 1
        assert f"{recipe.train.steps * 5 * (5 + recipe.train.queries) * copies:,}" in output
    assert len(steps) == 4
    assert "8 trials: 0 done, 8 to run, about" in output
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    "kind",
    [
        *("datasets", "recipes", "backbones", "heads", "objectives", "transforms", "episodes"),
        *("losses", "reweightings", "samplers", "mixings", "subsets"),
    ],
)
def test_lists(kind: str, tmp_path: Path) -> None:
    code, output = slabench(tmp_path, "list", kind)
    assert code == 0, output
    code, text = slabench(tmp_path, "list", kind, "--json")
    names = [entry["name"] for entry in json.loads(text)]
    assert names
    assert all(name in output for name in names)


def test_show_dataset_counts_by_the_protocol(tmp_path: Path) -> None:
    code, output = slabench(tmp_path, "show", "dataset", "fc100")
    assert code == 0, output
    for fact in ("60", "20", "32 x 32", "36,000", "12,000"):
        assert fact in output, fact


@pytest.mark.parametrize("name", ["fewshot/standard", "fewshot/paper", "imbalanced/ldam", "supervised/sla"])
def test_show_recipe_prints_a_recipe(name: str, tmp_path: Path) -> None:
    code, output = slabench(tmp_path, "show", "recipe", name)
    assert code == 0
    (tmp_path / "again.toml").write_text(output, encoding="utf-8")
    (again,) = load_recipe(str(tmp_path / "again.toml"))
    (first,) = load_recipe(name)
    assert again.digest == first.digest


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    run = subprocess.run(
        f"{shlex.join(COMMAND)} list episodes --json | head -c 1",
        shell=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in run.stderr


@pytest.mark.usefixtures("narrow_conv4")
def test_records_keep_the_command_without_the_folders_of_this_machine(glyphs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('extends = "fewshot/quick"\n', encoding="utf-8")
    flags = [*QUICK[2:], "--steps", "4", "--results", str(tmp_path / "elsewhere")]
    code, output = slabench(tmp_path, "run", str(recipe), *flags)
    assert code == 0, output
    (path,) = (tmp_path / "elsewhere" / "runs").rglob("*.json")
    text = path.read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    argv = json.loads(text)["argv"]
    assert argv[:5] == ["slabench", "run", "mine.toml", "--dataset", "glyphs"]
    assert "--results" not in argv
