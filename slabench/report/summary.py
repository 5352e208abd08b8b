"""What SLA buys and what it costs, in sentences and one table, computed from the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from slabench.comparison.controls import CONTROLS, Control, Gain, gains
from slabench.plots import style
from slabench.plots.source import Group, Source
from slabench.plots.summary import MOST_TASKS, REMEDY, Task, tasks, wide_and_narrow
from slabench.ranking.entries import Entry, entry_interval
from slabench.ranking.formats.html_table import Cell, Head, table
from slabench.report import html
from slabench.sla.transforms import copies

_ORDER = ("aggregated", "distilled", "single")


@dataclass(frozen=True)
class Line:
    """A recipe with joint labels under one predictor, beside its controls."""

    group: Group
    entry: Entry
    gains: dict[str, Gain]

    @property
    def as_trained(self) -> bool:
        """Whether no post-hoc method changed it."""
        return self.entry.records[0].derived is None

    @property
    def cost(self) -> float | None:
        """Images seen in training, as a multiple of the plain baseline's."""
        plain = self.gains.get(Control.BASELINE) or self.gains.get(Control.AGGREGATED)
        return self.entry.images_seen / plain.control.images_seen if plain and plain.control.images_seen else None


def lines(source: Source) -> list[Line]:
    """Every recipe trained with joint labels that stands beside a control, under each predictor; quick runs do not count."""
    made = []
    for group in source.groups():
        by_entry: dict[int, dict[str, Gain]] = {}
        for gain in gains(group.entries, source.store):
            by_entry.setdefault(id(gain.entry), {})[gain.question] = gain
        made += [
            Line(group, entry, by_entry[id(entry)])
            for entry in group.entries
            if id(entry) in by_entry and entry.objective.startswith("sla") and not entry.records[0].limited
        ]
    return made


def section(source: Source) -> str:
    """The summary as HTML: the picture, the table of its numbers, what they say in sentences, and all rows behind them."""
    found = lines(source)
    if not found:
        return html.paragraph(
            "No recipe with joint labels has a baseline of the same model and protocol here, so nothing can be said about what "
            "SLA buys (stale runs and runs with a reduced budget do not count). "
            f"To make one: {REMEDY}",
        )
    trained, derived = [line for line in found if line.as_trained], [line for line in found if not line.as_trained]
    shown = tasks(source)
    text = _picture(shown) + _first(shown[:MOST_TASKS]) if shown else ""
    if trained:
        text += "".join(f"<p>{escape(said.lead)}</p>\n" + _list(said.points) for said in sentences(trained))
        more = _table("Joint labels beside their controls", trained)
        heading = f"All {len(trained)} rows trained with joint labels, each beside its controls"
        text += f"<details>\n<summary>{escape(heading)}</summary>\n{more}</details>\n"
    if derived:
        heading = f"{len(derived)} rows with post-hoc methods, each beside the baseline under the same method"
        more = _table("Post-hoc methods on joint labels beside their controls", derived)
        text += f"<details>\n<summary>{escape(heading)}</summary>\n{more}</details>\n"
    return text


def _picture(found: Sequence[Task]) -> str:
    wide, narrow = wide_and_narrow(found)
    return html.figure(wide, "summary-figure", narrow)


def _first(found: Sequence[Task]) -> str:
    """The numbers of the picture: short enough for a phone."""
    columns = [
        Head("task", numeric=False, key=True),
        Head("baseline", help=Control.BASELINE.meaning),
        Head("all views", help=Control.AGGREGATED.meaning),
        Head("equal images", help=Control.EQUAL_IMAGES_SEEN.meaning),
        Head("SLA", help="joint labels, the mean over all views"),
        Head("SLA − best", help="SLA minus the best of the baselines, paired on the same test"),
    ]
    rows = []
    for task in found:
        least = task.earned
        beside = [task.control(control) for control in CONTROLS]
        rows.append(
            [
                Cell(task.title, task.title),
                *(
                    Cell(control.absent) if own is None else _accuracy(own)
                    for control, own in zip(CONTROLS, beside, strict=True)
                ),
                _accuracy(task.sla),
                _points(least),
            ]
        )
    note = (
        "Accuracy in percent: three baselines, SLA, and SLA minus the best of the three; ± is half of the 95 % interval"
    )
    return table(columns, rows, caption=note, kind="first")


def _accuracy(entry: Entry) -> Cell:
    half = entry_interval(entry)[0]
    return Cell(f"{100 * entry.mean:.1f}", round(100 * entry.mean, 4), interval=_half(half))


def _points(gain: Gain) -> Cell:
    mark = {1: "good", 0: "", -1: "bad"}[gain.verdict]
    text = style.value(gain.value, None, signed=True)
    return Cell(text, round(100 * gain.value, 4), mark=mark, interval=_half(gain.half_width))


def _half(half_width: float | None) -> str:
    return "" if half_width is None else f"± {100 * half_width:.1f}"


def _list(points: Sequence[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(point)}</li>\n" for point in points) + "</ul>\n" if points else ""


@dataclass(frozen=True)
class Said:
    """A sentence and the points below it."""

    lead: str
    points: tuple[str, ...] = ()


def sentences(found: Sequence[Line]) -> list[Said]:
    """The summary in plain language; better and worse are said only where the paired 95 % interval does not hold 0."""
    best = [line for line in found if line.entry.predictor == "aggregated"]
    single = [line for line in found if line.entry.predictor == "single"]
    made = []
    if best:
        points = [
            f"{control.meaning}: {_against(best, control)}{_weak(best) if control is Control.AGGREGATED else ''}"
            for control in CONTROLS
        ]
        made.append(
            Said(
                f"What it buys. Joint labels, averaged over all transformed views (aggregated), {_on(best)}, against",
                tuple(points),
            )
        )
        whole = [line for line in best if all(question in line.gains for question in CONTROLS)]
        passed = sum(all(gain.verdict > 0 for gain in line.gains.values()) for line in whole)
        made.append(
            Said(
                "A gain counts as earned by joint labels where it holds against all three: so far on "
                f"{passed} of the {len(whole)} where all three were run."
                if whole
                else "A gain counts as earned by joint labels where it holds against all three; nowhere here were all three run."
            )
        )
    if single:
        made.append(
            Said(
                f"In one view, at no extra cost in use, against the baseline in one view: {_against(single, Control.BASELINE)}."
            )
        )
    costs = sorted(line.cost for line in found if line.cost)
    sets = {str(line.entry.records[0].setting("sla", "transforms")) for line in found}
    m = sorted({size for name in sets if (size := copies(name))})
    if costs:
        low, high = f"{costs[0]:.1f}", f"{costs[-1]:.1f}"
        views = f"{m[0]}" if len(m) == 1 else f"{m[0]} to {m[-1]}" if m else "several"
        made.append(
            Said(
                f"What it costs. {low if low == high else f'{low} to {high}'} times as many images seen in training as the "
                f"plain baseline; "
                f"{views} views of each test image where it is aggregated, one where it is not. Minutes are in the "
                "tables below, and are comparable only between runs on one machine."
            )
        )
    return made


def _on(own: Sequence[Line]) -> str:
    tasks = len({line.group.title for line in own})
    recipes = f"{len(own)} recipes on " if len(own) > tasks else "on "
    return f"{recipes}{tasks} task{'' if tasks == 1 else 's'}"


def _against(own: Sequence[Line], question: str) -> str:
    found = [line.gains[question] for line in own if question in line.gains]
    if not found:
        return "not run"
    known = [gain for gain in found if gain.half_width is not None]
    parts: list[str] = []
    for sign, word in ((1, "better"), (0, "not distinguishable"), (-1, "worse")):
        count = sum(gain.verdict == sign for gain in known)
        if count:
            parts.append(f"{word} on {count}" + (f" of {len(found)}" if not parts else ""))
    if len(known) < len(found):
        parts.append(f"without an interval on {len(found) - len(known)}")
    values = [gain.value for gain in found]
    low, high = style.value(min(values), None, signed=True), style.value(max(values), None, signed=True)
    span = f"{low} points" if low == high else f"{low} to {high} points"
    missing = f", not run on {len(own) - len(found)}" if len(found) < len(own) else ""
    return f"{', '.join(parts)} ({span}){missing}"


def _weak(own: Sequence[Line]) -> str:
    """Where more views make the baseline worse, this control is an easy one; it has to be said."""
    both = (Control.BASELINE, Control.AGGREGATED)
    pairs = [(line.gains[both[0]], line.gains[both[1]]) for line in own if set(both) <= set(line.gains)]
    worse = sum(more.control.mean < one.control.mean for one, more in pairs)
    return f"; on {worse} of them that makes the baseline itself worse, and the control easy to pass" if worse else ""


def _table(caption: str, found: Sequence[Line]) -> str:
    columns = [
        Head("task", numeric=False, key=True),
        Head("recipe", numeric=False),
        Head("predictor", numeric=False),
        Head("accuracy %"),
        *(Head(f"− {control}", help=control.meaning) for control in CONTROLS),
        Head("images ×", help="images seen in training, as a multiple of the plain baseline's"),
    ]
    order = {name: place for place, name in enumerate(_ORDER)}
    rows = []
    for line in sorted(found, key=lambda line: order.get(line.entry.predictor, len(order))):
        entry = line.entry
        colour = line.group.colours()[entry.objective]
        rows.append(
            [
                Cell(line.group.title, line.group.title, also=f"{line.group.name(entry)}, {entry.predictor}"),
                Cell(line.group.name(entry), line.group.name(entry), colour),
                Cell(entry.predictor, entry.predictor),
                Cell(f"{100 * entry.mean:.2f}", round(100 * entry.mean, 4)),
                *(_gain(line.gains.get(control), control) for control in CONTROLS),
                Cell("–") if line.cost is None else Cell(f"{line.cost:.1f}", round(line.cost, 3)),
            ]
        )
    note = "paired differences in points with 95 % intervals; bold: the interval lies on one side of 0"
    return table(columns, rows, caption=f"{caption}: {note}")


def _gain(gain: Gain | None, control: Control) -> Cell:
    if gain is None:
        return Cell(control.absent)
    text = style.value(gain.value, gain.half_width, signed=True)
    mark = {1: "good", 0: "", -1: "bad"}[gain.verdict]
    return Cell(text, round(100 * gain.value, 4), mark=mark)
