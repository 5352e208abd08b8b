"""Curves: validation accuracy against images seen in training, and loss and accuracies in the course of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slabench.core.files import SHORT
from slabench.plots import style
from slabench.plots.source import Drawing, Group, NothingToDraw, Source, seeds_of
from slabench.records.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NONE = "no finished trial has a learning curve: their recipes do not validate during training"
_REMEDY = "slabench run fewshot --dataset fc100 --shots 5 --set select.points=8"


@dataclass(frozen=True)
class Point:
    """One validation: the accuracy over seeds of one recipe under one predictor."""

    name: str
    recipe_digest: str
    backbone: str
    objective: str
    predictor: str
    step: int
    images_seen: int
    n_seeds: int
    mean: float
    low: float
    high: float


def points(records: Sequence[RunRecord], predictor: str) -> list[Point]:
    """The validations of one recipe, one record a seed; only steps that all seeds validated make a point."""
    first = records[0]
    curves = [{point.step: point for point in record.curve if predictor in point.val} for record in records]
    made = []
    for step in sorted(set.intersection(*(set(curve) for curve in curves))):
        at = [curve[step] for curve in curves]
        values = [point.val[predictor] for point in at]
        made.append(
            Point(
                name=first.name,
                recipe_digest=first.recipe_digest[:SHORT],
                backbone=str((first.recipe.get("model") or {}).get("backbone", "unknown")),
                objective=str((first.recipe.get("sla") or {}).get("objective", "unknown")),
                predictor=predictor,
                step=step,
                images_seen=at[0].images_seen,
                n_seeds=len(values),
                mean=sum(values) / len(values),
                low=min(values),
                high=max(values),
            )
        )
    return made


def all_points(group: Group) -> list[Point]:
    """The validations of every recipe of a protocol under every predictor; a recipe with a seed without a curve has none."""
    return [point for predictor in _predictors(group) for _, own in _lines(group, predictor) for point in own]


def by_images_seen(source: Source) -> Drawing:
    """Validation accuracy against images seen in training, copies counted; a panel a protocol and predictor."""
    panels = [
        (group, predictor, lines)
        for group in source.groups()
        for predictor in _predictors(group)
        if (lines := _lines(group, predictor))
    ]
    if not panels:
        raise NothingToDraw(_NONE, _REMEDY)
    groups = list(dict.fromkeys(group for group, _, _ in panels))
    with style.style():
        figure, axes = style.panels([style.line_panel(len(lines)) for _, _, lines in panels], source.columns)
        for panel, (group, predictor, lines) in zip(axes, panels, strict=True):
            _by_images_seen(panel, group, lines)
            panel.set_title(style.wrap(f"{group.title}: {predictor}", 52))
    return Drawing(
        figure,
        "Accuracy against images seen",
        "Accuracy on the validation classes or images (not the test) against the images seen in "
        "training, transformed copies counted, on a logarithmic axis. Lines: means over seeds "
        f"({seeds_of(groups)}); bands: from the least to the greatest seed. Colour: objective; marker: recipe.",
        f"Learning curves of {sum(len(lines) for _, _, lines in panels)} recipes and predictors over images seen in training.",
    )


def _predictors(group: Group) -> list[str]:
    """Those of the validations: the scored ones in their order, then any other."""
    found = [p for entry in group.entries for record in entry.records for point in record.curve for p in point.val]
    return [*(name for name in group.predictors if name in found), *sorted(set(found) - set(group.predictors))]


def _lines(group: Group, predictor: str) -> list[tuple[str, list[Point]]]:
    """Name and points of each recipe that validated under `predictor`."""
    recipes = [method[0] for method in group.methods()]
    return [(group.name(entry), own) for entry in recipes if (own := points(entry.records, predictor))]


def _by_images_seen(panel: Axes, group: Group, lines: list[tuple[str, list[Point]]]) -> None:
    from matplotlib import ticker

    colours = group.colours()
    markers = {digest[:SHORT]: marker for digest, marker in group.markers().items()}
    ends = []
    for name, own in lines:
        first = own[0]
        colour = colours[first.objective]
        x = [point.images_seen / 1e6 for point in own]
        y = [100 * point.mean for point in own]
        panel.plot(x, y, "-", marker=markers[first.recipe_digest], color=colour, label=name)
        if first.n_seeds > 1:
            low, high = [100 * point.low for point in own], [100 * point.high for point in own]
            panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        ends.append(style.End(x[-1], y[-1], name, colour, markers[first.recipe_digest]))
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    style.name_lines(panel, ends)
    panel.set_xlabel("images seen in training, copies counted (million)")
    panel.set_ylabel("validation accuracy (%)")


def training(source: Source) -> Drawing:
    """Loss, and accuracy in training and on validation, in the course of training; two panels a protocol."""
    found = []
    for group in source.groups():
        trained = [own[0] for own in group.methods() if any(record.curve for record in own[0].records)]
        if trained:
            found.append((group, trained))
    if not found:
        raise NothingToDraw(_NONE, _REMEDY)
    with style.style():
        heights = [style.line_panel(len(own)) - less for _, own in found for less in (0.4, 0.2)]
        figure, axes = style.panels(heights, source.columns)
        for index, (group, trained) in enumerate(found):
            loss, accuracy = axes[2 * index : 2 * index + 2]
            colours, markers = group.colours(), group.markers()
            ends: dict[str, list[style.End]] = {"loss": [], "val": []}
            for entry in trained:
                name, colour = group.name(entry), colours[entry.objective]
                for record in entry.records:
                    mark: dict[str, Any] = {"color": colour, "marker": markers[record.recipe_digest], "markersize": 3}
                    done = [100 * point.step / record.curve[-1].step for point in record.curve if record.curve[-1].step]
                    curve = list(zip(done, record.curve, strict=False))
                    drawn = {
                        "loss": [(x, p.loss) for x, p in curve if p.loss is not None],
                        "train": [(x, 100 * p.train_accuracy) for x, p in curve if p.train_accuracy is not None],
                        "val": [(x, 100 * p.val[entry.predictor]) for x, p in curve if entry.predictor in p.val],
                    }
                    for what, own in drawn.items():
                        panel = loss if what == "loss" else accuracy
                        if own:
                            dash = (0, (1, 1.4)) if what == "train" else "-"
                            panel.plot(*zip(*own, strict=True), linestyle=dash, **mark)
                            if what in ends and record is entry.records[0]:
                                last = style.End(*own[-1], name, colour, mark["marker"])
                                ends[what].append(last)
            _name_lines(loss, ends["loss"])
            _name_lines(accuracy, ends["val"])
            loss.set_title(f"{group.title}: training loss")
            loss.set_ylabel("loss (nats)")
            accuracy.set_title(f"{group.title}: accuracy")
            accuracy.set_ylabel("accuracy (%)")
            for panel in (loss, accuracy):
                panel.set_xlabel("part of the training steps done (%)")
    return Drawing(
        figure,
        "Training curves",
        "Training loss: joint labels have M times as many classes, so that losses of different objectives are not to be "
        "compared. Accuracy: on validation (solid) and in training on the objective's own labels (dotted). Each line is a "
        "seed, over the part of its own steps that is done; recipes differ in their number of steps.",
        "Training loss and accuracy of "
        + ", ".join(f"{len(own)} recipes on {group.title}" for group, own in found)
        + ".",
    )


def _name_lines(panel: Axes, ends: list[style.End]) -> None:
    """Names of lines, where something was recorded."""
    if not ends:
        panel.text(0.5, 0.5, "not recorded", transform=panel.transAxes, ha="center", color=style.MUTED)
    else:
        style.name_lines(panel, ends)
