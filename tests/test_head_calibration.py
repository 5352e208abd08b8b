"""NLL, ECE and temperature of few-shot heads: against scikit-learn, SciPy and closed forms; records and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handed_in import judged
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import log_loss

from slabench import runner
from slabench.core import paths
from slabench.core.errors import DataMissingError, UsageError
from slabench.embedders import open_features
from slabench.embedders.importing import import_features
from slabench.evaluation.calibration import Reliability
from slabench.ranking.boards import boards
from slabench.ranking.rows import rows
from slabench.recipes import load_recipe
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.runner.verification import verify
from slabench.suites.fewshot.score_features import score_features
from slabench.suites.fewshot.score_heads import score_heads

pytestmark = pytest.mark.usefixtures("pool")


def test_nll_is_that_of_scikit_learn() -> None:
    z, labels = torch.randn(6, 10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60).view(6, 10) % 4
    found = Reliability((1.0, 3.0))
    found.add(z[:2], labels[:2])
    found.add(z[2:], labels[2:])
    expected = [
        log_loss(labels.flatten().numpy(), softmax(z.flatten(0, 1).double().numpy() / t, axis=1)) for t in (1, 3)
    ]
    np.testing.assert_allclose(found.nll(), expected, rtol=1e-12)


def test_ece_of_two_confidences() -> None:
    """Ten predictions of 0.9, six of them right; thirty of 0.7, twenty-four right: 1/4 of 0.3 and 3/4 of 0.1."""
    confidence = torch.tensor([0.9] * 10 + [0.7] * 30, dtype=torch.float64)
    z = torch.stack([confidence.log(), (1 - confidence).log()], 1)
    labels = torch.tensor([0] * 6 + [1] * 4 + [0] * 24 + [1] * 6)
    found = Reliability()
    found.add(z, labels)
    assert found.ece() == pytest.approx([0.25 * 0.3 + 0.75 * 0.1])


def scored(folder: Path, **more: Any) -> RunRecord:
    asked: dict[str, Any] = {"shots": [1], "episodes": 20, "queries": 15, "results": folder, "save": True} | more
    (result,) = score_features("pool", "glyphs", ["cosine"], **asked).results
    found = ResultStore(folder).find(result.record.key)
    assert found is not None
    return found


def cosines(split: str, file: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines to the one support of each class, from the index file and the features alone: `[n, 5]`, and the ways."""
    x = open_features("pool", "glyphs", split).features()[:, 0].astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    rows_of = np.load(file)[:count].astype(int)  # [E, 5, 1 + 15]
    z = np.einsum("eqd,ewd->eqw", x[rows_of[..., 1:]].reshape(len(rows_of), 75, -1), x[rows_of[..., 0]])
    return z.reshape(-1, 5), np.tile(np.repeat(np.arange(5), 15), len(rows_of))


def test_the_temperature_is_the_best_of_the_validation_classes(tmp_path: Path) -> None:
    found = scored(tmp_path, calibrate=True, predictors=["single"]).scores[0].calibration
    assert found is not None
    val, truth = cosines("val", str(paths.episodes() / "glyphs/val-5w1s15q-2000.npy"), 500)
    best = minimize_scalar(lambda b: log_loss(truth, softmax(np.exp(b) * val, axis=1)), bounds=(-14, 8))
    nll_at = [log_loss(truth, softmax(val / t, axis=1)) for t in (found.temperature, np.exp(-best.x))]
    assert nll_at[0] == pytest.approx(nll_at[1], abs=1e-7)  # flat where the features tell so little
    test, truth = cosines("test", str(paths.user_episodes() / "glyphs/test-5w1s15q-20.npy"), 20)
    assert found.nll == pytest.approx(log_loss(truth, softmax(test, axis=1)), abs=1e-5)
    assert found.nll_scaled == pytest.approx(log_loss(truth, softmax(test / found.temperature, axis=1)), abs=1e-5)
    p = softmax(test, axis=1)
    bins = np.digitize(p.max(1), np.linspace(0, 1, 16)[1:-1], right=True)
    gaps = [abs(((p.argmax(1) == truth) - p.max(1))[bins == b].sum()) for b in range(15)]
    assert found.ece == pytest.approx(sum(gaps) / len(p), abs=1e-4)
    assert (found.bins, found.n, found.episodes) == (15, 500, "glyphs/val-5w1s15q-2000")


def test_a_kept_score_is_calibrated_when_it_is_asked_for(tmp_path: Path) -> None:
    plain = scored(tmp_path)
    store = ResultStore(tmp_path)
    assert "calibration" not in store.path(plain).read_text()
    before = {name: values.copy() for name, values in store.episodes(plain).items()}
    made = scored(tmp_path, calibrate=True)
    assert made.key == plain.key
    assert all(score.calibration for score in made.scores)
    for name, values in store.episodes(made).items():
        np.testing.assert_array_equal(values, before[name])
    again = score_features(
        "pool", "glyphs", ["cosine"], shots=[1], episodes=20, queries=15, results=tmp_path, save=True, calibrate=True
    )
    assert [result.seconds for result in again.results] == [0]


@pytest.mark.parametrize("calibrate", [False, True])
def test_columns_are_there_where_something_is_calibrated(tmp_path: Path, calibrate: bool) -> None:
    record = scored(tmp_path, calibrate=calibrate)
    (board,) = boards(rows([record], ResultStore(tmp_path).episodes), "wide")
    headings = {column.heading for column in board.columns}
    assert (headings >= {"T", "NLL(T)", "ECE(T)"}) == calibrate
    by_predictor = {row.predictor: row for row in board.rows}
    for score in record.scores:
        expected = (score.calibration.temperature, score.calibration.ece) if score.calibration else (None, None)
        assert (by_predictor[score.predictor].temperature, by_predictor[score.predictor].ece) == expected


def sure(record: dict[str, Any]) -> None:
    record["scores"][0]["calibration"]["nll_scaled"] = 0.1


def of_the_test(record: dict[str, Any]) -> None:
    record["scores"][0]["calibration"]["episodes"] = record["episodes"]


def other_episodes(record: dict[str, Any]) -> None:
    record["scores"][0]["calibration"]["episodes_digest"] = "0" * 64


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (lambda record: None, "T "),
        (sure, "is not possible"),
        (of_the_test, "was chosen on"),
        (other_episodes, "another digest"),
    ],
)
def test_verify_holds_it_to_the_episodes(tmp_path: Path, lie: Callable[[dict[str, Any]], None], says: str) -> None:
    record = scored(tmp_path / "r", calibrate=True, predictors=["single"])
    found = judged(ResultStore(tmp_path / "r").path(record), tmp_path, lie)
    state, message = found["calibration"]
    assert says in message
    assert state == ("ok" if says == "T " else "wrong")


def test_a_trained_run_is_judged_like_the_features_that_it_gives(tmp_path: Path) -> None:
    settings = {
        "data.dataset": "glyphs",
        "model.embedder": "pool",
        "protocol.episodes": 20,
        "sla.transforms": "rotation",
        "select.points": 0,
        "select.start": False,
        "select.rule": "last",
    }
    (recipe,) = [r for r in load_recipe("fewshot/adapter", settings) if r.name.endswith("frozen")]
    (outcome,) = runner.run(recipe, seeds=[0], results=tmp_path, device="cpu")
    assert outcome.record is not None
    (result,) = score_heads(outcome.record.key, ["cosine"], shots=[1], results=tmp_path, calibrate=True).results
    frozen = scored(tmp_path / "frozen", calibrate=True)
    for score in result.record.scores:  # nothing is trained, so that the features are the same
        other = frozen.score(score.predictor)
        assert other is not None
        assert other.calibration is not None
        assert score.calibration is not None
        assert score.calibration.temperature == pytest.approx(other.calibration.temperature, rel=1e-4)
        assert score.calibration.nll_scaled == pytest.approx(other.calibration.nll_scaled, abs=1e-6)
    for more in ({"open_set": 3}, {"head_selection": "validation"}, {"head_selection": "ensemble"}):
        asked: dict[str, Any] = {"shots": [1], "episodes": 20, "results": tmp_path, "save": True} | more
        (run,) = score_heads(outcome.record.key, ["metaoptnet-rr"], **asked).results
        (features,) = score_features("pool", "glyphs", ["metaoptnet-rr"], **asked).results
        assert run.record.protocol == features.record.protocol
        assert [(s.predictor, s.value, s.open_set, s.head_selection) for s in run.record.scores] == [
            (s.predictor, pytest.approx(s.value), s.open_set, s.head_selection) for s in features.record.scores
        ]
    store = ResultStore(tmp_path)
    assert all(verdict.ok for verdict in verify(store.path(record) for record in store.records()))


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ways were asked for, and the validation split has"):
        scored(tmp_path, calibrate=True, ways=[30])
    test = open_features("pool", "glyphs", "test")
    np.savez(tmp_path / "test.npz", features=test.features().astype(np.float32), ids=np.arange(len(test)))
    import_features("alone", tmp_path / "test.npz", "glyphs")
    with pytest.raises(DataMissingError, match="lack"):
        score_features("alone", "glyphs", ["cosine"], shots=[1], episodes=20, calibrate=True)
