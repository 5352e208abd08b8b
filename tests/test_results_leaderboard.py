"""The leaderboard against small sets of records counted by hand, and against pandas reading the CSV."""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from result_records import classifier_record, make_record
from rich.console import Console
from scipy import stats

import slabench
from slabench.ranking import entries as entries_room
from slabench.ranking.columns import LeaderboardRow
from slabench.ranking.formats.plain import to_csv
from slabench.ranking.formats.terminal import table
from slabench.ranking.rows import rows
from slabench.records.record import RunRecord, Selection
from slabench.records.store import ResultStore, ResultsWarning

# Per-episode accuracies, four episodes. By hand: baseline seeds 0.50 and 0.60, sla 0.70.
BASELINE = {0: [0.4, 0.6, 0.4, 0.6], 1: [0.5, 0.7, 0.5, 0.7]}
SLA = {0: [0.6, 0.8, 0.6, 0.8]}


class Shelf:
    """Records with their per-episode accuracies, in memory."""

    def __init__(self) -> None:
        self.records: list[RunRecord] = []
        self.arrays: dict[str, dict[str, Any]] = {}

    def add(self, objective: str, seed: int, accuracies: Mapping[str, Sequence[float]], **changes: Any) -> RunRecord:
        record = make_record(objective, seed, dict(accuracies), **changes)
        self.records.append(record)
        self.arrays[record.key] = {name: np.float32(values) for name, values in accuracies.items()}
        return record

    def rows(self, include_limited: bool = False) -> list[LeaderboardRow]:
        return rows(self.records, lambda record: self.arrays[record.key], include_limited)


@pytest.fixture
def shelf() -> Shelf:
    shelf = Shelf()
    for seed, values in BASELINE.items():
        shelf.add("baseline", seed, {"single": values})
    shelf.add("sla", 0, {"single": SLA[0], "aggregated": [0.9, 0.9, 0.9, 0.9]}, images_seen=4_000_000)
    return shelf


def test_rows_by_hand(shelf: Shelf) -> None:
    found = shelf.rows()
    assert [(row.name, row.predictor, row.rank) for row in found] == [
        ("fewshot/sla", "aggregated", 1),
        ("fewshot/sla", "single", 2),
        ("fewshot/baseline", "single", 3),
    ]
    baseline = found[2]
    assert baseline.mean == pytest.approx(0.55)
    assert baseline.std_seeds == pytest.approx(math.sqrt(0.005))  # ((0.05)^2 + (0.05)^2) / (2 - 1)
    assert (baseline.n_seeds, baseline.seeds, baseline.n_test) == (2, (0, 1), 4)
    # Averaged over seeds the episodes are .45 .65 .45 .65: std sqrt(0.04 / 3), t(0.975, 3) = 3.182446.
    assert baseline.ci95_test == pytest.approx(3.182446 * math.sqrt(0.04 / 3) / 2, abs=1e-6)
    assert baseline.ci95_from == "seed-averaged"
    assert (baseline.ways, baseline.shots, baseline.queries, baseline.M) == (5, 5, 15, 4)
    assert (baseline.backbone, baseline.head, baseline.objective) == ("conv4", "protonet", "baseline")
    assert (baseline.images_seen, found[0].images_seen, baseline.parameters) == (1_000_000, 4_000_000, 113_088)
    assert found[0].std_seeds is None


def test_training_episodes_that_are_not_the_tests_are_told(shelf: Shelf) -> None:
    """Two heads of one name, scored on a run of five shots and on one of one, are two rows: the column says which is which."""
    plain = shelf.records[0].recipe
    for name, learner, train in (
        ("five", "episodic", {"shots": 5}),
        ("one", "episodic", {"shots": 1}),
        ("wide", "episodic", {"ways": 20}),
        ("none", "classifier", {"shots": 1}),
    ):
        recipe = {
            **plain,
            "model": {**plain["model"], "learner": learner},
            "train": {**plain.get("train", {}), **train},
        }
        shelf.add(
            "baseline",
            0,
            {"single": [0.5, 0.6]},
            name=name,
            recipe=recipe,
            recipe_digest=name.encode().hex().ljust(64, "0"),
        )
    found = {row.name: row.trained for row in shelf.rows()}
    assert {name: found[name] for name in ("five", "one", "wide", "none", "fewshot/sla")} == {
        "five": None,
        "one": "5w1s",
        "wide": "20w5s",
        "none": None,
        "fewshot/sla": None,
    }


def test_without_side_files_the_interval_is_the_mean_of_the_seeds(shelf: Shelf) -> None:
    found = {(row.name, row.predictor): row for row in rows(shelf.records, None)}
    baseline = found["fewshot/baseline", "single"]
    assert (baseline.ci95_test, baseline.ci95_from) == (pytest.approx(0.01), "mean-of-seeds")
    assert [row.rank for row in found.values()] == [1, 2, 3]


def test_rows_that_the_episodes_cannot_tell_apart_share_a_rank() -> None:
    rng = np.random.default_rng(1)
    hardness = rng.uniform(0.3, 0.7, 400)
    levels = {"best": hardness + 0.1, "even": hardness + 0.1 + rng.normal(-0.0005, 0.05, 400), "least": hardness}
    shelf = Shelf()
    for name, values in levels.items():
        shelf.add(name, 0, {"single": values.tolist()})
    expected = stats.ttest_rel(*(np.float32(levels[name]).astype(float) for name in ("best", "even")))
    assert expected.pvalue > 0.05, "the data must be such that the test cannot tell them apart"
    assert stats.ttest_rel(levels["even"], levels["least"]).pvalue < 1e-6
    ranks = {row.objective: row.rank for row in shelf.rows()}
    assert ranks == {"best": 1, "even": 1, "least": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"episodes_digest": "f" * 64},
        {"dataset_digest": "f" * 64},
        {"split_digest": "f" * 64},
        {"protocol_version": 2},
        {"protocol": "fewshot/fc100/5w1s15q"},
        {"protocol_digest": "f" * 64},
        {"transductive": True},
        # A record with the protocol digest of the others, though its episodes are not theirs:
        {"episodes_digest": "f" * 64, "protocol_digest": make_record().protocol_digest},
        {"dataset_digest": "f" * 64, "protocol_digest": make_record().protocol_digest},
        {"split_digest": "f" * 64, "protocol_digest": make_record().protocol_digest},
    ],
)
def test_what_differs_in_a_digest_is_never_ranked_together(shelf: Shelf, change: dict[str, Any]) -> None:
    shelf.add("other", 0, {"single": [1.0, 1.0, 1.0, 1.0]}, **change)
    # The same recipe and seed as the baseline of the fixture, on the other protocol: it must not be pooled with it.
    shelf.add("baseline", 0, {"single": [0.0, 0.0, 0.0, 0.5]}, key="a" * 64, **change)
    found = shelf.rows()
    ranks = (None, None) if "protocol_version" in change else (1, 2)  # a stale row has none at all
    assert [(row.objective, row.rank) for row in found if row.objective == "other"] == [("other", ranks[0])]
    baselines = {row.mean: (row.rank, row.n_seeds) for row in found if row.objective == "baseline"}
    assert {round(mean, 3): place for mean, place in baselines.items()} == {0.55: (3, 2), 0.125: (ranks[1], 1)}
    assert {row.rank for row in found if row.objective == "sla"} == {1, 2}


def test_quick_runs_never_appear_unasked_and_never_have_a_rank(shelf: Shelf) -> None:
    shelf.add("quick", 0, {"single": [1.0] * 4}, limited=True)
    # A quick run under the very recipe digest of a ranked one, with a seed more: it must not join its mean.
    shelf.add("baseline", 7, {"single": [1.0] * 4}, limited=True)
    without = [row for row in shelf.rows() if row.limited or row.objective == "quick"]
    assert without == []
    assert "quick" not in to_csv(shelf.rows())
    with_quick = shelf.rows(include_limited=True)
    assert {row.rank for row in with_quick if row.limited} == {None}
    assert [row.limited for row in with_quick] == [False, False, False, True, True], "last, however good"
    assert [row.rank for row in with_quick if not row.limited] == [1, 2, 3]
    (baseline,) = [row for row in with_quick if row.objective == "baseline" and not row.limited]
    assert baseline.n_seeds == 2


def test_selection_on_the_test_set_has_no_rank(shelf: Shelf) -> None:
    shelf.add("peeking", 0, {"single": [1.0] * 4}, selection=Selection(rule="oracle", step=3, candidates=9))
    ranks = {(row.objective, row.predictor): row.rank for row in shelf.rows()}
    assert ranks["peeking", "single"] is None
    assert ranks["sla", "aggregated"] == 1


def test_unfinished_and_failed_trials_are_left_out(shelf: Shelf) -> None:
    shelf.add("broken", 0, {"single": [1.0] * 4}, status="failed", error="out of memory")
    shelf.add("halted", 0, {"single": [1.0] * 4}, status="interrupted")
    assert {row.objective for row in shelf.rows()} == {"baseline", "sla"}


def test_a_trial_recorded_twice_counts_once_and_the_later_one() -> None:
    shelf = Shelf()
    shelf.add("sla", 0, {"single": [0.9, 0.9]}, key="a" * 64, finished="2026-01-03T00:00:00+00:00")
    shelf.add("sla", 0, {"single": [0.1, 0.1]}, key="b" * 64, finished="2026-01-02T00:00:00+00:00")
    (row,) = shelf.rows()
    assert (row.n_seeds, row.keys) == (1, ("a" * 12,))
    assert row.mean == pytest.approx(0.9)


def test_a_damaged_side_file_costs_only_the_pairing(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for seed, values in BASELINE.items():
        path = store.save(make_record("baseline", seed, {"single": values}), {"single": values})
    next(path.parent.glob(f"{path.stem}*.npz")).write_bytes(b"PK")
    with pytest.warns(ResultsWarning, match=path.stem):
        (row,) = rows(store.records(), store.episodes)
    assert (row.ci95_from, row.n_seeds) == ("mean-of-seeds", 2)
    assert row.mean == pytest.approx(0.55)


def test_the_csv_as_pandas_reads_it(shelf: Shelf) -> None:
    shelf.add("quick", 3, {"single": [0.25] * 4}, limited=True, name='odd, "name"; with a semicolon')
    found = shelf.rows(include_limited=True)
    frame = pd.read_csv(io.StringIO(to_csv(found)), dtype={"seeds": str})
    assert list(frame.columns) == [*LeaderboardRow.__dataclass_fields__, "image_passes"]
    assert list(frame["name"]) == [row.name for row in found]
    assert list(frame["mean"]) == pytest.approx([0.9, 0.7, 0.55, 0.25]), "fractions, not percent"
    assert frame["rank"].tolist()[:3] == [1, 2, 3]
    assert math.isnan(frame["rank"][3])
    assert frame["limited"].tolist() == [False, False, False, True]
    assert frame["seeds"].tolist() == ["0", "0", "0 1", "3"]
    assert frame["std_seeds"].isna().tolist() == [True, True, False, True]
    assert frame["n_test"].tolist() == [4] * 4


def test_equal_records_give_equal_bytes_in_any_order(shelf: Shelf) -> None:
    shelf.add("twin", 0, {"single": SLA[0]})
    shelf.add("other", 0, {"single": SLA[0]}, episodes_digest="a" * 64)
    expected = to_csv(shelf.rows())
    for seed in range(5):
        random.Random(seed).shuffle(shelf.records)
        assert to_csv(shelf.rows()) == expected
    assert "\r" not in expected
    assert expected.endswith("\n")


def test_a_recipe_of_another_version_leaves_blanks() -> None:
    record = make_record("sla", recipe={"name": "old", "sla": {"transforms": "a-set-that-is-not-installed"}})
    (row,) = rows([record], None)
    assert (row.ways, row.backbone, row.transforms, row.M) == (None, None, "a-set-that-is-not-installed", None)


def test_the_learner_is_the_recipe_s_or_else_the_suite_s(shelf: Shelf) -> None:
    assert {row.learner for row in shelf.rows()} == {"episodic"}
    (classifier,) = rows([classifier_record(per_class={"a": 0.9}, counts={"a": 200})], None)
    assert classifier.learner == "classifier"
    record = make_record("baseline")
    recipe = {**record.recipe, "model": {**record.recipe["model"], "learner": "maml"}}
    (row,) = rows([make_record("baseline", recipe=recipe)], None)
    assert row.learner == "maml"


def test_scoring_is_timed_by_itself(shelf: Shelf) -> None:
    assert {(row.train_seconds, row.score_seconds) for row in shelf.rows()} == {(60.0, 1.0)}


def test_stale_entries_neither_have_nor_cost_a_rank(shelf: Shelf) -> None:
    shelf.add("better", 0, {"single": [1.0, 1.0, 1.0, 1.0]}, protocol_version=99)
    assert [(row.objective, row.rank, row.stale, row.stale_why) for row in shelf.rows()] == [
        ("sla", 1, False, None),
        ("sla", 2, False, None),
        ("baseline", 3, False, None),
        ("better", None, True, "made by version 99 of the protocol, which is now version 1"),
    ]


def test_a_stale_seed_neither_joins_nor_replaces_a_present_one(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing but staleness tells two records of one recipe apart, such as another subset of a long tail."""
    older, newer = [record for record in shelf.records if record.name == "fewshot/baseline"]
    again = newer.model_copy(update={"key": "9" * 64, "finished": "2026-02-01T00:00:00+00:00"})
    shelf.records.append(again)
    shelf.arrays[again.key] = shelf.arrays[newer.key]
    why = {again.key: "of other images"}
    monkeypatch.setattr(entries_room, "stale", lambda record, present: why.get(record.key))
    found = {row.stale: row for row in shelf.rows() if row.objective == "baseline"}
    assert (found[False].keys, found[False].rank) == ((older.key[:12], newer.key[:12]), 3)
    assert (found[True].keys, found[True].rank) == (("9" * 12,), None)


def test_the_python_api_keeps_stale_rows_apart_and_has_published_numbers(tmp_path: Path) -> None:
    store, accuracies = ResultStore(tmp_path), {"single": [0.5, 0.25, 0.5]}
    store.save(make_record("baseline", accuracies=accuracies), accuracies)
    better = {"single": [0.9, 0.8, 0.9]}
    store.save(make_record("sla", accuracies=better, protocol_version=99), better)
    present, old = slabench.leaderboard(tmp_path)
    assert (present.objective, present.rank, present.stale) == ("baseline", 1, False)
    assert (old.objective, old.rank, old.stale) == ("sla", None, True)
    assert present.published is not None
    assert present.published_source is not None


def test_no_records_give_a_header_only() -> None:
    assert to_csv(rows([], None)).count("\n") == 1


def test_the_table_is_in_percent(shelf: Shelf) -> None:
    console = Console(width=80, record=True, file=io.StringIO(), color_system=None)
    console.print(table(shelf.rows()))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["2", "sla", "single", "70.00", "18.37", "-", "1", "4.00M", "1.0"] in lines
    assert ["3", "baseline", "single", "55.00", "18.37", "7.07", "2", "1.00M", "1.0"] in lines


def test_the_table_parts_what_must_not_be_compared(shelf: Shelf) -> None:
    shelf.add("other", 0, {"single": [1.0] * 4}, episodes_digest="f" * 64)
    console = Console(width=80, record=True, file=io.StringIO(), color_system=None)
    console.print(table(shelf.rows()))
    assert console.export_text().count("fewshot/fc100/5w5s15q, version 1") == 2


def test_rows_of_classifiers() -> None:
    """Groups without a class are empty, not 0; two seeds are averaged; LDAM's layer is a cosine layer."""
    counts = {"a": 200, "b": 50, "c": 30}
    settings: dict[str, Any] = {"counts": counts, "few": None, "loss": "ldam"}
    records = [
        classifier_record(per_class={"a": 0.9, "b": 0.6, "c": 0.3}, seed=0, **settings),
        classifier_record(per_class={"a": 0.7, "b": 0.6, "c": 0.2}, seed=1, **settings),
    ]
    (row,) = rows(records, None)
    assert (row.n_seeds, row.test_unit, row.n_test) == (2, "images", 4)
    assert row.mean == pytest.approx(0.55)
    assert (row.balanced, row.many, row.few, row.top5) == (pytest.approx(0.55), pytest.approx(0.55), None, None)
    assert (row.best_val, row.oracle) == (pytest.approx(0.54), pytest.approx(0.56))
    assert (row.loss, row.head, row.reweight) == ("ldam", "cosine", "none")
    (read,) = csv.DictReader(io.StringIO(to_csv([row])))
    assert (read["few"], read["many"], read["nll"]) == ("", "0.550000", "1.500000")
    console = Console(file=io.StringIO(), width=100)
    console.print(table([row]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "n/a" in shown
    assert "55.00" in shown
