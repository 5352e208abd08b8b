"""Published numbers: the reader's strictness, the committed files, what matches what, and verdicts by hand."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_records import classifier_record, make_record

from slabench.comparison.published import compare_published, differences, verdict
from slabench.core.errors import DataError, SlabenchError, UsageError
from slabench.core.registry import BACKBONES, HEADS
from slabench.data.catalog import DATASETS
from slabench.data.mixing import MIXINGS
from slabench.losses import LOSSES
from slabench.ranking.columns import LeaderboardRow
from slabench.ranking.published import COLUMNS, PublishedRow, load, match
from slabench.ranking.rows import rows
from slabench.recipes import load_recipe
from slabench.records.record import RunRecord, Selection
from slabench.records.store import ResultStore
from slabench.sla.objectives import CLASSIFIER_OBJECTIVES, OBJECTIVES
from slabench.sla.transforms import transform_set

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"

FIRST = {
    "paper": "A (2020)",
    "table": "Table 1",
    "kind": "paper",
    "suite": "fewshot",
    "dataset": "fc100",
    "ways": "5",
    "shots": "5",
    "setting": "5way5shot",
    "backbone": "ResNet-12",
    "method": "ProtoNet",
    "variant": "baseline",
    "metric": "accuracy",
    "value": "52.5",
    "interval": "0.6",
    "selection": "best_val",
    "verified": "yes",
    "source": "its text",
    "protocol": "fewshot/paper",
    "learner": "episodic",
    "head": "protonet",
    "objective": "baseline",
    "predictor": "single",
    "net": "resnet12",
}


def write(folder: Path, *lines: dict[str, str], header: tuple[str, ...] = COLUMNS) -> Path:
    with open(folder / "table.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return folder


def one(folder: Path, **changes: str) -> PublishedRow:
    (row,) = load(write(folder, FIRST | changes))
    return row


def test_a_row_is_read_as_it_was_printed(tmp_path: Path) -> None:
    row = one(tmp_path)
    assert (row.accuracy, row.interval, row.printed, row.ways, row.ratio) == (
        0.525,
        pytest.approx(0.006),
        "52.5",
        5,
        None,
    )
    assert one(tmp_path, metric="error", value="61.68", interval="").accuracy == pytest.approx(0.3832)
    assert one(tmp_path, metric="relative-gain", value="7.05").accuracy is None
    assert load(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value": "52,5"}, "'value' is '52,5', which is not a number"),
        ({"value": "nan"}, "not a number"),
        ({"value": "152.5"}, "152.5, which is not a percentage"),
        ({"interval": "-1"}, "below 0"),
        ({"verified": "maybe"}, "'verified' is 'maybe', not one of yes, no"),
        ({"verified": "no"}, "only memory is unverified"),
        ({"kind": "memory"}, "only memory is unverified"),
        ({"shots": "five"}, "'shots' is 'five', which is not a whole number"),
        ({"ratio": "x"}, "'ratio' is 'x'"),
        ({"suite": "few-shot"}, "'suite' is 'few-shot'"),
        ({"selection": ""}, "'selection' is ''"),
        ({"source": " "}, "'source' is empty"),
        ({"predictor": ""}, "all given or all empty"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    write(tmp_path, FIRST, FIRST | {"variant": "other"} | changes)
    with pytest.raises(DataError, match=r"table\.csv, line 3") as caught:
        load(tmp_path)
    assert words in str(caught.value)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"repeats line 2: ProtoNet, 5way5shot"):
        load(write(tmp_path, FIRST, FIRST))
    with pytest.raises(DataError, match="does not have the columns of a published table: net"):
        load(write(tmp_path, FIRST, header=COLUMNS[:-1]))
    path = tmp_path / "table.csv"
    path.write_text(",".join(COLUMNS) + "\na,b\n")
    with pytest.raises(DataError, match="line 2 has 2 values"):
        load(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is not UTF-8"):
        load(tmp_path)
    path.write_text(",".join(COLUMNS) + '\n"open\n')
    with pytest.raises(DataError, match=r"line \d is not valid CSV"):
        load(tmp_path)


def test_the_committed_files_name_only_what_slabench_has() -> None:
    published = load()
    recipes = {row.protocol for row in published} - {""}
    assert recipes == {"fewshot/paper", "imbalanced/paper", "supervised/paper"}
    assert all(load_recipe(name) for name in recipes)
    objectives = {"fewshot": OBJECTIVES, "imbalanced": CLASSIFIER_OBJECTIVES, "supervised": CLASSIFIER_OBJECTIVES}
    for row in published:
        assert not row.net or row.net in BACKBONES
        if not row.learner:
            continue
        assert row.dataset in {*DATASETS, "tiered-imagenet", "imagenet"}
        assert row.objective in objectives[row.suite]
        assert row.predictor in ("single", "aggregated", "distilled")
        assert not row.transforms or transform_set(row.transforms)
        if row.suite == "fewshot":
            assert row.ways
            assert row.shots
            assert row.learner == "maml" or row.head in HEADS
        else:
            assert row.learner == "classifier"
            assert row.loss in LOSSES
            assert row.mix in MIXINGS
            assert row.profile


def test_the_files_hold_every_reference_number_once_and_no_other() -> None:
    """Against the facts they were made from, where they lie beside the repository; the totals in any case."""
    published = load()
    assert Counter(row.verified for row in published) == {True: 338, False: 112}
    assert Counter(row.kind for row in published if row.second_source) == {"paper": 34, "quoted": 36}
    assert not any(row.second_source for row in published if row.paper.startswith("SLA"))
    if not REFERENCE.is_dir():
        pytest.skip("the reference facts are not here")
    expected: Counter[tuple[str, ...]] = Counter()
    for name, verified in (("published_results.csv", True), ("published_results_unverified.csv", False)):
        with open(REFERENCE / name, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                kept = (line["setting"], line["backbone"], line["method"], line["variant"], line["value"], line["ci95"])
                expected[(*kept, str(verified))] += 1
    found = Counter(
        (row.setting, row.backbone, row.method, row.variant, row.printed, _interval(row), str(row.verified))
        for row in published
    )
    assert sum(found.values()) == sum(expected.values())
    assert {key[:5] + key[6:] for key in found} == {key[:5] + key[6:] for key in expected}
    assert Counter(float(key[5] or -1) for key in found.elements()) == Counter(
        float(key[5] or -1) for key in expected.elements()
    )


def _interval(row: PublishedRow) -> str:
    return "" if row.interval is None else f"{100 * row.interval:.10g}"


def fewshot(objective: str = "baseline", predictor: str = "single", **changes: Any) -> tuple[LeaderboardRow, RunRecord]:
    record = make_record(objective, 0, {predictor: [0.4, 0.6, 0.5]}, **changes)
    (row,) = rows([record], None)
    return row, record


def longtail(loss: str = "ce", reweight: str = "none", **changes: Any) -> LeaderboardRow:
    record = classifier_record(per_class={"a": 0.5, "b": 0.3}, counts={"a": 200, "b": 30}, loss=loss, **changes)
    (row,) = rows([record], None)
    return replace(row, reweight=reweight)


def values(row: LeaderboardRow) -> list[str]:
    return [found.printed_accuracy for found in match(row, load())]


def test_prototypes_on_fc100_match_what_metaoptnet_prints() -> None:
    """MetaOptNet, Table 2: ProtoNet 48.6 with Conv4 and 52.5 with ResNet-12; the row's own backbone first."""
    row, _ = fewshot()
    assert values(row) == ["48.60", "52.50", "52.50"]
    assert values(replace(row, backbone="resnet12")) == ["52.50", "48.60", "52.50"]
    assert [found.verified for found in match(row, load())] == [True, True, False]


def test_sla_matches_only_aggregated_and_only_unverified() -> None:
    row, _ = fewshot("sla", "aggregated")
    (found,) = match(row, load())
    assert (found.printed, found.verified, found.net) == ("55.7", False, "resnet12")
    assert values(fewshot("sla", "single")[0]) == []
    assert values(fewshot("baseline", "aggregated")[0]) == [], "the control is published nowhere"


def test_maml_is_matched_by_its_learner() -> None:
    """MetaOptNet, Table 2: MAML on CIFAR-FS, 5-way 5-shot, 71.5."""
    row, _ = fewshot(dataset="cifar-fs")
    assert values(replace(row, learner="maml")) == ["71.50"]
    assert "71.50" not in values(row)


@pytest.mark.parametrize(
    "change",
    [
        {"shots": 10},
        {"dataset": "glyphs"},
        {"head": "ridge"},
        {"learner": "maml", "objective": "sla"},
        {"limited": True},
        {"transductive": True},
    ],
)
def test_another_setting_or_method_matches_nothing(change: dict[str, Any]) -> None:
    row, _ = fewshot()
    assert values(row)
    assert match(replace(row, **change), load()) == []


def test_long_tails_match_loss_weights_and_counts() -> None:
    """LDAM-DRW's Table 2, errors turned round: CE 61.68, CB-RW 66.01, LDAM 60.40, LDAM-DRW 57.96 at ratio 100."""
    assert values(longtail())[0] == "38.32"
    assert values(longtail(reweight="effective"))[0] == "33.99"
    assert values(longtail("ldam"))[0] == "39.60"
    assert values(longtail("ldam", "drw"))[0] == "42.04"
    assert match(longtail("ldam", "drw"), load())[0].paper.startswith("LDAM-DRW")
    assert values(replace(longtail(), posthoc="crt")) == []
    assert values(replace(longtail(), mix="cutmix")) == []
    assert values(replace(longtail(), ratio=200.0, protocol="imbalanced/cifar100/exp-r200/standard")) == []
    assert values(replace(longtail(), protocol="imbalanced/cifar100/exp-r100-reversed/standard")) == []
    assert values(replace(longtail(), protocol="imbalanced/cifar100/exp-r100-s3/standard"))[0] == "38.32"


@pytest.mark.parametrize(
    ("value", "ci", "interval", "kind"),
    [
        # tolerance sqrt(2^2 + 0^2) = 2 points
        (0.545, None, "", "inside"),
        (0.5451, None, "", "above"),
        (0.505, None, "", "inside"),
        (0.5049, None, "", "below"),
        # sqrt(2^2 + 1.5^2) = 2.5
        (0.55, 0.015, "", "inside"),
        (0.5501, 0.015, "", "above"),
        # sqrt(2^2 + 1^2 + 2^2) = 3
        (0.495, 0.01, "2", "inside"),
        (0.4949, 0.01, "2", "below"),
    ],
)
def test_verdicts_by_hand(tmp_path: Path, value: float, ci: float | None, interval: str, kind: str) -> None:
    found = verdict(value, ci, one(tmp_path, interval=interval))
    assert found.kind == kind
    assert found.gap == pytest.approx(value - 0.525)
    half = [0.02, ci or 0, float(interval or 0) / 100]
    assert found.tolerance == pytest.approx(float(np.linalg.norm(half)))
    assert "2 points for retraining" in found.why
    assert ("no interval" in found.why) == (ci is None or not interval)


def test_memory_decides_nothing(tmp_path: Path) -> None:
    with pytest.raises(SlabenchError, match="gives no verdict"):
        verdict(0.5, None, one(tmp_path, kind="memory", verified="no"))
    with pytest.raises(SlabenchError, match="not an accuracy"):
        verdict(0.5, None, one(tmp_path, metric="relative-gain"))


def test_the_paper_recipe_itself_differs_in_nothing(tmp_path: Path) -> None:
    """60,000 steps of 8 episodes of 5 x (5 + 6) images are 26.4 million passes, by hand."""
    recipe = load_recipe("fewshot/paper", {"data.dataset": "fc100"})[0]
    settings: dict[str, Any] = {
        "recipe": {**recipe.resolved(), "name": "fewshot/paper"},
        "images_seen": 60_000 * 8 * 5 * (5 + 6),
        "selection": Selection(rule="best_val", step=60_000, candidates=60),
    }
    row, record = fewshot(**settings)
    published = one(tmp_path)
    assert differences(row, record, published) == []
    assert differences(replace(row, images_seen=2_400_000), record, published) == [
        "2.40M images seen instead of 26.40M"
    ]
    for key, value, expected in (("batch_size", 128, []), ("queries", 15, ["also different: queries"])):
        train = {**record.recipe["train"], key: value}  # episodes have no batches: the one says nothing, the other does
        other = record.model_copy(update={"recipe": {**record.recipe, "train": train}})
        assert differences(row, other, published) == expected
    assert differences(replace(row, backbone="conv4", selection="last"), record, published) == [
        "backbone conv4 instead of ResNet-12",
        "scored: the last step instead of the best on validation",
    ]


def test_the_long_tail_recipe_itself_differs_in_nothing() -> None:
    recipe = load_recipe("imbalanced/paper")[0]
    counts = {"a": 8000, "b": 2847}
    record = classifier_record(
        per_class={"a": 0.5, "b": 0.3},
        counts=counts,
        recipe={**recipe.resolved(), "name": "imbalanced/paper"},
        images_seen=200 * (8000 + 2847),
    )
    (row,) = rows([record], None)
    first = match(row, load())[0]
    assert differences(row, record, first) == [
        "scored: the last step instead of the best on the test, which would give 41.00"
    ]
    lost = record.model_copy(update={"training_set": {**(record.training_set or {}), "source_order": False}})
    assert any("other images" in text for text in differences(row, lost, first))


Shelf = Callable[..., tuple[ResultStore, RunRecord]]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    def put(objective: str, predictor: str, accuracies: list[float], **changes: Any) -> tuple[ResultStore, RunRecord]:
        store = ResultStore(tmp_path / "results")
        record = make_record(objective, accuracies={predictor: accuracies}, **changes)
        store.save(record, {predictor: accuracies})
        return store, record

    return put


def told(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


def test_compare_says_the_verdict_and_the_other_training_in_one_breath(shelf: Shelf) -> None:
    store, record = shelf("baseline", "single", [0.45, 0.55] * 50)
    lines = compare_published(record.key[:8], store)
    assert max(map(len, lines)) <= 80
    text = told(lines)
    half = 1.984217 * 0.05 * math.sqrt(100 / 99) / 10  # t(0.975, 99), the deviation of 50 times .45 and .55
    tolerance = 100 * math.sqrt(0.02**2 + half**2 + 0.006**2)
    assert "inside: +1.40 points from 48.60 ± 0.60 (ProtoNet on conv4 64-64-64-64" in text
    assert f"tolerance {tolerance:.2f}: 2 points for retraining" in text
    assert "below: -2.50 points from 52.50 ± 0.60 (ProtoNet on ResNet-12" in text
    assert (
        "Not the published protocol: backbone conv4 instead of ResNet-12; 1.00M images seen instead of 26.40M" in text
    )
    assert "~52.50" not in text, "memory does not repeat what was seen"


def test_compare_makes_no_verdict_of_memory(shelf: Shelf) -> None:
    store, record = shelf("sla", "aggregated", [0.5, 0.6])
    text = told(compare_published(record.key, store))
    assert "no verdict: ~55.70 ± 0.60? (ProtoNet on ResNet-12" in text
    assert "never held against the paper" in text
    assert not {"inside:", "above:", "below:"} & set(text.split())


def test_compare_where_nothing_is_published(shelf: Shelf) -> None:
    store, record = shelf("da", "single", [0.5, 0.6])
    assert "Nothing is published for fewshot/da" in told(compare_published(record, store))
    store, quick = shelf("baseline", "single", [0.5, 0.6], limited=True)
    text = told(compare_published(quick, store))
    assert "reduced budget is not compared" in text
    assert "points from" not in text


def test_compare_refuses_what_has_no_result(shelf: Shelf) -> None:
    store, record = shelf("baseline", "single", [0.5], status="failed", error="x")
    with pytest.raises(UsageError, match="is failed"):
        compare_published(record.key, store)
    with pytest.raises(UsageError, match="begins with 'zz'"):
        compare_published("zz", store)


def test_unequal_episodes_match_nothing(tmp_path: Path) -> None:
    row, _ = fewshot()
    published = one(tmp_path)
    assert match(row, [published])
    unequal = replace(row, protocol=f"{row.protocol}-slinear9")
    assert match(unequal, [published]) == []
