"""One page for everything that the records say: tables, figures and where they come from, in a single HTML file.

It loads nothing: style, script and figures are in it, and a content policy forbids the rest. Equal records give equal bytes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from slabench.comparison.controls import CONTROLS
from slabench.plots import KINDS
from slabench.plots.page import draw_page
from slabench.plots.source import Group, NothingToDraw, Source, asked_first
from slabench.ranking.columns import PUBLISHED, STALE, UNVERIFIED
from slabench.ranking.formats.html_table import script
from slabench.report import html, provenance, summary
from slabench.report.svg import share_styles

_IN_PROTOCOL = ("bars", "gains", "passes", "groups", "per-class", "reliability", "transforms", "training")


@dataclass(frozen=True)
class Section:
    """A heading of the second order, its anchor and what stands below it."""

    title: str
    name: str
    body: str


def build(source: Source, progress: Callable[[str], None] | None = None) -> str:
    """The page as text.

    Args:
        source: what to show; its problems (files that could not be read) are listed on the page.
        progress: called with a line before each protocol is drawn.

    Raises:
        NothingToDraw: there is no finished trial.
    """
    gc.freeze()  # what is there by now stays: the collector need not look at it again for every figure
    try:
        return _built(source, progress or (lambda line: None))
    finally:
        gc.unfreeze()


def _built(source: Source, progress: Callable[[str], None]) -> str:
    groups = source.groups()
    if not groups:
        raise NothingToDraw("there is no finished trial to report", "slabench run fewshot/controls --dataset glyphs")
    drawn: set[str] = {"summary"}  # or said there why not
    sections = [Section("What SLA buys and what it costs", "summary", summary.section(source))]
    names: list[str] = []
    first = asked_first(groups)
    for group in [*first, *(group for group in groups if group not in first)]:
        progress(f"drawing {group.title}")
        name = html.anchor(group.title)
        name = name if name not in names else f"{name}-{len(names)}"
        names.append(name)
        sections.append(Section(group.title, name, _protocol(source, group, name, drawn, folded=group not in first)))
    datasets = sorted({entry.records[0].dataset for entry in source.entries})
    across = "".join(_across(source, dataset, drawn) for dataset in datasets)
    across += _figures(source, ("map",), "across", drawn)
    if across:
        sections.append(Section("Across shots, ways and data", "across", f'<div class="figures">\n{across}</div>\n'))
    absent = _absent(source, drawn)
    if absent:
        sections.append(Section("What the records do not show", "absent", absent))
    sections.append(Section("How to read this page", "reading", _READING))
    sections.append(Section("Provenance", "provenance", provenance.section(source)))
    return _page(source, groups, sections)


def _protocol(source: Source, group: Group, name: str, drawn: set[str], folded: bool) -> str:
    """Facts, table and figures; of a folded section the facts stand open, and only what tells most is drawn."""
    first = group.entries[0]
    own = source.only(lambda entry: (entry.group, entry.stale) == (first.group, first.stale))
    facts, body = html.facts(group), html.leaderboard(group)
    body += '<h3 class="quiet">Figures</h3>\n'
    # Accuracies stand in the table: of a folded section the differences are drawn, and bars only where there is none.
    ways = [("gains",), ("bars",)] if folded else [_IN_PROTOCOL]
    figures = next((made for kinds in ways if (made := _figures(own, kinds, name, drawn))), "")
    body += f'<div class="figures">\n{figures}</div>\n'
    outputs = any(e.records[0].outputs_file for e in group.entries) and group.first.suite != "fewshot"
    if f"{name}/reliability" not in drawn and outputs:
        try:
            draw_page("reliability", own)
        except NothingToDraw as error:
            body += html.paragraph(f"No reliability diagram: {error.message}. {error.remedy}", "note")
    if not folded:
        return facts + body
    rows = f"{len(group.entries)} row{'' if len(group.entries) == 1 else 's'} and their figures"
    return f'{facts}<details class="fold">\n<summary>{rows}</summary>\n{body}</details>\n'


def _across(source: Source, dataset: str, drawn: set[str]) -> str:
    own = source.only(lambda entry: entry.records[0].dataset == dataset)
    return _figures(own, ("shots-ways",), f"across-{html.anchor(dataset)}", drawn)


def _figures(source: Source, kinds: tuple[str, ...], name: str, drawn: set[str]) -> str:
    made = []
    for kind in kinds:
        try:
            drawing = draw_page(kind, source)
        except NothingToDraw:
            continue
        made.append(html.figure(drawing, f"{name}-{kind}"))
        drawn |= {kind, f"{name}/{kind}"}
    return "".join(made)


def _absent(source: Source, drawn: set[str]) -> str:
    items = []
    for kind in KINDS:
        if kind not in drawn:
            try:
                draw_page(kind, source)
            except NothingToDraw as error:
                why = f"{escape(KINDS[kind].summary)}: {escape(error.message)}. To have it: "
                why += f"<code>{escape(error.remedy)}</code>"
                items.append(f"<li><strong>{escape(kind)}</strong>, {why}</li>\n")
    return f"<ul>\n{''.join(items)}</ul>\n" if items else ""


def _page(source: Source, groups: list[Group], sections: list[Section]) -> str:
    records = {record.key for entry in source.entries for record in entry.records}
    lead = (
        "slabench compares image classifiers trained with and without Self-supervised Label Augmentation (SLA; Lee, Hwang and "
        "Shin, ICML 2020), which gives every pair of class and transformation a label of its own. This page shows "
        f"{_count(len(records), 'finished trial')} on {_count(len(groups), 'protocol')}, "
        "made from their records and from nothing else. It needs no network."
    )
    contents = "".join(f'<li><a href="#{part.name}">{escape(part.title)}</a></li>\n' for part in sections)
    (first, rest), rules = _styled(_section(sections[0]), "".join(map(_section, sections[1:])))
    return _TEMPLATE.format(
        style=_file("page.css") + "\n" + rules.strip(),
        script=script() + "\n" + _file("page.js"),
        lead=escape(lead),
        first=first,
        contents=contents,
        rest=rest,
    )


def _styled(first: str, rest: str) -> tuple[list[str], str]:
    """Both parts of the page with the styles of their figures in one sheet."""
    parting = "<!-- contents -->"
    page, rules = share_styles(first + parting + rest)
    return page.split(parting), rules


def _file(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8").strip()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _section(part: Section) -> str:
    return f'<section aria-labelledby="{part.name}">\n<h2 id="{part.name}">{escape(part.title)}</h2>\n{part.body}</section>\n'


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>slabench report</title>
<style>
{style}
</style>
</head>
<body>
<a class="skip" href="#summary">To the summary</a>
<header>
<h1>slabench report</h1>
<p class="lead">{lead}</p>
</header>
<main>
{first}<nav aria-labelledby="contents">
<h2 id="contents">Contents</h2>
<ul>
{contents}</ul>
</nav>
{rest}</main>
<script>
{script}
</script>
</body>
</html>
"""

_READING = f"""<dl>
<dt>single, aggregated, distilled</dt>
<dd>How one trained model predicts: from one view of the image; from the mean over its M transformed views; or as a student in one
view, trained to predict what the aggregated model does. Each is a row of its own.</dd>
<dt>images seen</dt>
<dd>Images passed through the backbone in training, transformed copies counted. Rows are comparable in cost by this number;
minutes are those of the machine of the run.</dd>
<dt>± test and ± seeds</dt>
<dd>Half of the 95 % t interval over test episodes or images, for the trained models at hand; the standard deviation over
training seeds, for training again. They answer two questions and are never added up.</dd>
<dt>rank</dt>
<dd>1 + the number of rows that are significantly better: their paired 95 % interval over the same episodes lies above 0. Rows
that cannot be distinguished may share a rank. Stale rows, runs with a reduced budget and those selected on the test have
none.</dd>
<dt>stale</dt>
<dd>Rows that {escape(STALE)}. Nor are they in the summary.</dd>
<dt>published and gap</dt>
<dd>Published: {escape(PUBLISHED)}. Gap: accuracy minus published, in points. {escape(UNVERIFIED)}.</dd>
<dt>baseline and controls</dt>
<dd>{escape("; ".join(f"{control.capitalize()}: {control.meaning}" for control in CONTROLS))}. What SLA earns is what it
gains over all of them.</dd>
<dt>colours</dt>
<dd>Colour is the training objective: grey the baseline, blue joint labels (SLA), orange transformations as augmentation (DA),
green as a second task (MT). A light or hollow filling is single, a full one aggregated.</dd>
</dl>
"""
