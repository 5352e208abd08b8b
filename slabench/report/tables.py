"""The table of one protocol, and the facts above it."""

from __future__ import annotations

from slabench.plots.source import Group
from slabench.ranking.columns import LeaderboardRow
from slabench.ranking.entries import ranked
from slabench.report import html


def facts(group: Group) -> str:
    """What the rows of this protocol have in common, as a sentence."""
    first = group.first
    parts = [f"{group.size:,} {'frozen test episodes' if group.unit == 'episodes' else 'test images'}"]
    if first.train_classes and first.test_classes:
        own = "of their own" if first.suite == "fewshot" else ""
        parts.append(f"{first.train_classes} training classes, {first.test_classes} test classes {own}".strip())
    training = first.training_set or {}
    if isinstance(training.get("images"), int):
        parts.append(f"{training['images']:,} training images")
    if isinstance(training.get("realised_ratio"), int | float):
        parts.append(f"largest to smallest class {training['realised_ratio']:g}")
    parts.append(f"protocol {first.protocol}, version {first.protocol_version}")
    stale = html.paragraph(f"Stale, not ranked: {group.stale}.", "bad") if group.stale else ""
    return stale + html.paragraph("; ".join(parts) + ".", "facts")


def leaderboard(group: Group) -> str:
    """Rank, recipe, predictor, accuracy and cost of every row; a classifier's also by the size of classes."""
    made = ranked(group.entries)
    colours = {entry.records[0].recipe_digest[:12]: group.colours()[entry.objective] for entry in group.entries}
    names = {digest[:12]: name for digest, name in group.names.items()}
    parts = [part for part in ("many", "medium", "few") if any(getattr(row, part) is not None for row in made)]
    columns = [
        html.Column("rank", rises=True),
        html.Column("recipe", numeric=False, key=True),
        html.Column("predictor", numeric=False),
        html.Column("accuracy %"),
        html.Column("± test", title=f"half of the 95 % interval over test {group.unit}"),
        html.Column("± seeds", title="standard deviation over training seeds"),
        html.Column("seeds"),
        *(html.Column(f"{part} %", title=f"mean recall of classes with {part} training images") for part in parts),
        html.Column("passes (M)", title="million images passed in training, copies counted"),
        html.Column("minutes", title="of training, a seed"),
    ]
    body = []
    for row in made:
        name = names[row.recipe_digest]
        body.append(
            [
                html.Cell("stale" if row.stale else "–") if row.rank is None else html.Cell(str(row.rank), row.rank),
                html.Cell(name, name, colours[row.recipe_digest], also=row.predictor),
                html.Cell(row.predictor, row.predictor),
                _percent(row.mean),
                _percent(row.ci95_test),
                _percent(row.std_seeds),
                html.Cell(str(row.n_seeds), row.n_seeds),
                *(_percent(getattr(row, part), 1) for part in parts),
                html.Cell(f"{row.image_passes / 1e6:.2f}", row.image_passes),
                html.Cell(f"{row.train_seconds / 60:.1f}", round(row.train_seconds, 1)),
            ]
        )
    return html.table(f"{group.title}: all rows, the best first", columns, body) + _notes(made)


def _percent(value: float | None, digits: int = 2) -> html.Cell:
    return html.Cell("–") if value is None else html.Cell(f"{100 * value:.{digits}f}", round(100 * value, 6))


def _notes(made: list[LeaderboardRow]) -> str:
    selection = sorted({row.selection for row in made})
    devices = sorted({row.device for row in made})
    text = f"Weights scored: {', '.join(selection)}. Device: {', '.join(devices)}."
    if any(row.ci95_from == "mean-of-seeds" for row in made):
        text += " Where accuracies of single episodes cannot be read, ± test is the mean of the records' own intervals."
    return html.paragraph(text, "note")
