"""The built wheel and sdist, and the wheel installed away from the sources and used in an empty folder with an empty home."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the wheel and the sdist, built by the backend that pip would call."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("slabench-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    flags = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *flags, "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True)
    return folder


# Commands one after the other in one process, each followed by what it left in the folder: what heavy modules cost at
# import is paid once.
_COMMANDS = """
import json, os, sys
import slabench
print(slabench.__file__)
from slabench.cli.app import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["slabench", *arguments]
    try:
        main()
    except SystemExit as done:
        if done.code:
            raise
    print("left:", *sorted(os.listdir()))
"""


def run(installed: Path, folder: Path, *commands: str) -> str:
    """Type `slabench COMMAND`s of the installed wheel, with nothing of this user's environment but the interpreter."""
    folder.mkdir(exist_ok=True)
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {key: os.environ[key] for key in ("PATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _COMMANDS, json.dumps([shlex.split(command) for command in commands])],
        cwd=folder,
        env=environment | {"HOME": str(home), "PYTHONPATH": str(installed), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(installed))  # otherwise the rest would test the checkout
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


def test_the_sdist_holds_what_make_test_needs(built: Path) -> None:
    (path,) = built.glob("slabench-*.tar.gz")
    with tarfile.open(path) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for wanted in (
        *("pyproject.toml", "Makefile", "README.md", "LICENSE", "mkdocs.yml", "scripts/make_venv.sh"),
        *("slabench/cli/app.py", "tests/conftest.py", "docs/quick-start.md", "episodes/splits/fc100.json"),
    ):
        assert wanted in names
    assert not [name for name in names if name.endswith((".pyc", ".safetensors", ".tmp", ".lock"))]


def test_it_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    output = run(
        installed,
        empty,
        "list recipes",
        "list episodes",
        "show dataset fc100",
        "episodes verify glyphs/test-5w5s15q-2000",
        "run fewshot --dataset glyphs --preset quick --sla --steps 3 --set select.points=0 --shots 1 --queries 2"
        " --episodes 5 --threads 1",
        "leaderboard --include-quick --format csv -o leaderboard.csv",
    )
    *read, trained, board = output.split("\nleft:")[:-1]
    for said, wanted in zip(read, ("fewshot/standard", "fc100/test-5w5s15q-2000", "60"), strict=False):
        assert wanted in said
    assert read[3].splitlines()[-1].startswith("ok")
    assert all(said.startswith("\n") for said in (*read[1:], trained))  # what only reads leaves nothing
    assert "1 of 1 trials are done" in trained
    assert board.splitlines()[0] == " results"
    assert sorted(path.name for path in empty.iterdir()) == ["leaderboard.csv", "results"]


def test_the_script_and_the_extras_are_declared(installed: Path) -> None:
    (metadata,) = installed.glob("slabench-*.dist-info")
    assert "slabench = slabench.cli.app:main" in (metadata / "entry_points.txt").read_text(encoding="utf-8")
    text = (metadata / "METADATA").read_text(encoding="utf-8")
    for extra in ("learn2learn", "dev"):
        assert f"Provides-Extra: {extra}" in text
