"""One picture a page: how large it is, what it shows, what it says was left out; and the picture of SLA beside its controls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_records import classifier_record, digest, make_record
from scipy import stats

from slabench.plots import KINDS, draw, style
from slabench.plots.page import draw_page
from slabench.plots.source import NothingToDraw, Source
from slabench.plots.summary import summary, tasks, wide_and_narrow
from slabench.ranking.standard import standard
from slabench.records.record import CurvePoint, RunRecord
from slabench.records.store import ResultStore

A_SERIES = 2**0.5
"""Height of a sheet over its width (ISO 216)."""

PROTOCOLS = [
    ("fc100", 5, 1),
    ("fc100", 5, 5),
    ("cifar-fs", 5, 1),
    ("cifar-fs", 5, 5),
    ("fc100", 10, 5),
    ("fc100", 20, 1),
]
RECIPES, TAILS = 8, 16


def curve(top: float) -> list[CurvePoint]:
    values = dict.fromkeys(("single", "aggregated"), top)
    return [
        CurvePoint(step=s, images_seen=1000 * s, seconds=s, loss=1.0, train_accuracy=0.5, val=values) for s in (1, 2, 3)
    ]


def few_shot(dataset: str, ways: int, shots: int, number: int, objective: str) -> RunRecord:
    value = 0.3 + 0.01 * number
    accuracies = {"single": [value, value + 0.02], "aggregated": [value + 0.01, value + 0.05]}
    recalls = {f"class {place}": value for place in range(20)}
    record = make_record(
        objective, accuracies=accuracies, name=f"fewshot/a-long-name-of-a-recipe/{objective}-{number:02d}"
    )
    recipe = {
        **record.recipe,
        "protocol": {"ways": ways, "shots": shots, "queries": 15},
        "sla": {"objective": objective, "transforms": ("rotation", "color-perm")[number % 2]},
        "train": {"steps": number},
    }
    return record.model_copy(
        update={
            "recipe": recipe,
            "dataset": dataset,
            "protocol": f"fewshot/{dataset}/{ways}w{shots}s15q",
            "recipe_digest": digest(number, objective),
            "key": digest(dataset, ways, shots, number),
            "curve": curve(value),
            "scores": [score.model_copy(update={"per_class": recalls}) for score in record.scores],
        }
    )


@pytest.fixture(scope="module")
def many() -> list[RunRecord]:
    """Eight recipes under two predictors on each of seven protocols, five of them standard."""
    made = []
    for number in range(RECIPES):
        objective = ("baseline", "da", "sla")[number % 3]
        made += [few_shot(*protocol, number, objective) for protocol in PROTOCOLS]
    for number in range(TAILS):
        recalls = {f"class {place}": 0.3 + 0.01 * number for place in range(40)}
        tail = classifier_record(
            per_class=recalls, counts=dict.fromkeys(recalls, 9), few=0.1, name=f"imbalanced/tail-{number:02d}"
        )
        made.append(tail.model_copy(update={"recipe_digest": digest("tail", number), "key": digest("tail", number)}))
    return made


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"reliability", "map"}))
def test_a_picture_fits_a_page_and_says_what_it_leaves_out(kind: str, many: list[RunRecord]) -> None:
    source = Source.of(many, columns=2)
    drawing = draw_page(kind, source)
    panels = len(drawing.figure.axes)
    style.add_caption(drawing.figure, drawing.title, drawing.caption)
    width, height = drawing.figure.get_size_inches()
    assert height <= width * (A_SERIES if panels > 1 else 1.6), f"{width:.1f} x {height:.1f} inches"
    if kind != "summary":
        assert f"slabench plot {kind} --all" in drawing.caption


def test_the_note_counts_the_rows(many: list[RunRecord]) -> None:
    drawing = draw_page("bars", Source.of(many, columns=2))
    bars = sum(len(axes.patches) for axes in drawing.figure.axes)
    every = 2 * RECIPES * len(PROTOCOLS) + TAILS
    found = re.search(r"Left out: (\d+) of (\d+) rows, (\d+) further protocols", drawing.caption)
    assert found is not None
    assert tuple(map(int, found.groups())) == (every - bars, every, 2)
    titles = [axes.get_title(loc="left") for axes in drawing.figure.axes]
    assert len(titles) == 5
    assert not any("10-way" in title or "20-way" in title for title in titles), "the standard protocols"


def test_of_other_protocols_alone_those_are_drawn(many: list[RunRecord]) -> None:
    drawing = draw_page("bars", Source.of(many).only(lambda entry: "10w" in entry.records[0].protocol))
    assert [axes.get_title(loc="left") for axes in drawing.figure.axes] == ["fc100, 10-way 5-shot"]


def test_the_best_row_and_each_objective_stay_and_names_are_those_of_all(many: list[RunRecord]) -> None:
    source = Source.of(many).only(lambda entry: entry.records[0].protocol == "fewshot/fc100/5w5s15q")
    drawing = draw_page("bars", source)
    (axes,) = drawing.figure.axes
    names = {label.get_text().replace("\n", "") for label in axes.get_yticklabels()}
    everything = {label.get_text().replace("\n", "") for label in draw("bars", source).figure.axes[0].get_yticklabels()}
    assert names < everything
    assert "Left out" not in draw("bars", source).caption
    assert "da-07" in names, "the best"
    assert {name.rpartition("-")[0] for name in names} == {"baseline", "da", "sla"}


def test_few_rows_are_all_drawn_without_a_note(many: list[RunRecord]) -> None:
    source = Source.of(many).only(lambda entry: entry.records[0].name.endswith(("baseline-00", "sla-02")))
    drawing = draw_page("gains", source.only(lambda entry: "5w5s" in entry.records[0].protocol))
    assert "Left out" not in drawing.caption


@pytest.mark.parametrize("kind", ["groups", "gains", "shots-ways", "summary", "reliability"])
def test_nothing_to_draw_is_said_as_ever(kind: str) -> None:
    with pytest.raises(NothingToDraw):
        draw_page(kind, Source.of([make_record()]))


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("fewshot/fc100/5w1s15q", True),
        ("fewshot/mini-imagenet/5w5s15q", True),
        ("fewshot/fc100/10w5s15q", False),
        ("fewshot/fc100/5w10s15q", False),
        ("fewshot/fc100/5w5s1q", False),
        ("fewshot/fc100/5w5s15q-linear9", False),
        ("imbalanced/cifar100/exp-r100/standard", True),
        ("imbalanced/cifar100/exp-r10/standard", False),
        ("imbalanced/cifar100/step-r100/standard", False),
        ("supervised/cifar100/full/short", True),
        ("supervised/cifar100/50-a-class/map", False),
    ],
)
def test_which_protocols_are_standard(protocol: str, expected: bool) -> None:
    assert standard(make_record(protocol=protocol)) is expected
    assert not standard(make_record(protocol=protocol, transductive=True))


# SLA beside its controls


@pytest.fixture
def trained(tmp_path: Path) -> tuple[ResultStore, dict[tuple[str, str], np.ndarray]]:
    """SLA and its three controls, and a better recipe of the same model with SLA and self-distillation."""
    rng, store, arrays = np.random.default_rng(3), ResultStore(tmp_path), {}
    hardness = rng.integers(20, 40, 60)
    plans = {"baseline": (1_000_000, 0), "equal": (4_000_000, 9), "sla": (4_000_000, 6), "sla+sd": (4_000_000, 12)}
    for name, (images, more) in plans.items():
        own = {}
        for place, predictor in enumerate(("single", "aggregated")):
            own[predictor] = arrays[name, predictor] = np.float32(
                (hardness + more + 3 * place + rng.integers(-3, 4, 60)) / 75
            )
        objective = "baseline" if name == "equal" else name
        record = make_record(objective, 0, own, name=f"fewshot/controls/{name}", images_seen=images)
        if name == "equal":
            recipe = {**record.recipe, "train": {"steps": 400}}
            record = record.model_copy(update={"recipe": recipe, "recipe_digest": "a" * 64, "key": "a" * 64})
        store.save(record, own)
    return store, arrays


def test_the_summary_is_scipys(trained: tuple[ResultStore, dict[tuple[str, str], np.ndarray]]) -> None:
    store, arrays = trained
    rows = [
        ("baseline", "single"),
        ("baseline", "aggregated"),
        ("equal", "aggregated"),
        ("sla", "single"),
        ("sla", "aggregated"),
    ]
    best = max(rows[:3], key=lambda row: arrays[row].mean())
    test = stats.ttest_rel(arrays["sla", "aggregated"].astype(float), arrays[best].astype(float))
    low, high = test.confidence_interval()
    earned = f"{50 * (low + high):+.1f} ± {50 * (high - low):.1f}".replace("-", "\N{MINUS SIGN}")
    for drawing in wide_and_narrow(tasks(Source.of(store.records(), store))):
        (panel,) = drawing.figure.axes
        drawn = [line.get_xdata()[0] for line in panel.lines if line.get_marker() in ("o", "D")]
        assert drawn == pytest.approx([100 * arrays[row].mean() for row in rows], abs=1e-4)
        for row, whisker in zip(rows, panel.collections, strict=True):
            array = arrays[row].astype(float)
            interval = stats.t.interval(0.95, 59, array.mean(), stats.sem(array))
            assert whisker.get_paths()[0].vertices[:, 0] == pytest.approx(100 * np.array(interval), abs=1e-3)
        assert earned in [text.get_text() for text in panel.texts]


def test_what_the_summary_shows_is_not_chosen_by_accuracy(trained: tuple[ResultStore, Any]) -> None:
    store, arrays = trained
    (task,) = tasks(Source.of(store.records(), store))
    assert arrays["sla+sd", "aggregated"].mean() > arrays["sla", "aggregated"].mean()
    assert task.sla.objective == "sla", "of one model the plain method, though the other is better"


def test_a_control_that_was_not_run_is_named(trained: tuple[ResultStore, Any]) -> None:
    store, _ = trained
    source = Source.of([record for record in store.records() if "equal" not in record.name], store)
    (glance,) = summary(source).figure.axes
    assert any(text.get_text().endswith("(without equal images seen)") for text in glance.texts)


def test_every_task_has_a_row_of_its_name(tmp_path: Path) -> None:
    for shots, gap in ((1, 0.02), (5, 0.3)):
        for objective, value in (("baseline", 0.3), ("sla", 0.3 + gap)):
            own = {"single": np.float32([value, value]), "aggregated": np.float32([value, value + 0.01])}
            record = make_record(
                objective, 0, own, protocol=f"fewshot/fc100/5w{shots}s15q", key=digest(shots, objective)
            )
            ResultStore(tmp_path).save(record, own)
    store = ResultStore(tmp_path)
    source = Source.of(store.records(), store)
    wide, narrow = wide_and_narrow(tasks(source))
    names = {label.get_text() for label in wide.figure.axes[0].get_yticklabels()}
    assert len(names) == 2
    assert names <= {text.get_text() for text in narrow.figure.axes[0].texts}
