"""The examples as their reader uses them: a package that is installed, and a single file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import QUICK, here

from slabench.core.registry import HEADS, LOSSES
from slabench.data import load
from slabench.heads import Head
from slabench.plugins import load_plugin

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for file in (EXAMPLES / "city-block-head").iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(folder), str(source)], capture_output=True, text=True, check=False)
    if done.returncode and ("hatchling" in done.stderr or "No module named pip" in done.stderr):
        pytest.skip(f"the example package cannot be built here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def slabench(site: Path, folder: Path, *words: str) -> tuple[int, str]:
    """The command with the package on its path, as if it were installed."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", "from slabench.cli.app import main; main()", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_package_is_found_checked_and_run(installed: Path, glyphs: Path, tmp_path: Path) -> None:
    code, output = slabench(installed, tmp_path, "list", "plugins")
    assert code == 0, output
    assert "city-block" in output
    assert "head of the package city-block-head 0.1" in output
    code, output = slabench(installed, tmp_path, "check", "city-block")
    assert code == 0, output
    assert "conforms" in output
    code, output = slabench(installed, tmp_path, *QUICK, "--steps", "2", "--head", "city-block", "--sla")
    assert code == 0, output
    (file,) = (tmp_path / "results" / "runs").rglob("*.json")
    (plugin,) = json.loads(file.read_text(encoding="utf-8"))["environment"]["plugins"]
    assert plugin["origin"] == "the package city-block-head 0.1"
    assert len(plugin["sha256"]) == 64


def test_the_head_of_the_package_is_about_fifteen_lines() -> None:
    lines = (EXAMPLES / "city-block-head" / "city_block_head.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.strip()]) <= 15


@pytest.mark.usefixtures("registries")
def test_the_single_file_conforms_and_computes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = here("check", str(EXAMPLES / "own_methods.py"))
    assert code == 0, output
    for name in ("datasets: bars", "backbones: tiny", "heads: nearest", "losses: poly-1", "transforms: flip"):
        assert f"{name}  conforms" in output
    # Poly-1 by hand: p = (1/4, 3/4).
    logits = torch.tensor([[0.0, torch.tensor(3.0).log()]])
    expected = torch.tensor(4.0).log() + 3 / 4
    assert torch.isclose(LOSSES.get("poly-1")(logits, torch.tensor([0]), torch.ones(2)), expected)
    nearest: Head = HEADS.get("nearest")
    assert nearest.logits is not None
    support = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    found = nearest.logits(support, torch.tensor([[0, 1, 1]]), torch.tensor([[[2.0, 0.0]]]), 2)
    assert torch.allclose(found, torch.tensor([[[1.0, 0.5**0.5]]]))
    assert [len(load("bars", split)) for split in ("train", "test")] == [192, 48]


@pytest.mark.usefixtures("registries")
def test_the_single_file_trains_a_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load_plugin(EXAMPLES / "own_methods.py")
    code, output = here(
        "run", "supervised", "--dataset", "bars", "--backbone", "tiny", "--loss", "poly-1", "--transforms", "flip",
        "--sla", "--steps", "3", "--set", "select.points=1", "--set", "train.batch_size=16", "--threads", "1",
    )  # fmt: skip
    assert code == 0, output
    (file,) = (tmp_path / "results" / "runs").rglob("*.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    names = {plugin["name"] for plugin in record["environment"]["plugins"]}
    assert names == {"bars", "tiny", "poly-1", "flip"}
