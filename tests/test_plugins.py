"""Single files and packages that bring own methods: loaded, refused, traced in the record."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from processes import QUICK, here

import slabench
from slabench import plugins
from slabench.core import registry
from slabench.core.errors import PluginError, UsageError
from slabench.core.registry import BUILT_IN, HEADS, LOSSES, Registry
from slabench.plugins import load_plugin
from slabench.recipes import load_recipe

pytestmark = pytest.mark.usefixtures("registries")

HEAD = """
import slabench
from slabench.heads.metric import prototype_logits
slabench.HEADS.add("{name}", slabench.Head("{name}", prototype_logits, {decomposes}), "own prototypes")
"""


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def head(folder: Path, name: str = "mine", decomposes: bool = True, file: str = "mine.py") -> Path:
    return write(folder, HEAD.format(name=name, decomposes=decomposes), file)


def test_a_file_registers_under_its_own_name(tmp_path: Path) -> None:
    path = head(tmp_path)
    loaded = load_plugin(path)
    assert loaded.names == (("head", "mine"),)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert HEADS.entry("mine").origin == "mine.py"
    assert HEADS.get("mine").name == "mine"
    assert load_plugin(path) is loaded  # not run again: its names would collide with themselves


def test_what_slabench_registers_while_a_plugin_loads_is_its_own(tmp_path: Path) -> None:
    load_plugin(head(tmp_path))
    assert {entry.origin for kind in registry.REGISTRIES.values() for entry in kind} == {BUILT_IN, "mine.py"}
    assert HEADS.entry("protonet").built_in


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("HEADS", "protonet"),
        ("BACKBONES", "conv4"),
        ("LOSSES", "ce"),
        ("TRANSFORMS", "rotation"),
        ("DATASETS", "fc100"),
    ],
)
def test_a_taken_name_names_both_origins_and_leaves_nothing(kind: str, name: str, tmp_path: Path) -> None:
    text = f"import slabench\nslabench.HEADS.add('fine', None, '')\nslabench.{kind}.add('{name}', None, '')\n"
    with pytest.raises(UsageError, match=f"'{name}' of mine.py is already registered by slabench"):
        load_plugin(write(tmp_path, text))
    assert "fine" not in HEADS
    assert registry.REGISTRIES[kind.lower()].entry(name).built_in


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    load_plugin(head(tmp_path))
    with pytest.raises(UsageError, match=r"'mine' of other.py is already registered by mine.py"):
        load_plugin(head(tmp_path, file="other.py"))
    assert HEADS.entry("mine").origin == "mine.py"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "mine.py cannot be loaded: ModuleNotFoundError: .*no_such_module.*line 1"),
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero .line 2"),
        ("def f(:", "SyntaxError.*line 1"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("x = 1", "mine.py registers nothing"),
    ],
)
def test_a_broken_file_names_itself_the_reason_and_the_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=message):
        load_plugin(write(tmp_path, text))


def test_a_missing_file_and_a_folder_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load_plugin(tmp_path / "no.py")
    with pytest.raises(UsageError, match="it is a folder"):
        load_plugin(tmp_path)


def test_a_file_that_changed_is_not_taken_for_the_loaded_one(tmp_path: Path) -> None:
    path = head(tmp_path)
    load_plugin(path)
    head(tmp_path, decomposes=False)
    with pytest.raises(PluginError, match="has changed since it was loaded"):
        load_plugin(path)


def point(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> Registry:
    monkeypatch.setattr(registry, "entry_points", lambda group: list(points) if group == "test" else [])
    own = Registry("head", "test", expects="slabench.heads:Head")
    own.add("protonet", "slabench.heads.metric:PROTONET", "built in", origin=BUILT_IN)
    return own


def test_a_broken_package_is_an_error_of_its_own_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = point(
        monkeypatch,
        EntryPoint("gone", "no_such_module:HEAD", "test"),
        EntryPoint("lacks", "math:HEAD", "test"),
        EntryPoint("function", "math:sqrt", "test"),
        EntryPoint("renamed", "slabench.heads.metaoptnet:METAOPTNET_RR", "test"),
    )
    assert own.names() == ["protonet", "gone", "lacks", "function", "renamed"]
    assert own.get("protonet").name == "protonet"
    for name, message in (
        ("gone", "head 'gone' of no_such_module:HEAD cannot be loaded: ModuleNotFoundError"),
        ("lacks", "cannot be loaded: AttributeError"),
        ("function", "is a builtin_function_or_method, and should be a slabench.heads.Head"),
        ("renamed", "calls itself 'metaoptnet-rr'"),
    ):
        with pytest.raises(PluginError, match=message):
            own.get(name)
    assert list(own.objects()) == ["protonet"]


def test_a_package_that_takes_a_name_makes_that_name_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    own = point(monkeypatch, EntryPoint("protonet", "math:sqrt", "test"), EntryPoint("Bad_Name", "math:sqrt", "test"))
    assert own.names() == ["protonet"]
    for ask in (own.get, own.entry):
        with pytest.raises(UsageError, match="head 'protonet' of math:sqrt is already registered by slabench"):
            ask("protonet")
    assert set(own.problems) == {"protonet", "Bad_Name"}


def test_a_script_registers_in_its_own_name() -> None:
    slabench.HEADS.add("scripted", "math:sqrt", "x")
    assert HEADS.entry("scripted").origin == __name__
    assert not HEADS.entry("scripted").built_in


def test_the_digest_of_own_recipes_is_as_before_and_follows_the_code_of_plugins(tmp_path: Path) -> None:
    (plain,) = load_recipe("fewshot/quick", {"data.dataset": "glyphs"})
    assert plugins.used(plain) == []
    assert plugins.bound("abc", []) == "abc"
    path = head(tmp_path)
    load_plugin(path)
    (own,) = load_recipe("fewshot/quick", {"data.dataset": "glyphs", "model.head": "mine"})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert plugins.used(own) == [{"kind": "head", "name": "mine", "origin": "mine.py", "sha256": sha256}]
    one = plugins.bound("abc", plugins.used(own))
    other = plugins.bound("abc", [{**plugins.used(own)[0], "sha256": "0" * 64}])
    moved = plugins.bound("abc", [{**plugins.used(own)[0], "origin": "renamed.py"}])
    assert len({"abc", one, other}) == 3
    assert moved == one  # the code decides, not what its file is called


@pytest.mark.slow
def test_the_record_holds_the_digest_and_no_path(glyphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    (folder / "secret").mkdir(parents=True)
    monkeypatch.chdir(folder)
    path = head(folder / "secret")
    flags = [*QUICK, "--steps", "2", "--head", "mine", "--plugin", "secret/mine.py"]
    code, output = here(*flags)
    assert code == 0, output
    (file,) = (folder / "results" / "runs").rglob("*.json")
    text = file.read_text(encoding="utf-8")
    record = json.loads(text)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["environment"]["plugins"] == [{"kind": "head", "name": "mine", "origin": "mine.py", "sha256": sha256}]
    assert "secret" not in text
    assert record["argv"][-2:] == ["--plugin", "mine.py"]
    code, output = here(*flags)
    assert "finished before" in output

    # The same recipe with other code is another trial, and another row of the leaderboard.
    for kind in registry.REGISTRIES.values():
        kind.remove(str(path))
    plugins._loaded.clear()
    head(folder / "secret", decomposes=False)
    code, output = here(*flags)
    assert code == 0, output
    assert "finished before" not in output
    files = list((folder / "results" / "runs").rglob("*.json"))
    assert len({json.loads(file.read_text(encoding="utf-8"))["recipe_digest"] for file in files}) == 2


@pytest.mark.parametrize("place", ["before", "after", "equals"])
def test_the_flag_may_stand_before_or_behind_the_command(place: str, tmp_path: Path) -> None:
    path = str(head(tmp_path))
    words = {
        "before": ["--plugin", path, "list", "heads"],
        "after": ["list", "heads", "--plugin", path],
        "equals": ["list", f"--plugin={path}", "heads"],
    }[place]
    code, output = here(*words)
    assert code == 0, output
    assert "mine" in output
    assert "(mine.py)" in output


def test_a_broken_file_does_not_break_lists_and_stops_a_run(tmp_path: Path) -> None:
    path = str(write(tmp_path, "import no_such_module"))
    code, output = here("list", "heads", "--plugin", path)
    assert code == 0
    assert "protonet" in output
    assert "warning: plug-in mine.py cannot be loaded: ModuleNotFoundError" in output
    code, output = here("run", "fewshot", "--dataset", "glyphs", "--plugin", path, "--dry-run")
    assert code == 2
    assert "plug-in mine.py cannot be loaded: ModuleNotFoundError" in output
    assert "Traceback" not in output


def test_the_flag_without_a_file_is_an_error(tmp_path: Path) -> None:
    code, output = here("list", "heads", "--plugin")
    assert code == 2
    assert "requires an argument" in output


def test_a_loss_of_a_plugin_trains_joint_classes_by_repeated_counts(tmp_path: Path) -> None:
    import torch

    from slabench.losses.loss import build_loss

    seen = []

    @LOSSES.register("spy")
    def spy(logits: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Notes its counts."""
        seen.append(counts.tolist())
        return logits.sum(1)

    build_loss("spy", [9, 4, 1]).joint(2)(torch.zeros(1, 6), torch.zeros(1, dtype=torch.long))
    assert seen == [[9, 9, 4, 4, 1, 1]]
    with pytest.raises(UsageError, match=r"label smoothing 0\.1 has no effect in the loss 'spy'"):
        build_loss("spy", [9, 4, 1], smoothing=0.1)
