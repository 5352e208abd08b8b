"""The tables of docs/results.md and README.md, made from the records: a page says which rows it wants, and this fills them in.

    python benchmarks/analysis/tables.py README.md docs/results*.md [--check]

A table is asked for by a comment in TOML and stands between it and the next one:

    <!-- table
    kind = "scores"
    protocol = "fewshot/fc100/5w5s15q"
    rows = [["baseline", "fewshot/controls/baseline"]]
    columns = ["images seen", "seeds", "single", "aggregated"]
    -->
    | ... |
    <!-- end of table -->

Kinds:

- `scores`: a row is `[label, name]`, or `[label, name, predictor]` where the columns are a classifier's. Columns: `images seen`,
  `seeds`, a predictor (or `accuracy`, that of the row) with half of its 95 % interval, `many`, `medium`, `few`.
- `grid`: a row is `[label, ending]`, a column `[label, name, predictor]`; the cell is of the record `name` with
  the ending after it (before a digest), or where it has a `*`.
  `groups = true` adds many / medium / few, `interval = true` the half interval. A row or a column may bring its own `protocol`
  as last item.
- `differences`: a row is `[label, name, predictor, name, predictor]`, first minus second on the same test episodes or images; a
  column is `[label, protocol]`. `seeds = true` adds the difference of each seed.
- `measures`: a row is `[label, name, predictor]`, with its own `protocol` as last item where it has one; a column is
  `[heading, field]` of the row's scores, such as `calibration.nll` or `open_set.fpr95`, mean over seeds; fractions in percent.
- `summary`: the tasks of `slabench plot summary`, at most eight, which asks for nothing more.

`name@digest` tells recipes of one name apart, by the recipe's digest or by that of the trial it was derived from: the same head
scored on backbones of two tasks. A label may fill several columns: `"8,000 | flip"`.
`results` is the folder of records (default `results`), in the nearest of the page's folders that has it. The greatest figure of a
table is bold with `bold = true`. A row that has no record is an error: no figure is ever left standing for want of its record.
With `--check` nothing is written and the exit code is 1 if the page is not what the records say.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

from slabench.comparison.controls import CONTROLS
from slabench.comparison.sides import contender
from slabench.core.files import write_text
from slabench.evaluation.paired_tests import paired_over_seeds
from slabench.plots import style
from slabench.plots.source import Source
from slabench.plots.summary import MOST_TASKS, tasks
from slabench.ranking.entries import Entry, entries, entry_interval
from slabench.records.store import ResultStore

FRACTIONS = ("value", "ece", "ece_scaled", "fpr95", "accuracy")
BLOCK = re.compile(r"<!-- table\n(.*?)-->\n(.*?)<!-- end of table -->", re.DOTALL)


class Records:
    """The rows of a folder of records, by protocol, name and predictor."""

    def __init__(self, root: Path) -> None:
        self.store = ResultStore(root)
        known = self.store.records()
        self._recipes = {record.key: record.recipe_digest for record in known}
        self._entries: dict[tuple[str, str], list[Entry]] = {}  # by protocol and name, which several recipes may share
        for entry in entries(known, self.store.episodes):
            self._entries.setdefault((entry.records[0].protocol, entry.records[0].name), []).append(entry)

    def entry(self, protocol: str, name: str, predictor: str = "") -> Entry:
        """The row of that name, or `name@digest`; without a predictor, any row of that recipe.

        Raises:
            SystemExit: there is none, or more than one, or it is stale.
        """
        label, _, digest = name.partition("@")
        known = [
            e for e in self._entries.get((protocol, label), []) if any(d.startswith(digest) for d in self._digests(e))
        ]
        found = [entry for entry in known if predictor in ("", entry.predictor)]
        if not found:
            raise SystemExit(
                f"{self.store.root} has no record of {name}, {predictor or 'any predictor'}, on {protocol}"
            )
        present = [entry for entry in found if not entry.stale]
        if not present:
            raise SystemExit(f"{name} on {protocol} is stale, {found[0].stale}: run it again")
        found = present
        digests = sorted({entry.records[0].recipe_digest[:8] for entry in found})
        if len(digests) > 1:
            raise SystemExit(
                f"{self.store.root} has several recipes {name} on {protocol}: say which, {label}@{digests[0]}"
            )
        return found[0]

    def _digests(self, entry: Entry) -> list[str]:
        """Of the row's recipe, and of the trial's that it was derived from."""
        first = entry.records[0]
        return [first.recipe_digest, *([self._recipes.get(first.derived["of"], "")] if first.derived else [])]


records = cache(Records)


def accuracy(entry: Entry, seeds: bool = True) -> str:
    """Percent, half of its 95 % interval, and the standard deviation over seeds where there are some."""
    text = percent(entry.mean)
    half = entry_interval(entry)[0]
    if half is not None:
        text += f" ± {percent(half)}"
    if seeds and len(entry.records) > 1:
        text += f" (seeds {percent(entry.spread.std)})"
    return text


def percent(value: float, digits: int = 2) -> str:
    """A fraction as percent."""
    return f"{100 * value:.{digits}f}"


def group(entry: Entry, name: str) -> str:
    """Accuracy of many, medium or few, mean over seeds; n/a for a group without classes."""
    values = [getattr(score.metrics, name, None) for score in entry.scores]
    return "n/a" if None in values or not values else percent(sum(values) / len(values), 1)


def groups(entry: Entry) -> str:
    """Many / medium / few."""
    return f"({' / '.join(group(entry, name) for name in ('many', 'medium', 'few'))})"


def scores(spec: Mapping[str, Any], found: Records) -> list[list[str]]:
    """`kind = "scores"`."""
    headings = {"accuracy": spec.get("accuracy", "top-1")}
    lines = [[spec.get("heading", "trained with"), *(headings.get(column, column) for column in spec["columns"])]]
    for label, name, *predictor in spec["rows"]:
        first = found.entry(spec["protocol"], name, *predictor)
        cells = [label]
        for column in spec["columns"]:
            if column == "images seen":
                cells.append(f"{first.images_seen / 1e6:.3g} M")
            elif column == "seeds":
                cells.append(str(len(first.records)))
            elif column in ("many", "medium", "few"):
                cells.append(group(first, column))
            else:
                cells.append(accuracy(first if column == "accuracy" else found.entry(spec["protocol"], name, column)))
        lines.append(cells)
    return lines


def grid(spec: Mapping[str, Any], found: Records) -> list[list[str]]:
    """`kind = "grid"`."""
    lines = [[spec.get("heading", ""), *(column[0] for column in spec["columns"])]]
    for label, ending, *row_protocol in spec["rows"]:
        cells = [label]
        for _, name, predictor, *column_protocol in spec["columns"]:
            protocol = (row_protocol or column_protocol or [spec.get("protocol")])[0]
            plain, at, digest = name.partition("@")
            full = (plain.replace("*", ending) if "*" in plain else plain + ending) + at + digest
            entry = found.entry(protocol, full, predictor)
            cell = accuracy(entry, seeds=False) if spec.get("interval") else percent(entry.mean)
            cells.append(f"{cell} {groups(entry)}" if spec.get("groups") else cell)
        lines.append(cells)
    return lines


def measures(spec: Mapping[str, Any], found: Records) -> list[list[str]]:
    """`kind = "measures"`."""
    lines = [[spec.get("heading", ""), *(heading for heading, _ in spec["columns"])]]
    for label, name, predictor, *row_protocol in spec["rows"]:
        entry = found.entry((row_protocol or [spec.get("protocol")])[0], name, predictor)
        cells = [label]
        for _, path in spec["columns"]:
            values = [attrgetter(path)(score) for score in entry.scores]
            mean = sum(values) / len(values)
            cells.append(percent(mean) if path.rpartition(".")[2] in FRACTIONS else f"{mean:.3f}")
        lines.append(cells)
    return lines


def differences(spec: Mapping[str, Any], found: Records) -> list[list[str]]:
    """`kind = "differences"`."""
    extra = ["by seed"] if spec.get("seeds") else []
    lines = [["a - b", *(column[0] for column in spec["columns"]), *extra]]
    for label, *sides in spec["rows"]:
        cells, by_seed = [label], ""
        for _, protocol in spec["columns"]:
            a, b = (contender(found.entry(protocol, *side), found.store) for side in (sides[:2], sides[2:]))
            pairs = paired_over_seeds(a.accuracies, b.accuracies)
            cells.append(f"{100 * pairs.together.mean:+.2f} ± {percent(pairs.together.half_width)}")
            by_seed = ", ".join(f"{100 * paired.mean:+.2f}" for paired in pairs.per_seed.values())
        lines.append(cells + ([by_seed] if extra else []))
    return lines


_PLUS_MINUS = "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"


def summary(_: Mapping[str, Any], found: Records) -> list[list[str]]:
    """`kind = "summary"`."""
    lines = [["task", "baseline", "all views", "equal images", "SLA", "SLA − best"]]  # short: no row is to break
    for task in tasks(Source.of(found.store.records(), found.store))[:MOST_TASKS]:
        cells = [
            control.absent if own is None else style.value(own.mean, entry_interval(own)[0])
            for control, own in ((control, task.control(control)) for control in CONTROLS)
        ]
        sla, least = style.value(task.sla.mean, entry_interval(task.sla)[0]), task.earned
        difference = style.value(least.value, least.half_width, signed=True)
        numbers = [*cells, sla, f"**{difference}**" if least.verdict > 0 else difference]
        lines.append([task.title, *(number.replace(" ± ", _PLUS_MINUS) for number in numbers)])
    return lines


KINDS: dict[str, Callable[[Mapping[str, Any], Records], list[list[str]]]] = {
    "scores": scores,
    "grid": grid,
    "measures": measures,
    "differences": differences,
    "summary": summary,
}


def table(text: str, folder: Path) -> str:
    """The Markdown of one table, from its comment; `folder` is the page's."""
    spec = tomllib.loads(text)
    name = spec.get("results", "results")
    root = next((parent for parent in (folder, *folder.parents) if (parent / name).is_dir()), folder)
    lines = KINDS[spec["kind"]](spec, records(root / name))
    if spec.get("bold"):
        values = [(float(m[0]), i, j) for i, line in enumerate(lines[1:], 1) for j, m in _figures(line)]
        top = max(value for value, _, _ in values)
        for value, i, j in values:
            if value == top:
                lines[i][j] = f"**{lines[i][j]}**"
    written = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([written[0], "|---" * (written[0].count("|") - 1) + "|", *written[1:]])


def _figures(line: Sequence[str]) -> list[tuple[int, re.Match[str]]]:
    """Cells that begin with an accuracy, and where: `images seen` has a unit, `seeds` and groups no two digits."""
    return [(j, match) for j, cell in enumerate(line) if j and (match := re.match(r"\d+\.\d\d(?= ±| \(|$)", cell))]


def filled(page: str, folder: Path) -> str:
    """The page with every table made anew; `folder` is where it lies."""
    return BLOCK.sub(lambda m: f"<!-- table\n{m[1]}-->\n{table(m[1], folder)}\n<!-- end of table -->", page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the page, or check it; exit code 1 where `--check` finds a difference."""
    parser = argparse.ArgumentParser(description="The tables of a page, from the records.")
    parser.add_argument("pages", type=Path, nargs="+", metavar="page")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page is out of date")
    options = parser.parse_args(arguments)
    changed = [fill(page, options.check) for page in options.pages]
    return int(options.check and any(changed))


def fill(page: Path, check: bool) -> bool:
    """Write the tables of a page anew, or say what differs; whether anything does."""
    before = page.read_text(encoding="utf-8")
    after = filled(before, page.resolve().parent)
    if check:
        for old, new in zip(before.splitlines(), after.splitlines(), strict=False):
            if old != new:
                print(f"{page}: the page says\n  {old}\nthe records say\n  {new}")
        return before != after
    if before != after:
        write_text(page, after)
    print(f"{len(BLOCK.findall(after))} tables in {page}", "unchanged" if before == after else "written anew")
    return before != after


if __name__ == "__main__":
    sys.exit(main())
