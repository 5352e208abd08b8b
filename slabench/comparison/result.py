"""What a comparison found, and how it says so in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slabench.comparison.controls import Control, equal_images_seen
from slabench.evaluation import paired_tests as stats

if TYPE_CHECKING:
    from slabench.evaluation.intervals import Interval, Paired
    from slabench.records.record import RunRecord


ASKED = "asked"


@dataclass(frozen=True)
class Side:
    """One side of a comparison. `images_seen` are those of one seed's training, `views` those of a test image."""

    name: str
    predictor: str
    objective: str
    seeds: tuple[int, ...]
    keys: tuple[str, ...]
    images_seen: int
    views: int
    limited: bool


@dataclass(frozen=True)
class Pair:
    """a - b on the same test units, fractions. Everything is over the seeds that both have.

    Attributes:
        a, b: the sides.
        question: "asked", or what the pair is a control for.
        seeds: the common seeds (of a, where both are single runs of different seeds).
        mean_a, mean_b: accuracies, averaged over these seeds.
        over_units: paired difference and t interval over episodes or images of the seed-averaged accuracies.
        by_seed: the same for each seed alone.
        bootstrap: percentile interval over the same units.
        wilcoxon_p: of the signed rank test over episodes; None for images.
        mcnemar: by seed, for images; None for episodes.
        over_seeds: t interval of the per-seed differences; None for one seed.
        over_both: seeds and units as crossed random effects; None for one seed.
        without_reuse: images as the finite resource; None for test images (each is used once) or without the episode file.
        over_classes: classes drawn anew; None likewise.
    """

    a: Side
    b: Side
    question: str
    seeds: tuple[int, ...]
    mean_a: float
    mean_b: float
    over_units: Paired
    by_seed: dict[int, Paired]
    bootstrap: stats.Bounds
    wilcoxon_p: float | None = None
    mcnemar: dict[int, stats.McNemar] | None = None
    over_seeds: Interval | None = None
    over_both: Interval | None = None
    without_reuse: Interval | None = None
    over_classes: Interval | None = None


@dataclass(frozen=True)
class Comparison:
    """The pairs that were asked for, the one in question first, and the controls of a method's gain.

    `unit` is "episodes" or "images", `n` how many; `warnings` is what a reader should know before the numbers;
    `conclusion` says it all in plain sentences.
    """

    protocol: str
    protocol_version: int
    dataset: str
    task: str
    unit: str
    n: int
    digests: dict[str, str]
    pairs: tuple[Pair, ...]
    controls: tuple[Pair, ...]
    confidence: float
    warnings: tuple[str, ...] = ()
    conclusion: str = ""


_TITLES = {"fc100": "FC100", "cifar-fs": "CIFAR-FS", "cifar100": "CIFAR-100", "cifar10": "CIFAR-10"}


def task(record: RunRecord, n: int) -> str:
    """The test of a record in words: "2,000 FC100 5-way 5-shot episodes"."""
    dataset = _TITLES.get(record.dataset, record.dataset)
    if record.episodes is None:
        return f"{n:,} test images of {record.protocol}"
    protocol = record.recipe.get("protocol", {})
    setting = f"{protocol['ways']}-way {protocol['shots']}-shot " if {"ways", "shots"} <= set(protocol) else ""
    setting += "open-set " if protocol.get("unknown") else ""
    return f"{n:,} {dataset} {setting}episodes"


def conclusion(made: Comparison) -> str:
    """What the first pair says, with every interval, the controls and the cost."""
    pair = made.pairs[0]
    parts = [_headline(made, pair), _other_intervals(made, pair)]
    if made.controls:
        parts.append(_controls(made, pair))
    parts += [_verdict(made, pair), _cost(pair)]
    return " ".join(part for part in parts if part)


def short_names(a: Side, b: Side) -> tuple[str, str]:
    """The last part of each recipe's name, the whole where these are equal."""
    short = a.name.rpartition("/")[2], b.name.rpartition("/")[2]
    return short if short[0] != short[1] else (a.name, b.name)


def points(value: float) -> str:
    """A fraction as points of percent with two digits."""
    return f"{100 * value:.2f}"


def margin(half_width: float) -> str:
    """` ± 0.52`; nothing where one value has no interval."""
    return "" if math.isnan(half_width) else f" ± {points(half_width)}"


def _headline(made: Comparison, pair: Pair) -> str:
    names = short_names(pair.a, pair.b)
    a, b = (_named(name, side, pair) for name, side in zip(names, (pair.a, pair.b), strict=True))
    found = pair.over_units
    size = _size(found)
    if size[0].isdigit():
        value, _, where = size.rpartition(" ")
        size = f"{value} points {where}"
    return f"On the same {made.task} {a} is {size} {b}."


def _named(name: str, side: Side, pair: Pair) -> str:
    seeds = f"{len(pair.seeds)} seeds" if len(pair.seeds) > 1 else "1 seed"
    return f"{name} ({side.predictor}, {seeds})"


def _other_intervals(made: Comparison, pair: Pair) -> str:
    others = [
        (interval, words)
        for interval, words in (
            (pair.over_both, f"over seeds and {made.unit}"),
            (pair.without_reuse, "without re-use of images"),
            (pair.over_classes, "over classes"),
        )
        if interval is not None and not math.isnan(interval.half_width)
    ]
    text = ""
    if others:
        listed = _and([f"± {points(interval.half_width)} {words}" for interval, words in others])
        hold = [words for interval, words in others if interval.low <= 0 <= interval.high]
        if len(hold) in (0, len(others)):
            what = "0 lies inside" if hold else "0 lies outside"
            what += " of it" if len(others) == 1 else " of each of them"
        else:
            what = f"0 lies inside of that {_and(hold)}"
        text = f"The interval is {listed}; {what}."
    if len(pair.seeds) == 1:
        text += (" " if text else "") + "One seed: how far another training would change this is not known."
    return text


def _controls(made: Comparison, pair: Pair) -> str:
    """Method minus each control. The subject is the method, whichever side it is."""
    method = made.controls[0].a
    own = short_names(pair.a, pair.b)[0 if method == pair.a else 1]
    phrases = []
    for control in made.controls:
        over = control.over_both
        both = "" if over is None else f" ({margin(over.half_width).strip() or 'no interval'} over seeds too)"
        value, _, where = _size(control.over_units).rpartition(" ")
        phrases.append(f"{value}{both} {where} {_control_words(control, pair)}")
    return f"Beside its controls {own} ({method.predictor}) is {_and(phrases)}."


def _size(found: Paired | Interval) -> str:
    """The difference in points, and the word between the two sides."""
    if found.low <= 0 <= found.high or math.isnan(found.half_width):
        return f"not distinguishable ({100 * found.mean:+.2f}{margin(found.half_width)}) from"
    return f"{points(abs(found.mean))}{margin(found.half_width)} {'above' if found.mean > 0 else 'below'}"


def _control_words(control: Pair, asked: Pair) -> str:
    views = control.a.views if control.b.predictor == control.a.predictor else 1
    n = len(control.seeds)
    seeds = "" if n == len(asked.seeds) else f" ({n} seed{'s' if n > 1 else ''})"
    if Control.EQUAL_IMAGES_SEEN in control.question:
        return (
            f"the baseline with as many images seen and {views if views > 1 else 'one'} view{'s' * (views > 1)}{seeds}"
        )
    return f"the baseline {f'with as many views ({views})' if views > 1 else 'under the same predictor'}{seeds}"


def _verdict(made: Comparison, pair: Pair) -> str:
    """Whether the method's gain is one over both of its controls; nothing where there is no gain to explain."""
    methods = [side for side in (pair.a, pair.b) if side.objective != "baseline"]
    if len(methods) != 1:
        return ""
    sign = 1 if methods[0] == pair.a else -1
    found = pair.over_units
    gains = not found.low <= 0 <= found.high and sign * found.mean > 0
    equal = [c for c in made.controls if Control.EQUAL_IMAGES_SEEN in c.question]
    open_end = ""
    if not equal and not _equal(pair):
        open_end = "No baseline with as many images seen is in the folder, so what more training alone earns is an open question."
    if not gains:
        return open_end
    # Over seeds too, where there are several: a claim about a method is one about its trainings.
    beaten = all(c.over_units.low > 0 and (c.over_both is None or c.over_both.low > 0) for c in made.controls)
    which = "all of its controls" if len(made.controls) > 1 else "its control"
    if not made.controls:
        return open_end
    return f"{'The gain stands' if beaten else 'So the gain does not stand'} against {which}. {open_end}".strip()


def _equal(pair: Pair) -> bool:
    return equal_images_seen(pair.a.images_seen, pair.b.images_seen)


def _cost(pair: Pair) -> str:
    a, b = pair.a.images_seen, pair.b.images_seen
    names = short_names(pair.a, pair.b)
    if not a or not b:
        return ""
    if _equal(pair):
        return "Both saw the same number of images in training."
    more, fewer, ratio = (*names, a / b) if a > b else (*names[::-1], b / a)
    return f"{more} saw {ratio:.1f} times as many images in training as {fewer}."


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
