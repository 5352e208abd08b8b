"""Learners on the features of a frozen embedder: the raw features at first, a convex problem's optimum, joint labels of views."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_sets import VIEWS, pooled, write_features
from processes import here
from tiny_recipes import StopsAtAPoint, tiny_classifier, tiny_fewshot

from slabench import runner
from slabench.core.errors import DataError, UsageError
from slabench.core.registry import HEADS
from slabench.data import load
from slabench.embedders.store import set_folder
from slabench.episodes.files import load_episodes
from slabench.evaluation.episodes import score_episodes
from slabench.heads import Head
from slabench.learners import EpisodicLearner
from slabench.learners.adapter import Adapter, RawFeatures
from slabench.ranking.rows import leaderboard
from slabench.recipes import load_recipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Recipe
from slabench.records.outputs import load_outputs
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.sla.transforms import cached_views, transform_set
from slabench.suites import suite_of
from slabench.suites.fewshot.score_heads import score_heads
from slabench.training import loop

CPU = torch.device("cpu")


def few_shot(**changes: Any) -> Recipe:
    """On features; a classifier over the training classes trains the adapter."""
    base = {"model__embedder": "pooled", "model__adapter": "linear", "model__learner": "classifier"}
    return tiny_fewshot(**base | {"train__flip": False, "train__optimizer": "sgd", "train__lr": 0.05} | changes)


def long_tail(**changes: Any) -> ClassifierRecipe:
    base = {"model__embedder": "pooled", "augment__crop": False, "augment__flip": False}
    return tiny_classifier(**base | changes)


@pytest.fixture
def digits() -> None:
    write_features("pooled", "digits")


@pytest.fixture
def glyph_features(glyphs: Path) -> None:
    write_features("pooled", "glyphs")


def ran(recipe: Recipe | ClassifierRecipe, results: Path, **settings: Any) -> RunRecord:
    (outcome,) = runner.run(recipe, results=results, **settings)
    assert outcome.record is not None, outcome.error
    return outcome.record


def plain(record: RunRecord) -> dict[str, Any]:
    """All that is no time and no place."""
    told = record.model_dump(mode="json", exclude={"started", "finished", "argv", "environment"})
    for name in ("train_seconds", "eval_seconds", "images_per_second", "peak_memory_bytes"):
        told["cost"].pop(name)
    for point in told["curve"]:
        point.pop("seconds")
    return told


def task_of(recipe: Recipe | ClassifierRecipe) -> Any:
    suite = suite_of(recipe)
    return suite.build_task(recipe, 0, suite.prepare(recipe), CPU, None)


# What an adapter is at first


@pytest.mark.parametrize("module", [Adapter(7), Adapter(7, hidden=3), RawFeatures(7)])
def test_an_untrained_adapter_is_the_identity(module: torch.nn.Module) -> None:
    x = torch.randn(5, 7)
    assert torch.equal(module(x), x)


@pytest.mark.parametrize("learner", ["classifier", "episodic"])
@pytest.mark.parametrize("adapter", ["none", "linear", "mlp"])
def test_at_step_0_the_raw_features_are_scored(
    glyph_features: None, tmp_path: Path, adapter: str, learner: str
) -> None:
    recipe = few_shot(model__adapter=adapter, model__learner=learner, train__steps=0)
    record = ran(recipe, tmp_path)
    test = load("glyphs", "test")
    episodes = load_episodes(test, "glyphs", "test", 5, 1, 3, 20)
    protonet: Head = HEADS.get("protonet")
    raw = torch.from_numpy(pooled(test)).float()
    stored = ResultStore(tmp_path).episodes(record)
    for predictor in ("single", "aggregated"):
        expected = score_episodes(
            EpisodicLearner(RawFeatures(raw.shape[-1]), protonet), raw, episodes.episodes, predictor, test.n_classes
        )
        assert np.array_equal(stored[predictor], expected.accuracy.numpy())
    assert record.cost is not None
    assert record.cost.images_seen == record.cost.steps == 0


def test_best_val_may_keep_the_raw_features(glyph_features: None, tmp_path: Path) -> None:
    """A learning rate that ruins the adapter: the validation before the first update wins."""
    recipe = few_shot(train__lr=30.0, select__rule="best_val", select__start=True)
    record = ran(recipe, tmp_path)
    raw = ran(few_shot(model__adapter="none", train__steps=0), tmp_path)
    assert record.selection is not None
    assert record.selection.step == 0
    assert [point.step for point in record.curve] == [0, 3, 6]
    assert record.curve[0].loss is None
    assert record.curve[0].val["single"] == record.selection.val_accuracy
    assert [score.value for score in record.scores] == [score.value for score in raw.scores]


# What it learns


def test_a_layer_on_features_ends_at_the_optimum_of_logistic_regression(digits: None, tmp_path: Path) -> None:
    """Cross-entropy with weight decay w on n images: scikit-learn's objective with C = 1 / (w n), the bias decayed alike."""
    from sklearn.linear_model import LogisticRegression

    n, decay = 200, 1e-2
    recipe = long_tail(
        suite="supervised",
        data={"dataset": "digits", "per_class": 20, "val_fraction": 0.0},
        train={"steps": 4000, "batch_size": n, "lr": 0.5, "weight_decay": decay, "precision": "float32"},
        select={"points": 0},
    )
    record = ran(recipe, tmp_path)
    outputs = load_outputs(
        ResultStore(tmp_path).path(record).parent / str(record.outputs_file), record.outputs_sha256 or ""
    )
    prepared = suite_of(recipe).prepare(recipe)
    x, y = np.asarray(prepared.train.images[prepared.rows, 0], np.float64), prepared.train.labels[prepared.rows]
    solver = LogisticRegression(C=1 / (decay * n), fit_intercept=False, tol=1e-10, max_iter=10_000)
    solver.fit(np.c_[x, np.ones(len(x))], y)
    weight, bias = outputs.layers["classes"]
    assert bias is not None
    assert np.allclose(np.c_[weight.numpy(), bias.numpy()], solver.coef_, atol=2e-4)
    expected = solver.decision_function(
        np.c_[np.asarray(prepared.test.images[:, 0], np.float64), np.ones(len(prepared.test))]
    )
    assert np.allclose(outputs.test_logits["single"].numpy(), expected, atol=2e-3)


def test_decay_draws_an_adapter_back_to_the_identity(glyph_features: None) -> None:
    task = task_of(few_shot(train__weight_decay=0.5))
    adapter = task.module.backbone
    torch.nn.init.normal_(adapter.out.weight, std=0.1)
    before = float(adapter.out.weight.detach().norm())
    train = task.optimisation.model_copy(update={"steps": 20, "weight_decay": 5.0, "lr": 0.05, "schedule": "constant"})
    loop.fit(task, train, few_shot(select__points=0).select, "0" * 64)
    assert float(adapter.out.weight.detach().norm()) < 0.2 * before


# Views and joint labels


def test_views_are_the_copies_of_a_batch() -> None:
    features = torch.arange(2 * 4 * 3).reshape(2, 4, 3)  # image b, view j: 12 b + 3 j, ...
    views = cached_views(transform_set("rotation"))
    assert views.M == 4
    assert views.apply(features)[:, 0].tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert views.plain(features)[:, 0].tolist() == [0, 12]
    assert views.apply_each(features, torch.tensor([2, 1]))[:, 0].tolist() == [6, 15]
    with pytest.raises(UsageError, match=r"4 views .*\[2, 2, 3\]"):
        views.apply(features[:, :2])


@pytest.mark.parametrize(
    ("objective", "rows", "layers"),
    [
        ("baseline", 8, {"classes": 10}),
        ("da", 32, {"classes": 10}),
        ("mt", 32, {"classes": 10, "transforms": 4}),
        ("sla", 32, {"joint": 40}),
        ("sla+sd", 32, {"joint": 40, "student": 10}),
    ],
)
def test_joint_labels_of_views(
    digits: None, monkeypatch: pytest.MonkeyPatch, objective: str, rows: int, layers: dict[str, int]
) -> None:
    """Row b*M + j of a batch is view j of image b, with the joint label y_b*M + j."""
    task = task_of(long_tail(sla__objective=objective, train__batch_size=8))
    assert {name: layer.weight.shape[0] for name, layer in task.module.layers.items()} == layers
    seen: list[torch.Tensor] = []
    labelled: list[torch.Tensor] = []
    embed, joint = task.module.embed, type(task.loss).joint
    monkeypatch.setattr(task.module, "embed", lambda x: seen.append(x) or embed(x))

    def watched(self: Any, m: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        loss = joint(self, m)
        return lambda logits, labels: labelled.append(labels) or loss(logits, labels)

    monkeypatch.setattr(type(task.loss), "joint", watched)
    result = task.step(0)
    assert result.images == len(seen[0]) == rows
    chosen = task._rows(0)
    stored = task.images[torch.from_numpy(chosen)].float()
    if rows == 8:
        assert torch.equal(seen[0], stored[:, 0])
    else:
        assert all(torch.equal(seen[0][4 * b + j], stored[b, j]) for b in range(8) for j in range(4))
    if "joint" in layers:
        assert labelled[0].tolist() == [4 * int(task.labels[row]) + j for row in chosen for j in range(4)]


@pytest.mark.parametrize("objective", ["da", "sla", "rotated-classes"])
def test_episodes_of_views(glyph_features: None, tmp_path: Path, objective: str) -> None:
    record = ran(few_shot(model__learner="episodic", sla__objective=objective), tmp_path)
    copies = 1 if objective == "rotated-classes" else VIEWS
    assert record.cost is not None
    assert record.cost.images_seen == 6 * 5 * (1 + 2) * copies


@pytest.mark.parametrize(
    "changes",
    [
        {"loss__name": "ldam", "balance__reweight": "drw", "sla__objective": "sla+sd"},
        {"loss__name": "balanced-softmax", "model__adapter": "mlp", "balance__sampler": "class-balanced"},
        {"loss__name": "focal", "model__adapter": "linear", "sla__objective": "mt"},
    ],
)
def test_long_tails_with_every_kind_of_loss(digits: None, tmp_path: Path, changes: dict[str, Any]) -> None:
    record = ran(long_tail(**changes), tmp_path)
    assert record.protocol == "imbalanced/digits/exp-r10/standard"  # nothing is augmented, and no name says so twice
    assert {score.predictor for score in record.scores} >= {"single", "aggregated"}
    code, output = here("posthoc", record.key[:12], "--results", str(tmp_path))
    assert code == 0
    assert "crt" in output


# What a trial leaves


def test_an_interrupted_run_ends_with_the_same_record(
    digits: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = long_tail(model__adapter="mlp", sla__objective="sla")
    whole = ran(recipe, tmp_path / "whole")

    monkeypatch.setenv("SLABENCH_CHECKPOINT_SECONDS", "0")
    with pytest.raises(KeyboardInterrupt):
        runner.run(recipe, results=tmp_path / "parts", listener=StopsAtAPoint())  # type: ignore[arg-type]
    assert plain(ran(recipe, tmp_path / "parts")) == plain(whole)


def test_heads_are_scored_on_an_adapter(glyph_features: None, tmp_path: Path) -> None:
    record = ran(few_shot(), tmp_path)
    assert record.embedder is not None
    assert record.embedder["embedder"] == "pooled-1"
    scoring = score_heads(record.key[:12], ["protonet", "logistic"], shots=[1, 2], results=tmp_path, save=True)
    found = {(one.head, one.setting.shots): one.record for one in scoring.results}
    assert len(found) == 4
    assert [s.value for s in found["protonet", 1].scores] == [s.value for s in record.scores]
    assert found["logistic", 1].recipe["model"]["embedder"] == "pooled"
    assert found["logistic", 1].embedder == record.embedder
    assert all(row.embedder == "pooled-1" and row.backbone == "pooled+linear" for row in leaderboard(tmp_path))


def test_heads_are_not_scored_on_other_features(glyph_features: None, tmp_path: Path) -> None:
    record = ran(few_shot(train__steps=1, select__points=0), tmp_path)
    shutil.rmtree(set_folder("pooled", "glyphs"))
    write_features("pooled", "glyphs", scale=2.0)
    with pytest.raises(DataError, match=f"'pooled'.*another one now than in run {record.key[:12]}"):
        score_heads(record.key[:12], ["protonet"], results=tmp_path)


def test_other_features_are_another_trial(digits: None) -> None:
    suite, recipe = suite_of(long_tail()), long_tail()
    before = suite.trial_key(recipe, 0, suite.prepare(recipe))
    shutil.rmtree(set_folder("pooled", "digits"))
    write_features("pooled", "digits", scale=2.0)
    assert suite.trial_key(recipe, 0, suite.prepare(recipe)) != before


# What makes no sense


@pytest.mark.parametrize(
    ("recipe", "names", "remedy"),
    [
        (lambda: few_shot(train__flip=True), "train.flip = true", "--set train.flip=false"),
        (lambda: few_shot(model__support_copies=5), "model.support_copies = 5", "model.support_copies=0"),
        (lambda: few_shot(model__learner="anil"), "anil", "--learner classifier"),
        (lambda: few_shot(model__embedder=""), "model.adapter = linear without model.embedder", "--embedder"),
        (lambda: tiny_fewshot(train__steps=0), "train.steps = 0", "1 or more"),
        (lambda: long_tail(mix__name="mixup"), "mix.name = mixup", "mix.name=none"),
        (lambda: long_tail(augment__crop=True), "augment.crop = true", "augment.crop=false"),
    ],
)
def test_what_has_no_effect_is_refused(recipe: Callable[[], Any], names: str, remedy: str) -> None:
    made = recipe()
    with pytest.raises(UsageError) as error:
        suite_of(made).check(made)
    assert names in error.value.message
    assert remedy in (error.value.remedy or "")


def test_features_of_too_few_views_are_refused(digits: None) -> None:
    recipe = long_tail(sla__transforms="rot-color-perm12")
    suite = suite_of(recipe)
    with pytest.raises(UsageError, match=r"4 views of each image \(rotation\), and rot-color-perm12 asks for 12"):
        suite.check_data(recipe, suite.prepare(recipe))


@pytest.mark.parametrize(
    ("recipe", "dataset", "trials"),
    [("fewshot/adapter", "glyphs", 7), ("imbalanced/adapter", "digits", 10), ("supervised/adapter", "digits", 36)],
)
def test_the_recipes_can_be_planned(glyphs: Path, tmp_path: Path, recipe: str, dataset: str, trials: int) -> None:
    """Every variant on features of its own; of the map's images a class as many as digits has."""
    write_features("pooled", dataset)
    recipes = load_recipe(recipe, {"data.dataset": dataset, "model.embedder": "pooled"})
    planned = [
        trial
        for one in recipes
        if getattr(one.data, "per_class", None) in (None, 10, 25, 50, 100)
        for trial in runner.plan(one, [0], tmp_path)
    ]
    assert len(recipes) == trials
    assert len({trial.key for trial in planned}) == len(planned) == trials * (4 / 6 if trials == 36 else 1)
    seen = {trial.recipe.name.rpartition("/")[2]: trial.planned.images for trial in planned}
    for name, images in seen.items():
        if name.endswith(("baseline-equal-images", "da", "mt")):  # as many as joint labels see
            joint = (
                seen[next(sla for sla in seen if sla.endswith("sla") and sla.split("-")[0] == name.split("-")[0])]
                if trials == 10
                else seen["sla"]
            )
            assert images == joint
        if name.endswith("-sla") and trials == 36:
            assert images == seen[name.removesuffix("sla") + "baseline"]


def test_a_backbone_is_refused_beside_an_embedder(tmp_path: Path) -> None:
    code, output = here("run", "fewshot/adapter", "--dataset", "glyphs", "--backbone", "resnet12", folder=tmp_path)
    assert code == 2
    assert "--backbone resnet12" in output
    assert "--embedder" in output


def test_raw_features_are_not_trained_whatever_the_steps() -> None:
    frozen, *others = load_recipe("fewshot/adapter", {"train.steps": 5})
    assert isinstance(frozen, Recipe)
    assert frozen.train.steps == 0
    assert {one.train.steps for one in others} == {5}


def test_tables_show_embedder_and_adapter_where_they_show_a_backbone() -> None:
    assert few_shot().model.backbone == "pooled+linear"
    assert long_tail().model.backbone == "pooled"
