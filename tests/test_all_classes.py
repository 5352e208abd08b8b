"""n images of every class, the whole test set: against scikit-learn, frozen draws, records and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import pooled
from handed_in import judged
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import NearestCentroid
from typer.testing import CliRunner

from slabench.cli.app import app
from slabench.core import paths
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.core.files import digest_json
from slabench.data.loading import load_images, load_rows
from slabench.embedders import open_features
from slabench.episodes import draws
from slabench.ranking.boards import boards
from slabench.ranking.rows import rows
from slabench.records.staleness import stale
from slabench.records.store import ResultStore
from slabench.runner.verification import verify
from slabench.suites.fewshot.all_classes import AllClasses, score_all_classes
from slabench.suites.fewshot.score_features import score_features

pytestmark = pytest.mark.usefixtures("pool")


def scoring(folder: Path, heads: list[str], **more: Any) -> AllClasses:
    asked: dict[str, Any] = {"shots": [2], "seeds": [0], "results": folder, "save": True} | more
    return score_all_classes("pool", "glyphs", heads, **asked)


def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What draw 0 of 2 shots is: plain features and labels of supports and of the test, from images and index file."""
    _, train, test = load_images("glyphs")
    drawn = np.load(paths.episodes() / "all-classes" / "glyphs" / "2s-10.npy")[0].astype(int).ravel()
    x, y = (pooled(images)[:, 0].astype(np.float64) for images in (train, test))
    return x[drawn], train.labels[drawn], y, test.labels


def test_heads_do_what_scikit_learn_does(tmp_path: Path) -> None:
    found = {r.head: r.record for r in scoring(tmp_path, ["protonet", "logistic"], predictors=["single"]).results}
    x, labels, query, truth = problem()
    store = ResultStore(tmp_path)

    def right(head: str) -> np.ndarray:
        record = store.find(found[head].key)
        assert record is not None
        return store.episodes(record)["single"]

    nearest = NearestCentroid().fit(x, labels).predict(query) == truth
    assert (nearest == right("protonet")).mean() > 0.995  # equal distances, in float32
    unit, asked = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, query))
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(unit, labels)
    assert (model.predict(asked) == truth).mean() == pytest.approx(right("logistic").mean(), abs=2e-3)
    (score,) = found["logistic"].scores
    assert score.metrics is not None
    assert score.metrics.nll == pytest.approx(log_loss(truth, model.predict_proba(asked)), abs=1e-4)
    assert score.value == pytest.approx(score.metrics.balanced)  # as many test images of each class


def test_a_centred_head_takes_off_the_mean_of_its_supports(tmp_path: Path) -> None:
    (found,) = scoring(tmp_path, ["simpleshot"], predictors=["single"]).results
    x, labels, query, truth = problem()
    x, query = x - (mean := x.mean(0)), query - mean
    x, query = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, query))
    expected = (NearestCentroid().fit(x, labels).predict(query) == truth).mean()
    assert found.record.scores[0].value == pytest.approx(expected, abs=2e-3)


def test_draws_are_the_ones_that_everybody_gets(tmp_path: Path) -> None:
    train = load_rows("glyphs", "image-train")
    one, four = (draws.load_draws(train, "glyphs", n) for n in (1, 4))
    assert one.path.is_relative_to(paths.episodes())
    assert draws.make(train, "glyphs", 4, tmp_path).read_bytes() == four.path.read_bytes()
    assert four.rows.shape == (draws.DRAWS, train.n_classes, 4)
    np.testing.assert_array_equal(one.rows, four.rows[..., :1])  # a draw of fewer shots begins that of more
    assert (train.labels[four.rows] == np.arange(train.n_classes)[:, None]).all()
    assert len({tuple(draw.ravel()) for draw in four.rows}) == draws.DRAWS
    assert all(len(set(of_class)) == 4 for draw in four.rows for of_class in draw)


def test_draws_are_made_by_hand_too(tmp_path: Path) -> None:
    words = ["episodes", "make", "glyphs", "--all-classes", "--shots", "3", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    path = tmp_path / "all-classes" / "glyphs" / "3s-10.npy"
    assert "10 draws of 3 of the training images of each of 121 classes" in result.output
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    CliRunner().invoke(app, words, catch_exceptions=False)  # what the error of a damaged file says to do
    assert path.read_bytes() == whole


def test_damaged_draws_are_refused(tmp_path: Path) -> None:
    train = load_rows("glyphs", "image-train")
    path = draws.make(train, "glyphs", 2, tmp_path)
    whole, manifest = path.read_bytes(), json.loads(path.with_suffix(".json").read_text())
    path.write_bytes(whole[:-2])
    with pytest.raises(IntegrityError, match="sha256"):
        draws.open_file(path, train)
    path.write_bytes(whole)
    path.with_suffix(".json").write_text(json.dumps(manifest | {"dataset_digest": "0" * 64}))
    with pytest.raises(IntegrityError, match="was drawn from glyphs"):
        draws.open_file(path, train)
    path.with_suffix(".json").write_text(json.dumps(manifest | {"shots": 1}))
    with pytest.raises(DataError, match=r"holds uint16 \[10, 121, 2\]"):
        draws.open_file(path, train)


def test_draws_are_the_seeds_of_one_row(tmp_path: Path) -> None:
    found = scoring(tmp_path, ["protonet"], seeds=[0, 3], shots=[1, 2])
    made = list(found.results)
    assert (found.count, len(made)) == (4, 4)
    store = ResultStore(tmp_path)
    shown = rows(store.records(), store.episodes)
    assert {(row.protocol, row.n_seeds, row.seeds, row.test_unit) for row in shown} == {
        ("allclasses/glyphs/1s", 2, (0, 3), "images"),
        ("allclasses/glyphs/2s", 2, (0, 3), "images"),
    }
    assert {row.predictor for row in shown} == {"single", "aggregated"}
    assert all(row.std_seeds is not None for row in shown)
    assert len(boards(shown, "table")) == 2
    assert [r.seconds for r in scoring(tmp_path, ["protonet"]).results] == [0]
    assert all(verdict.ok for verdict in verify(store.path(record) for record in store.records()))


def test_they_stand_apart_from_episodes(tmp_path: Path) -> None:
    list(scoring(tmp_path, ["protonet"]).results)
    list(score_features("pool", "glyphs", ["protonet"], results=tmp_path, save=True, episodes=5, queries=3).results)
    store = ResultStore(tmp_path)
    found = boards(rows(store.records(), store.episodes), "table")
    assert sorted(board.title for board in found) == ["allclasses/glyphs/2s", "fewshot/glyphs/5w5s3q"]


def another_seed(record: dict[str, Any]) -> None:
    record["training_set"]["seed"] = 4


def another_draw(record: dict[str, Any]) -> None:
    record["training_set"]["draws_sha256"] = record["split_digest"] = "0" * 64


def more_shots(record: dict[str, Any]) -> None:
    record["recipe"]["protocol"]["shots"] = 4
    record["recipe_digest"] = digest_json(
        {"recipe": record["recipe"], "embedder": {k: v for k, v in record["embedder"].items() if k != "features"}}
    )


@pytest.mark.parametrize("lie", [another_seed, another_draw, more_shots])
def test_a_lie_about_the_training_images_is_found(tmp_path: Path, lie: Any) -> None:
    (result,) = scoring(tmp_path / "r", ["protonet"], predictors=["single"]).results
    found = judged(ResultStore(tmp_path / "r").path(result.record), tmp_path, lie)
    assert "wrong" in (found["episodes"][0], found["protocol"][0])


def test_a_record_of_other_draws_is_stale(tmp_path: Path) -> None:
    (result,) = scoring(tmp_path, ["protonet"], predictors=["single"]).results
    assert stale(result.record) is None
    facts = {**(result.record.training_set or {}), "draws_sha256": "0" * 64}
    old = result.record.model_copy(update={"training_set": facts})
    assert "other training images than the present draws all-classes/glyphs/2s-10" in str(stale(old))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "fc100"}, "few-shot split of cifar100"),
        ({"seeds": [10]}, "seed 10 has no draw"),
        ({"seeds": [-1]}, "not a whole number from 0 on"),
        ({"shots": [500]}, "training images, and 500 were asked for"),
        ({"heads": ["tim"]}, "tim is transductive"),
        ({"heads": ["protonett"]}, "protonett"),
        ({"dataset": "pool"}, "labels alone"),
        ({"heads": ["metaoptnet-svm"], "shots": [16]}, "its solver would take"),
    ],
)
def test_what_cannot_be_scored_is_refused_first(change: dict[str, Any], says: str) -> None:
    asked: dict[str, Any] = {"name": "pool", "dataset": "glyphs", "heads": ["protonet"], "shots": [2]} | change
    with pytest.raises(UsageError, match=says) as raised:
        score_all_classes(**asked)
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--features", "pool", "--dataset", "glyphs", "--seeds", "0"], "--seeds are draws of --all-classes"),
        (["abcdef", "--all-classes"], "RUN has no effect with --all-classes"),
        (["--features", "pool", "--dataset", "glyphs", "--all-classes", "--ways", "5"], "--ways has no effect"),
        (["--features", "pool", "--dataset", "glyphs", "--all-classes", "--dry-run"], "--dry-run has no effect"),
        (["--features", "pool", "--all-classes"], "labels alone|whose training and test images"),
    ],
)
def test_flags_without_a_meaning_are_refused(words: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["score", *words])
    assert result.exit_code != 0
    assert result.exception is not None
    assert re.search(says, str(result.exception) + result.output)


def test_the_command_prints_means_over_draws(tmp_path: Path) -> None:
    of_what = ["--features", "pool", "--dataset", "glyphs", "--all-classes", "--shots", "1", "--seeds", "0,1"]
    words = ["score", *of_what, "--heads", "protonet", "--results", str(tmp_path)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    values = [record.scores[0].value for record in ResultStore(tmp_path).records()]
    assert f"{100 * np.mean(values):.2f}±{100 * np.std(values, ddof=1):.2f}" in result.output
    assert open_features("pool", "glyphs", "image-test").M == 4
