"""Learning curves: validation accuracy against images seen in training, single and aggregated, one picture a protocol.

    python benchmarks/analysis/curves.py --results results [-o results]

Images seen, not steps or epochs, are the abscissa: an objective that trains on M copies of each image pays for M, and a
curve over steps would hide it. For every data set and number of shots it writes `curves-<dataset>-<shots>shot.png`, for every
long tail `curves-imbalanced-<dataset>-<subset>-<protocol>.png`, and beside it the same numbers as CSV (fractions). Lines are
means over seeds, bands reach from the least to the greatest seed. Stale records and runs of a reduced budget are left out. The
picture is that of `slabench plot passes`.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slabench.core.files import write_bytes, write_text
from slabench.plots import picture
from slabench.plots.curves import Point, all_points, by_images_seen
from slabench.plots.source import Source
from slabench.ranking.entries import Entry
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore, slug


def sources(source: Source) -> dict[str, Source]:
    """What each picture is drawn from, by file stem.

    Records of one data set and shots but of unequal protocol digests (other ways, other images) are not drawn
    together: their stems end in the digest. Nor are few-shot models of unequal heads or learners, where there are some.
    """
    groups = [group for group in source.groups() if all_points(group) and not group.stale]
    stems = [_stem(group.first) for group in groups]
    found = {}
    for group, stem in zip(groups, stems, strict=True):
        twin = f"-{group.first.protocol_digest[:8]}" if stems.count(stem) > 1 else ""
        models = sorted({_model(entry) for entry in group.entries if any(record.curve for record in entry.records)})
        for model in models:
            own = [entry for entry in group.entries if _model(entry) == model]
            ending = f"-{slug(model)}" if len(models) > 1 else ""
            found[stem + twin + ending] = source.only(lambda entry, own=own: entry in own)
    return dict(sorted(found.items()))


def _model(entry: Entry) -> str:
    """Learner and head of a few-shot row: a dozen lines of unequal models in one picture say nothing."""
    first = entry.records[0]
    if first.suite != "fewshot":
        return first.suite
    learner, head = first.setting("model", "learner") or "episodic", first.setting("model", "head")
    return str(head if learner in ("episodic", head) else f"{learner}-{head}")


def to_csv(points: Sequence[Point]) -> str:
    """The points of one picture; accuracies are fractions with six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [*Point.__dataclass_fields__, "images_seen"]
    writer.writerow([*names[:-1], "image_passes"])  # the name that the column had until version 0.1
    for point in points:
        values = (getattr(point, name) for name in names)
        writer.writerow([f"{value:.6f}" if isinstance(value, float) else value for value in values])
    return text.getvalue()


def _stem(record: RunRecord) -> str:
    if record.suite != "fewshot":
        return f"curves-{slug(record.protocol)}"
    features = "-pre-trained" if record.pretrained else ""
    return f"curves-{record.dataset}-{_at(record, 'protocol', 'shots')}shot{features}"


def _at(record: RunRecord, section: str, name: str) -> str:
    value: Any = record.recipe.get(section, {})
    return str(value.get(name, "unknown"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures; exit code 1 when no record holds a curve."""
    parser = argparse.ArgumentParser(description="Validation accuracy against images seen in training.")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of results")
    parser.add_argument("-o", "--output", type=Path, help="the folder to write into (default: the folder of results)")
    options = parser.parse_args(arguments)

    records, problems = ResultStore(options.results).scan()
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    found = sources(Source.of(records, columns=2))
    if not found:
        print(f"no finished record in {options.results} holds a learning curve", file=sys.stderr)
        return 1
    folder = options.output or options.results
    for stem, source in found.items():
        (group,) = source.groups()
        points = sorted(all_points(group), key=lambda p: (p.name, p.recipe_digest, p.predictor, p.step))
        write_bytes(folder / f"{stem}.png", picture(by_images_seen(source), "png"))
        write_text(folder / f"{stem}.csv", to_csv(points))
        print(folder / f"{stem}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
