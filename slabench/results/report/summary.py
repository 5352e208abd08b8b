"""What SLA buys and what it costs, in sentences and one table, computed from the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slabench.results.gains import CONTROLS, Gain, gains
from slabench.results.leaderboard import Entry, copies
from slabench.results.plots import style
from slabench.results.plots.source import Group, Source, at, objective, passes
from slabench.results.report import html

_LOOKS = ("aggregated", "distilled", "single")
_MISSING = {"baseline": "not run", "aggregated": "not scored", "equal passes": "not run"}


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
        """Image passes in training, as a multiple of the plain baseline's."""
        plain = self.gains.get(CONTROLS[0]) or self.gains.get(CONTROLS[1])
        return passes(self.entry) / passes(plain.control) if plain and passes(plain.control) else None


def lines(source: Source) -> list[Line]:
    """Every recipe trained with joint labels that stands beside a control, under each predictor."""
    made = []
    for group in source.groups():
        by_entry: dict[int, dict[str, Gain]] = {}
        for gain in gains(group.entries, source.store):
            by_entry.setdefault(id(gain.entry), {})[gain.question] = gain
        made += [
            Line(group, entry, by_entry[id(entry)])
            for entry in group.entries
            if id(entry) in by_entry and objective(entry).startswith("sla")
        ]
    return made


def section(source: Source) -> str:
    """The summary as HTML."""
    found = lines(source)
    if not found:
        return html.paragraph(
            "No recipe with joint labels stands beside a baseline of the same model and protocol here, so that nothing can be "
            "said of what SLA buys. To make one: slabench run fewshot/controls --dataset fc100 --shots 5",
        )
    text = "".join(html.paragraph(sentence) for sentence in sentences(found))
    return text + _table(found)


def sentences(found: Sequence[Line]) -> list[str]:
    """The summary in plain language; a difference counts only where its paired 95 % interval does not hold 0."""
    trained = [line for line in found if line.as_trained]
    best = [line for line in trained if line.entry.predictor == "aggregated"]
    single = [line for line in trained if line.entry.predictor == "single"]
    made = []
    if best:
        tasks = len({line.group.title for line in best})
        made.append(
            f"What it buys. {len(best)} trained recipe{_s(best)} with joint labels, asked under all transformations (aggregated), "
            f"on {tasks} task{'' if tasks == 1 else 's'}: {_against(best, CONTROLS[0], 'the plain baseline in one look, as papers compare')}."
        )
        made.append(
            "What of it joint labels earn. The same baseline asked as often: "
            f"{_against(best, CONTROLS[1], 'that control')}. A baseline trained on as many images, copies counted: "
            f"{_against(best, CONTROLS[2], 'that control')}."
        )
        both = [line for line in best if all(question in line.gains for question in CONTROLS)]
        passed = sum(all(gain.verdict > 0 for gain in line.gains.values()) for line in both)
        made.append(
            f"A gain is to be claimed only against all three: {passed} of the {len(both)} recipes with all three passes."
            if both
            else "A gain is to be claimed only against all three; no recipe here has all three beside it."
        )
    if single:
        made.append(
            "In one look, so at no extra cost when it is used: "
            f"{_against(single, CONTROLS[0], 'the plain baseline in one look')}."
        )
    costs = sorted(line.cost for line in trained if line.cost)
    m = sorted(
        {size for line in trained if (size := copies(str(at(line.entry.records[0].recipe, "sla", "transforms"))))}
    )
    if costs:
        looks = (
            f"{_span(m)} looks at each test image when aggregated, one in single"
            if m
            else "several looks at a test image"
        )
        low, high = f"{costs[0]:.1f}", f"{costs[-1]:.1f}"
        times = low if low == high else f"{low} to {high}"
        made.append(
            f"What it costs. {times} times the image passes of the plain baseline in training, and {looks}. "
            "Minutes are in the tables; they are comparable only on one machine."
        )
    return made


def _against(own: Sequence[Line], question: str, name: str) -> str:
    found = [line.gains[question] for line in own if question in line.gains]
    if not found:
        return f"not run for any of them ({name})"
    known = [gain for gain in found if gain.half_width is not None]
    parts = []
    for sign, word in ((1, "above"), (0, "not to be told from"), (-1, "below")):
        count = sum(gain.verdict == sign for gain in known)
        if count:
            parts.append(f"{count} {word}")
    if len(known) < len(found):
        parts.append(f"{len(found) - len(known)} without an interval")
    values = [gain.value for gain in found]
    low, high = style.value(min(values), None, signed=True), style.value(max(values), None, signed=True)
    span = f"{low} points" if low == high else f"{low} to {high} points"
    missing = f"; not run for {len(own) - len(found)}" if len(found) < len(own) else ""
    return f"of {len(found)}, {', '.join(parts)} {name} ({span}{missing})"


def _table(found: Sequence[Line]) -> str:
    columns = [
        html.Column("task", numeric=False),
        html.Column("recipe", numeric=False),
        html.Column("predictor", numeric=False),
        html.Column("accuracy %"),
        html.Column("− baseline", title="the plain baseline in one look: what papers compare with"),
        html.Column("− aggregated baseline", title="the same baseline asked under all transformations"),
        html.Column("− equal passes", title="a baseline trained on as many images, its better predictor"),
        html.Column("passes ×", title="image passes in training, as a multiple of the plain baseline's"),
    ]
    order = {name: place for place, name in enumerate(_LOOKS)}
    rows = []
    for line in sorted(found, key=lambda line: (not line.as_trained, order.get(line.entry.predictor, 9))):
        entry = line.entry
        colour = line.group.colours()[objective(entry)]
        rows.append(
            [
                html.Cell(line.group.title, line.group.title),
                html.Cell(line.group.name(entry), line.group.name(entry), colour),
                html.Cell(entry.predictor, entry.predictor),
                html.Cell(f"{100 * entry.mean:.2f}", round(100 * entry.mean, 4)),
                *(_gain(line.gains.get(question), question) for question in CONTROLS),
                html.Cell("–") if line.cost is None else html.Cell(f"{line.cost:.1f}", round(line.cost, 3)),
            ]
        )
    return html.table(
        "Joint labels beside their controls: paired differences in points with 95 % intervals; bold lies beyond doubt on one side of 0",
        columns,
        rows,
    )


def _gain(gain: Gain | None, question: str) -> html.Cell:
    if gain is None:
        return html.Cell(_MISSING[question])
    text = style.value(gain.value, gain.half_width, signed=True)
    mark = {1: "good", 0: "", -1: "bad"}[gain.verdict]
    return html.Cell(text, round(100 * gain.value, 4), mark=mark)


def _span(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _s(items: Sequence[object]) -> str:
    return "" if len(items) == 1 else "s"
