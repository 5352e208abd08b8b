"""A head's own parameter: the best of its grid on validation classes, or all of it; against ridge regression by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handed_in import judged
from scipy.special import softmax
from typer.testing import CliRunner

from slabench.cli.app import app
from slabench.core import paths, registry
from slabench.core.errors import UsageError
from slabench.embedders import open_features
from slabench.heads import Grid
from slabench.heads.selection import with_value
from slabench.ranking.rows import rows
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.runner.verification import verify
from slabench.suites.fewshot.score_features import score_features

pytestmark = pytest.mark.usefixtures("pool")
HEAD, COUNT = "metaoptnet-rr", 20
GRID = (0.5, 5.0, 50.0, 500.0, 5000.0)


def scored(folder: Path, rule: str, **more: Any) -> RunRecord:
    asked: dict[str, Any] = {"shots": [1], "episodes": COUNT, "results": folder, "save": True, "predictors": ["single"]}
    (result,) = score_features("pool", "glyphs", [HEAD], **(asked | more), head_selection=rule).results
    found = ResultStore(folder).find(result.record.key)
    assert found is not None
    return found


def by_hand(split: str, file: Path, count: int) -> dict[float, np.ndarray]:
    """Ridge regression of one-hot labels without intercept: logits `[E, 75, 5]` for every penalty, in NumPy."""
    x = open_features("pool", "glyphs", split).features()[:, 0].astype(np.float64)
    rows_of = np.load(file)[:count].astype(int)
    support, query = x[rows_of[..., 0]], x[rows_of[..., 1:]].reshape(len(rows_of), 75, -1)
    gram = support @ support.transpose(0, 2, 1)
    return {c: query @ support.transpose(0, 2, 1) @ np.linalg.inv(gram + c * np.eye(5)) for c in GRID}


TRUTH = np.repeat(np.arange(5), 15)


def test_validation_takes_the_best_of_the_grid(tmp_path: Path) -> None:
    record = scored(tmp_path, "validation")
    found = by_hand("val", paths.episodes() / "glyphs/val-5w1s15q-2000.npy", 500)
    accuracy = {c: (z.argmax(-1) == TRUTH).mean() for c, z in found.items()}
    assert len(set(accuracy.values())) > 2
    (score,) = record.scores
    chosen = score.head_selection
    assert chosen is not None
    assert (chosen.rule, chosen.parameter) == ("validation", "penalty")
    assert chosen.value is not None
    assert accuracy[chosen.value] == pytest.approx(max(accuracy.values()), abs=1e-3)  # float32 turns a few ties
    assert chosen.val_accuracy == pytest.approx(accuracy[chosen.value], abs=1e-3)
    test = by_hand("test", paths.user_episodes() / "glyphs/test-5w1s15q-20.npy", COUNT)[chosen.value]
    np.testing.assert_allclose(
        ResultStore(tmp_path).episodes(record)["single"], (test.argmax(-1) == TRUTH).mean(1), atol=0.02
    )


def test_an_ensemble_is_the_mean_of_probabilities(tmp_path: Path) -> None:
    record = scored(tmp_path, "ensemble")
    found = by_hand("test", paths.user_episodes() / "glyphs/test-5w1s15q-20.npy", COUNT)
    p = np.mean([softmax(z, axis=-1) for z in found.values()], axis=0)
    assert record.scores[0].value == pytest.approx((p.argmax(-1) == TRUTH).mean(), abs=3e-3)
    assert record.scores[0].head_selection is not None
    assert record.scores[0].head_selection.value is None


def test_every_rule_is_a_row_of_its_own(tmp_path: Path) -> None:
    made = {rule: scored(tmp_path, rule) for rule in ("fixed", "validation", "ensemble")}
    assert len({record.key for record in made.values()}) == 3
    assert len({record.protocol_digest for record in made.values()}) == 1
    assert "head_selection" not in ResultStore(tmp_path).path(made["fixed"]).read_text()
    store = ResultStore(tmp_path)
    shown = {row.name.rpartition("+")[2]: row.head_selection for row in rows(store.records(), store.episodes)}
    assert shown == {HEAD: "fixed", f"{HEAD}-validation": "validation", f"{HEAD}-ensemble": "ensemble"}
    verdicts = list(verify(store.path(record) for record in store.records()))
    assert all(verdict.ok for verdict in verdicts)
    assert all(line.state == "ok" for verdict in verdicts for line in verdict.lines if line.check == "key")
    assert [scored(tmp_path, "validation").finished] == [made["validation"].finished]  # kept


def other_value(record: dict[str, Any]) -> None:
    record["scores"][0]["head_selection"]["value"] = 7.0


def on_the_test(record: dict[str, Any]) -> None:
    record["recipe"]["model"]["head_selection"]["episodes"] = record["episodes"]


def called_fixed(record: dict[str, Any]) -> None:
    del record["recipe"]["model"]["head_selection"]


@pytest.mark.parametrize("lie", [other_value, on_the_test, called_fixed])
def test_verify_finds_a_lie(tmp_path: Path, lie: Callable[[dict[str, Any]], None]) -> None:
    record = scored(tmp_path / "r", "validation")
    found = judged(ResultStore(tmp_path / "r").path(record), tmp_path, lie)
    assert found["head selection"][0] == "wrong"


def test_what_has_nothing_to_choose_is_refused_or_left_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="protonet has no parameter to choose"):
        score_features("pool", "glyphs", ["protonet", HEAD], head_selection="validation")
    with pytest.raises(UsageError, match="validaton"):
        score_features("pool", "glyphs", [HEAD], head_selection="validaton")
    found = score_features("pool", "glyphs", None, shots=[1], episodes=2, head_selection="ensemble")
    assert found.count == 3
    assert "cosine: it has no parameter to choose by ensemble" in found.left_out
    words = ["score", "--features", "pool", "--dataset", "glyphs", "--all-classes", "--head-selection", "ensemble"]
    assert "--head-selection has no effect" in str(CliRunner().invoke(app, words).exception)


def test_every_grid_is_of_a_parameter_that_its_head_takes() -> None:
    with_grid = [head for name in registry.HEADS.names() if (head := registry.HEADS.get(name)).grid is not None]
    assert {head.name for head in with_grid} >= {"logistic", "metaoptnet-svm", HEAD, "tim", "laplacian-shot", "pt-map"}
    for head in with_grid:
        assert head.grid is not None
        assert all(with_value(head, value).logits for value in head.grid.values)
    with pytest.raises(UsageError, match="does not take"):
        with_value(replace(with_grid[0], grid=Grid("nothing", (1.0,))), 1.0)
