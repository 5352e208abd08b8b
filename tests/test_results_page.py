"""The tables of docs/results*.md and the committed tables of results/: nothing in them that the records do not say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from analysis_scripts import script
from result_records import make_record
from scipy import stats
from typer.testing import CliRunner

from slabench.cli.app import app
from slabench.records.store import ResultStore

_ROOT = Path(__file__).resolve().parents[1]
PAGES = [f"docs/results{part}.md" for part in ("", "-few-shot", "-classifiers", "-features")]


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, dict[tuple[str, int], np.ndarray]]:
    """A folder with docs/ and results/ of two recipes, two seeds each."""
    rng = np.random.default_rng(5)
    arrays = {}
    for objective in ("baseline", "sla"):
        for seed in (0, 1):
            array = rng.integers(20, 70, 50).astype(np.float32) / 75
            arrays[objective, seed] = array
            accuracies = {"single": array}
            record = make_record(objective, seed, accuracies, images_seen=2_400_000)
            ResultStore(tmp_path / "results").save(record, accuracies)
    (tmp_path / "docs").mkdir()
    return tmp_path, arrays


def page(root: Path, spec: str) -> Path:
    path = root / "docs" / "page.md"
    path.write_text(f"# A page\n<!-- table\n{spec}\n-->\n<!-- end of table -->\nText with 12.34.\n", encoding="utf-8")
    return path


def protocol(root: Path) -> str:
    return ResultStore(root / "results").records()[0].protocol


def test_scores_and_differences_are_numpys_and_scipys(site: tuple[Path, dict[tuple[str, int], np.ndarray]]) -> None:
    root, arrays = site
    path = page(
        root,
        f'kind = "scores"\nprotocol = "{protocol(root)}"\nbold = true\ncolumns = ["images seen", "seeds", "single"]\n'
        'rows = [["plain | x", "fewshot/baseline"], ["joint | y", "fewshot/sla"]]\nheading = "trained | how"',
    )
    assert script("tables").main([str(path)]) == 0
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    assert lines[:2] == ["| trained | how | images seen | seeds | single |", "|---|---|---|---|---|"]
    means = {name: [float(arrays[name, seed].astype(float).mean()) for seed in (0, 1)] for name in ("baseline", "sla")}
    best = max(means, key=lambda name: sum(means[name]))
    for line, (label, name) in zip(lines[2:], (("plain | x", "baseline"), ("joint | y", "sla")), strict=True):
        episodes = (arrays[name, 0].astype(float) + arrays[name, 1]) / 2
        low, high = stats.t.interval(0.95, 49, episodes.mean(), stats.sem(episodes))
        cell = f"{100 * np.mean(means[name]):.2f} ± {50 * (high - low):.2f} (seeds {100 * np.std(means[name], ddof=1):.2f})"
        assert line == f"| {label} | 2.4 M | 2 | {f'**{cell}**' if name == best else cell} |"
    path = page(
        root,
        f'kind = "differences"\nseeds = true\ncolumns = [["here", "{protocol(root)}"]]\n'
        'rows = [["joint - plain", "fewshot/sla", "single", "fewshot/baseline", "single"]]',
    )
    assert script("tables").main([str(path)]) == 0
    by_seed = [100 * (means["sla"][seed] - means["baseline"][seed]) for seed in (0, 1)]
    assert f"| joint - plain | {np.mean(by_seed):+.2f} ± " in path.read_text()
    assert f" | {by_seed[0]:+.2f}, {by_seed[1]:+.2f} |" in path.read_text()


def test_a_changed_figure_is_found(
    site: tuple[Path, dict[tuple[str, int], np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, _ = site
    path = page(
        root,
        f'kind = "grid"\nprotocol = "{protocol(root)}"\nrows = [["as trained", ""]]\n'
        'columns = [["plain", "fewshot/baseline", "single"], ["joint", "fewshot/sla", "single"]]',
    )
    script("tables").main([str(path)])
    good = path.read_text()
    assert script("tables").main([str(path), "--check"]) == 0
    row = next(line for line in good.splitlines() if line.startswith("| as trained"))
    figure = row.split("|")[2].strip()
    path.write_text(good.replace(figure, f"{float(figure) + 0.01:.2f}"))
    capsys.readouterr()
    assert script("tables").main([str(path), "--check"]) == 1
    assert row in capsys.readouterr().out
    assert script("tables").main([str(path)]) == 0
    assert path.read_text() == good


def test_a_row_without_a_record_is_an_error(site: tuple[Path, dict[tuple[str, int], np.ndarray]]) -> None:
    root, _ = site
    for name, text in (("fewshot/other", "no record of fewshot/other"), ("fewshot/sla@000000", "no record of")):
        path = page(root, f'kind = "scores"\nprotocol = "{protocol(root)}"\ncolumns = []\nrows = [["x", "{name}"]]')
        with pytest.raises(SystemExit, match=text):
            script("tables").main([str(path)])
    accuracies = {"single": [0.5, 0.25]}
    twin = make_record("sla", 7, accuracies, recipe_digest="9" * 64)
    ResultStore(root / "results").save(twin, accuracies)
    path = page(root, f'kind = "scores"\nprotocol = "{protocol(root)}"\ncolumns = []\nrows = [["x", "fewshot/sla"]]')
    with pytest.raises(SystemExit, match="several recipes fewshot/sla"):
        script("tables").main([str(path)])


def test_a_stale_record_fills_no_table(tmp_path: Path) -> None:
    accuracies = {"single": np.float32([0.5, 0.75])}
    record = make_record("baseline", 0, accuracies, protocol_version=99)
    ResultStore(tmp_path / "results").save(record, accuracies)
    found = script("tables").Records(tmp_path / "results")
    with pytest.raises(SystemExit, match="is stale, made by version 99"):
        found.entry(record.protocol, record.name, "single")


def test_a_head_on_backbones_of_two_tasks_is_told_by_the_trial(tmp_path: Path) -> None:
    """Two trials of one name, for other tasks, and the same head scored on each: the digest of the trial's recipe says which."""
    store, values = ResultStore(tmp_path / "results"), {"1": 0.25, "2": 0.5}
    for digit, value in values.items():
        trial = {"key": digit * 64, "recipe_digest": digit * 64, "protocol": f"fewshot/fc100/5w{digit}s15q"}
        own = {"single": np.float32([value, value + 0.125])}
        store.save(make_record("sla", 0, own, name="fewshot/run", **trial), own)
        scored = {"key": f"{digit}f" * 32, "recipe_digest": f"f{digit}" * 32, "protocol": "fewshot/fc100/5w9s15q"}
        of = {"of": digit * 64, "method": "score", "head": "cosine"}
        store.save(make_record("sla", 0, own, name="fewshot/run+cosine", derived=of, **scored), own)
    (tmp_path / "docs").mkdir()
    spec = 'kind = "grid"\nprotocol = "fewshot/fc100/5w9s15q"\nrows = [["cosine", "+cosine"]]\n'
    columns = [[f"of {digit}", f"fewshot/run@{digit * 8}", "single"] for digit in values]
    path = page(tmp_path, f"{spec}columns = {columns}")
    assert script("tables").main([str(path)]) == 0
    assert "| cosine | 31.25 | 56.25 |" in path.read_text()
    path = page(tmp_path, f'{spec}columns = [["which", "fewshot/run", "single"]]')
    with pytest.raises(SystemExit, match=r"several recipes fewshot/run\+cosine"):
        script("tables").main([str(path)])


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page and the records as far as they are under version control: whoever tests here may have runs of their own."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "README.md", "docs/results*.md", "docs/assets", "results"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git does not list the files here: {error}")
    folder = tmp_path_factory.mktemp("committed")
    for name in done.stdout.splitlines():
        if (_ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_the_page_says_what_the_records_say(name: str, committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = script("tables").main([str(committed / name), "--check"])
    assert code == 0, f"{capsys.readouterr().out}(make leaderboard fills it in)"


def test_what_the_readme_says_of_its_table_is_in_the_table(committed: Path) -> None:
    page = (committed / "README.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ")
        for line in page.partition("<!-- end of table -->")[0].splitlines()
        if line[:1] == "|" and "±" in line
    ]
    assert 1 <= len(rows) <= 8
    number = re.compile(r"(\N{MINUS SIGN}|\+)?(\d+\.\d)\s±\s(\d+\.\d)")

    def read(cell: str) -> tuple[float, float]:
        found = number.search(cell)
        assert found is not None, cell
        return float(found[2]) * (-1 if found[1] == "\N{MINUS SIGN}" else 1), float(found[3])

    earned = [read(row[-1]) for row in rows]
    ahead = sum(value > half for value, half in earned)
    plain = sum(read(row[-2])[0] > read(row[1])[0] for row in rows)
    said = " ".join(page.split())
    assert f"SLA is ahead on {plain} of these {len(rows)} tasks; against the best of the three" in said
    assert f"(one view, all views, equal images seen) on {ahead} of {len(rows)}" in said


def test_the_sentences_of_the_results_are_in_the_tables() -> None:
    """An accuracy or a gain that the first page states stands in a table: the same value and interval, to one decimal."""
    pages = [(_ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    number = re.compile(r"([+\N{MINUS SIGN}-]?)(\d+\.\d+)\s±\s(\d+\.\d+)")

    def read(text: str) -> set[tuple[str, str]]:
        found = number.findall(text)
        return {
            (f"{(-1 if sign not in ('', '+') else 1) * float(v):.1f}", f"{float(half):.1f}") for sign, v, half in found
        }

    tables = read("\n".join(line for page in pages for line in page.splitlines() if line.startswith("|")))
    stated = read("\n".join(line for line in pages[0].splitlines() if not line.startswith(("|", "  ["))))
    assert len(stated) >= 8
    assert stated <= tables, stated - tables


def test_the_figures_of_the_pages_are_of_the_records(committed: Path, tmp_path: Path) -> None:
    def texts(file: Path) -> list[str]:
        return re.findall(r"<text[^>]*>([^<]+)</text>", file.read_text("utf-8"))

    assert script("pictures").main(["--results", str(committed / "results"), "-o", str(tmp_path)]) == 0
    made = {file.name for file in tmp_path.iterdir()}
    assert made == {"map.svg", "summary.svg", "summary-dark.svg", "summary-narrow.svg", "summary-narrow-dark.svg"}
    for name in made:
        # Another matplotlib may write other bytes; the letters stay.
        assert len(texts(tmp_path / name)) > 20
        assert texts(committed / "docs" / "assets" / name) == texts(tmp_path / name), "make leaderboard draws it anew"
    pages = {page: (_ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/index.md", *PAGES[:1])}
    for page, text in pages.items():
        shown = {name for name in made if f"assets/{name}" in text}
        assert shown >= {"summary.svg", "summary-dark.svg"}, page


def test_the_leaderboard_is_of_the_records(committed: Path, tmp_path: Path) -> None:
    results = committed / "results"
    made = CliRunner().invoke(
        app, ["leaderboard", "--results", str(results), "--format", "csv", "-o", str(tmp_path / "leaderboard.csv")]
    )
    assert made.exit_code == 0, made.output
    same = (tmp_path / "leaderboard.csv").read_text() == (results / "leaderboard.csv").read_text()
    assert same, "make leaderboard makes it anew"


def test_the_paired_differences_are_of_the_records(committed: Path, tmp_path: Path) -> None:
    results = committed / "results"
    assert script("paired").main(["--results", str(results), "-o", str(tmp_path / "paired.csv")]) == 0
    same = (tmp_path / "paired.csv").read_text() == (results / "paired.csv").read_text()
    assert same, "make leaderboard makes it anew"
