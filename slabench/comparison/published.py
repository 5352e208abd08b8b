"""A run against published numbers: inside, below or above, with the tolerance and what differs in how the two were made.

Honest re-runs of published few-shot and long-tailed methods stand one to two points off the printed figures (MetaOptNet issues
8, 22, 25 and 33; LDAM-DRW issue 4; CMO issue 4), so that a bar at the figure itself would fail honest code. The tolerance is
two points for having trained anew, with the half widths of both intervals, in quadrature.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slabench.comparison.controls import equal_images_seen
from slabench.core.errors import SlabenchError, UsageError
from slabench.core.files import SHORT
from slabench.ranking import published as numbers
from slabench.ranking.columns import UNVERIFIED, LeaderboardRow, marked
from slabench.ranking.published import PublishedRow
from slabench.ranking.rows import rows
from slabench.recipes import AnyRecipe, load_recipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.images import copies_of, images_per_step
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore

RETRAINING = 0.02
"""What another training of the same method may differ by, a fraction: two points."""

_UNKNOWN = "the published training is not known to slabench"
_SHOWN = 4
_SELECTION = {
    "last": "the last step",
    "best_val": "the best on validation",
    "oracle": "the best on the test",
    "not known": "an unknown selection",
}
# MetaOptNet trains ridge and SVM heads at shots of their own, whatever the test shot; prototypes at the test shot.
_TRAIN_SHOTS = {"mini-imagenet": 15, "fc100": 15, "cifar-fs": 5}
# On mini-ImageNet alone.
_SMOOTHED = {"train.label_smoothing": 0.1, "train.smoothing_over": "others"}


@dataclass(frozen=True)
class Verdict:
    """Where a value stands.

    Attributes:
        kind: inside the tolerance around the published value, or below or above it.
        gap: value minus published, a fraction.
        tolerance: a fraction.
        why: how the tolerance was made, a phrase.
    """

    kind: Literal["inside", "below", "above"]
    gap: float
    tolerance: float
    why: str


def verdict(value: float, ci: float | None, published: PublishedRow) -> Verdict:
    """Hold an accuracy against a published one.

    Args:
        value: a fraction.
        ci: half width of its 95 % interval, a fraction; None where there is none.
        published: verified, and an accuracy or an error.

    Raises:
        SlabenchError: the published number is not verified, or no accuracy: it decides nothing.
    """
    if not published.verified:
        raise SlabenchError(
            f"{published.where} ({published.method}, {published.printed}) is from memory: it gives no verdict",
            "look it up in the paper, then set verified = yes in results/published",
        )
    if published.accuracy is None:
        raise SlabenchError(
            f"{published.where} prints a {published.metric}, which is not an accuracy", "take another row"
        )
    parts = [RETRAINING, *(half for half in (ci, published.interval) if half is not None)]
    tolerance = math.sqrt(math.fsum(part * part for part in parts))
    gap = value - published.accuracy
    kind: Literal["inside", "below", "above"] = "inside"
    # The printed value is rounded: a gap that equals the tolerance but for float noise is inside.
    if abs(gap) > tolerance + 1e-9:
        kind = "below" if gap < 0 else "above"
    return Verdict(kind, gap, tolerance, _why(ci, published.interval))


def _why(ci: float | None, interval: float | None) -> str:
    halves = [
        f"{100 * half:.2f} for the {whose} test"
        for half, whose in ((ci, "run's"), (interval, "published"))
        if half is not None
    ]
    alone = (
        "" if len(halves) == 2 else "; no interval is known of " + ("the run" if ci is None else "the published figure")
    )
    if not halves:
        return "2 points for retraining; no intervals are known"
    return f"2 points for retraining, {' and '.join(halves)}, in quadrature{alone}"


def differences(row: LeaderboardRow, record: RunRecord, published: PublishedRow) -> list[str]:
    """How the making of a row differs from that of the published number, as phrases; empty where nothing is known to differ.

    Args:
        row: of the leaderboard.
        record: one of its trials, for the recipe and the training images.
        published: the number beside it.
    """
    found = []
    if published.backbone.startswith("not "):
        found.append(f"backbone {row.backbone}, theirs is {published.backbone}")
    elif published.net != row.backbone:
        found.append(f"backbone {row.backbone} instead of {published.backbone}")
    paper = _paper_recipe(row, published)
    if paper is not None:
        found += _training(row, record, paper)
    if copies := (record.data_source or {}).get("jpeg_copies"):
        found.append(f"{copies:,} images are JPEG copies, other pixels than the published ones")
    if (record.training_set or {}).get("source_order") is False and row.profile in ("exp", "step"):
        found.append("other images, as many of each class, than the published subset")
    if published.selection != "not known" and row.selection != published.selection:
        theirs = _SELECTION[published.selection]
        would = f", which would give {100 * row.oracle:.2f}" if published.selection == "oracle" and row.oracle else ""
        found.append(f"scored: {_SELECTION.get(row.selection, row.selection)} instead of {theirs}{would}")
    return [*found, _UNKNOWN] if paper is None else found


def compare_published(
    run: str | RunRecord, store: ResultStore, published: Sequence[PublishedRow] | None = None, width: int = 80
) -> list[str]:
    """Lines that hold a run against what was published for its method and setting, a paragraph a predictor.

    Args:
        run: its record, or the first letters of its key; all seeds of its recipe on this protocol are taken together.
        store: the folder of results.
        published: by default `slabench.ranking.published.load()`.
        width: columns that the lines may have.

    Raises:
        UsageError: no run, or more than one, has such a key; the run is not finished.
    """
    record = store.match(run) if isinstance(run, str) else run
    key = record.key[:SHORT]
    if record.status != "done":
        raise UsageError(f"run {key} is {record.status}: it has no result to compare", "run it to its end")
    known = numbers.load() if published is None else published
    records, _ = store.scan()
    same = [other for other in records if other.recipe_digest == record.recipe_digest]
    own = [row for row in rows(same, store.episodes, True, known) if key in row.keys]
    found = [numbers.match(row, known) for row in own]
    texts: list[tuple[str, str, str]] = []
    for row, rivals in zip(own, found, strict=True):
        texts += [*_about(row, record, rivals), ("", "", "")]
    if not any(found):
        texts.append(("", "", f"Nothing is published for {record.name} on {record.protocol} (results/published)."))
    elif any(not rival.verified for rivals in found for rival in rivals):
        texts.append(("", "", f"{UNVERIFIED}, so no verdict is made of it."))
    return [line for first, after, text in texts for line in _wrap(text, width, first, after)]


def _wrap(text: str, width: int, first: str, after: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=after, break_on_hyphens=False) or [""]


def _about(row: LeaderboardRow, record: RunRecord, found: Sequence[PublishedRow]) -> list[tuple[str, str, str]]:
    """Paragraphs about one predictor, each with the indents of its first line and of the others."""
    seeds = f"{row.n_seeds} seed{'s' if row.n_seeds != 1 else ''}"
    texts = [f"{row.name}, {row.predictor}, {row.protocol}: {_value(row.mean, row.ci95_test)} ({seeds})"]
    if row.stale:
        texts.append(f"stale: {row.stale_why}")
    shown = _distinct(found)
    texts += [sentence(row, record, each) for each in shown[:_SHOWN]]
    if row.limited:
        texts.append("a run with a reduced budget is not compared with published numbers")
    elif not found:
        texts.append("nothing is published for this predictor of this recipe")
    if len(shown) > _SHOWN:
        texts.append(f"and {len(shown) - _SHOWN} more in results/published")
    return [("", "  ", texts[0]), *(("  ", "    ", text) for text in texts[1:])]


def _distinct(found: Sequence[PublishedRow]) -> list[PublishedRow]:
    """Without those that say again, quoted or from memory, what a row before them prints."""
    kept: list[PublishedRow] = []
    for each in found:
        again = each.kind in ("quoted", "memory") and any(
            each.printed_accuracy == other.printed_accuracy and each.net in ("", other.net) for other in kept
        )
        if not again:
            kept.append(each)
    return kept


def sentence(row: LeaderboardRow, record: RunRecord, published: PublishedRow) -> str:
    """The verdict on one published number, with the tolerance, its reason, and what differs in the same breath."""
    assert published.accuracy is not None
    printed = _value(published.accuracy, published.interval)
    what = f"{published.method} on {published.backbone}, {published.where}"
    if published.second_source:
        what += ", and in a second text"
    other = differences(row, record, published)
    unlike = f" Not the published protocol: {'; '.join(other)}." if other else " No difference in training is known."
    if other == [_UNKNOWN]:
        unlike = f" Not known to be the published protocol: {_UNKNOWN}."
    if not published.verified:
        return f"no verdict: {marked(printed, False)} ({what}) is unverified.{unlike}"
    found = verdict(row.mean, row.ci95_test, published)
    return (
        f"{found.kind}: {100 * found.gap:+.2f} points from {printed} ({what}); tolerance {100 * found.tolerance:.2f}: "
        f"{found.why}.{unlike}"
    )


def _value(mean: float, half: float | None) -> str:
    return f"{100 * mean:.2f}" + ("" if half is None else f" ± {100 * half:.2f}")


def _paper_recipe(row: LeaderboardRow, published: PublishedRow) -> AnyRecipe | None:
    """The published training as a recipe on the row's data; None where it is not known."""
    if not published.protocol:
        return None
    fewshot = row.suite == "fewshot"
    shots = _TRAIN_SHOTS.get(row.dataset) if row.head != "protonet" else None
    overrides = {
        "data.dataset": row.dataset,
        **({"protocol.ways": row.ways, "protocol.shots": row.shots, "train.shots": shots} if fewshot else {}),
        **(_SMOOTHED if fewshot and row.dataset == "mini-imagenet" else {}),
        **({} if fewshot else {"data.profile": row.profile, "data.ratio": row.ratio}),
    }
    try:
        return load_recipe(published.protocol, overrides)[0]
    except UsageError:  # a recipe of another version of slabench
        return None


_TRAIN_KEYS = (
    *("steps", "epochs", "episodes_per_step", "batch_size", "ways", "shots", "queries", "optimizer", "lr", "momentum"),
    *("nesterov", "weight_decay", "schedule", "milestones", "factors", "warmup_epochs", "label_smoothing"),
    *("smoothing_over", "batches", "crop", "flip", "jitter"),
)


def _training(row: LeaderboardRow, record: RunRecord, paper: AnyRecipe) -> list[str]:
    """Images seen, optimiser and schedule in words; the other settings that differ by name."""
    # Recipes as they are kept: a setting that came later is in neither where it is at its default.
    theirs = paper.resolved()
    ours: Mapping[str, Any] = record.recipe.get("train", {})
    found = []
    theirs_seen = _images_seen(paper, record, row)
    if not equal_images_seen(row.images_seen, theirs_seen):
        found.append(f"{row.images_seen / 1e6:.2f}M images seen instead of {theirs_seen / 1e6:.2f}M")
    used = [key for key in _TRAIN_KEYS if key not in _idle(row)]
    unlike = _unlike(ours, theirs["train"], used)
    for key, name in (("optimizer", "optimiser"), ("schedule", "schedule")):
        if key in unlike:
            found.append(f"{name} {ours.get(key)} instead of {theirs['train'].get(key)}")
    rest = [key for key in unlike if key not in ("optimizer", "schedule")]
    for section, keys in (("data", ("normalise",)), ("model", ("layer_init", "conv_init", "support_copies"))):
        rest += _unlike(record.recipe.get(section, {}), theirs[section], keys)
    if isinstance(paper, ClassifierRecipe):
        augment: Mapping[str, Any] = record.recipe.get("augment", {})
        papers: Mapping[str, Any] = theirs.get("augment", {})
        rest += _unlike(augment, papers, list(dict.fromkeys([*papers, *augment])))
    if rest:
        found.append(f"also different: {', '.join(rest)}")
    return found


def _idle(row: LeaderboardRow) -> tuple[str, ...]:
    """Settings of a few-shot training that its learner does not use: no batches in episodes, no episodes in batches."""
    if row.suite != "fewshot":
        return ()
    return ("episodes_per_step", "ways", "shots", "queries") if row.learner == "classifier" else ("batch_size",)


def _unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """The keys whose values differ; one that is on neither side is equal."""
    return [key for key in keys if _plain(ours.get(key)) != _plain(theirs.get(key))]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _images_seen(paper: AnyRecipe, record: RunRecord, row: LeaderboardRow) -> int:
    """Images seen by the published training under the row's objective, transformed copies counted."""
    copies = copies_of(row.learner or "", row.objective or "baseline", row.M or 1)
    n_train = (record.training_set or {}).get("images")
    if isinstance(paper, ClassifierRecipe) and paper.train.steps is None:
        return (paper.train.epochs or 0) * int(n_train or 0) * copies
    return (paper.train.steps or 0) * images_per_step(paper, n_train, copies=copies)
