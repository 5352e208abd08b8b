"""The few-shot suite end to end on the embedded data: objectives, costs, keys, determinism."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_recipes import tiny_fewshot as tiny

from slabench import runner
from slabench.backbones.fewshot import Conv4
from slabench.core.errors import UsageError
from slabench.recipes.fewshot import Recipe
from slabench.records.store import ResultStore
from slabench.suites import fewshot
from slabench.training.loop import fit

pytestmark = pytest.mark.usefixtures("glyphs")

SHORT = {"train__steps": 2, "select__points": 1, "select__episodes": 4, "protocol__episodes": 10}


def run_one(recipe: Recipe, results: Path, seed: int = 0, **options: object) -> runner.Outcome:
    (outcome,) = runner.run(recipe, [seed], results=results, **options)  # type: ignore[arg-type]
    assert outcome.error is None
    return outcome


def comparable(outcome: runner.Outcome) -> dict[str, object]:
    """A record without what may differ between two runs of one trial: times and memory."""
    assert outcome.record is not None
    record = outcome.record.model_dump(mode="json", exclude={"started", "finished", "argv", "environment"})
    for name in ("train_seconds", "eval_seconds", "images_per_second", "peak_memory_bytes"):
        record["cost"].pop(name)
    for point in record["curve"]:
        point.pop("seconds")
    return record


@pytest.mark.usefixtures("narrow_conv4")
@pytest.mark.parametrize(
    ("objective", "transforms", "copies"),
    [
        ("baseline", "rotation", 1),
        ("da", "rotation", 4),
        ("rotated-classes", "rotation", 1),
        ("sla", "rotation", 4),
        ("sla", "color-perm", 6),
        ("sla", "rot-color-perm12", 12),
        ("rotated-classes", "color-perm3", 1),
        ("da", "rotation2", 2),
    ],
)
def test_objectives_run_and_cost_what_they_must(objective: str, transforms: str, copies: int, tmp_path: Path) -> None:
    recipe = tiny(sla__objective=objective, sla__transforms=transforms, train__episodes_per_step=2)
    record = run_one(recipe, tmp_path).record
    assert record is not None
    assert record.cost is not None
    assert (
        record.cost.images_seen == 6 * 2 * 5 * (1 + 2) * copies
    )  # steps x episodes x ways x (shots + queries) x copies
    assert record.cost.effective_batch == 2 * 5 * 3 * copies
    assert record.cost.steps == 6
    assert [(point.step, point.images_seen) for point in record.curve] == [
        (3, record.cost.images_seen // 2),
        (6, record.cost.images_seen),
    ]
    assert [score.predictor for score in record.scores] == ["single", "aggregated"]
    store = ResultStore(tmp_path)
    for score in record.scores:
        values = store.episodes(record)[score.predictor]
        assert values.shape == (20,)
        assert score.value == pytest.approx(float(values.astype(np.float64).mean()))
        np.testing.assert_allclose(values * 15, (values * 15).round(), atol=1e-4)  # of 15 queries


def test_sla_learns_class_and_turn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour says the class, a ramp says where up is: joint labels are learned far above the chance of 1 in N*M."""
    monkeypatch.setattr("slabench.backbones.fewshot.conv4", lambda image_size: Conv4(image_size, 16))
    recipe = tiny(sla__objective="sla", train__steps=120, train__lr=3e-2, train__flip=False, select__points=1)
    prepared = fewshot.prepare(recipe)
    colours = np.random.default_rng(0).integers(60, 256, (prepared.train.n_classes, 1, 1, 3))
    ramp = np.linspace(0.2, 1, 32)[:, None, None]
    noise = np.random.default_rng(1).normal(0, 450, (len(prepared.train), 32, 32, 3))
    pictures = (colours[prepared.train.labels] * ramp + noise).clip(0, 255).astype(np.uint8)
    prepared = replace(prepared, train=replace(prepared.train, images=pictures))
    task = fewshot.EpisodicTask(recipe, 0, prepared, torch.device("cpu"), None)
    fitted = fit(task, recipe.train, recipe.select.model_copy(update={"points": 4}), "k")
    first, *_, last = (point["train_accuracy"] for point in fitted.progress.curve)
    assert last > 10 / 20
    assert last > first + 0.1


@pytest.mark.usefixtures("narrow_conv4")
def test_the_same_seed_gives_the_same_record_and_another_one_another(tmp_path: Path) -> None:
    recipe = tiny(sla__objective="sla")
    first, again = (run_one(recipe, tmp_path / name) for name in ("a", "b"))
    assert comparable(first) == comparable(again)
    other = run_one(recipe, tmp_path / "a", seed=1)
    assert comparable(other)["key"] != comparable(first)["key"]
    assert other.record is not None
    assert first.record is not None
    assert other.record.curve[0].loss != first.record.curve[0].loss


@pytest.mark.usefixtures("narrow_resnets")
def test_no_global_random_state_is_used_or_moved(tmp_path: Path) -> None:
    recipe = tiny(sla__objective="sla", model__backbone="resnet12-slim", train__jitter=0.4, **SHORT)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = run_one(recipe, tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert comparable(run_one(recipe, tmp_path / "b")) == comparable(first)


def test_copies_of_an_image_share_their_crop(tmp_path: Path) -> None:
    recipe = tiny(sla__objective="sla", train__crop=True, train__flip=True, train__jitter=0.4)
    prepared = fewshot.prepare(recipe)
    task = fewshot.EpisodicTask(recipe, 0, prepared, torch.device("cpu"), None)
    inputs = task._inputs(task.sampler.sample(1), 0).unflatten(0, (-1, 4))
    for j in range(4):
        assert torch.equal(inputs[:, j], inputs[:, 0].rot90(j, (2, 3)))


def test_rotated_classes_turn_whole_classes() -> None:
    recipe = tiny(sla__objective="rotated-classes", train__crop=False, train__flip=False)
    prepared = fewshot.prepare(recipe)
    task = fewshot.EpisodicTask(recipe, 0, prepared, torch.device("cpu"), None)
    episodes = task.sampler.sample(3)
    inputs = task._inputs(episodes, 0).view(3, 5, 3, 3, 32, 32)
    plain = tiny(train__crop=False, train__flip=False)
    plain_task = fewshot.EpisodicTask(plain, 0, prepared, torch.device("cpu"), None)
    upright = plain_task._inputs(episodes, 0).view(3, 5, 3, 3, 32, 32)
    labels = prepared.train.labels[episodes.rows.numpy()]
    for e in range(3):
        for way in range(5):
            turns = int(episodes.classes[e, way]) % 4
            assert torch.equal(inputs[e, way], upright[e, way].rot90(turns, (2, 3)))
            assert (labels[e, way] == int(episodes.classes[e, way]) // 4).all()


def test_validation_and_test_read_their_own_classes(tmp_path: Path) -> None:
    prepared = fewshot.prepare(tiny())
    names = [set(images.class_names) for images in (prepared.train, prepared.val, prepared.test)]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    assert prepared.protocol == "fewshot/glyphs/5w1s3q"


class _Recorded:
    """A stand-in for opened pixels that says when somebody looked at them."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.reads = array, 0
        self.shape = array.shape

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        self.reads += 1
        return self.array.copy()


@pytest.mark.usefixtures("narrow_conv4")
def test_nothing_but_the_final_scoring_reads_test_pixels() -> None:
    recipe = tiny()
    prepared = fewshot.prepare(recipe)
    pixels = _Recorded(np.asarray(prepared.test.images))
    prepared = replace(prepared, test=replace(prepared.test, images=pixels))  # type: ignore[arg-type]
    task = fewshot.EpisodicTask(recipe, 0, prepared, torch.device("cpu"), None)
    task.step(0).loss.backward()
    task.validate()
    assert pixels.reads == 0
    task.test()
    assert pixels.reads == 1


def test_keys_depend_on_what_decides_the_result_and_on_nothing_else(glyphs: Path, tmp_path: Path) -> None:
    recipe = tiny()
    prepared = fewshot.prepare(recipe)
    key = fewshot.trial_key(recipe, 0, prepared)
    assert key == fewshot.trial_key(recipe.model_copy(update={"name": "another", "seeds": (4,)}), 0, prepared)
    shutil.copytree(glyphs, tmp_path / "other-data")
    elsewhere = fewshot.prepare(recipe, tmp_path / "other-data")
    assert key == fewshot.trial_key(recipe, 0, elsewhere)  # no path is part of it
    others = {
        "seed": fewshot.trial_key(recipe, 1, prepared),
        "step": fewshot.trial_key(tiny(train__steps=7), 0, prepared),
        "objective": fewshot.trial_key(tiny(sla__objective="da"), 0, prepared),
        "selection": fewshot.trial_key(tiny(select__episodes=7), 0, prepared),
        "episodes": fewshot.trial_key(recipe, 0, fewshot.prepare(tiny(protocol__episodes=21))),
        "shots": fewshot.trial_key(recipe, 0, fewshot.prepare(tiny(protocol__shots=2))),
    }
    assert len({key, *others.values()}) == 1 + len(others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__dataset": "cifar100"}, "'cifar100' has no few-shot class split"),
        ({"data__dataset": "glyfs"}, "did you mean 'glyphs'"),
        ({"model__backbone": "conv-4"}, "did you mean 'conv4'"),
        ({"model__head": "proto"}, "unknown head 'proto'"),
        ({"sla__objective": "slaa"}, "did you mean 'sla'"),
        ({"sla__transforms": "rotate"}, "unknown transformation set 'rotate'"),
        ({"train__schedule": "step"}, "train.milestones has 0 values"),
        ({"select__rule": "best_val", "select__points": 0}, "needs validations"),
        ({"select__episodes": 2001}, "validation files hold 2000"),
        ({"protocol__ways": 30}, "30 ways were asked for"),
        ({"protocol__shots": 90, "protocol__queries": 20}, "has 100 images, and 90 shots"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run_one(tiny(**changes), tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("narrow_conv4")
def test_a_failing_trial_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good = tiny(train__lr=1e30, train__steps=30), tiny()
    outcomes = runner.run([bad, good], [0], results=tmp_path)
    assert [outcome.state for outcome in outcomes] == ["failed", "ran"]
    assert "no longer finite at step" in (outcomes[0].error or "")
    (failed,) = [record for record in ResultStore(tmp_path).records() if record.status == "failed"]
    assert failed.scores == []
    # A failed trial is tried again; a finished one is not.
    assert [outcome.state for outcome in runner.run([bad, good], [0], results=tmp_path)] == ["failed", "skipped"]
    forced = runner.run(good, [0], results=tmp_path, resume="force")
    assert forced[0].state == "ran"


@pytest.mark.usefixtures("narrow_conv4")
def test_training_at_other_shots_warns(tmp_path: Path) -> None:
    record = run_one(tiny(train__shots=3), tmp_path).record
    assert record is not None
    assert "trained at 3 shots and tested at 1" in record.warnings[0]


@pytest.mark.usefixtures("narrow_conv4")
def test_best_validation_restores_the_weights_it_chose(tmp_path: Path) -> None:
    recipe = tiny(select__rule="best_val", select__points=6, train__steps=12, train__lr=0.02)
    prepared = fewshot.prepare(recipe)
    task = fewshot.EpisodicTask(recipe, 0, prepared, torch.device("cpu"), None)
    fitted = fit(task, recipe.train, recipe.select, "k")
    values = {point["step"]: point["val"]["single"] for point in fitted.progress.curve}
    assert values[fitted.selected_step] == max(values.values())
    assert fitted.selected_step == min(step for step, value in values.items() if value == max(values.values()))
    assert task.validate()["single"] == pytest.approx(values[fitted.selected_step])
