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
from slabench.core.errors import DataError, SlabenchError, UsageError
from slabench.records.store import ResultStore

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


def test_without_own_results_the_shipped_ones_are_shown_and_named_so() -> None:
    result = run("--format", "csv")
    assert objectives(result.stdout) == ["published"]
    assert "shipped with this version" in result.stderr


def test_shipped_on_request() -> None:
    save(Path("results"), "sla")
    assert objectives(run("--format", "csv", "--shipped").stdout) == ["published"]


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
        (["--shipped", "--results", "x"], "two folders"),
    ],
)
def test_wrong_usage(arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
    assert words in str(result.exception)


def test_the_file_s_name_says_the_format() -> None:
    save(Path("results"), "sla")
    begins = {
        "md": "### fewshot/fc100/5w5s15q",
        "tex": "% slabench",
        "html": "<!DOCTYPE html>",
        "csv": "rank,",
    }
    for suffix, text in begins.items():
        assert run("-o", f"board.{suffix}").exit_code == 0
        assert Path(f"board.{suffix}").read_text().startswith(text)
    assert run("--format", "csv", "-o", "odd.html").exit_code == 0
    assert Path("odd.html").read_text().startswith("rank,"), "what is asked for comes first"


@pytest.mark.parametrize("chosen", ["markdown", "latex", "html"])
def test_formats_on_the_screen_are_nothing_else(chosen: str) -> None:
    save(Path("results"), "sla")
    result = run("--format", chosen)
    assert result.exit_code == 0
    assert run("--format", chosen, "-o", "file").exit_code == 0
    assert Path("file").read_text() == result.stdout
    assert "37.50" in result.stdout


def test_filters_keep_rows_and_their_ranks() -> None:
    for objective, accuracy in (("sla", 0.9), ("baseline", 0.5), ("da", 0.4)):
        accuracies = {"single": [accuracy, accuracy]}
        ResultStore(Path("results")).save(make_record(objective, accuracies=accuracies), accuracies)
    frame = pd.read_csv(io.StringIO(run("--format", "csv", "--objective", "baseline", "--objective", "da").stdout))
    assert list(zip(frame["objective"], frame["rank"], strict=True)) == [("baseline", 2), ("da", 3)]
    both = run(
        "--format", "csv", "--suite", "fewshot", "--dataset", "fc100", "--backbone", "conv4", "--head", "protonet"
    )
    assert sorted(objectives(both.stdout)) == ["baseline", "da", "sla"]
    chosen = run("--format", "csv", "--protocol", "fewshot/fc100/5w5s15q", "--predictor", "single")
    assert len(objectives(chosen.stdout)) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "fc10"], "no row of the leaderboard has the dataset 'fc10'\ndid you mean 'fc100'?"),
        (["--objective", "slaa"], "did you mean 'sla'?"),
        (["--head", "zzz"], "known: protonet"),
        (["--protocol", "fewshot/fc100/5w1s15q"], "did you mean 'fewshot/fc100/5w5s15q'?"),
    ],
)
def test_values_that_occur_nowhere(arguments: list[str], words: str) -> None:
    save(Path("results"), "sla")
    result = run(*arguments, "-o", "board.csv")
    assert isinstance(result.exception, UsageError)
    assert words in str(result.exception)
    assert not Path("board.csv").exists()


def test_values_that_never_occur_together() -> None:
    for objective, predictor in (("sla", "single"), ("da", "aggregated")):
        accuracies = {predictor: [0.5, 0.25]}
        ResultStore(Path("results")).save(make_record(objective, accuracies=accuracies), accuracies)
    result = run("--objective", "sla", "--predictor", "aggregated")
    assert isinstance(result.exception, SlabenchError)
    assert "--objective sla --predictor aggregated together" in str(result.exception)


def test_stale_rows_are_shown_and_not_ranked() -> None:
    accuracies = {"single": [0.5, 0.25]}
    ResultStore(Path("results")).save(make_record("sla", accuracies=accuracies, protocol_version=99), accuracies)
    assert "stale: made by version 99 of the protocol" in run().stdout
    frame = pd.read_csv(io.StringIO(run("--format", "csv").stdout))
    assert frame["stale"].tolist() == [True]
    assert frame["rank"].isna().all()


def test_damaged_published_numbers_are_named(home: Path) -> None:
    save(Path("results"), "sla")
    folder = home / "results" / "published"
    folder.mkdir()
    (folder / "odd.csv").write_text("paper,value\n")
    result = run()
    assert isinstance(result.exception, DataError)
    assert "odd.csv" in str(result.exception)


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
    with pytest.raises(UsageError, match="2 keys: abcaaaaaaaaa, abcbbbbbbbbb"):
        printed(show_run, tmp_path, "abc")
    assert "abcaaaaaaaaa" in printed(show_run, tmp_path, "ABCA")
