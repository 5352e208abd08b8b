"""Every command that README and the pages of docs/ show is run: as it stands where that is quick, otherwise as a dry run.

In a folder with a copy of the published records, on the embedded data and, where it is here, the real CIFAR-100.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from doc_pages import ROOT, commands, copy_records
from own_images import folders
from typer.testing import CliRunner

from slabench.cli.app import app
from slabench.core import paths
from slabench.data.sources.own_import import import_folder
from slabench.runner.estimate import Estimator, Seconds

# Run elsewhere, or not at all; everything else that is shown is run here.
ELSEWHERE = {
    "slabench data get cifar100": "fetches from the network; tests/test_data_download.py has a server",
    "slabench demo --results results": "tests/test_docs.py types the quick start",
    "slabench compare demo/sla demo/baseline": "tests/test_docs.py types the quick start",
    **dict.fromkeys(
        (
            "slabench run fewshot/adapter --dataset fc100 --shots 5",
            "slabench run imbalanced/adapter --ratio 50 --seeds 0",
            "slabench run fewshot/last-block --dataset fc100 --shots 5",
            "slabench run imbalanced/last-block --ratio 50",
        ),
        "needs a frozen network; tests/test_adapters.py and tests/test_last_block.py have features of their own",
    ),
    "slabench reproduce sla2020/few-shot --dry-run": "tests/test_reproduction_tables.py plans every table",
    "slabench reproduce sla2020/imbalanced --only cifar100-r100 --jobs 2": "days; tests/test_reproduction_run.py",
    "slabench run fewshot --dataset glyphs --preset quick --seeds 0,1 --executor slurm --partition short --dry-run": (
        "needs a SLURM; tests/test_executor_slurm.py"
    ),
    "slabench reproduce sla2020/few-shot --preset paper --seeds 0,1,2 --executor slurm --partition gpu --resource gpus=1": (
        "needs a SLURM; tests/test_executor_slurm.py"
    ),
    "slabench reproduce sla2020/few-shot --preset paper --executor ray --resource gpus=1": (
        "needs Ray; tests/test_executor_ray.py"
    ),
}
_EMBEDDED = ("glyphs", "digits", "my-birds")


def needs_cifar(command: str) -> bool:
    """Whether a command opens CIFAR-100 or a view of it."""
    words = shlex.split(command)
    reads = {"run", "reproduce"} & set(words[:4]) or words[1:3] in (["episodes", "show"], ["longtail", "show"])
    return bool(reads) and not any(name in command for name in _EMBEDDED) and words[1:] != ["reproduce"]


SHOWN = [command for command in commands() if command not in ELSEWHERE]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `results/` is a copy of the published records."""
    folder = tmp_path_factory.mktemp("commands")
    copy_records(folder / "results")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    (folder / "my.toml").write_text('extends = "fewshot/quick"\ndata = { dataset = "glyphs" }\n', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def embedded(_drawn_glyphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of this module's own, with the glyphs and the own images that the pages call `my-birds`."""
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(_drawn_glyphs, folder)
    photographs = folders(tmp_path_factory.mktemp("photographs"), [f"bird-{number}" for number in range(15)], 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLABENCH_DATA", str(folder))
        import_folder("my-birds", photographs, size=32)
    return folder


def type_it(command: str, published: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published)
    monkeypatch.setenv("SLABENCH_DATA", str(data))
    monkeypatch.delenv("SLABENCH_RESULTS", raising=False)
    monkeypatch.setattr(paths, "shipped_results", lambda: published / "results")  # `--shipped`: fewer of them, as above
    # Every step is taken, once: how good the estimate is, is not asked here.
    monkeypatch.setattr(Estimator, "_timed", lambda estimator, work, seconds: (work(0), Seconds(1e-3, 1e-3, 1e-3))[1])
    words = shlex.split(command)[1:]
    if {"run", "reproduce"} & set(words) and words != ["reproduce"] and "--dry-run" not in words:
        words.append("--dry-run")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{command}: {result.output}{result.exception!r}"
    assert result.output.strip() or "-o" in words


@pytest.mark.usefixtures("registries", "narrow_conv4", "narrow_resnets")
@pytest.mark.parametrize("command", [command for command in SHOWN if not needs_cifar(command)])
def test_a_command_that_is_shown_runs(
    command: str, published: Path, embedded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_it(command, published, embedded, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_conv4", "narrow_resnets")
@pytest.mark.parametrize("command", [command for command in SHOWN if needs_cifar(command)])
def test_a_command_on_real_data_runs(
    command: str, published: Path, cifar100: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "anil" in command or "maml" in command:
        pytest.importorskip("learn2learn", reason="learn2learn could not be installed here")
    type_it(command, published, cifar100, monkeypatch)


def test_what_is_left_out_is_still_shown() -> None:
    assert set(ELSEWHERE) <= set(commands())
