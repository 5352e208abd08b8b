"""The map of where joint labels pay: the cells are differences of the records' accuracies, the line is where they are 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slabench.plots import draw
from slabench.plots.map import crossings
from slabench.plots.source import NothingToDraw, Source
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore

STORE = ResultStore(Path(__file__).parents[1] / "results")


@pytest.fixture(scope="module")
def mapped() -> list[RunRecord]:
    return [record for record in STORE.records() if record.protocol.endswith("/map") and record.dataset == "cifar100"]


def test_the_cells_are_differences_of_accuracies(mapped: list[RunRecord]) -> None:
    """From the records' own scores; seeds that one side alone has do not count."""
    scores: dict[tuple[int, int], dict[tuple[str, str], dict[int, float]]] = {}
    for record in mapped:
        assert record.cost is not None
        place = (record.setting("data", "per_class"), round(record.cost.images_seen, -5))
        for score in record.scores:
            objective = record.setting("sla", "objective")
            scores.setdefault(place, {}).setdefault((objective, score.predictor), {})[record.seed] = score.value
    panels = draw("map", Source.of(mapped, STORE)).figure.axes
    titles = [panel.get_title(loc="left") for panel in panels]
    assert len(panels) == 3
    for panel, (own, other) in zip(
        panels, [("aggregated", "single"), ("aggregated", "aggregated"), ("single", "single")], strict=True
    ):
        expected = []
        for cell in scores.values():
            a, b = cell.get(("sla", own), {}), cell.get(("baseline", other), {})
            seeds = a.keys() & b.keys()
            if seeds:
                expected.append(100 * np.mean([a[seed] - b[seed] for seed in seeds]))
        drawn = [float(text.get_text().split(" ± ")[0].replace("\N{MINUS SIGN}", "-")) for text in panel.texts]
        assert sorted(drawn) == pytest.approx(sorted(expected), abs=0.051), titles
        assert len(drawn) >= 4


def test_one_number_of_images_is_no_map(mapped: list[RunRecord]) -> None:
    few = [record for record in mapped if record.setting("data", "per_class") == 25]
    with pytest.raises(NothingToDraw) as caught:
        draw("map", Source.of(few, STORE))
    assert "supervised/map" in caught.value.remedy


def test_where_a_line_crosses_0_by_hand() -> None:
    x, value, half = np.array([0.0, 1.0, 2.0]), np.array([1.0, -1.0, -2.0]), np.array([0.5, 0.5, 0.5])
    ((low, at, high),) = crossings(x, value, half)
    assert (low, at, high) == pytest.approx((0.25, 0.5, 0.75), abs=0.01)
    assert crossings(x, -np.abs(value), half) == []
    ((low, at, high),) = crossings(x, value, np.array([9.0, 9.0, 9.0]))  # so wide that it holds 0 everywhere
    assert (low, at, high) == (0, 0.5, 2)
