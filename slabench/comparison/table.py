"""A comparison as tables for 80 columns, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slabench.comparison.result import points, short_names
from slabench.core.files import SHORT

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from slabench.comparison.result import Comparison, Pair, Side
    from slabench.evaluation.intervals import Interval, Paired

_COLUMNS = (
    *("protocol", "unit", "n_units", "a", "a_predictor", "a_keys", "b", "b_predictor", "b_keys", "question"),
    *("images_seen_a", "images_seen_b", "n_seeds", "seeds", "mean_a", "mean_b", "difference"),
    *(
        "ci_units",
        "bootstrap_low",
        "bootstrap_high",
        "p_t",
        "p_wilcoxon",
        "only_a",
        "only_b",
        "p_mcnemar_exact",
        "p_mcnemar_mid",
    ),
    *("std_seeds", "ci_seeds", "ci_both", "ci_without_reuse", "ci_classes", "correlation"),
    *("passes_a", "passes_b"),
)


_OLD_NAMES = {"images_seen": "passes", "views": "looks"}
"""What a side's fields were called until version 0.1: JSON and CSV have both names, until the next one."""


def to_json(made: Comparison) -> str:
    """Everything as JSON; fractions, and null for what is not defined."""
    value = asdict(made)
    for pair in (*value["pairs"], *value["controls"]):
        for side in (pair["a"], pair["b"]):
            side |= {old: side[name] for name, old in _OLD_NAMES.items()}
    return json.dumps(_plain(value), indent=2) + "\n"


def to_csv(made: Comparison) -> str:
    """One row a pair, controls after what was asked: fractions with six digits, half widths in the `ci_` columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for pair in (*made.pairs, *made.controls):
        row = _row(made, pair)
        writer.writerow([_cell(name, row[name]) for name in _COLUMNS])
    return text.getvalue()


def render(made: Comparison) -> list[RenderableType]:
    """What is printed above the conclusion."""
    from rich.text import Text

    first = made.pairs[0]
    digests = ", ".join(
        f"{name} {value[:SHORT]}" for name, value in made.digests.items() if value and name != "protocol"
    )
    where = "" if made.protocol in made.task else f"{made.protocol}, "
    parts: list[RenderableType] = [
        Text(made.task, style="bold"),
        Text(f"{where}version {made.protocol_version}; {digests}", style="dim"),
        Text(f"A  {_who(first.a)}\nB  {_who(first.b)}"),
        Text(""),
        _pairs_table(made),
        Text(""),
        Text(
            f"A {first.a.predictor} - B {first.b.predictor}: {made.confidence:.0%} intervals, in points", style="bold"
        ),
        _intervals_table(made, first),
        _tests(first),
    ]
    if made.controls:
        method = made.controls[0].a
        heading = f"{method.name} {method.predictor} - control, in points"
        parts += [Text(""), Text(heading, style="bold"), _control_table(made)]
    return [*parts, Text(""), Text(_notes(made), style="dim")]


def _notes(made: Comparison) -> str:
    """What each interval means."""
    seeds = "Seeds: other trainings of both sides. Both: seeds and test at once."
    if made.unit == "images":
        return (
            f"Images: another test set of these classes. Each test image is scored once, so none is used again. {seeds}"
        )
    reuse = (
        " Images, none used twice: other images of the same classes, each counted once. Classes: other test classes."
        if made.pairs[0].without_reuse
        else ""
    )
    return (
        "Episodes: other tasks from the same images and classes, which is what papers print; it shrinks with the number "
        f"of episodes.{reuse} {seeds} No interval holds all of them."
    )


def _pairs_table(made: Comparison) -> Table:
    table = _table("A", "B", *("A %", "B %", "A - B", f"± {made.unit}", "± seeds", "± both", "seeds"))
    for pair in made.pairs:
        table.add_row(pair.a.predictor, pair.b.predictor, points(pair.mean_a), points(pair.mean_b), *_numbers(pair))
    return table


def _control_table(made: Comparison) -> Table:
    table = _table("control", "", "", "diff.", "± test", "± both", "seeds", left=3)
    for pair in made.controls:
        value, units, _, both, seeds = _numbers(pair)
        table.add_row(short_names(pair.a, pair.b)[1], pair.b.predictor, pair.question or "-", value, units, both, seeds)
    return table


def _intervals_table(made: Comparison, pair: Pair) -> Table:
    """One row an interval: what is drawn anew."""
    table = _table("drawn anew", "±", "from", "to", "by", left=1)
    found = pair.over_units
    units = f"{made.unit}, same images" if made.unit == "episodes" else "test images"
    table.add_row(units, *_bounds(found.half_width, found.low, found.high), f"t, {made.n:,} {made.unit}")
    boot = pair.bootstrap
    table.add_row("", *_bounds(None, boot.low, boot.high), f"bootstrap, {boot.resamples:,} draws")
    others = (
        ("images, none used twice", pair.without_reuse, "t, {n} episodes"),
        ("classes", pair.over_classes, "jackknife, {n} classes"),
        ("training seeds", pair.over_seeds, "t, {n} seeds"),
        (f"both: seeds and {made.unit}", pair.over_both, "crossed, {n} seeds"),
    )
    for what, interval, by in others:
        if interval is not None:
            table.add_row(what, *_bounds(interval.half_width, interval.low, interval.high), by.format(n=interval.n))
    return table


def _tests(pair: Pair) -> RenderableType:
    from rich.text import Text

    lines = [f"paired t test p {_p(pair.over_units.p_value)}"]
    if pair.wilcoxon_p is not None:
        lines[0] += f", Wilcoxon signed rank p {_p(pair.wilcoxon_p)}"
    for seed, test in (pair.mcnemar or {}).items():
        lines.append(
            f"seed {seed}: only A right {test.only_a:,}, only B right {test.only_b:,} of {test.n:,}; "
            f"McNemar mid-p {_p(test.p_mid)}, exact {_p(test.p_exact)}"
        )
    if len(pair.by_seed) > 1:
        lines.append("by seed: " + ", ".join(f"{seed}: {_signed(found.mean)}" for seed, found in pair.by_seed.items()))
    return Text("\n".join(lines))


def _table(*headings: str, left: int = 2) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, heading in enumerate(headings):
        text = index < left or heading == "by"
        table.add_column(heading, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    return table


def _numbers(pair: Pair) -> tuple[str, str, str, str, str]:
    found = pair.over_units
    return (
        _signed(found.mean),
        _half(found.half_width),
        _half(pair.over_seeds.half_width if pair.over_seeds else None),
        _half(pair.over_both.half_width if pair.over_both else None),
        str(len(pair.seeds)),
    )


def _bounds(half: float | None, low: float, high: float) -> tuple[str, str, str]:
    return _half(half), "-" if math.isnan(low) else _signed(low), "-" if math.isnan(high) else _signed(high)


def _signed(value: float) -> str:
    return f"{100 * value:+.2f}"


def _half(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else points(value)


def _p(value: float) -> str:
    return "n/a" if math.isnan(value) else "< 1e-12" if value < 1e-12 else f"{value:.2g}"


def _who(side: Side) -> str:
    seeds = f"seed{'s' if len(side.seeds) > 1 else ''} {', '.join(map(str, side.seeds))}"
    quick = ", quick" if side.limited else ""
    return f"{side.name}, {seeds} ({', '.join(side.keys)}), {side.images_seen / 1e6:.2f}M images seen{quick}"


def _row(made: Comparison, pair: Pair) -> dict[str, Any]:
    tests = list((pair.mcnemar or {}).values())
    one = tests[0] if len(tests) == 1 else None

    def half(interval: Interval | Paired | None) -> float | None:
        return None if interval is None else interval.half_width

    return {
        "protocol": made.protocol,
        "unit": made.unit,
        "n_units": made.n,
        **{f"{name}{end}": value for name, side in (("a", pair.a), ("b", pair.b)) for end, value in _side_cells(side)},
        "question": pair.question,
        "images_seen_a": pair.a.images_seen,
        "images_seen_b": pair.b.images_seen,
        "n_seeds": len(pair.seeds),
        "seeds": " ".join(map(str, pair.seeds)),
        "mean_a": pair.mean_a,
        "mean_b": pair.mean_b,
        "difference": pair.over_units.mean,
        "ci_units": half(pair.over_units),
        "bootstrap_low": pair.bootstrap.low,
        "bootstrap_high": pair.bootstrap.high,
        "p_t": pair.over_units.p_value,
        "p_wilcoxon": pair.wilcoxon_p,
        "only_a": one.only_a if one else None,
        "only_b": one.only_b if one else None,
        "p_mcnemar_exact": one.p_exact if one else None,
        "p_mcnemar_mid": one.p_mid if one else None,
        "std_seeds": pair.over_seeds.std if pair.over_seeds else None,
        "ci_seeds": half(pair.over_seeds),
        "ci_both": half(pair.over_both),
        "ci_without_reuse": half(pair.without_reuse),
        "ci_classes": half(pair.over_classes),
        "correlation": pair.over_units.correlation,
        "passes_a": pair.a.images_seen,
        "passes_b": pair.b.images_seen,
    }


def _side_cells(side: Side) -> Sequence[tuple[str, str]]:
    return (("", side.name), ("_predictor", side.predictor), ("_keys", " ".join(side.keys)))


def _cell(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if name.startswith("p_") else f"{value:.6f}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
