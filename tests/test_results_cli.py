"""`slabench leaderboard`, `list runs` and `show run` on folders of records made by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from result_records import make_record
from rich.console import Console
from typer.testing import CliRunner, Result

from slabench.cli.leaderboard import leaderboard
from slabench.cli.runs import list_runs, show_run
from slabench.errors import SlabenchError, UsageError
from slabench.results.store import ResultStore

app = typer.Typer()
app.command()(leaderboard)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of slabench with one published record, and an empty folder to stand in."""
    home = tmp_path / "home"
    (home / "episodes" / "splits").mkdir(parents=True)
    save(home / "results", "published")
    monkeypatch.setenv("SLABENCH_HOME", str(home))
    monkeypatch.delenv("SLABENCH_RESULTS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return home


def save(root: Path, objective: str, limited: bool = False) -> str:
    accuracies = {"single": [0.5, 0.25]}
    record = make_record(objective, accuracies=accuracies, limited=limited)
    ResultStore(root).save(record, accuracies)
    return record.key


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def objectives(text: str) -> list[str]:
    return list(pd.read_csv(io.StringIO(text))["objective"])


def test_csv_into_a_file_as_the_design_types_it() -> None:
    save(Path("results"), "sla")
    result = run("--format", "csv", "-o", "leaderboard.csv")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "1 rows in leaderboard.csv" in result.stderr
    assert objectives(Path("leaderboard.csv").read_text()) == ["sla"]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["leaderboard.csv", "results"]


def test_csv_on_the_screen_is_nothing_but_csv() -> None:
    save(Path("results"), "sla")
    (Path("results") / "runs" / "broken.json").write_text("{")
    result = run("--format", "csv")
    assert objectives(result.stdout) == ["sla"]
    assert "broken.json" in result.stderr


def test_the_table_is_the_default_and_in_percent() -> None:
    save(Path("results"), "sla")
    assert "37.50" in run().stdout
    assert "0.375000" in run("--format", "csv").stdout


def test_a_table_into_a_file() -> None:
    save(Path("results"), "sla")
    assert run("--format", "table", "-o", "board.txt").exit_code == 0
    assert "37.50" in Path("board.txt").read_text()
    assert "\x1b" not in Path("board.txt").read_text()


def test_without_own_results_the_published_ones_are_shown_and_named_so() -> None:
    result = run("--format", "csv")
    assert objectives(result.stdout) == ["published"]
    assert "published results" in result.stderr


def test_published_on_request() -> None:
    save(Path("results"), "sla")
    assert objectives(run("--format", "csv", "--published").stdout) == ["published"]


def test_a_named_folder_is_never_replaced_by_another() -> None:
    result = run("--results", "nowhere")
    assert isinstance(result.exception, SlabenchError)
    assert result.exception.exit_code == 1
    assert "nowhere" in str(result.exception)
    assert "slabench run fewshot" in str(result.exception)
    result = run("--results", "nowhere", "-o", "board.csv")
    assert isinstance(result.exception, SlabenchError)
    assert not Path("board.csv").exists()


def test_quick_runs_need_their_flag() -> None:
    save(Path("mine"), "sla", limited=True)
    result = run("--results", "mine")
    assert isinstance(result.exception, SlabenchError)
    assert "--include-quick" in str(result.exception)
    shown = pd.read_csv(io.StringIO(run("--results", "mine", "--include-quick", "--format", "csv").stdout))
    assert shown["rank"].isna().all()
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "csw"], "did you mean 'csv'"),
        (["--format", "xml"], "unknown leaderboard format 'xml'"),
        (["--published", "--results", "x"], "two folders"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)


def printed(action: object, *arguments: object) -> str:
    console = Console(width=150, file=io.StringIO(), color_system=None)
    action(console, *arguments)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_list_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "results"
    assert "no records" in printed(list_runs, root, False)
    assert json.loads(printed(list_runs, root, True)) == []
    key = save(root, "sla")
    failed = make_record("da", status="failed", error="out of memory", scores=[], cost=None, selection=None)
    ResultStore(root).save(failed, {})
    (root / "runs" / "broken.json").write_text("{")
    text = printed(list_runs, root, False)
    assert key[:12] in text
    assert "single 37.50" in text
    assert "failed" in text
    listed = {run["key"]: run for run in json.loads(printed(list_runs, root, True))}
    assert listed[key]["scores"] == {"single": 0.375}
    assert listed[failed.key]["status"] == "failed"
    assert "broken.json" in capsys.readouterr().err


def test_show_run(tmp_path: Path) -> None:
    root = tmp_path / "results"
    key, other = save(root, "sla"), save(root, "da")
    text = printed(show_run, root, key[:5])
    assert key in text
    assert other not in text
    assert "37.50" in text
    assert '"objective": "sla"' in text
    with pytest.raises(UsageError, match="begins with 'zz'"):
        printed(show_run, root, "zz")
    with pytest.raises(UsageError, match="begins with ''"):
        printed(show_run, root, "")


def test_a_prefix_of_two_keys_is_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for letter in "ab":
        store.save(make_record(letter, key="abc" + letter * 61), {})
    with pytest.raises(UsageError, match="2 runs: abcaaaaaaaaa, abcbbbbbbbbb"):
        printed(show_run, tmp_path, "abc")
    assert "abcaaaaaaaaa" in printed(show_run, tmp_path, "ABCA")
