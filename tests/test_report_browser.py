"""The report in a real browser: it logs nothing, asks the network for nothing, fits 390 and 1440 pixels, and its tables sort."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from report_records import controls

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
    assert tab.run("[...document.querySelectorAll('svg')].every(each => each.getBoundingClientRect().height > 50)")
    background = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) is dark
    ink = tab.run("getComputedStyle(document.querySelector('svg text')).fill")
    assert (sum(map(int, ink[4:-1].split(","))) > 400) is dark, "the letters of figures follow the theme"
    tab.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_tables_scroll_within_their_boxes(tab: browser.Page, report: Path) -> None:
    tab.resize(390)
    tab.open(report)
    box = "document.querySelector('.scroll')"
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
        values: list[str] = tab.run(f"[...{table}.tBodies[0].rows].map(row => row.cells[{place}].dataset.sort)")
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
