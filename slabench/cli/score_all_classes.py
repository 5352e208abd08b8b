"""`slabench score --features NAME --all-classes`: a few images of every class, and the whole test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from slabench.core.errors import UsageError
from slabench.evaluation.intervals import across_seeds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from slabench.suites.fewshot.all_classes import DrawScores


def show_all_classes(
    console: Console, features: str, dataset: str | None, heads: Sequence[str] | None, asked: dict[str, Any]
) -> None:
    """Score and print.

    Args:
        console: for the lines and the table.
        features: a feature set, or a file of features.
        dataset: whose training and test images.
        heads: registered names; None for all.
        asked: further arguments of `slabench.suites.fewshot.all_classes.score_all_classes`.
    """
    from slabench.embedders.importing import named_or_imported
    from slabench.suites.fewshot.all_classes import score_all_classes

    name, found_dataset = named_or_imported(features, dataset, asked["told"])
    if found_dataset is None:
        raise UsageError("nothing says whose training and test images", "give --dataset cifar100")
    found = score_all_classes(name, found_dataset, heads, **asked)
    facts = found.features.embedder
    network = f"{facts.embedder} on {facts.pretraining}, contaminated: {facts.contaminated}"
    console.print(f"{name}: {network}; all classes of {found_dataset}", markup=False, soft_wrap=True)
    rows: list[DrawScores] = []
    for number, result in enumerate(found.results, 1):
        rows.append(result)
        scores = "  ".join(f"{score.predictor} {100 * score.value:.2f}" for score in result.record.scores)
        took = f"{result.seconds:.1f} s" if result.seconds else "kept"
        console.print(
            f"  {number}/{found.count} {result.shots} a class, seed {result.seed}, {result.head}: {scores}  ({took})",
            style="dim",
            markup=False,
            soft_wrap=True,
        )
    console.print(table(rows))
    for line in found.left_out:
        console.print(f"left out: {line}", markup=False, soft_wrap=True, style="dim")
    if asked["save"]:
        console.print(f"{len(rows)} records kept: slabench leaderboard", markup=False, soft_wrap=True)


def table(rows: Sequence[DrawScores]) -> Table:
    """Heads and predictors down, shots across: percent, mean over seeds and their standard deviation."""
    from rich.table import Table

    seeds = list(dict.fromkeys(row.seed for row in rows))
    over = f"mean±deviation of {len(seeds)} draws" if len(seeds) > 1 else f"draw {seeds[0]}"
    made = Table(
        title=f"accuracy in %, {over}, by images of a class",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 1, 0, 0),
    )
    made.add_column("head", no_wrap=True)
    made.add_column("predictor", no_wrap=True)
    shots = list(dict.fromkeys(row.shots for row in rows))
    for n in shots:
        made.add_column(str(n), justify="right", no_wrap=True)
    for head in dict.fromkeys(row.head for row in rows):
        own = [row for row in rows if row.head == head]
        predictors = dict.fromkeys(score.predictor for row in own for score in row.record.scores)
        for place, predictor in enumerate(predictors):
            cells = []
            for n in shots:
                found = {r.seed: s.value for r in own if r.shots == n and (s := r.record.score(predictor)) is not None}
                cells.append(_cell(found))
            made.add_row(head if place == 0 else "", predictor, *cells)
    return made


def _cell(by_seed: dict[int, float]) -> str:
    if not by_seed:
        return "-"
    spread = across_seeds(by_seed)
    return f"{100 * spread.mean:.2f}" + (f"±{100 * spread.std:.2f}" if spread.std is not None else "")
