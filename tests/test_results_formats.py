"""The leaderboard in each format, read back by programs that slabench does not share: csv, pandas, markdown-it, html.parser,
pdflatex and a browser, the last two where there is one.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from result_records import classifier_record, make_record
from rich.console import Console

from slabench.ranking.boards import boards
from slabench.ranking.columns import LeaderboardRow, columns
from slabench.ranking.formats.html import to_html
from slabench.ranking.formats.latex import to_latex
from slabench.ranking.formats.plain import to_csv, to_markdown
from slabench.ranking.formats.terminal import table
from slabench.ranking.rows import rows
from slabench.records.record import Calibration, ClassScores

AWKWARD = 'fewshot/a|b & 50% of $x_1$ #2 {~^} \\n <b>"*c*"</b> --d `e` [f](g) ± é'


@pytest.fixture(scope="module")
def made() -> list[LeaderboardRow]:
    """Two few-shot tables, one of them stale, and one of classifiers; ties, blanks, and every sort of published number."""
    sla = make_record("sla", 0, {"single": [0.6, 0.9, 0.6], "aggregated": [0.8, 0.7, 0.8]})
    records = [
        make_record("baseline", 0, {"single": [0.4, 0.5, 0.4]}),
        make_record("baseline", 1, {"single": [0.5, 0.5, 0.4]}),
        sla,
        make_record("odd", 0, {"single": [0.1, 0.2, 0.1]}, name=AWKWARD),
        make_record("quick", 0, {"single": [0.3, 0.3, 0.3]}, limited=True),
        make_record("old", 0, {"single": [0.9, 0.9, 0.9]}, protocol_version=2),
        classifier_record(per_class={"a": 0.9, "b": 0.3}, counts={"a": 200, "b": 30}),
    ]
    return rows(records, None, True)


def test_every_field_is_a_column_and_none_else() -> None:
    assert [column.name for column in columns()] == [field.name for field in fields(LeaderboardRow)]
    shown = {name for column in columns() for name in column.shown}
    assert shown == {"table", "wide", "markdown", "latex", "html"}
    assert all(column.help for column in columns() if column.shown)


def test_a_metric_needs_a_field_of_the_record_and_a_column_only() -> None:
    metrics = {column.name for column in columns() if column.metric}
    assert {"balanced", "few", "ece"} <= metrics <= set(ClassScores.model_fields) | set(Calibration.model_fields)
    assert all(column.optional for column in columns() if column.metric)


def test_csv_read_back_with_csv_equals_the_rows(made: list[LeaderboardRow]) -> None:
    text = to_csv(made)
    assert not text.startswith("\ufeff")
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(read) == len(made) == 7
    for cells, row in zip(read, made, strict=True):
        assert None not in cells
        for field in fields(LeaderboardRow):
            _equal(cells[field.name], getattr(row, field.name), field.name)


def _equal(cell: str, value: Any, name: str) -> None:
    if value is None:
        assert cell == "", name
    elif isinstance(value, bool):
        assert cell == ("true" if value else "false"), name
    elif isinstance(value, tuple):
        assert cell.split() == [str(part) for part in value], name
    elif isinstance(value, int):
        assert int(cell) == value, name
    elif isinstance(value, float):
        assert float(cell) == pytest.approx(value, abs=0.05 if name.endswith("_seconds") else 5e-7), name
    else:
        assert cell == value, name


def test_csv_read_back_with_pandas_equals_the_rows(made: list[LeaderboardRow]) -> None:
    texts = {
        field.name: str for field in fields(LeaderboardRow) if field.type in ("str", "str | None", "tuple[int, ...]")
    }
    frame = pd.read_csv(io.StringIO(to_csv(made)), dtype=texts)  # as anybody reads it
    assert list(frame.columns) == [*(field.name for field in fields(LeaderboardRow)), "image_passes"]
    assert frame.pop("image_passes").tolist() == frame["images_seen"].tolist(), "the old name, for one release"
    assert len(frame) == len(made)
    for name in frame:
        for read, row in zip(frame[name], made, strict=True):
            value = getattr(row, str(name))
            if value in (None, ""):
                assert pd.isna(read), name
            elif isinstance(value, tuple):
                assert read.split() == [str(part) for part in value], name
            elif isinstance(value, float) and not isinstance(value, bool):
                assert read == pytest.approx(value, abs=0.05 if str(name).endswith("_seconds") else 5e-7), name
            else:
                assert read == value, name
    numeric = frame.select_dtypes("number").columns
    assert {"rank", "mean", "std_seeds", "ci95_test", "images_seen", "score_seconds", "published", "gap"} <= set(
        numeric
    )
    assert set(frame.select_dtypes("bool").columns) == {"stale", "transductive", "limited"}


class _Tables(HTMLParser):
    """Tables of an HTML text as lists of rows of cell texts; keeps the stack of open elements, so that it notices bad nesting."""

    VOID = frozenset(("meta", "br", "wbr", "hr", "img", "link", "input"))

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.opened: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.opened == [], f"never closed: {self.opened}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.opened.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.opened):
            self.tables[-1][-1][-1] += data


def _expected(made: list[LeaderboardRow], output: Any) -> list[list[list[str]]]:
    return [
        [[column.heading for column in board.columns]]
        + [[column.text(row) for column in board.columns] for row in board.rows]
        for board in boards(made, output)
    ]


def test_markdown_renders_to_the_cells(made: list[LeaderboardRow]) -> None:
    """GitHub's Markdown, strikethrough included, shows each cell as it is: no markup of a name is alive."""
    text = to_markdown(made)
    shown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    read = _Tables(f"<div>{shown}</div>")
    expected = [[[" ".join(cell.split()) for cell in line] for line in one] for one in _expected(made, "markdown")]
    assert read.tables == expected
    assert not {"b", "em", "code", "a", "s", "del"} & {tag for tag, _ in read.attributes}
    assert any(AWKWARD.removeprefix("fewshot/") in line for line in expected[0])
    assert "### fewshot/fc100/5w5s15q (stale)" in text
    assert "made by version 2 of the protocol" in text


def test_stale_rows_stand_last_and_have_no_rank(made: list[LeaderboardRow]) -> None:
    tables = boards(made, "markdown")
    assert [board.stale for board in tables] == [
        None,
        None,
        "made by version 2 of the protocol, which is now version 1",
    ]
    (old,) = tables[-1].rows
    assert (old.rank, old.stale, columns()[0].text(old)) == (None, True, "stale")
    assert all(row.rank for board in tables[:-1] for row in board.rows if not row.limited)
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(table(made, 100))
    assert "stale: made by version 2 of the protocol" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_stale_row_never_stands_among_present_ones(made: list[LeaderboardRow]) -> None:
    first = boards(made, "html")[0].rows
    tables = boards([*first, replace(first[0], rank=None, stale=True, stale_why="of other episodes")], "html")
    assert [(len(board.rows), board.stale) for board in tables] == [(len(first), None), (1, "of other episodes")]


def test_unverified_numbers_have_a_mark_an_explanation_and_no_gap(made: list[LeaderboardRow]) -> None:
    by = {(row.objective, row.predictor): row for row in made if row.suite == "fewshot" and not row.stale}
    sla, baseline = by["sla", "aggregated"], by["baseline", "single"]
    assert (sla.published, sla.published_verified, sla.gap) == (pytest.approx(0.557), False, None)
    assert (baseline.published, baseline.published_verified) == (pytest.approx(0.486), True), "Conv4, not ResNet-12"
    assert baseline.gap == pytest.approx(0.45 - 0.486)
    for text in (
        to_markdown(made).replace("\\", ""),
        html.unescape(to_html(made)),
        to_latex(made).replace("$\\sim$", "~"),
    ):
        assert "~55.70?" in text
        assert "~value?" in text
        assert "~48.60?" not in text
    assert "~value?" not in to_html([baseline])


def test_what_all_rows_share_stands_above_the_table(made: list[LeaderboardRow]) -> None:
    first = boards(made, "html")[0]
    assert "backbone conv4" in first.facts
    assert "backbone" not in [column.heading for column in first.columns]
    mixed = boards([*first.rows, replace(first.rows[0], backbone="resnet12")], "html")[0]
    assert "backbone" in [column.heading for column in mixed.columns]


def test_html_is_whole_and_needs_no_network(made: list[LeaderboardRow]) -> None:
    text = to_html(made)
    read = _Tables(text.removeprefix("<!DOCTYPE html>\n"))
    assert read.tables == _expected(made, "html")
    assert not [
        value for _, attributes in read.attributes for name, value in attributes.items() if name in ("src", "data")
    ]
    links = [attributes["href"] for tag, attributes in read.attributes if tag == "a"]
    anchors = {f"#{attributes['id']}" for _, attributes in read.attributes if "id" in attributes}
    assert len(links) == 3
    assert set(links) <= anchors
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"<script>.*</script>", "", text, flags=re.S))
    assert "url(" not in text
    assert "@import" not in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in read.attributes
    assert "prefers-color-scheme: dark" in text
    heads = [attributes for tag, attributes in read.attributes if tag == "th" and attributes.get("scope") == "col"]
    buttons = [attributes for tag, attributes in read.attributes if tag == "button"]
    assert len(heads) == len(buttons) == sum(len(lines[0]) for lines in read.tables), "each heading can be pressed"


def test_names_cannot_smuggle_markup_into_the_page() -> None:
    record = make_record("x", 0, {"single": [0.5, 0.6]}, name="fewshot/<script>alert(1)</script>")
    assert "<script>alert" not in to_html(rows([record], None)).replace("<wbr>", "")


_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@pytest.mark.slow
@pytest.mark.skipif(browser.chromium() is None, reason="no Chromium here")
def test_headings_sort_in_a_browser(made: list[LeaderboardRow], tmp_path: Path) -> None:
    press = "".join(
        f"""{{ const h = [...document.querySelectorAll("table")[0].tHead.rows[0].cells].find(c => c.innerText.trim() == "{name}");
        h.querySelector("button").click(); log.push([...document.querySelectorAll("table")[0].tBodies[0].rows].map(
        r => r.cells[h.cellIndex].textContent)); }}"""
        for name in ("accuracy", "accuracy", "predictor", "published", "#")
    )
    script = f"<script>const log = []; {press} document.title = JSON.stringify(log);</script></body>"
    page = tmp_path / "board.html"
    page.write_text(to_html(made).replace("</body>", script), encoding="utf-8")
    done = subprocess.run(
        [str(browser.chromium()), *_FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert found, done.stderr
    pressed = json.loads(html.unescape(found[1]))
    accuracies = ["76.67", "70.00", "45.00", "30.00", "13.33"]
    assert pressed[:2] == [accuracies, accuracies[::-1]], "the largest first, then the smallest"
    assert pressed[2] == ["aggregated", *["single"] * 4]
    assert pressed[3] == ["~55.70?", "48.60", "", "", ""], "blanks last"
    assert pressed[4] == ["1", "2", "3", "4", "-"], "no rank last"


def _groups(text: str) -> Iterator[str]:
    yield from re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.S)


def test_latex_has_as_many_cells_as_columns_and_booktabs_rules(made: list[LeaderboardRow]) -> None:
    text = to_latex(made)
    tables = list(_groups(text))
    assert len(tables) == 3
    for board, lines in zip(boards(made, "latex"), tables, strict=True):
        assert [lines.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
        assert "\\hline" not in lines
        kinds = re.match(r"\\begin\{tabular\}\{([lr]+)\}", lines)
        assert kinds
        assert len(kinds[1]) == len(board.columns)
        body = [line for line in lines.splitlines() if line.endswith(r"\\")]
        assert len(body) == len(board.rows) + 1
        assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(board.columns) - 1}
    # Outside of comments nothing special stands alone.
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(
        r"(?<!\\)[#_^~]|[^\x00-\x7fé]", re.sub(r"\\label\{[^}]*\}|\\resizebox.*|%$", "", plain, flags=re.M)
    )
    assert len(re.findall(r"\\label\{([^}]*)\}", text)) == len(set(re.findall(r"\\label\{([^}]*)\}", text)))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(made: list[LeaderboardRow], tmp_path: Path) -> None:
    (tmp_path / "board.tex").write_text(to_latex(made), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\usepackage{graphicx}\\begin{document}\\input{board.tex}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1500:]
    assert "Overfull" not in done.stdout


def test_no_rows_are_no_error() -> None:
    assert to_csv([]).count("\n") == 1
    assert _Tables(to_html([]).removeprefix("<!DOCTYPE html>\n")).tables == []
    assert "|" not in to_markdown([])
    assert "tabular" not in to_latex([])
