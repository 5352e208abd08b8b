"""`slabench report` and `slabench plot`: the page's numbers, structure and bytes, and what is said of little or nothing."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from report_records import controls
from result_records import classifier_record, digest, make_record
from typer.testing import CliRunner, Result

from slabench.cli.app import app
from slabench.core.errors import SlabenchError
from slabench.plots import KINDS, draw
from slabench.plots.source import NothingToDraw, Source
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.report import build
from slabench.report.summary import lines, sentences
from slabench.report.svg import inline, share_styles

ROOT = Path(__file__).parent.parent
_VOID = {"meta", "link", "br", "hr", "img", "input"}


class Reader(HTMLParser):
    """Checks that elements nest, and gathers what the tests ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.urls: list[str] = []
        self.unnamed = 0
        self.cells: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attrs}
        if tag not in _VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        if tag == "svg":
            self.unnamed += own.get("role") != "img" or not own.get("aria-label")
        if tag == "td" or own.get("scope") == "row":
            self.cells.append("")
        self.ids += [own["id"]] if "id" in own else []
        for name in ("href", "xlink:href", "src"):
            if name in own:
                (self.targets if own[name].startswith("#") else self.urls).append(own[name])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1].startswith("h") and self.open[-1][1:].isdigit():
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if "tbody" in self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    controls(root)
    return root


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    return build(Source.of(ResultStore(results).records(), ResultStore(results)))


def test_the_page_holds_together(page: str) -> None:
    reader = Reader(page)
    levels = [level for level, _ in reader.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), "no level is skipped"
    assert len(reader.ids) == len(set(reader.ids))
    assert {target[1:] for target in reader.targets} <= set(reader.ids)
    assert reader.unnamed == 0
    assert page.count("<svg") >= 8
    titles = [text for _, text in reader.headings]
    assert titles[:3] == ["slabench report", "What SLA buys and what it costs", "Contents"]
    assert {"fc100, 5-way 5-shot", "cifar100-LT, exp-r100, standard", "Provenance"} <= set(titles)


def test_the_page_loads_nothing(page: str) -> None:
    assert set(Reader(page).urls) == {"data:,"}
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(http" not in page


def test_names_are_escaped(page: str) -> None:
    assert "<b>ce</b>" not in page
    assert "&lt;b&gt;ce&lt;/b&gt;" in page
    assert "<ant>" not in page


def test_tables_hold_the_records_numbers(page: str, tmp_path: Path) -> None:
    own = controls(tmp_path)
    cells = Reader(page).cells
    for accuracies in own.values():
        for array in accuracies.values():
            assert f"{100 * np.float32(np.clip(array, 0, 1)).mean():.2f}" in cells


def test_the_summary_says_what_the_records_say(results: Path) -> None:
    found = lines(Source.of(ResultStore(results).records(), ResultStore(results)))
    text = [part for said in sentences(found) for part in (said.lead, *said.points)]
    assert any("plain baseline in one view, as papers compare: better on 1 of 1 (+10" in part for part in text)
    assert any("as the method: not distinguishable on 1 of 1" in part for part in text)
    assert any("with the better of its predictors: worse on 1 of 1 (\N{MINUS SIGN}20" in part for part in text)
    assert any("on 0 of the 1 where all three were run" in part for part in text)
    assert any("In one view" in part and "better on 1 of 1 (+2.0 points)" in part for part in text)
    assert any("4.0 times as many images seen" in part and "4 views" in part for part in text)


def test_a_control_that_harms_the_baseline_is_called_easy(tmp_path: Path) -> None:
    for objective, passes, aggregated in (("baseline", 10, 0.2), ("sla", 40, 0.5)):
        own = {"single": np.float32([0.4, 0.41, 0.42]), "aggregated": np.float32([aggregated] * 3)}
        ResultStore(tmp_path).save(make_record(objective, 0, own, images_seen=passes), own)
    found = lines(Source.of(ResultStore(tmp_path).records(), ResultStore(tmp_path)))
    assert any("easy to pass" in point for said in sentences(found) for point in said.points)


def test_equal_records_give_equal_bytes_whatever_their_order(page: str, results: Path) -> None:
    store = ResultStore(results)
    assert build(Source.of(store.records()[::-1], store)) == page


def test_what_is_missing_is_said_on_the_page(results: Path, tmp_path: Path) -> None:
    controls(tmp_path)
    (outputs,) = tmp_path.rglob("*.outputs.safetensors")
    outputs.unlink()
    next(iter(tmp_path.rglob("*.npz"))).write_bytes(b"damaged")
    text = build(Source.of(ResultStore(tmp_path).records(), ResultStore(tmp_path)))
    assert "No reliability diagram: the logits of 1 classifier are not here" in text
    assert "What the records do not show" in text
    assert "What to know of them" in text
    assert "has the sha256" in text


def test_stale_rows_are_shown_apart_and_claim_nothing(tmp_path: Path) -> None:
    """Two records of another version of the protocol, the best of all: no rank, no bar called best, no gain, no sentence."""
    store = ResultStore(tmp_path)
    for objective, version, value in (("baseline", 1, 0.4), ("baseline", 99, 0.8), ("sla", 99, 0.9)):
        own = {"single": np.float32([value, value - 0.01, value + 0.02]), "aggregated": np.float32([value] * 3)}
        store.save(make_record(objective, 0, own, protocol_version=version, key=digest(objective, version)), own)
    source = Source.of(store.records(), store)
    assert [(group.title, len(group.entries)) for group in source.groups()] == [
        ("fc100, 5-way 5-shot", 2),
        ("fc100, 5-way 5-shot (stale)", 4),
    ]
    assert lines(source) == []
    assert "(stale): not ranked" in draw("bars", source).alt
    for kind in ("gains", "shots-ways"):
        with pytest.raises(NothingToDraw):
            draw(kind, source)
    text = build(source)
    assert "No recipe with joint labels has a baseline" in text
    assert "Stale, not ranked: made by version 99 of the protocol, which is now version 1." in text
    reader = Reader(text)
    assert reader.cells.count("stale") == 4


def test_without_joint_labels_the_summary_says_so(tmp_path: Path) -> None:
    ResultStore(tmp_path).save(make_record(), {})
    text = build(Source.of(ResultStore(tmp_path).records(), ResultStore(tmp_path)))
    assert "No recipe with joint labels has a baseline" in text


def test_quick_runs_make_no_claim(tmp_path: Path) -> None:
    for objective in ("baseline", "sla"):
        ResultStore(tmp_path).save(make_record(objective, limited=True), {})
    assert lines(Source.of(ResultStore(tmp_path).records(), ResultStore(tmp_path), include_limited=True)) == []


def test_inline_figures_follow_the_theme_and_keep_only_ids_in_use() -> None:
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg><svg width="9pt" height="4pt" viewBox="0 0 9 4"><metadata>x</metadata>'
        '<g id="figure_1" style="fill: #1b1f24"><path id="p1"/><use xlink:href="#p1"/></g></svg>'
    )
    made = inline(svg, 'a "b"')
    assert made.startswith("<svg")
    assert 'aria-label="a &quot;b&quot;"' in made
    assert "figure_1" not in made
    assert 'id="p1"' in made
    assert "fill: var(--ink)" in made
    assert "metadata" not in made


def test_styles_of_figures_are_said_once() -> None:
    svg = (
        '<svg style="aspect-ratio:2"><path style="fill: red" d="M 0 0"/><text style="color: blue">1.23456</text></svg>'
    )
    page, rules = share_styles(f'<p style="color: red">{svg}{svg}</p>')
    assert rules.splitlines() == [".s0{fill: red}", ".s1{color: blue}"]
    assert page.count('<path class="s0"') == page.count('<text class="s1">1.23456<') == 2
    assert page.count("aspect-ratio") == 2
    assert page.startswith('<p style="color: red">')


def test_figures_lose_digits_that_nobody_sees_and_no_letter() -> None:
    svg = (
        '<svg viewBox="0 0 9 4"><g><g clip-path="url(#c1)"><path d="M 1.23456 -0.001\nL 2 3 "/></g></g>'
        '<defs><clipPath id="c1"/></defs><text style="font-size: 8px; font-family: \'DejaVu Sans\', sans-serif; fill: red" '
        'transform="rotate(-0 1 2)">a 1.23456 b</text></svg>'
    )
    made = inline(svg, "alt")
    assert 'd="M 1.23 -0 L 2 3"' in made
    assert ">a 1.23456 b<" in made
    assert 'style="font-size: 8px; fill: red"' in made
    assert "rotate" not in made
    assert made.count("<g") == made.count("</g>") == 1


# The command line


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, and a home without published records."""
    home = tmp_path / "home"
    (home / "episodes" / "splits").mkdir(parents=True)
    monkeypatch.setenv("SLABENCH_HOME", str(home))
    monkeypatch.delenv("SLABENCH_RESULTS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return home


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def failure(*arguments: str) -> SlabenchError:
    error = run(*arguments).exception
    assert isinstance(error, SlabenchError)
    return error


def test_report_writes_one_file(empty: Path) -> None:
    record = make_record("sla")
    ResultStore(Path("results")).save(record, {})
    result = run("report", "-o", "report.html")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["report.html", "results"]
    assert record.key[:12] in Path("report.html").read_text()


def test_published_records_stand_in_for_none(empty: Path) -> None:
    ResultStore(empty / "results").save(make_record("da"), {})
    result = run("plot", "bars", "-o", "a.svg")
    assert result.exit_code == 0, result.output
    assert "shipped with this version" in result.stderr
    assert "da" in Path("a.svg").read_text()


@pytest.mark.parametrize("command", [("report", "-o", "a.html"), ("plot", "bars", "-o", "a.png")])
def test_an_empty_folder(command: tuple[str, ...], empty: Path) -> None:
    error = failure(*command)
    assert "holds no records" in error.message
    assert error.remedy.startswith("make some: slabench run")
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("record", "said", "remedy"),
    [
        (make_record(limited=True), "all of quick runs", "--include-quick"),
        (make_record(status="failed", error="why", scores=[]), "of a finished trial", "slabench list runs"),
    ],
)
def test_records_that_are_not_shown(record: RunRecord, said: str, remedy: str, empty: Path) -> None:
    ResultStore(Path("results")).save(record, {})
    error = failure("report")
    assert said in error.message
    assert remedy in error.remedy


def test_quick_runs_on_request_have_no_rank(empty: Path) -> None:
    ResultStore(Path("results")).save(make_record(limited=True), {})
    assert run("report", "--include-quick").exit_code == 0
    cells = Reader(Path("report.html").read_text()).cells
    assert "-" in cells
    assert "baseline (quick)" in cells


def test_wrong_requests(empty: Path) -> None:
    ResultStore(Path("results")).save(make_record(), {})
    assert "did you mean 'passes'" in failure("plot", "pases", "-o", "a.png").remedy
    assert "png, svg, pdf" in failure("plot", "bars", "-o", "a.jpg").remedy
    assert failure("plot", "bars", "-o", "a.jpg").exit_code == 2
    assert "two folders" in failure("report", "--shipped", "--results", "results").message
    assert "does not end in .html" in failure("report", "-o", "report.pdf").message
    Path("folder.html").mkdir()
    assert "is a folder" in failure("report", "-o", "folder.html").message
    assert "fewshot/fc100/5w5s15q" in failure("plot", "bars", "-o", "a.png", "--suite", "imbalanced").remedy
    assert "slabench run imbalanced" in failure("plot", "groups", "-o", "a.png").remedy
    assert not Path("a.png").exists()
    Path("file").touch()
    assert "file/a.png cannot be written: File exists" in failure("plot", "bars", "-o", "file/a.png").message


def test_filters_keep_what_was_asked_for(empty: Path) -> None:
    store = ResultStore(Path("results"))
    store.save(make_record(), {})
    store.save(classifier_record(per_class={"ant": 0.5, "bee": 0.5}, counts={"ant": 5, "bee": 5}), {})
    (Path("results") / "runs" / "broken.json").write_text("{")
    for flags, here, gone in (
        (("--suite", "fewshot"), "fc100", "cifar100"),
        (("--dataset", "cifar100"), "cifar100", "fc100"),
        (("--protocol", "5w5s"), "fc100", "cifar100"),
    ):
        result = run("plot", "bars", "-o", "a.svg", *flags)
        assert result.exit_code == 0, result.output
        assert "broken.json" in result.stderr
        text = Path("a.svg").read_text()
        assert here in text
        assert gone not in text


def test_the_kinds_can_be_listed() -> None:
    listed = [line.split()[0] for line in run("list", "plots").stdout.splitlines()[1:]]
    assert listed == list(KINDS)


def test_the_docs_name_every_kind() -> None:
    text = (ROOT / "docs" / "report.md").read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"`{kind}`" in text, kind


@pytest.mark.slow
def test_drawing_imports_no_pyplot_and_help_no_matplotlib(results: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import slabench.cli.app; assert 'matplotlib' not in sys.modules; "
        "from slabench.plots import draw, picture; from slabench.plots.source import Source; "
        "from slabench.records.store import ResultStore; store = ResultStore(Path(sys.argv[1])); "
        "picture(draw('bars', Source.of(store.records(), store)), 'svg'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, str(results)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
