"""Pre-training, weights, and `slabench score` on runs of the embedded data."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from typer.testing import CliRunner

from slabench import runner
from slabench.cli.score import score as command
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.core.registry import HEADS
from slabench.data import load
from slabench.plugins import load_plugin
from slabench.recipes import load_recipe
from slabench.recipes.fewshot import Recipe
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.suites import fewshot
from slabench.suites.fewshot import head_scores, scoring
from slabench.suites.fewshot.pretraining import PretrainingTask
from slabench.suites.fewshot.score_heads import score_heads
from slabench.suites.fewshot.scoring import base_rows

pytestmark = pytest.mark.usefixtures("glyphs", "narrow_conv4")
APP = typer.Typer()
APP.command()(command)
TINY = {
    "data.dataset": "glyphs",
    "protocol.shots": 2,
    "protocol.queries": 3,
    "protocol.episodes": 20,
    "train.queries": 2,
    "train.steps": 3,
    "train.batch_size": 16,
    "train.precision": "float32",
    "select.points": 1,
    "select.episodes": 5,
}


@pytest.fixture(autouse=True)
def _few_base_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of the training classes over three images of each: a hundred would be most of the time of these tests."""
    monkeypatch.setattr(scoring, "BASE_IMAGES", 3)


def recipe(name: str = "fewshot/standard", **changes: object) -> Recipe:
    found = load_recipe(name, TINY | {key.replace("__", "."): value for key, value in changes.items()})[0]
    assert isinstance(found, Recipe)
    return found


def train(results: Path, **changes: object) -> RunRecord:
    (outcome,) = runner.run(recipe(**changes), [0], results=results)  # type: ignore[arg-type]
    assert outcome.error is None
    assert outcome.record is not None
    return outcome.record


Trained = Callable[..., RunRecord]


@pytest.fixture(scope="module")
def _runs() -> dict[str, Path]:
    """The results folder of each run that was trained already, by its changes."""
    return {}


@pytest.fixture
def trained(_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`trained(results, **changes)` leaves a finished run in a folder, and the features of its images beside it.

    Equal runs are trained and embedded once, and copied.
    """

    def run(results: Path, **changes: object) -> RunRecord:
        name = repr(sorted(changes.items()))
        if name not in _runs:
            folder = tmp_path_factory.mktemp("run")
            record = train(folder, **changes)
            if not changes:  # the others are asked for once
                list(score_heads(record.key[:8], ["protonet"], results=folder).results)
            _runs[name] = folder
        shutil.copytree(_runs[name], results, dirs_exist_ok=True)
        (record,) = ResultStore(results).records()
        return record

    return run


class TestPretraining:
    """The learner `classifier`."""

    @pytest.mark.parametrize("objective", ["baseline", "da", "mt", "sla", "sla+sd"])
    def test_it_runs_with_every_objective_and_is_the_same_twice(self, tmp_path: Path, objective: str) -> None:
        changes = {"model__learner": "classifier", "model__head": "simpleshot", "sla__objective": objective}
        first, second = (train(tmp_path / x, **changes) for x in ("a", "b"))
        assert [s.value for s in first.scores] == [s.value for s in second.scores]
        assert [s.predictor for s in first.scores] == ["single", "aggregated"]
        assert first.cost is not None
        assert first.cost.images_seen == 3 * 16 * (1 if objective == "baseline" else 4)
        assert first.cost.episodes == 0

    def test_batches_deal_every_image_out_once_an_epoch(self) -> None:
        r = recipe("fewshot/pretrained", train__batch_size=100)
        task = fewshot.build_task(r, 0, fewshot.prepare(r), torch.device("cpu"), None)
        assert isinstance(task, PretrainingTask)
        n = len(task.labels)
        steps = -(-n // 100)
        first = torch.cat([task._rows(step) for step in range(steps)])
        second = torch.cat([task._rows(step) for step in range(steps, 2 * steps)])
        assert first.sort().values.tolist() == list(range(n))
        assert second.sort().values.tolist() == list(range(n))
        assert not torch.equal(first, second)

    def test_a_head_that_learns_from_episodes_is_refused(self) -> None:
        with pytest.raises(UsageError, match="relationnet learns from episodes"):
            fewshot.check(recipe(model__learner="classifier", model__head="relationnet"))

    def test_an_objective_of_episodes_is_refused(self) -> None:
        with pytest.raises(UsageError, match="rotated-classes"):
            fewshot.check(recipe(model__learner="classifier", sla__objective="rotated-classes"))

    def test_joint_labels_make_the_layer(self) -> None:
        r = recipe(model__learner="classifier", sla__objective="sla")
        prepared = fewshot.prepare(r)
        task = PretrainingTask(r, 0, prepared, torch.device("cpu"), None)
        assert task.module.layers["joint"].weight.shape[0] == 4 * prepared.train.n_classes  # type: ignore[union-attr]


def test_settings_that_came_later_leave_old_keys_alone() -> None:
    plain = recipe()
    assert "learner" not in plain.resolved()["model"]
    assert "support_profile" not in plain.resolved()["protocol"]
    assert "batch_size" in recipe(train__batch_size=16).resolved()["train"]
    assert "batch_size" not in recipe(train__batch_size=64).resolved()["train"]
    assert recipe(model__learner="classifier").resolved()["model"]["learner"] == "classifier"
    assert recipe(protocol__support_profile="linear:9").digest != plain.digest


class TestScore:
    """`slabench score`."""

    def test_the_runs_own_head_scores_as_the_run_did(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path, model__head="metaoptnet-rr", sla__objective="sla")
        (result,) = score_heads(record.key[:8], ["metaoptnet-rr"], results=tmp_path).results
        assert [s.value for s in result.record.scores] == [s.value for s in record.scores]
        assert result.record.protocol_digest == record.protocol_digest
        assert result.record.key != record.key

    def test_a_head_that_learned_keeps_what_it_learned(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path, model__head="relationnet", train__lr=0.05)
        (result,) = score_heads(record.key[:8], ["relationnet"], results=tmp_path).results
        assert [s.value for s in result.record.scores] == [s.value for s in record.scores]

    def test_logistic_scores_are_scikit_learns_on_the_same_features(self, trained: Trained, tmp_path: Path) -> None:
        """Episode by episode with scikit-learn, from features that the test embeds by itself."""
        record = trained(tmp_path, model__learner="classifier", model__head="protonet")
        (result,) = score_heads(record.key[:8], ["logistic"], shots=[3], results=tmp_path, save=True).results
        r = recipe(model__learner="classifier", model__head="protonet", protocol__shots=3)
        prepared = fewshot.prepare(r)
        task = PretrainingTask(r, 0, prepared, torch.device("cpu"), None)
        store = ResultStore(tmp_path)
        from slabench.suites.fewshot.score_heads import open_weights

        task.module.load_state_dict(dict(open_weights(record, store).tensors))
        task.module.eval()
        info = prepared.info
        pixels = torch.from_numpy(np.array(prepared.test.images)).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(x)[:, None, None] for x in (info.mean, info.std))
        episodes = prepared.test_episodes.episodes
        used, places = np.unique(np.concatenate([episodes.support, episodes.query], axis=-1), return_inverse=True)
        places = places.reshape(len(episodes.support), 5, -1)
        with torch.no_grad():
            x = normalize(task.module.embed((pixels[used] - mean) / std).numpy())
        expected = []
        for support, query in zip(places[..., :3], places[..., 3:], strict=True):
            model = LogisticRegression(tol=1e-10, max_iter=10_000)
            model.fit(x[support.ravel()], np.repeat(np.arange(5), 3))
            expected.append(model.score(x[query.ravel()], np.repeat(np.arange(5), 3)))
        own = store.episodes(result.record if result.record.side_file else store.match(result.record.key))["single"]
        assert np.abs(own - np.array(expected)).mean() < 0.01  # ties within rounding apart
        assert float(result.record.scores[0].value) == pytest.approx(np.mean(expected), abs=0.01)

    def test_all_heads_ways_and_shots(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path)
        scoring = score_heads(record.key[:8], None, [3, 5], [1, 2], results=tmp_path, episodes=10, save=True)
        results = list(scoring.results)
        without = [name for name in HEADS.names() if not (HEADS.get(name).module or HEADS.get(name).transductive)]
        assert len(results) == scoring.count == 4 * len(without)
        assert len(scoring.left_out) == len(HEADS.names()) - len(without)
        assert {(r.setting.ways, r.setting.shots) for r in results} == {(3, 1), (3, 2), (5, 1), (5, 2)}
        records = ResultStore(tmp_path).records()
        assert len(records) == 1 + len(results)
        residuals = {r.head: r.record.scores[0].solver_residual for r in results}
        assert residuals["protonet"] is None
        assert residuals["metaoptnet-svm"] is not None
        assert residuals["metaoptnet-svm"] <= 1e-9

    def test_transductive_heads_are_a_group_of_their_own(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path)
        asked = {"predictors": ["single"], "episodes": 4, "results": tmp_path}
        scoring = score_heads(record.key[:8], ["transductive"], **asked)  # type: ignore[arg-type]
        records = [result.record for result in scoring.results]
        assert {r.recipe["model"]["head"] for r in records} == {"laplacian-shot", "bd-cspn", "tim", "pt-map"}
        assert all(r.transductive for r in records)
        assert not scoring.left_out  # none of them learns from episodes
        assert score_heads(record.key[:8], ["cosine", "transductive", "tim"], **asked).count == 5  # type: ignore[arg-type]

    def test_centring_takes_off_the_mean_of_the_training_classes(self, trained: Trained, tmp_path: Path) -> None:
        """A head that is moved by a constant scores differently; and the mean is over the first images of each class."""
        rows = base_rows(load("glyphs", "train"))
        labels = np.asarray(load("glyphs", "train").labels)[list(rows)]
        assert len(set(np.bincount(labels).tolist())) == 1
        record = trained(tmp_path)
        found = score_heads(record.key[:8], ["simpleshot", "cosine"], results=tmp_path).results
        values = [[s.value for s in r.record.scores] for r in found]
        assert values[0] != values[1]

    def test_profiles(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path)
        (result,) = score_heads(
            record.key[:8], ["protonet"], results=tmp_path, support_profile="linear:3", query_profile="dirichlet:1"
        ).results
        assert result.record.protocol.endswith("-slinear3-qdirichlet1")
        assert result.record.protocol_digest != record.protocol_digest
        assert result.record.scores[0].balanced is not None

    def test_features_are_embedded_once(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path)
        for kept in (tmp_path / "checkpoints").glob("*.features"):
            kept.unlink()
        said: list[str] = []
        for _ in range(2):
            list(score_heads(record.key[:8], ["protonet"], results=tmp_path, told=said.append).results)
        assert len([line for line in said if line.startswith("embedding")]) == 1
        (cache,) = (tmp_path / "checkpoints").glob("*.features")
        expected = list(score_heads(record.key[:8], ["protonet"], results=tmp_path).results)
        data = bytearray(cache.read_bytes())
        data[-3] ^= 0xFF
        cache.write_bytes(data)
        again = list(score_heads(record.key[:8], ["protonet"], results=tmp_path, told=said.append).results)
        assert len([line for line in said if line.startswith("embedding")]) == 2
        assert [s.value for s in again[0].record.scores] == [s.value for s in expected[0].record.scores]

    def test_what_is_kept_is_not_computed_again(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second scoring adds the predictor that is missing, leaves the other alone, and goes on where one was broken off."""
        record = trained(tmp_path)
        key, asked = record.key[:8], []
        real = head_scores.score_watched

        def counted(*args: Any) -> Any:
            asked.append((args[0].head.name, args[3]))
            return real(*args)

        monkeypatch.setattr(head_scores, "score_watched", counted)
        first = next(
            score_heads(key, ["protonet", "cosine"], predictors=["single"], results=tmp_path, save=True).results
        )
        both = list(score_heads(key, ["protonet", "cosine"], results=tmp_path, save=True).results)
        assert asked == [
            ("protonet", "single"),
            ("protonet", "aggregated"),
            ("cosine", "single"),
            ("cosine", "aggregated"),
        ]
        assert [s.predictor for s in both[0].record.scores] == ["single", "aggregated"]
        assert both[0].record.scores[0] == first.record.scores[0]
        store = ResultStore(tmp_path)
        assert set(store.episodes(store.match(both[0].record.key))) == {"single", "aggregated"}
        asked.clear()
        lock = store.path(both[0].record).with_suffix(".lock")
        lock.touch()  # as of a scoring that was killed once this record was written
        narrower = list(score_heads(key, ["protonet"], predictors=["single"], results=tmp_path, save=True).results)
        assert asked == []
        assert not lock.exists()
        assert narrower[0].seconds == 0
        assert len(narrower[0].record.scores) == 2
        again = score_heads(key, ["protonet"], predictors=["single"], results=tmp_path, save=True, again=True).results
        assert [s.value for s in next(again).record.scores] == [s.value for s in both[0].record.scores]
        assert asked == [("protonet", "single")]
        side = next(p for p in tmp_path.rglob("*.npz") if f"-{both[1].record.key[:12]}." in p.name)
        side.write_bytes(b"torn")
        list(score_heads(key, ["cosine"], results=tmp_path, save=True).results)
        assert asked[1:] == [("cosine", "single"), ("cosine", "aggregated")]

    def test_the_code_of_a_plug_in_head_is_part_of_the_key(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path)
        keys = []
        for version in ("1", "2"):
            file = tmp_path / f"own{version}.py"
            file.write_text(
                "import dataclasses, slabench\n"
                'own = dataclasses.replace(slabench.HEADS.get("protonet"), name="own")\n'
                f'slabench.HEADS.add("own", own, "prototypes, edition {version}")\n'
            )
            loaded = load_plugin(file)
            try:
                (made,) = score_heads(record.key[:8], ["own"], results=tmp_path, save=True).results
            finally:
                HEADS.remove(str(file))
            assert made.record.environment["score_plugins"][0]["sha256"] == loaded.sha256
            keys.append(made.record.key)
        assert keys[0] != keys[1]

    def test_what_is_refused(self, trained: Trained, tmp_path: Path) -> None:
        record = trained(tmp_path)
        key = record.key[:8]
        with pytest.raises(UsageError, match="did you mean 'logistic'"):
            score_heads(key, ["logistc"], results=tmp_path)
        with pytest.raises(UsageError, match="r2d2 learns from episodes"):
            score_heads(key, ["r2d2"], results=tmp_path)
        with pytest.raises(UsageError, match="99 ways"):
            score_heads(key, ["protonet"], [99], results=tmp_path)
        with pytest.raises(UsageError, match="unknown predictor"):
            score_heads(key, ["protonet"], predictors=["distilled"], results=tmp_path)
        (made,) = score_heads(key, ["cosine"], results=tmp_path, save=True).results
        with pytest.raises(UsageError, match="itself made by slabench score"):
            score_heads(made.record.key[:12], ["protonet"], results=tmp_path)
        (weights,) = tmp_path.rglob("*.outputs.safetensors")
        data = weights.read_bytes()
        weights.write_bytes(data[:-9])
        with pytest.raises(IntegrityError, match="sha256"):
            score_heads(key, ["protonet"], results=tmp_path)
        weights.unlink()
        with pytest.raises(DataError, match="not here"):
            score_heads(key, ["protonet"], results=tmp_path)

    def test_what_is_printed(self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        record = trained(tmp_path)
        args = [record.key[:8], "--heads", "protonet,metaoptnet-svm", "--shots", "1,2", "--results", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["slabench", "score", *args])
        result = CliRunner().invoke(APP, args)
        assert result.exit_code == 0, result.output
        assert "5 ways" in result.output
        assert "4 records kept" in result.output
        assert "largest residual of a solver" in result.output
        assert max(len(line) for line in result.output.splitlines()) <= 90
        kept = [r for r in ResultStore(tmp_path).records() if r.derived]
        assert kept[0].argv[:2] == ["slabench", "score"]
        assert str(tmp_path) not in " ".join(kept[0].argv)
        bad = CliRunner().invoke(APP, [record.key[:8], "--shots", "1,x", "--results", str(tmp_path)])
        assert isinstance(bad.exception, UsageError)
