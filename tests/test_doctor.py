"""`slabench doctor`, and what `list`, `show` and the shell's completion know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import here

from slabench.cli import complete, doctor
from slabench.cli.complete import LISTS, SHOWS
from slabench.cli.doctor import Fact, diagnose
from slabench.core.errors import PluginError
from slabench.core.registry import HEADS, REGISTRIES
from slabench.recipes import recipe_names
from slabench.sla.objectives import CLASSIFIER_OBJECTIVES, OBJECTIVES


def by_name(facts: list[Fact], section: str) -> dict[str, Fact]:
    return {fact.name: fact for fact in facts if fact.section == section}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)


def test_a_fresh_machine_has_no_problem_and_is_told_what_to_type() -> None:
    code, output = here("doctor")
    assert code == 0, output
    for text in ("torch", "precision", "slabench data get cifar100", "slabench demo", "no problems"):
        assert text in output, text
    assert list(Path().iterdir()) == []  # it looks and leaves nothing


def test_json_says_the_same() -> None:
    code, output = here("doctor", "--json")
    assert code == 0
    told = json.loads(output)
    assert told["ok"] is True
    facts = {(fact["section"], fact["name"]): fact for fact in told["facts"]}
    assert facts["machine", "python"]["found"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert facts["data", "cifar100"]["state"] == "note"
    assert facts["data", "cifar100"]["remedy"] == "slabench data get cifar100"
    assert facts["data", "cub200"]["remedy"] == "slabench data import cub200 PATH"
    assert facts["data", "glyphs"]["state"] == "ok"


def test_a_damaged_store_and_a_folder_that_cannot_be_written_are_problems(glyphs: Path, tmp_path: Path) -> None:
    (glyphs / "glyphs" / "labels.npy").unlink()
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    facts = diagnose(tmp_path / "file" / "results")
    damaged = by_name(facts, "data")["glyphs"]
    assert damaged.state == "problem"
    assert "labels.npy is missing" in damaged.found
    assert "slabench data get glyphs --replace" in damaged.remedy
    assert by_name(facts, "folders")["results"].state == "problem"
    code, output = here("doctor", "--results", str(tmp_path / "file" / "results"))
    assert code == 1
    assert "PROBLEM" in output


def test_a_damaged_record_is_a_problem() -> None:
    folder = Path("results/runs/fewshot/x/y")
    folder.mkdir(parents=True)
    (folder / "seed0-abc.json").write_text("{", encoding="utf-8")
    assert "seed0-abc.json" in by_name(diagnose(), "results")["damaged"].found


def test_what_fails_to_be_found_out_is_a_problem_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "_extras", broken)
    facts = diagnose()
    assert by_name(facts, "extras")["extras"] == Fact("extras", "extras", "problem", "OSError: no such device")
    assert by_name(facts, "machine")["python"].state == "ok"


def test_missing_extras_are_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "")
    facts = by_name(diagnose(), "extras")
    assert {fact.state for fact in facts.values()} == {"note"}
    assert "scripts/install_learn2learn.sh" in facts["learn2learn"].remedy
    assert "pip install --no-deps qpth" in facts["qpth"].remedy


@pytest.mark.usefixtures("registries")
def test_a_broken_plugin_is_a_problem_of_the_doctor_and_a_warning_of_lists() -> None:
    HEADS.add("gone", "no_such_module:HEAD", "x", origin="the package gone 1.0")
    HEADS.problems["protonet"] = PluginError("head 'protonet' of a is already registered by slabench")
    facts = [fact for fact in diagnose() if fact.section == "plug-ins" and fact.state == "problem"]
    assert len(facts) == 2
    assert any("'gone' of the package gone 1.0 cannot be loaded" in fact.found for fact in facts)
    code, output = here("list", "heads")
    assert code == 0
    assert "metaoptnet-rr" in output
    assert "warning: head 'gone' of the package gone 1.0 cannot be loaded: ModuleNotFoundError" in output
    code, output = here("list", "losses")
    assert "warning" not in output


def test_list_without_a_kind_lists_the_kinds() -> None:
    code, output = here("list")
    assert code == 0
    assert all(kind in output for kind in LISTS)
    code, output = here("list", "--json")
    assert [entry["name"] for entry in json.loads(output)] == list(LISTS)


@pytest.mark.parametrize("kind", [kind for kind in LISTS if kind not in ("plugins", "runs", "datasets")])
def test_whatever_is_listed_can_be_shown(kind: str, glyphs: Path) -> None:
    code, output = here("list", kind, "--json")
    assert code == 0, output
    names = [entry["name"] for entry in json.loads(output)]
    assert names
    one = next(single for single, plural in SHOWS.items() if plural == kind)
    usable = [name for name in names if kind not in ("episodes", "subsets") or name.startswith("glyphs")]
    for name in usable[:2]:
        code, output = here("show", one, name)
        assert code == 0, output
        assert name in output


def test_empty_lists_say_so() -> None:
    code, output = here("list", "plugins")
    assert (code, output.strip()) == (0, "no plugins")
    code, output = here("list", "plugins", "--json")
    assert json.loads(output) == []


def test_show_tells_what_a_thing_is() -> None:
    _, output = here("show", "head", "protonet")
    assert "view by view" in output
    assert "slabench.heads.metric:PROTONET" in output
    _, output = here("show", "head", "metaoptnet-rr")
    assert "as one problem of N*M classes" in output
    _, output = here("show", "backbone", "conv4")
    assert "256 features, 112,832 parameters" in output
    assert "1,600 features" in output
    _, output = here("show", "loss", "focal")
    assert "loss.gamma" in output
    _, output = here("show", "transform", "rot-color-perm6")
    assert "turned by 180 degrees" in output
    assert "channels GBR" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "head", "protonett"], "did you mean 'protonet'"),
        (["show", "backbone", "conv5"], "did you mean 'conv4'"),
        (["show", "loss", "focall"], "did you mean 'focal'"),
        (["show", "transform", "rotations"], "did you mean 'rotation'"),
        (["show", "mixing", "mixupp"], "did you mean 'mixup'"),
        (["show", "learner", "episodik"], "did you mean 'episodic'"),
        (["show", "heads", "protonet"], "did you mean 'head'"),
        (["list", "headz"], "did you mean 'heads'"),
        (["show", "head", "protonet", "--test-prior", "uniform"], "--test-prior has no effect in show head"),
    ],
)
def test_wrong_names_exit_2_with_a_remedy(words: list[str], message: str) -> None:
    code, output = here(*words)
    assert code == 2
    assert message in output


def completed(words: str) -> list[str]:
    """What bash would offer after `words`, by the protocol of the completion script."""
    done = subprocess.run(
        [sys.executable, "-c", "from slabench.cli.app import app; app(prog_name='slabench')"],
        env=os.environ
        | {
            "_SLABENCH_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("slabench run fewshot --dataset fc", ["fc100"]),
        ("slabench run fewshot --head meta", ["metaoptnet-svm", "metaoptnet-rr"]),
        ("slabench run imbalanced/l", ["imbalanced/ldam"]),
        ("slabench run fewshot --transforms rotation", ["rotation", "rotation2"]),
        ("slabench show back", ["backbone"]),
        ("slabench show head proto", ["protonet"]),
        ("slabench list tr", ["transforms"]),
        ("slabench data get glyp", ["glyphs"]),
        ("slabench check prot", ["protonet"]),
    ],
)
def test_the_shell_completes_names(words: str, expected: list[str]) -> None:
    found = completed(words)
    assert set(expected) <= set(found), found
    assert all(name.startswith(words.split(" ")[-1]) for name in found)


@pytest.mark.slow
def test_completion_imports_nothing_heavy() -> None:
    code = """
import sys
from slabench.cli import complete
for names in (complete.datasets, complete.heads, complete.backbones, complete.losses, complete.transforms,
              complete.suites_and_recipes, complete.kinds, complete.shown, complete.anything, complete.objectives):
    assert names(""), names
print([name for name in ("torch", "numpy", "pandas", "sklearn", "pydantic") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = [name for name in ("torch", "numpy", "pandas", "sklearn") if name in done.stdout]
    assert heavy == [], done.stdout


def test_completion_knows_what_there_is() -> None:
    assert set(complete.recipes("")) == set(recipe_names())
    assert set(complete.objectives("")) == {*OBJECTIVES, *CLASSIFIER_OBJECTIVES}
    assert set(complete.anything("")) == {name for kind in REGISTRIES.values() for name in kind.names()}
    assert complete.shown_name(type("Context", (), {"params": {"kind": "loss"}}), "l") == ["ldam", "logit-adjusted"]


def test_completion_of_what_cannot_be_read_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLABENCH_HOME", "nowhere")
    assert complete.recipes("") == []
