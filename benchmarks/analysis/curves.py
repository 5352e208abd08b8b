"""Learning curves: validation accuracy against image passes, single and aggregated, one picture a protocol.

    python benchmarks/analysis/curves.py --results results [-o results]

Image passes, not steps or epochs, are the abscissa: an objective that looks at M copies of each image pays for M, and a
curve over steps would hide it. For every data set and number of shots it writes `curves-<dataset>-<shots>shot.png`, for every
long tail `curves-imbalanced-<dataset>-<subset>-<protocol>.png`, and beside it the same numbers as CSV (fractions). Lines are
means over seeds, bands reach from the least to the greatest seed. Runs of a reduced budget are left out.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slabench.fsio import write_bytes, write_text
from slabench.results.record import RunRecord
from slabench.results.store import ResultStore, slug

_DASHES = {"single": "-", "aggregated": "--", "distilled": ":"}


@dataclass(frozen=True)
class Point:
    """One validation: the accuracy over seeds of one recipe under one predictor."""

    name: str
    recipe_digest: str
    backbone: str
    objective: str
    predictor: str
    step: int
    image_passes: int
    n_seeds: int
    mean: float
    low: float
    high: float


def plots(records: Sequence[RunRecord]) -> dict[str, list[Point]]:
    """The points of each picture, by file stem. Only steps that all seeds of a recipe validated make a point.

    Records of one data set and shots but of unequal protocol digests (other ways, other images) are not drawn
    together: their stems end in the digest.
    """
    runs: dict[tuple[str, str], dict[int, RunRecord]] = defaultdict(dict)
    for record in sorted(records, key=lambda record: (record.finished, record.key)):
        if record.status == "done" and record.curve and not record.limited:
            runs[record.protocol_digest, record.recipe_digest][record.seed] = record
    digests: dict[str, set[str]] = defaultdict(set)
    for by_seed in runs.values():
        for record in by_seed.values():
            digests[_stem(record)].add(record.protocol_digest)
    found: dict[str, list[Point]] = defaultdict(list)
    for by_seed in runs.values():
        seeds = [by_seed[seed] for seed in sorted(by_seed)]
        stem = _stem(seeds[0])
        found[stem if len(digests[stem]) == 1 else f"{stem}-{seeds[0].protocol_digest[:8]}"] += _points(seeds)
    for points in found.values():
        points.sort(key=lambda point: (point.name, point.recipe_digest, point.predictor, point.step))
    return {stem: found[stem] for stem in sorted(found) if found[stem]}


def _points(seeds: Sequence[RunRecord]) -> list[Point]:
    first = seeds[0]
    curves = [{point.step: point for point in record.curve if point.val} for record in seeds]
    points = []
    for step in sorted(set.intersection(*(set(curve) for curve in curves))):
        at = [curve[step] for curve in curves]
        for predictor in at[0].val:
            values = [point.val[predictor] for point in at if predictor in point.val]
            points.append(
                Point(
                    name=first.name,
                    recipe_digest=first.recipe_digest[:12],
                    backbone=_at(first, "model", "backbone"),
                    objective=_at(first, "sla", "objective"),
                    predictor=predictor,
                    step=step,
                    image_passes=at[0].images_seen,
                    n_seeds=len(values),
                    mean=sum(values) / len(values),
                    low=min(values),
                    high=max(values),
                )
            )
    return points


def draw(title: str, points: Sequence[Point]) -> bytes:
    """A PNG: colour is the recipe, the dash the predictor; percent over millions of image passes, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    lines: dict[tuple[tuple[str, str], str], list[Point]] = defaultdict(list)
    for point in points:
        lines[(point.name, point.recipe_digest), point.predictor].append(point)
    recipes = list(dict.fromkeys(recipe for recipe, _ in lines))
    names = [name for name, _ in recipes]
    figure, axes = pyplot.subplots(figsize=(7.2, 4.8), dpi=100, layout="constrained")
    for (recipe, predictor), line in lines.items():
        colour = f"C{recipes.index(recipe) % 10}"
        name, digest = recipe
        twin = f" {digest[:6]}" if names.count(name) > 1 else ""
        passes = [point.image_passes / 1e6 for point in line]
        label = f"{name.rpartition('/')[2]}{twin}, {predictor}"
        means = [100 * point.mean for point in line]
        axes.plot(passes, means, _DASHES.get(predictor, "-."), color=colour, label=label, linewidth=1.4)
        if line[0].n_seeds > 1:
            low, high = [100 * point.low for point in line], [100 * point.high for point in line]
            axes.fill_between(passes, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_xlabel("images passed in training, transformed copies counted (million)")
    axes.set_ylabel("validation accuracy (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    figure.legend(loc="outside lower center", fontsize=7, ncols=2, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return file.getvalue()


def to_csv(points: Sequence[Point]) -> str:
    """The points of one picture; accuracies are fractions with six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Point.__dataclass_fields__)
    for point in points:
        values = (getattr(point, name) for name in Point.__dataclass_fields__)
        writer.writerow([f"{value:.6f}" if isinstance(value, float) else value for value in values])
    return text.getvalue()


def _stem(record: RunRecord) -> str:
    if record.suite != "fewshot":
        return f"curves-{slug(record.protocol)}"
    return f"curves-{record.dataset}-{_at(record, 'protocol', 'shots')}shot"


def _at(record: RunRecord, section: str, name: str) -> str:
    value: Any = record.recipe.get(section, {})
    return str(value.get(name, "unknown"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures; exit code 1 when no record holds a curve."""
    parser = argparse.ArgumentParser(description="Validation accuracy against image passes.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of results")
    parser.add_argument("-o", "--output", type=Path, help="the folder to write into (default: the folder of results)")
    options = parser.parse_args(arguments)

    records, problems = ResultStore(options.results).scan()
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    found = plots(records)
    if not found:
        print(f"no finished record in {options.results} holds a learning curve", file=sys.stderr)
        return 1
    folder = options.output or options.results
    for stem, points in found.items():
        title = f"{stem.removeprefix('curves-')}, validation"
        write_bytes(folder / f"{stem}.png", draw(title, points))
        write_text(folder / f"{stem}.csv", to_csv(points))
        print(folder / f"{stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
