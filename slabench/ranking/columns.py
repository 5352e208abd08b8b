"""The columns of the leaderboard: one source for the CSV, the terminal, Markdown, LaTeX and HTML.

A field of `LeaderboardRow` is a column of the CSV; what stands beside it says how people read it: heading, unit, which formats
show it, and what it means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal

UNVERIFIED = "~value?: unverified, from memory, never held against the paper: it decides nothing"
"""What the mark of `marked` means, for legends."""


PUBLISHED = (
    "what a paper prints for the method in this setting, mostly from longer training and often on another network (publ. net); "
    "slabench compare RUN --published says what differs"
)


STALE = (
    "were made by another version of the protocol, on episodes or images that slabench has replaced since, from weights that are "
    "no longer their trial's, or by code that nobody can know: they are shown, never ranked"
)


def marked(text: str, verified: bool) -> str:
    """A published number as it is shown everywhere: `59.25`, or `~59.25?` where nobody has held it against the paper."""
    return text if verified else f"~{text}?"


Format = Literal["table", "wide", "markdown", "latex", "html"]
"""`wide` is the terminal's table where it has the room, and the report's."""


_ALL: tuple[Format, ...] = ("table", "wide", "markdown", "latex", "html")
_PAPER: tuple[Format, ...] = ("markdown", "latex", "html")
_WEB: tuple[Format, ...] = ("markdown", "html")
_HTML: tuple[Format, ...] = ("html",)
_WIDE: tuple[Format, ...] = ("wide", *_PAPER)


@dataclass(frozen=True)
class Column:
    """How a field is shown.

    Attributes:
        name: the field, and the column's name in the CSV.
        heading: over the column, for people.
        shown: the formats that have it.
        text: the value for people, from the row; "" where there is none.
        numeric: numbers are set flush right, and sort by size.
        fold: a value that all rows of a table share stands above it instead.
        first: stands before the others for people: what a reader looks for.
        optional: shown only in a table where some row has a value.
        printed: a `fold` that LaTeX shows as a column where rows differ in it; a printed page has no room for the others.
        metric: a field of `slabench.records.record.ClassScores` or `Calibration`, averaged over seeds; optional.
        help: what it means, one line.
        digits: of the CSV: 6 for fractions, 1 for seconds; None for what is no float.
    """

    name: str
    heading: str
    shown: tuple[Format, ...]
    text: Callable[[LeaderboardRow], str]
    numeric: bool
    fold: bool
    first: bool
    optional: bool
    printed: bool
    metric: bool
    help: str
    digits: int | None


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as percent; "-" where there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def published_text(row: LeaderboardRow) -> str:
    """The published accuracy in percent, marked where nobody has held it against the paper."""
    return "" if row.published is None else marked(percent(row.published), bool(row.published_verified))


def _recipe(row: LeaderboardRow) -> str:
    return row.name.removeprefix(f"{row.suite}/") + (" (quick)" if row.limited else "")


def _rank(row: LeaderboardRow) -> str:
    return "stale" if row.stale else "-" if row.rank is None else str(row.rank)


def _backbone(row: LeaderboardRow) -> str:
    return row.published_backbone or ""


_SHOWN: dict[str, Callable[[Any], str]] = {
    "text": lambda value: str(value),
    "percent": lambda value: percent(value),
    "percent1": lambda value: percent(value, 1),
    "signed": lambda value: f"{100 * value:+.2f}",
    "number": lambda value: f"{value:.3f}",
    "integer": lambda value: f"{value:,}",
    "millions": lambda value: f"{value / 1e6:.2f}M",
    "minutes": lambda value: f"{value / 60:.1f}",
    "seconds": lambda value: f"{value:.1f}",
    "ratio": lambda value: f"{value:g}",
    "temperature": lambda value: f"{value:.3g}",
    "yes": lambda value: "yes" if value else "no",
    "list": lambda value: " ".join(str(part) for part in value),
}


_DIGITS = {
    "percent": 6,
    "percent1": 6,
    "signed": 6,
    "number": 6,
    "minutes": 1,
    "seconds": 1,
    "ratio": 6,
    "temperature": 6,
}


_TEXTS = ("text", "yes", "list")


def _column(
    heading: str = "",
    kind: str = "text",
    shown: tuple[Format, ...] = (),
    help: str = "",
    *,
    text: Callable[[LeaderboardRow], str] | None = None,
    fold: bool = False,
    first: bool = False,
    optional: bool = False,
    printed: bool = False,
    metric: bool = False,
) -> Any:
    says = {"heading": heading, "shown": shown, "help": help, "fold": fold, "first": first, "printed": printed}
    return field(metadata={"kind": kind, "text": text, **says, "metric": metric, "optional": optional or metric})


@dataclass(frozen=True)
class LeaderboardRow:
    """One recipe under one predictor on one protocol, over its seeds. The fields are the columns of the CSV, in order.

    `mean`, `std_seeds` (ddof 1) and `ci95_test` (half width) are fractions, of what `metric` says: accuracy, or AUROC of open
    sets. The interval is over `n_test` episodes or images (`test_unit`); `ci95_from` says of what: the "seed-averaged" units, or
    the "mean-of-seeds" of the records' own intervals where the accuracies of single units cannot be read. `images_seen`,
    `train_seconds`, `score_seconds` and a classifier's further scores are means over seeds; a score that is not defined (a group
    without classes) is empty. `best_val` and `oracle` are the accuracies that selection on validation, and on the test itself,
    would have given. `gap` is `mean` minus `published`, where that is verified.
    """

    rank: int | None = _column(
        "#", "integer", _ALL, "rank; rows that this test cannot distinguish share one", text=_rank, first=True
    )
    stale: bool = _column(kind="yes")
    stale_why: str | None = _column()
    suite: str = _column()
    dataset: str = _column()
    protocol: str = _column()
    protocol_version: int = _column(kind="integer")
    ways: int | None = _column(kind="integer")
    shots: int | None = _column(kind="integer")
    queries: int | None = _column(kind="integer")
    profile: str | None = _column()
    ratio: float | None = _column(kind="ratio")
    name: str = _column("recipe", shown=_ALL, help="the recipe's name, without its suite", text=_recipe, first=True)
    learner: str | None = _column("learner", shown=_PAPER, fold=True, help="what is trained", optional=True)
    backbone: str | None = _column("backbone", shown=_PAPER, fold=True, help="the network under the head", printed=True)
    head: str | None = _column(
        "head", shown=_PAPER, fold=True, help="few-shot head, or a classifier's output layer", optional=True
    )
    trained: str | None = _column(
        "trained",
        shown=_ALL,
        help="ways and shots of its training episodes, where not the test's",
        first=True,
        optional=True,
    )
    head_selection: str | None = _column(
        "head selection",
        shown=_PAPER,
        fold=True,
        help="selection of the head's parameters: fixed, the best on validation classes, or an ensemble over a grid",
        optional=True,
    )
    loss: str | None = _column("loss", shown=_PAPER, fold=True, help="a classifier's loss", optional=True)
    reweight: str | None = _column(
        "reweight", shown=_PAPER, fold=True, help="weights of the classes in the loss", optional=True
    )
    sampler: str | None = _column("sampler", shown=_PAPER, fold=True, help="re-sampling of the classes", optional=True)
    mix: str | None = _column("mix", shown=_PAPER, fold=True, help="mixing of images in pairs", optional=True)
    posthoc: str | None = _column(
        "post-hoc", shown=_PAPER, fold=True, help="method applied after training", optional=True
    )
    objective: str | None = _column(
        "objective", shown=_PAPER, fold=True, help="what it was trained on: baseline, da, sla ...", printed=True
    )
    transforms: str | None = _column(
        "transformation", shown=_PAPER, fold=True, help="the set of transformations", printed=True
    )
    M: int | None = _column("M", "integer", _PAPER, "transformations of the set", fold=True, printed=True)
    predictor: str = _column(
        "predictor",
        shown=_ALL,
        help="single: one view; aggregated: M transformed views; distilled: the student, in one view",
        first=True,
    )
    mean: float = _column("accuracy", "percent", _ALL, "percent, mean over seeds", first=True)
    ci95_test: float | None = _column(
        "±test", "percent", _ALL, "half of the 95 % interval over test episodes or images", first=True
    )
    ci95_from: str | None = _column()
    test_unit: str = _column("unit", shown=_HTML, fold=True, help="what the test counts")
    n_test: int = _column("tests", "integer", _HTML, "test episodes or images", fold=True)
    metric: str = _column()
    fpr95: float | None = _column(
        "FPR95", "percent1", _ALL, "unknown queries accepted where 95 % of the known are", first=True, optional=True
    )
    known_accuracy: float | None = _column(
        "known acc.",
        "percent1",
        _WIDE,
        "accuracy on the queries that are of one of the ways",
        first=True,
        optional=True,
    )
    std_seeds: float | None = _column("±seeds", "percent", _ALL, "standard deviation over seeds", first=True)
    n_seeds: int = _column("n", "integer", _ALL, "seeds", first=True)
    seeds: tuple[int, ...] = _column("seeds", "list", _HTML, "the seeds", fold=True)
    balanced: float | None = _column(
        "balanced", "percent1", _WIDE, "mean recall of the classes", first=True, metric=True
    )
    many: float | None = _column(
        "many", "percent1", _ALL, "recall of classes of more than 100 training images", first=True, metric=True
    )
    medium: float | None = _column(
        "med.", "percent1", _ALL, "recall of classes of 20 to 100 training images", first=True, metric=True
    )
    few: float | None = _column(
        "few", "percent1", _ALL, "recall of classes of fewer than 20 training images", first=True, metric=True
    )
    top5: float | None = _column("top 5", "percent1", _HTML, "the class is among the first five", metric=True)
    macro_f1: float | None = _column("macro F1", "percent1", _HTML, "mean F1 of the classes", metric=True)
    nll: float | None = _column("NLL", "number", _HTML, "negative log-likelihood", metric=True)
    ece: float | None = _column("ECE", "percent1", _HTML, "expected calibration error", metric=True)
    temperature: float | None = _column(
        "T", "temperature", _WIDE, "divides the logits: of the least NLL on validation episodes", metric=True
    )
    nll_scaled: float | None = _column("NLL(T)", "number", _WIDE, "NLL of the logits divided by T", metric=True)
    ece_scaled: float | None = _column("ECE(T)", "percent1", _WIDE, "ECE of the logits divided by T", metric=True)
    best_val: float | None = _column(
        "best val.", "percent", _HTML, "test accuracy of the epoch that is best on validation", optional=True
    )
    oracle: float | None = _column(
        "oracle", "percent", _HTML, "test accuracy of the epoch that is best on the test itself", optional=True
    )
    images_seen: int = _column("images", "millions", _ALL, "images seen in training, transformed copies counted")
    train_seconds: float = _column(
        "min.", "minutes", ("table", "wide", "markdown", "html"), "minutes of training, mean over seeds"
    )
    score_seconds: float = _column("score s", "seconds", _WEB, "seconds of scoring, mean over seeds")
    parameters: int = _column("parameters", "integer", _HTML, "trained numbers", fold=True)
    selection: str = _column("selection", shown=_PAPER, fold=True, help="which weights are scored")
    transductive: bool = _column(kind="yes")
    limited: bool = _column(kind="yes")
    device: str = _column("device", shown=_WEB, fold=True, help="where it was trained")
    published: float | None = _column(
        "published",
        "percent",
        _WIDE,
        "published accuracy of the same method in the same setting",
        text=published_text,
        first=True,
        optional=True,
    )
    published_ci95: float | None = _column("±publ.", "percent", _HTML, "as printed with it", first=True, optional=True)
    published_verified: bool | None = _column(kind="yes")
    published_backbone: str | None = _column(
        "publ. net", shown=_WIDE, help="the published network", text=_backbone, first=True, optional=True
    )
    published_selection: str | None = _column(
        "publ. selection", shown=_HTML, help="which weights the paper scores", optional=True
    )
    published_source: str | None = _column("source", shown=_WEB, help="paper and table", fold=True, optional=True)
    published_second_source: str | None = _column(
        "second text", shown=_HTML, help="another text that prints the same number", fold=True, optional=True
    )
    gap: float | None = _column(
        "gap", "signed", _WIDE, "accuracy minus published, points; verified values only", first=True, optional=True
    )
    dataset_digest: str = _column()
    split_digest: str = _column()
    episodes_digest: str = _column()
    protocol_digest: str = _column()
    recipe_digest: str = _column("recipe digest", shown=_HTML, help="first letters")
    embedder: str | None = _column(
        "embedder", shown=_WIDE, help="the pre-trained network that features come from", fold=True, optional=True
    )
    pretraining: str | None = _column(
        "pre-trained on", shown=_WIDE, help="the data that it was trained on", fold=True, optional=True
    )
    resolution: int | None = _column(
        "px", "integer", _WIDE, "height and width of its input in pixels", fold=True, optional=True
    )
    contaminated: str | None = _column(
        "contam.", shown=_ALL, help="whether the network has seen the test classes: yes, no or unknown", optional=True
    )
    keys: tuple[str, ...] = _column("trials", "list", _HTML, "first letters of their keys: slabench show run KEY")


@cache
def columns() -> tuple[Column, ...]:
    """Every column, in the order of the CSV."""
    made = []
    for entry in fields(LeaderboardRow):
        meta = entry.metadata
        made.append(
            Column(
                name=entry.name,
                heading=meta["heading"] or entry.name,
                text=meta["text"] or _reader(entry.name, meta["kind"]),
                numeric=meta["kind"] not in _TEXTS,
                digits=_DIGITS.get(meta["kind"]),
                **{name: meta[name] for name in ("shown", "fold", "first", "optional", "printed", "metric", "help")},
            )
        )
    return tuple(made)


def _reader(name: str, kind: str) -> Callable[[LeaderboardRow], str]:
    def read(row: LeaderboardRow) -> str:
        value = getattr(row, name)
        return "" if value is None else _SHOWN[kind](value)

    return read
