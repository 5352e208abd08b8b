"""The built wheel, installed away from the sources and used in an empty folder with an empty home."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("slabench-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> str:
    """`slabench ARGUMENTS` of the installed wheel, with nothing of this user's environment but the interpreter."""
    folder.mkdir(exist_ok=True)
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {key: os.environ[key] for key in ("PATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from slabench.cli.app import main; main()", *arguments],
        cwd=folder,
        env=environment | {"HOME": str(home), "PYTHONPATH": str(installed), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_what_the_suite_publishes_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "slabench/py.typed",
        "slabench/_data/benchmarks/recipes/fewshot/standard.toml",
        "slabench/_data/episodes/fc100/test-5w5s15q-2000.npy",
        "slabench/_data/episodes/splits/fc100.json",
        "slabench/_data/results/README.md",
        "slabench/_data/results/published/metaoptnet-cvpr2019.csv",
    ):
        assert wanted in names
    assert not [name for name in names if name.endswith((".pyc", ".safetensors", ".tmp", ".lock")) or "tests/" in name]
    assert wheel.stat().st_size < 20 << 20


def test_it_finds_its_files_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import slabench; print(slabench.__file__)"],
        env={"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.startswith(str(installed))  # otherwise the rest would test the checkout
    empty = tmp_path / "empty"
    assert "fewshot/standard" in run(installed, empty, "list", "recipes")
    assert "fc100/test-5w5s15q-2000" in run(installed, empty, "list", "episodes")
    assert "60" in run(installed, empty, "show", "dataset", "fc100")
    verified = run(installed, empty, "episodes", "verify", "glyphs/test-5w5s15q-2000")
    assert verified.startswith("ok")
    assert list(empty.iterdir()) == []


def test_it_trains_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    output = run(
        installed, empty, "run", "fewshot", "--dataset", "glyphs", "--preset", "quick", "--sla", "--steps", "3",
        "--set", "select.points=1", "--set", "select.episodes=5", "--episodes", "20", "--threads", "1",
    )  # fmt: skip
    assert "1 of 1 trials are done" in output
    run(installed, empty, "leaderboard", "--include-quick", "--format", "csv", "-o", "leaderboard.csv")
    assert sorted(path.name for path in empty.iterdir()) == ["leaderboard.csv", "results"]


def test_the_script_and_the_extras_are_declared(installed: Path) -> None:
    (metadata,) = installed.glob("slabench-*.dist-info")
    assert "slabench = slabench.cli.app:main" in (metadata / "entry_points.txt").read_text(encoding="utf-8")
    text = (metadata / "METADATA").read_text(encoding="utf-8")
    for extra in ("learn2learn", "dev"):
        assert f"Provides-Extra: {extra}" in text
