"""Paired differences between all rows of each protocol, on the same test episodes.

    python benchmarks/analysis/paired.py --results results [-o results/paired.csv] [--all]

Two uncertainties, in columns of their own:

- over episodes: each method's per-episode accuracies are averaged over the seeds both have, then differenced episode by
  episode; mean, 95 % t interval and p-value of the paired t test. It holds for the trained models at hand.
- over seeds: the difference of each seed by itself, their standard deviation (ddof 1) and their own 95 % t interval,
  which is what a claim about the *method* needs, and with three seeds it is wide.

The CSV holds the pairs of one backbone and head (fractions; one row a seed and one row `all`). The table shows those with a
question behind them: against a baseline (`single`, and `aggregated`, the control with M views);
between objectives under one predictor, with a word where both saw the same number of images in training; and what more images
seen alone bring. `--all` adds the pairs across backbones and heads to both, which grow with the square of the rows.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from slabench.comparison.controls import Control, equal_images_seen
from slabench.comparison.sides import Contender, usable
from slabench.core.files import write_text
from slabench.evaluation.intervals import Paired, finite_or_none
from slabench.evaluation.paired_tests import paired_over_seeds
from slabench.ranking.entries import entries
from slabench.records.store import ResultStore


@dataclass(frozen=True)
class Difference:
    """One line of the CSV: a - b on one protocol, for one seed or for `all` (averaged over the common seeds).

    `value`, `ci95`, `low`, `high` and the seeds' columns are fractions. `seeds_mean` is the mean of the per-seed
    differences, `seeds_std` (ddof 1) and `seeds_ci95` their spread; on the rows of a single seed they are empty.
    """

    protocol: str
    protocol_digest: str
    backbone: str
    a: str
    a_predictor: str
    a_recipe: str
    b: str
    b_predictor: str
    b_recipe: str
    question: str
    images_seen_a: int
    images_seen_b: int
    seed: str
    mean_a: float
    mean_b: float
    value: float
    ci95: float | None
    low: float | None
    high: float | None
    p_value: float | None
    correlation: float | None
    n_episodes: int
    n_seeds: int
    seeds_std: float | None
    seeds_ci95: float | None


def contenders(store: ResultStore, console: Console) -> dict[tuple[object, ...], list[Contender]]:
    """The rows of each protocol that have per-episode accuracies; records without them and stale ones are named and left out."""
    records, problems = store.scan()
    groups: dict[tuple[object, ...], list[Contender]] = {}
    found = entries(records, None)
    problems += [f"{entry.records[0].name} is stale and left out: {entry.stale}" for entry in found if entry.stale]
    for contender in usable([entry for entry in found if not entry.stale], store, problems):
        groups.setdefault(contender.entry.group, []).append(contender)
    for problem in dict.fromkeys(problems):
        console.print(f"warning: {problem}", soft_wrap=True, markup=False, highlight=False)
    return groups


def question(a: Contender, b: Contender) -> str:
    """Why a - b is of interest; empty when it is not."""
    if a.model != b.model:
        return ""
    equal = equal_images_seen(a.images_seen, b.images_seen)
    if b.objective == "baseline" and (a.objective != "baseline" or a.entry.predictor != b.entry.predictor):
        return f"baseline {b.entry.predictor}" + (f", {Control.EQUAL_IMAGES_SEEN}" if equal else "")
    if a.entry.predictor != b.entry.predictor:
        return ""
    if a.objective != b.objective:
        return "other objective" + (f", {Control.EQUAL_IMAGES_SEEN}" if equal else "")
    return "" if equal else "more images seen"


def oriented(a: Contender, b: Contender) -> tuple[Contender, Contender]:
    """The pair as a - b: sla before other objectives before the baseline, then more views, then more images seen."""
    order = {"sla": 0, "baseline": 2}
    views = {"single": 1}

    def place(item: Contender) -> tuple[object, ...]:
        record = item.entry.records[0]
        predictor = item.entry.predictor
        return (
            order.get(item.objective, 1),
            views.get(predictor, 0),
            -item.images_seen,
            item.name,
            record.recipe_digest,
        )

    return (a, b) if place(a) <= place(b) else (b, a)


def differences(a: Contender, b: Contender) -> Iterator[Difference]:
    """a - b for each seed that both have, then for all of them together; nothing without a common seed."""
    if not set(a.accuracies) & set(b.accuracies):
        return
    pairs = paired_over_seeds(a.accuracies, b.accuracies)
    for seed, paired in pairs.per_seed.items():
        yield _difference(a, b, [seed], paired, str(seed))
    spread = finite_or_none(pairs.spread.std), finite_or_none(pairs.spread.half_width)
    yield _difference(a, b, list(pairs.per_seed), pairs.together, "all", *spread)


def _mean(item: Contender, seeds: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray(np.mean([item.accuracies[seed] for seed in seeds], axis=0), dtype=np.float64)


def _difference(
    a: Contender,
    b: Contender,
    seeds: Sequence[int],
    paired: Paired,
    seed: str,
    seeds_std: float | None = None,
    seeds_ci95: float | None = None,
) -> Difference:
    record = a.entry.records[0]
    return Difference(
        protocol=record.protocol,
        protocol_digest=record.protocol_digest[:12],
        backbone=a.backbone if a.backbone == b.backbone else f"{a.backbone} - {b.backbone}",
        a=a.name,
        a_predictor=a.entry.predictor,
        a_recipe=a.entry.records[0].recipe_digest[:12],
        b=b.name,
        b_predictor=b.entry.predictor,
        b_recipe=b.entry.records[0].recipe_digest[:12],
        question=question(a, b),
        images_seen_a=a.images_seen,
        images_seen_b=b.images_seen,
        seed=seed,
        mean_a=float(_mean(a, seeds).mean()),
        mean_b=float(_mean(b, seeds).mean()),
        value=paired.mean,
        ci95=finite_or_none(paired.half_width),
        low=finite_or_none(paired.low),
        high=finite_or_none(paired.high),
        p_value=finite_or_none(paired.p_value),
        correlation=finite_or_none(paired.correlation),
        n_episodes=paired.n,
        n_seeds=len(seeds),
        seeds_std=seeds_std,
        seeds_ci95=seeds_ci95,
    )


_OLD_NAMES = {"passes_a": "images_seen_a", "passes_b": "images_seen_b"}
"""Columns that are written once more at the end, under the names that they had until version 0.1."""


def to_csv(lines: Sequence[Difference]) -> str:
    """All differences as CSV; fractions with six digits, p-values with three significant ones."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in fields(Difference)]
    writer.writerow([*names, *_OLD_NAMES])
    for line in lines:
        values = asdict(line)
        writer.writerow([_cell(name, values[name]) for name in (*names, *_OLD_NAMES.values())])
    return text.getvalue()


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if name == "p_value" else f"{value:.6f}"
    return str(value)


def to_table(lines: Sequence[Difference]) -> Table:
    """The rows of all seeds together, in points of percent."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("protocol", "a", "b", "question"):
        table.add_column(heading, overflow="fold")
    for heading in ("a %", "b %", "a - b", "± episodes", "p", "seeds", "± seeds (std)"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = ""
    for line in lines:
        table.add_row(
            line.protocol if line.protocol_digest != before else "",
            f"{line.a} {line.a_predictor}",
            f"{line.b} {line.b_predictor}",
            line.question,
            f"{100 * line.mean_a:.2f}",
            f"{100 * line.mean_b:.2f}",
            f"{100 * line.value:+.2f}",
            "-" if line.ci95 is None else f"{100 * line.ci95:.2f}",
            "-" if line.p_value is None else f"{line.p_value:.1g}" if line.p_value > 1e-12 else "<1e-12",
            str(line.n_seeds),
            "-" if line.seeds_std is None else f"{100 * line.seeds_std:.2f}",
        )
        before = line.protocol_digest
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the analysis; exit code 1 when there is nothing to compare."""
    parser = argparse.ArgumentParser(description="Paired differences between all rows of each protocol.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of results")
    parser.add_argument("-o", "--output", type=Path, help="write the pairs and seeds into this CSV")
    parser.add_argument(
        "--all", action="store_true", help="every pair, across backbones and heads and without a question behind"
    )
    options = parser.parse_args(arguments)

    notes = Console(stderr=True)
    lines: list[Difference] = []
    for group in contenders(ResultStore(options.results), notes).values():
        for a, b in combinations(group, 2):
            if options.all or a.model == b.model:
                lines += differences(*oriented(a, b))
    if not lines:
        notes.print(f"no two records in {options.results} share their episodes and a seed", soft_wrap=True)
        return 1
    shown = [line for line in lines if line.seed == "all" and (options.all or line.question)]
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(to_table(shown))
    if options.output:
        write_text(options.output, to_csv(lines))
        notes.print(f"{len(lines)} rows in {options.output}", soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
