"""The report in a real browser: it logs nothing, asks the network for nothing, fits 390 and 1440 pixels, and its tables sort.

axe-core looks for what keeps people from using it by keyboard or by ear; it leaves contrast within figures and scrolled boxes
open, which is held to WCAG's formula here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from colours import contrast
from doc_pages import ROOT
from report_records import controls
from result_records import digest, make_record

from slabench.plots.source import Source
from slabench.records.store import ResultStore
from slabench.report import build

pytestmark = pytest.mark.skipif(
    browser.chromium() is None, reason="needs Chromium: apt-get install chromium, or name it by SLABENCH_CHROMIUM"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    controls(folder / "results")
    store = ResultStore(folder / "results")
    for number in range(12):  # of a protocol that few ask for
        record = make_record(name=f"fewshot/recipe-{number:02d}", protocol="fewshot/fc100/10w5s15q", key=digest(number))
        recipe = {**record.recipe, "protocol": {"ways": 10, "shots": 5, "queries": 15}}
        store.save(record.model_copy(update={"recipe": recipe}), {})
    file = folder / "report.html"
    file.write_text(build(Source.of(store.records(), store)), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.page(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_the_browser_tells_of_faults(tab: browser.Page, tmp_path: Path) -> None:
    """The checks below could not fail if the browser kept silent: a page with every fault is found out."""
    file = tmp_path / "faults.html"
    file.write_text(
        "<img src='http://127.0.0.1:9/a.png'><div style='width:3000px'>x</div><script>console.error('no'); undefined.x</script>"
    )
    tab.resize(390)
    tab.open(file)
    assert "http://127.0.0.1:9/a.png" in tab.requests
    assert any("no" in error for error in tab.errors)
    assert any("TypeError" in error for error in tab.errors)
    assert tab.run("document.documentElement.scrollWidth") > 390


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_quiet_and_fits(width: int, dark: bool, tab: browser.Page, report: Path, tmp_path: Path) -> None:
    tab.resize(width, dark=dark)
    tab.open(report)
    tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert tab.errors == []
    assert [url for url in tab.requests if url not in (report.resolve().as_uri(), "data:,")] == []
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run("Math.max(...[...document.querySelectorAll('svg, p, li, figcaption, h2')].map(each => "
                   "each.getBoundingClientRect().right))") <= width  # fmt: skip
    shown = "[...document.querySelectorAll('svg')].filter(each => each.checkVisibility())"
    assert tab.run(f"{shown}.every(each => each.getBoundingClientRect().height > 50)")
    pictures = "[...document.querySelectorAll('#summary-figure svg')].map(each => each.checkVisibility())"
    assert tab.run(pictures) == [width == 1440, width == 390], "a phone has a picture of its own"
    background = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) is dark
    ink = tab.run("getComputedStyle(document.querySelector('svg text')).fill")
    assert (sum(map(int, ink[4:-1].split(","))) > 400) is dark, "the letters of figures follow the theme"
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_tables_scroll_within_their_boxes(tab: browser.Page, report: Path) -> None:
    tab.resize(390)
    tab.open(report)
    tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    box = "document.querySelector('details .scroll')"
    assert tab.run(f"{box}.scrollWidth > {box}.clientWidth")
    key = f"{box}.querySelector('tbody .key').getBoundingClientRect().left"
    before = tab.run(key)
    assert tab.run(f"{box}.scrollLeft = 50, {box}.scrollLeft") == 50
    assert tab.run(key) == before, "what a row is stays in sight"
    also = f"{box}.querySelector('.also').getBoundingClientRect().height > 0"
    assert tab.run(also), "with all that tells it from others"
    tab.resize(1440)
    assert not tab.run(also)


def test_headings_sort(tab: browser.Page, report: Path) -> None:
    tab.resize(1440)
    tab.open(report)
    table = "[...document.querySelectorAll('table')].find(each => each.caption.textContent.includes('all rows'))"

    def column(name: str) -> list[str]:
        place = f"[...{table}.tHead.rows[0].cells].findIndex(each => each.textContent == {name!r})"
        cell = f"row.cells[{place}]"
        shown = f"{cell}.dataset.sort ?? {cell}.textContent"
        values: list[str] = tab.run(f"[...{table}.tBodies[0].rows].map(row => {shown})")
        return values

    def click(name: str) -> str:
        head = f"[...{table}.tHead.rows[0].cells].find(each => each.textContent == {name!r})"
        state: str = tab.run(f"{head}.querySelector('button').click(), {head}.getAttribute('aria-sort')")
        return state

    before = column("recipe")
    assert click("recipe") == "ascending"
    assert column("recipe") == sorted(before)
    assert click("recipe") == "descending"
    assert column("recipe") == sorted(before, reverse=True)
    assert click("accuracy") == "descending", "of numbers the greatest first"
    numbers = [float(text) for text in column("accuracy")]
    assert numbers == sorted(numbers, reverse=True)
    assert click("accuracy") == "ascending"
    assert [float(text) for text in column("accuracy")] == sorted(numbers)
    assert click("#") == "ascending", "the best first"
    ranks = [float(text) for text in column("#")]
    assert ranks == sorted(ranks)
    assert tab.run(f"{table}.querySelectorAll('[aria-sort]').length") == 1
    assert tab.errors == []


def test_every_link_of_the_contents_leads_to_its_heading(tab: browser.Page, report: Path) -> None:
    tab.resize(1440)
    tab.open(report)
    pairs = tab.run(
        "[...document.querySelectorAll('nav a')].map(a => [a.textContent, document.querySelector(a.hash).textContent])"
    )
    assert len(pairs) >= 5
    assert all(link == heading for link, heading in pairs)


def test_the_first_table_shows_its_numbers_on_a_phone(tab: browser.Page, report: Path) -> None:
    tab.resize(390)
    tab.open(report)
    table = "document.querySelector('table')"
    assert tab.run(f"{table}.parentElement.scrollWidth <= {table}.parentElement.clientWidth"), "without scrolling"
    heads = tab.run(f"[...{table}.tHead.rows[0].cells].map(each => each.textContent)")
    assert heads[0] == "task"
    assert len(heads) == 6
    cells = tab.run(
        f"[...{table}.tBodies[0].rows[0].cells].map(each => [each.textContent, each.getBoundingClientRect().right])"
    )
    assert all(right <= 390 for _, right in cells)
    assert all("±" in text for text, _ in cells[1:])
    figure = "document.querySelector('figure')"
    assert tab.run(f"{figure}.compareDocumentPosition({table}) & Node.DOCUMENT_POSITION_FOLLOWING"), (
        "the figure stands above"
    )


def test_a_box_filters_a_long_table(tab: browser.Page, report: Path) -> None:
    tab.resize(1440)
    tab.open(report)
    section = "document.querySelector('#fc100-10-way-5-shot').parentElement"
    tab.run(f"{section}.querySelector('details').open = true")

    def left(words: str) -> list[str]:
        box = f"{section}.querySelector('.filter input')"
        tab.run(f"{box}.value = {words!r}, {box}.dispatchEvent(new Event('input')), 1")
        rows = f"[...{section}.querySelectorAll('tbody tr')].filter(each => each.offsetHeight)"
        shown: list[str] = tab.run(f"{rows}.map(each => each.cells[1].lastChild.previousSibling.textContent)")
        return shown

    assert len(left("")) == 12
    assert left("-07 SINGLE") == ["recipe-07"]
    assert tab.run(f"{section}.querySelector('[role=status]').textContent") == "1 of 12 rows"
    assert left("no such row") == []
    assert len(left("recipe")) == 12
    assert tab.run("document.querySelectorAll('.filter').length < document.querySelectorAll('table').length"), "none"


def test_other_protocols_are_folded_until_a_link_leads_there(tab: browser.Page, report: Path) -> None:
    tab.resize(1440)
    tab.open(report)
    fold = "document.querySelector('#fc100-10-way-5-shot').parentElement.querySelector('details.fold')"
    assert tab.run(f"{fold}.open") is False
    assert tab.run("document.querySelector('#fc100-5-way-5-shot').parentElement.querySelector('details.fold')") is None
    tab.run("document.querySelector('nav a[href=\"#fc100-10-way-5-shot\"]').click()")
    tab.run("new Promise(done => setTimeout(done, 50))")
    assert tab.run(f"{fold}.open") is True


_AXE = ROOT / "build" / "axe" / "package" / "axe.min.js"
_AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(tab: browser.Page) -> list[str]:
    """What axe-core 4.14.1 holds for wrong on the page that is open, the rule and its first element."""
    code = _AXE.read_bytes()
    assert hashlib.sha256(code).hexdigest() == _AXE_SHA256, f"{_AXE} is another one: remove build/axe"
    tab.call("Runtime.evaluate", expression=code.decode())
    said = "found => found.violations.map(each => each.id + ' ' + each.nodes[0].html)"
    ask = f"axe.run({{runOnly: {json.dumps(_RULES)}}}).then({said})"
    answer: dict[str, Any] = tab.call("Runtime.evaluate", expression=ask, awaitPromise=True, returnByValue=True)
    found: list[str] = answer["result"]["value"]
    return found


@pytest.mark.skipif(not _AXE.is_file(), reason="needs axe-core: sh scripts/install_browser.sh")
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1440, False)])
def test_axe_finds_nothing_that_keeps_people_out(
    width: int, dark: bool, tab: browser.Page, report: Path, tmp_path: Path
) -> None:
    tab.resize(width, dark=dark)
    faulty = tmp_path / "faulty.html"
    faulty.write_text("<html><body><h1>a</h1><h3>b</h3><input><p style='color:#aaa'>some words</p></body></html>")
    tab.open(faulty)
    assert {"color-contrast", "heading-order", "html-has-lang", "label"} <= {
        each.split()[0] for each in violations(tab)
    }
    tab.open(report)
    tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert violations(tab) == []


_TEXTS = """(() => {
  const ground = each => {
    for (let at = each; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)" && !at.closest("svg")) return colour;
    }
  };
  const found = new Set();
  for (const each of document.querySelectorAll("body *")) {
    const own = [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || each.closest("script") || each.closest("h3.quiet")) continue;
    const style = getComputedStyle(each);
    found.add((each.closest("svg") ? style.fill : style.color) + "|" + ground(each));
  }
  return [...found];
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_letter_stands_out_from_its_ground(dark: bool, tab: browser.Page, report: Path) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, also where axe leaves it open: within figures and boxes that scroll."""
    tab.resize(1440, dark=dark)
    tab.open(report)
    tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    pairs = [pair.split("|") for pair in tab.run(_TEXTS)]
    assert len(pairs) >= 5
    for letter, ground in pairs:
        assert contrast(_hex(letter), _hex(ground)) >= 4.5, (letter, ground)


def _hex(colour: str) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in colour[colour.index("(") + 1 : -1].split(",")[:3])


def test_a_table_says_what_its_cells_belong_to(tab: browser.Page, report: Path) -> None:
    tab.open(report)
    assert tab.run(
        "[...document.querySelectorAll('thead th')].every(each => each.scope === 'col' && each.textContent.trim())"
    )
    assert tab.run("[...document.querySelectorAll('tbody th')].every(each => each.scope === 'row')")
    assert tab.run(
        "[...document.querySelectorAll('.scroll')].every(each => each.tabIndex === 0 && each.getAttribute('aria-label'))"
    )
