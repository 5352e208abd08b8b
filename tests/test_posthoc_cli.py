"""`slabench posthoc` on records made by hand around outputs of random models: what is printed, kept and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from model_outputs import make_model
from result_records import digest, make_recipe, make_record
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from typer.testing import CliRunner

from slabench.cli.score import posthoc as command
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.posthoc import training
from slabench.posthoc.scoring import find_outputs, posthoc
from slabench.records.outputs import ModelOutputs
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore

APP = typer.Typer()
APP.command()(command)


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained well is test_posthoc_training's question."""
    monkeypatch.setattr(training, "DEFAULT", training.Stage2(epochs=2, least_steps=0))


def keep(folder: Path, objective: str = "sla", suite: str = "imbalanced", seed: int = 0, **changes: Any) -> RunRecord:
    """A finished classifier's record with its outputs, in the folder of results."""
    outputs, _ = make_model(objective)
    recipe = {**make_recipe(suite=suite, name=f"{suite}/ce", sla__objective=objective), "loss": {"name": "ce"}}
    record = make_record(
        objective,
        seed,
        {name: [0.0, 1.0] for name in outputs.test_logits},
        name=f"{suite}/ce",
        suite=suite,
        protocol=f"{suite}/cifar100/exp-r100/standard",
        episodes=None,
        episodes_digest=None,  # type: ignore[arg-type]
        **{"recipe": recipe, "key": digest(objective, suite, seed), **changes},
    )
    store = ResultStore(folder)
    store.save(record, {}, replace(outputs, key=record.key))
    found = store.find(record.key)
    assert found is not None
    return found


def test_the_table_has_the_scores_of_every_method_and_predictor(tmp_path: Path) -> None:
    record = keep(tmp_path, "sla+sd")
    done = CliRunner().invoke(APP, [record.key[:8], "--results", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines()[1:17])) <= 80
    outputs, _ = make_model("sla+sd")
    truth, z = outputs.splits["test"].labels.numpy(), outputs.test_logits["aggregated"].double()
    top1, balanced = accuracy_score(truth, z.argmax(1)), balanced_accuracy_score(truth, z.argmax(1))
    nll = log_loss(truth, z.softmax(1).numpy(), labels=range(4))
    lines = done.output.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("none"))
    assert [lines[at].split()[1], lines[at + 2].split()[0]] == ["single", "distilled"]
    cells = lines[at + 1].split()
    assert cells[0] == "aggregated"
    assert cells[1:3] == [f"{100 * top1:.2f}", f"{100 * balanced:.2f}"]
    assert cells[6] == f"{nll:.3f}"
    assert cells[3] == "n/a"  # the counts are 80, 40, 20, 10: no class has many
    assert "n/a" not in cells[4:6]
    for method in ("none", "logit-adjust tau 1", "tau-norm", "crt", "lws", "temperature"):
        assert any(line.startswith(method) for line in done.output.splitlines()), method
    assert "without augmentation" in done.output
    assert "200 validation images of 4 of 4 classes" in done.output
    assert len(ResultStore(tmp_path).records()) == 1  # nothing is kept unless asked for


def test_one_method_by_name_and_its_tau(tmp_path: Path) -> None:
    record = keep(tmp_path, "baseline")
    found = posthoc(record.key[:6], ["logit-adjust"], tau=0.5, results=tmp_path)
    assert [row.method for row in found.rows] == ["none", "none", "logit-adjust", "logit-adjust"]
    assert {row.value for row in found.rows[2:]} == {0.5}
    outputs, _ = make_model("baseline")
    prior = np.array(outputs.counts) / sum(outputs.counts)
    z = outputs.test_logits["single"].numpy() - 0.5 * np.log(prior)
    truth = outputs.splits["test"].labels.numpy()
    (single,) = [row for row in found.rows[2:] if row.predictor == "single"]
    assert single.scores.top1 == pytest.approx(accuracy_score(truth, z.argmax(1)))


def test_kept_records_are_trials_of_their_own(tmp_path: Path) -> None:
    first, second = (keep(tmp_path, seed=seed, recipe_digest="a" * 64) for seed in (0, 1))
    arguments = ["--results", str(tmp_path), "--save", "--methods", "tau-norm, lws"]
    done = CliRunner().invoke(APP, [first.key, *arguments], catch_exceptions=False)
    assert "2 records kept" in done.output
    store = ResultStore(tmp_path)
    made = {record.name: record for record in store.records() if record.key not in (first.key, second.key)}
    assert set(made) == {"imbalanced/ce+tau-norm", "imbalanced/ce+lws"}
    one = made["imbalanced/ce+tau-norm"]
    assert one.protocol_digest == first.protocol_digest
    assert one.recipe == {**first.recipe, "posthoc": {"method": "tau-norm", "tau": "validation"}}
    assert str(tmp_path) not in json.dumps(one.model_dump(mode="json"))
    assert one.derived is not None
    assert (one.derived["of"], one.derived["method"]) == (first.key, "tau-norm")
    assert set(one.derived["tau"]) == {score.predictor for score in one.scores}
    assert one.cost is not None
    assert first.cost is not None
    assert one.cost.images_seen == first.cost.images_seen
    assert one.cost.train_seconds >= first.cost.train_seconds
    for score in one.scores:
        assert store.episodes(one)[score.predictor].mean() == pytest.approx(score.value)
        assert score.metrics is not None
    assert store.finished(one.key)
    # The same methods on another seed: other keys, the same recipe.
    again = posthoc(second.key, ["tau-norm"], results=tmp_path, save=True).records[0]
    assert again.recipe_digest == one.recipe_digest != first.recipe_digest
    assert again.key != one.key
    # Once more: replaced, not doubled.
    posthoc(first.key, ["tau-norm", "lws"], results=tmp_path, save=True)
    assert len(store.records()) == 5
    with pytest.raises(UsageError, match=r"post-hoc result itself\nname the run of imbalanced/ce with seed 0"):
        posthoc(one.key, results=tmp_path)


def test_groups_belong_to_long_tails_alone(tmp_path: Path) -> None:
    found = posthoc(keep(tmp_path, suite="supervised").key, ["temperature"], results=tmp_path)
    assert all(row.scores.few is None and row.scores.medium is None for row in found.rows)


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"balance": {"reweight": "drw", "sampler": "none"}}, "reweight drw"),
        ({"loss": {"name": "ldam"}}, "loss ldam"),
        ({}, None),
    ],
)
def test_adjusting_a_rebalanced_model_is_doubted(tmp_path: Path, changes: dict[str, Any], doubt: str | None) -> None:
    recipe = {**make_recipe(suite="imbalanced"), **changes}
    record = keep(tmp_path, recipe=recipe)
    notes = posthoc(record.key, ["logit-adjust"], results=tmp_path).notes
    if doubt is None:
        assert notes == []
    else:
        assert f"trained with {doubt}, logit adjustment makes up for the same counts a second time" in notes[0]
    assert not any("second time" in note for note in posthoc(record.key, ["lws"], results=tmp_path).notes)


def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    record, other = keep(tmp_path), keep(tmp_path, "baseline")
    with pytest.raises(UsageError, match="key that begins with 'zz'"):
        posthoc("zz", results=tmp_path)
    with pytest.raises(UsageError, match="key that begins with ''"):
        posthoc("", results=tmp_path)
    with pytest.raises(UsageError, match="did you mean 'temperature'"):
        posthoc(record.key, ["temprature"], results=tmp_path)
    with pytest.raises(UsageError, match="--methods '' names nothing"):
        CliRunner().invoke(APP, [record.key, "--methods", "", "--results", str(tmp_path)], catch_exceptions=False)
    episodes = make_record()
    ResultStore(tmp_path).save(episodes, {})
    with pytest.raises(UsageError, match="is not a classifier's: its suite is fewshot"):
        posthoc(episodes.key, results=tmp_path)

    store, path = ResultStore(tmp_path), find_outputs(record, tmp_path)
    other_path = find_outputs(other, tmp_path)
    assert path.parent == store.path(record).parent
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="its record says"):
        posthoc(record.key, results=tmp_path)
    path.unlink()
    with pytest.raises(DataError, match="stay where the trial was run"):
        posthoc(record.key, results=tmp_path)
    # Outputs under a record that names them rightly, but of another trial.
    path.write_bytes(other_path.read_bytes())
    record_path = store.path(record)
    facts = json.loads(record_path.read_text())
    facts["outputs_sha256"] = other.outputs_sha256
    record_path.write_text(json.dumps(facts))
    with pytest.raises(DataError, match=f"belongs to trial {other.key[:12]}, not {record.key[:12]}"):
        posthoc(record.key, results=tmp_path)


def test_many_keys_and_damaged_records(tmp_path: Path) -> None:
    for key in ("ab" * 32, "ac" * 32):
        keep(tmp_path, key=key)
    with pytest.raises(UsageError, match=r"is the beginning of 2 keys: abababababab, acacacacacac\ntype more"):
        posthoc("A", results=tmp_path)
    assert posthoc("AB", ["temperature"], results=tmp_path).of.key == "ab" * 32
    (tmp_path / "runs" / "damaged.json").write_text("{")
    with pytest.raises(UsageError, match="1 damaged records were passed over"):
        posthoc("zz", results=tmp_path)


def test_outputs_are_read_as_they_were_kept(tmp_path: Path) -> None:
    record = keep(tmp_path, "mt")
    outputs: ModelOutputs = make_model("mt")[0]
    plain = [row for row in posthoc(record.key, ["temperature"], results=tmp_path).rows if row.method == "none"]
    truth = outputs.splits["test"].labels.numpy()
    for row in plain:
        expected = accuracy_score(truth, outputs.test_logits[row.predictor].argmax(1))
        assert row.scores.top1 == pytest.approx(expected)
