"""Episodes with queries of unknown classes: frozen beside the closed ones, AUROC and FPR by scikit-learn, records, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handed_in import judged
from sklearn.metrics import roc_auc_score, roc_curve

from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.data.loading import load_rows
from slabench.embedders import open_features
from slabench.episodes.files import load_episodes, make, open_file
from slabench.ranking.boards import boards
from slabench.ranking.rows import rows
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.runner.verification import verify
from slabench.suites.fewshot.score_features import score_features

pytestmark = pytest.mark.usefixtures("pool")
WAYS, SHOTS, QUERIES, COUNT, UNKNOWN = 5, 2, 6, 25, 3
SIZES = (WAYS, SHOTS, QUERIES, COUNT)


def test_a_file_is_the_closed_one_with_other_classes_behind() -> None:
    images = load_rows("glyphs", "test")
    closed = load_episodes(images, "glyphs", "test", *SIZES)
    opened = load_episodes(images, "glyphs", "test", *SIZES, unknown=UNKNOWN)
    assert opened.name == f"{closed.name}-open3"
    assert opened.digest != closed.digest
    rows_of = opened.episodes.rows.numpy()
    np.testing.assert_array_equal(rows_of[:, :WAYS], closed.episodes.rows.numpy())
    assert (rows_of[:, WAYS:, :SHOTS] == -1).all()
    asked = rows_of[:, WAYS:, SHOTS:]
    assert asked.shape == (COUNT, UNKNOWN, QUERIES)
    for ways, queries in zip(closed.episodes.classes.tolist(), images.labels[asked], strict=True):
        others = [set(of_class) for of_class in queries.tolist()]
        assert all(len(of_class) == 1 for of_class in others)
        assert len(set.union(*others)) == UNKNOWN
        assert not set.union(*others) & set(ways)
    assert all(len(set(of_class.tolist())) == QUERIES for episode in asked for of_class in episode)


def test_everybody_gets_the_same_bytes_and_damage_is_seen(tmp_path: Path) -> None:
    images = load_rows("glyphs", "test")
    first, second = (
        make(images, "glyphs", "test", *SIZES, tmp_path / name, unknown=UNKNOWN) for name in ("one", "two")
    )
    assert first.read_bytes() == second.read_bytes()
    manifest = json.loads(first.with_suffix(".json").read_text())
    assert manifest["unknown"] == UNKNOWN
    first.with_suffix(".json").write_text(json.dumps(manifest | {"unknown": 2, "ways": WAYS + 1}))
    with pytest.raises(DataError, match="no support image"):  # an unknown class as a way
        open_file(first, images)
    closed = make(images, "glyphs", "test", *SIZES, tmp_path)
    assert "unknown" not in json.loads(closed.with_suffix(".json").read_text())


def scored(folder: Path, head: str = "cosine", **more: Any) -> RunRecord:
    asked: dict[str, Any] = {
        "shots": [SHOTS],
        "queries": QUERIES,
        "episodes": COUNT,
        "open_set": UNKNOWN,
        "results": folder,
        "save": True,
    }
    (result,) = score_features("pool", "glyphs", [head], **(asked | more)).results
    found = ResultStore(folder).find(result.record.key)
    assert found is not None
    return found


def test_auroc_and_fpr_are_those_of_scikit_learn(tmp_path: Path) -> None:
    record = scored(tmp_path, predictors=["single"])
    x = open_features("pool", "glyphs", "test").features()[:, 0].astype(np.float64)
    file = np.load(paths.user_episodes() / "glyphs/test-5w2s6q-25-open3.npy").astype(int)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    known = np.repeat([1, 0], [WAYS * QUERIES, UNKNOWN * QUERIES])
    auroc, fpr, accuracy = [], [], []
    for episode in file:
        means = np.stack([x[way[:SHOTS]].mean(0) for way in episode[:WAYS]])
        z = unit[episode[:, SHOTS:].ravel()] @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
        auroc.append(roc_auc_score(1 - known, -z.max(1)))
        wrong, right, _ = roc_curve(known, z.max(1), drop_intermediate=False)
        fpr.append(wrong[right >= 0.95].min())
        accuracy.append((z[known == 1].argmax(1) == np.repeat(np.arange(WAYS), QUERIES)).mean())
    (score,) = record.scores
    np.testing.assert_allclose(ResultStore(tmp_path).episodes(record)["single"], auroc, atol=2e-3)  # ties of float32
    assert score.metric == "auroc"
    assert score.value == pytest.approx(np.mean(auroc), abs=2e-4)
    assert score.open_set is not None
    assert score.open_set.fpr95 == pytest.approx(np.mean(fpr), abs=5e-3)
    assert score.open_set.accuracy == pytest.approx(np.mean(accuracy), abs=2e-3)


@pytest.mark.parametrize("head", ["logistic", "simpleshot", "tim"])
def test_every_kind_of_head_has_open_scores(tmp_path: Path, head: str) -> None:
    record = scored(tmp_path, head)
    assert [score.predictor for score in record.scores] == ["single", "aggregated"]
    assert record.transductive == (head == "tim")
    assert all(score.open_set and 0 < score.open_set.fpr95 <= 1 for score in record.scores)


def test_they_stand_in_tables_of_their_own(tmp_path: Path) -> None:
    open_record, closed = scored(tmp_path), scored(tmp_path, open_set=None)
    assert (open_record.suite, open_record.protocol) == ("openset", "openset/glyphs/5w2s6q-3u")
    assert open_record.key != closed.key
    assert "open_set" not in ResultStore(tmp_path).path(closed).read_text()
    store = ResultStore(tmp_path)
    found = {board.title: board for board in boards(rows(store.records(), store.episodes), "wide")}
    headings = {title: {column.heading for column in board.columns} for title, board in found.items()}
    assert {"AUROC", "FPR95", "known acc."} <= headings[open_record.protocol]
    assert "accuracy" not in headings[open_record.protocol]
    assert "accuracy" in headings[closed.protocol]
    assert not {"AUROC", "FPR95"} & headings[closed.protocol]
    # The same supports and known queries: the same accuracy on them.
    for score in closed.scores:
        opened = open_record.score(score.predictor)
        assert opened is not None
        assert opened.open_set is not None
        assert opened.open_set.accuracy == pytest.approx(score.value)
    assert all(verdict.ok for verdict in verify(store.path(record) for record in store.records()))


def as_accuracy(record: dict[str, Any]) -> None:
    record["scores"][0]["metric"] = "accuracy"


def other_unknown(record: dict[str, Any]) -> None:
    record["recipe"]["protocol"]["unknown"] = 4


@pytest.mark.parametrize(("lie", "check"), [(as_accuracy, "episodes"), (other_unknown, "episodes")])
def test_verify_finds_a_lie(tmp_path: Path, lie: Callable[[dict[str, Any]], None], check: str) -> None:
    record = scored(tmp_path / "r", predictors=["single"])
    found = judged(ResultStore(tmp_path / "r").path(record), tmp_path, lie)
    assert found[check][0] == "wrong"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"open_set": 26}, "26 unknown classes were asked for beside 5 ways"),
        ({"open_set": 0}, "--open-set 0 is not positive"),
        ({"open_set": 3, "calibrate": True}, "--calibrate has no effect with --open-set"),
    ],
)
def test_what_cannot_be_asked_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        score_features("pool", "glyphs", ["cosine"], shots=[1], episodes=5, queries=3, **change)
    assert raised.value.remedy
