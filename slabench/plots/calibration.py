"""Reliability diagrams: how often a classifier is right when it says how sure it is (Guo et al., ICML 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slabench.core.errors import DataError
from slabench.evaluation.metrics import ECE_BINS, expected_calibration_error
from slabench.plots import style
from slabench.plots.source import Drawing, Group, NothingToDraw, Source
from slabench.ranking.entries import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from slabench.records.outputs import ModelOutputs


@dataclass(frozen=True)
class Reliability:
    """Test images by the confidence of the predicted class, in 15 bins of equal width, open below and closed above.

    Attributes:
        share: of the images in each bin, `[15]`.
        accuracy: of each bin, NaN where it is empty.
        confidence: mean of each bin, likewise.
        ece: expected calibration error, a fraction.
        n: images.
    """

    share: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]
    ece: float
    n: int


def reliability(logits: ArrayLike, labels: ArrayLike, scale: float = 1.0) -> Reliability:
    """The bins of softmax(scale * logits).

    Args:
        logits: `[n, C]`.
        labels: int `[n]`.
        scale: of cosine layers.
    """
    z, y = scale * np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    p = np.exp(z - z.max(1, keepdims=True))
    sure = (p / p.sum(1, keepdims=True)).max(1)
    right = (z.argmax(1) == y).astype(np.float64)
    place = np.clip(np.ceil(sure * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    number = np.bincount(place, minlength=ECE_BINS).astype(np.float64)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(place, weights=right, minlength=ECE_BINS) / number
        confidence = np.bincount(place, weights=sure, minlength=ECE_BINS) / number
    ece = expected_calibration_error(sure, right)
    return Reliability(number / len(y), accuracy, confidence, ece, len(y))


def diagrams(source: Source) -> Drawing:
    """Accuracy against confidence for every classifier whose logits are on this machine; a panel a recipe and predictor.

    Raises:
        NothingToDraw: none is: says whether the records have none, or name files that are not here.
    """
    found: list[tuple[Group, Entry, Reliability]] = []
    missing, read = [], {}
    for group in source.groups():
        for entry in group.entries:
            record = entry.records[0]
            # A few-shot trial's file holds weights: episodes have no confidence that is calibrated.
            if record.outputs_file is None or record.suite == "fewshot" or source.store is None:
                continue
            if record.key not in read:
                path = source.store.path(record).parent / Path(record.outputs_file).name
                read[record.key] = _load(source, path, record.outputs_sha256 or "")
            outputs = read[record.key]
            if outputs is None:
                missing.append(record.outputs_file)
            elif entry.predictor in outputs.test_logits:
                labels = outputs.splits["test"].labels.numpy()
                own = reliability(outputs.test_logits[entry.predictor].numpy(), labels, outputs.scale)
                found.append((group, entry, own))
    if not found:
        raise NothingToDraw(*_why(sorted(set(missing))))
    with style.style():
        figure, axes = style.panels([2.6] * len(found), max(source.columns, 1))
        for panel, (group, entry, own) in zip(axes, found, strict=True):
            _draw(panel, group, entry, own)
            heading = f"{group.name(entry)}, {entry.predictor}"
            several = len({id(group) for group, _, _ in found}) > 1
            panel.set_title(style.wrap(f"{group.title}: {heading}" if several else heading, 52))
    n = sorted({own.n for _, _, own in found})
    said = [f"{group.name(entry)} ({entry.predictor}) {100 * own.ece:.1f} %" for group, entry, own in found]
    gone = f" {len(set(missing))} further trials left their logits on another machine." if missing else ""
    return Drawing(
        figure,
        "Reliability",
        f"Accuracy of {' or '.join(f'{size:,}' for size in n)} test images against the confidence of the prediction, in "
        f"{ECE_BINS} bins of equal width; dots: mean confidence; line: a model that is as often right as it says. Narrow bars "
        "below: share of the images. ECE: mean distance of the dots to the line, weighted by that share. First seed, no "
        f"intervals.{gone}",
        f"Expected calibration error: {', '.join(said)}.",
    )


def _load(source: Source, path: Path, sha256: str) -> ModelOutputs | None:
    if not path.is_file():  # git ignores these files: that one is not here is no fault
        return None
    from slabench.records.outputs import load_outputs  # torch, for which a report without logits need not wait

    try:
        return load_outputs(path, sha256)
    except DataError as error:
        source.problems.append(error.message)
        return None


def _why(missing: list[str]) -> tuple[str, str]:
    if missing:
        count = f"{len(missing)} classifier{'s' if len(missing) > 1 else ''}"
        return (
            f"the logits of {count} are not here, or damaged ({missing[0]}): they stay on the machine of the run",
            "slabench run imbalanced --ratio 100 --resume force",
        )
    return (
        "no record names logits: few-shot and post-hoc records have none",
        "slabench run imbalanced --ratio 100",
    )


def _draw(panel: Axes, group: Group, entry: Entry, own: Reliability) -> None:
    colour = group.colours()[entry.objective]
    edges = np.arange(ECE_BINS) / ECE_BINS * 100
    width = 100 / ECE_BINS
    filled = own.share > 0
    heights = np.where(filled, 100 * own.accuracy, 0)
    panel.bar(edges, heights, width, align="edge", **style.fill(colour, "aggregated") | {"edgecolor": style.PAPER})
    panel.bar(edges + width * 0.35, -22 * own.share / own.share.max(), width * 0.3, align="edge", color=style.MUTED)
    panel.plot([0, 100], [0, 100], "-", color=style.MUTED, linewidth=1)
    panel.plot(100 * own.confidence[filled], heights[filled], "o", color=style.INK, markersize=2.5)
    panel.text(0.03, 0.94, f"ECE {100 * own.ece:.1f} %", transform=panel.transAxes, va="top", fontweight="bold")
    panel.set_xlim(0, 100)
    panel.set_ylim(-25, 100)
    panel.set_yticks(range(0, 101, 20))
    panel.set_xlabel(f"confidence (%), n = {own.n:,} images")
    panel.set_ylabel("accuracy (%)")
