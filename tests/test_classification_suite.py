"""The suites imbalanced and supervised: what is trained on, the losses of real steps by hand, records, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score
from tiny_recipes import tiny_classifier as tiny
from torch.nn import functional

from slabench import runner
from slabench.core.errors import UsageError
from slabench.data.loading import full_split, left_out, load_images
from slabench.evaluation.metrics import balanced_accuracy
from slabench.recipes import load_recipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.records.outputs import load_outputs
from slabench.records.store import ResultStore
from slabench.suites import classifier
from slabench.training.loop import fit

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("narrow_resnets")


def task_of(recipe: ClassifierRecipe, seed: int = 0) -> classifier.ClassifierTask:
    return classifier.build_task(recipe, seed, classifier.prepare(recipe), CPU, None)


def test_long_tail_of_digits() -> None:
    prepared = classifier.prepare(tiny())
    smallest = min(len(rows) for rows in prepared.train.class_rows())
    expected = tuple(int(smallest * (1 / 10) ** (i / 9)) for i in range(10))
    assert prepared.counts == expected
    own = prepared.train.labels[prepared.rows]
    assert tuple(np.bincount(own, minlength=10)) == expected
    assert not set(prepared.rows) & set(prepared.validation)
    spare = np.bincount(prepared.train.labels[prepared.validation], minlength=10)
    sizes = [len(rows) for rows in prepared.train.class_rows()]
    assert spare.tolist() == [min(5, size - kept) for size, kept in zip(sizes, expected, strict=True)]
    assert prepared.protocol == "imbalanced/digits/exp-r10/standard"


@pytest.mark.usefixtures("glyphs")
def test_glyphs_are_split_within_each_class() -> None:
    _, train, test = load_images("glyphs")
    assert train.n_classes == test.n_classes == 121
    for own, other in zip(train.class_rows(), test.class_rows(), strict=True):
        assert len(other) == (len(own) + len(other)) // 5
    pixels = {row.tobytes() for row in np.asarray(train.images)}
    shared = sum(row.tobytes() in pixels for row in np.asarray(test.images))
    assert shared <= len(test) // 1000  # a drawing may come out the same twice; no image is on both sides by its row


def test_full_split_holds_out_and_limits() -> None:
    _, train, _ = load_images("digits")
    whole, limited = full_split(train, 0.1, None, 0), full_split(train, 0.1, 20, 0)
    assert set(whole.rows) | set(whole.validation) == set(range(len(train)))
    assert not set(whole.rows) & set(whole.validation)
    assert np.bincount(train.labels[limited.rows]).tolist() == [20] * 10
    assert limited.validation.tolist() == whole.validation.tolist()
    assert set(limited.rows) <= set(whole.rows)
    with pytest.raises(UsageError, match=r"(?s)class '0' has \d+ training images.*--per-class \d+ or fewer"):
        full_split(train, 0.1, 5000, 0)
    assert len(left_out(train, np.arange(len(train)), 5)) == 0


@pytest.mark.parametrize("sampler", ["none", "sqrt", "class-balanced", "progressive", "deferred"])
def test_an_epoch_shows_classes_as_the_sampler_says(sampler: str) -> None:
    """LDAM-DRW issue 7: a sampler that never reaches the batches. Class histogram of real batches, epoch by epoch."""
    task = task_of(tiny(balance={"sampler": sampler}, train__steps=None, train__epochs=5))
    counts = np.array(task.prepared.counts)
    labels = task.labels.numpy()
    for epoch in (0, 4):
        steps = range(epoch * task.steps_per_epoch, (epoch + 1) * task.steps_per_epoch)
        shown = np.concatenate([task._rows(step) for step in steps])
        assert len(shown) == counts.sum()
        seen = np.bincount(labels[shown], minlength=10)
        t = epoch / 5
        share = counts / counts.sum()
        chance = {
            "none": share,
            "sqrt": np.sqrt(counts) / np.sqrt(counts).sum(),
            "class-balanced": np.full(10, 0.1),
            "progressive": (1 - t) * share + t / 10,
            "deferred": np.full(10, 0.1) if t >= 0.8 else share,
        }[sampler]
        if sampler == "none" or (sampler == "deferred" and t < 0.8):
            assert seen.tolist() == counts.tolist()
        else:
            n = counts.sum()
            assert (np.abs(seen - n * chance) < 5 * np.sqrt(n * chance * (1 - chance))).all()
            assert seen.tolist() != counts.tolist()


def test_independent_batches_are_distinct_images() -> None:
    task = task_of(tiny(train__batches="independent"))
    batches = [task._rows(step) for step in range(30)]
    assert all(len(set(rows)) == 32 for rows in batches)
    assert len({tuple(rows) for rows in batches}) == 30


@pytest.mark.parametrize(("step", "weighted"), [(0, False), (7, False), (8, True), (9, True)])
def test_drw_weighs_from_four_fifths_on(step: int, weighted: bool) -> None:
    """The loss of a real step of LDAM-DRW with SLA, against the equations in float64 with torch's own weighted mean."""
    recipe = tiny(
        loss__name="ldam",
        balance={"reweight": "drw"},
        sla={"objective": "sla", "transforms": "rotation"},
        train__steps=10,
        augment={"crop": False, "flip": False},
    )
    task = task_of(recipe)
    task.module.eval()
    rows = torch.from_numpy(task._rows(step))
    labels = task.labels[rows]
    images = task.augment(task.images[rows], torch.Generator())
    cosines = []
    with torch.no_grad():
        weight = functional.normalize(task.module.layers["joint"].weight.double(), dim=1)
        for j in range(4):
            turned = torch.rot90(images, j, (2, 3))
            cosines.append(functional.normalize(task.module.embed(turned).double(), dim=1) @ weight.T)
    n = torch.tensor(task.prepared.counts, dtype=torch.float64)
    margins = 0.5 * (n.min() / n) ** 0.25
    w = (1 - 0.9999) / (1 - 0.9999**n) if weighted else torch.ones(10, dtype=torch.float64)
    numerator = denominator = 0.0
    for j in range(4):
        z = cosines[j].clone()
        for b, y in enumerate(labels.tolist()):
            z[b, y * 4 + j] -= margins[y]
        own = functional.cross_entropy(30 * z, labels * 4 + j, reduction="none")
        numerator += float((w[labels] * own).sum())
        denominator += float(w[labels].sum())
    with torch.no_grad():
        result = task.step(step)
    assert float(result.loss) == pytest.approx(numerator / denominator, rel=1e-4)
    assert result.images == 4 * len(rows)


def test_mixed_labels_by_hand() -> None:
    """mixup under SLA: copy j of a mixed image carries (first, j) and (second, j), by their shares."""
    task = task_of(tiny(mix={"name": "mixup"}, sla={"objective": "sla"}, augment={"crop": False, "flip": False}))
    task.module.eval()
    with torch.no_grad():
        result = task.step(0)
        rows = torch.from_numpy(task._rows(0))
        plain, labels = task.augment(task.images[rows], torch.Generator()), task.labels[rows]
        images, mixed, first = task._mix(plain, labels, 0)
        assert mixed is not None
        second, share = mixed
        assert torch.equal(first, labels)
        # The partners are the batch in another order: each mixed image is the weighted sum of its two.
        total = 0.0
        for j in range(4):
            z = task.module.outputs(task.module.embed(torch.rot90(images, j, (2, 3))))["joint"].double()
            a = functional.cross_entropy(z, first * 4 + j, reduction="none")
            b = functional.cross_entropy(z, second * 4 + j, reduction="none")
            total += float((share * a + (1 - share) * b).sum())
    assert float(result.loss) == pytest.approx(total / (4 * len(rows)), rel=1e-5)


def test_objectives_of_a_seed_begin_with_the_same_backbone() -> None:
    first, second = (
        task_of(tiny(sla={"objective": name})).module.backbone.state_dict() for name in ("baseline", "sla+sd")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = task_of(tiny(), seed=1).module.backbone.state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_record_against_scikit_learn(tmp_path: Path) -> None:
    recipe = tiny(sla={"objective": "sla+sd"}, train__steps=6, train__lr=0.02)
    (outcome,) = runner.run(recipe, results=tmp_path, device="cpu")
    record, store = outcome.record, ResultStore(tmp_path)
    assert outcome.state == "ran", outcome.error
    assert record is not None
    assert record.outputs_file is not None
    assert record.outputs_sha256 is not None
    outputs = load_outputs(store.path(record).parent / record.outputs_file, record.outputs_sha256)
    truth = outputs.splits["test"].labels.numpy()
    assert [score.predictor for score in record.scores] == ["single", "aggregated", "distilled"]
    arrays = store.episodes(record)
    counts = np.array(outputs.counts)
    for score in record.scores:
        predicted = outputs.test_logits[score.predictor].argmax(1).numpy()
        assert score.value == pytest.approx(accuracy_score(truth, predicted))
        assert arrays[score.predictor].mean() == pytest.approx(score.value)
        assert score.metrics is not None
        assert score.metrics.balanced == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert score.metrics.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
        recall = recall_score(truth, predicted, average=None, zero_division=0)
        assert list((score.per_class or {}).values()) == pytest.approx(recall.tolist(), abs=1e-6)
        for group, own in (("many", counts > 100), ("medium", (counts >= 20) & (counts <= 100)), ("few", counts < 20)):
            found = getattr(score.metrics, group)
            assert found == (pytest.approx(recall[own].mean()) if own.any() else None), group
        # Both rules chose among the curve's own points.
        tested = {point.step: point.test[score.predictor] for point in record.curve}
        assert score.oracle is not None
        assert score.oracle.value == max(tested.values())
        assert score.best_val is not None
        assert score.best_val.value == tested[score.best_val.step]
    assert record.training_set is not None
    assert record.training_set["groups"] == {
        "many": int((counts > 100).sum()),
        "medium": int(((counts >= 20) & (counts <= 100)).sum()),
        "few": int((counts < 20).sum()),
    }
    assert record.cost is not None
    # 4 copies of the images of 6 steps; the last batch of an epoch may be a small one.
    assert record.cost.images_seen == 4 * sum(len(task_of(recipe)._rows(step)) for step in range(6))
    again = runner.run(recipe, results=tmp_path, device="cpu")
    assert [o.state for o in again] == ["skipped"]
    json.loads(store.path(record).read_text())


def test_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLABENCH_CHECKPOINT_SECONDS", "0")
    recipe = tiny(
        train__steps=6,
        train__batch_size=8,
        loss__name="ldam",
        balance={"reweight": "drw", "sampler": "sqrt"},
        mix={"name": "cutmix"},
        augment={"cutout": 8},
        sla={"objective": "sla+sd"},
    )
    whole = task_of(recipe)
    fit(whole, whole.optimisation, recipe.select, "k")
    broken = task_of(recipe)
    step = broken.step

    def breaking(number: int) -> Any:
        if number == 4:
            raise RuntimeError("power cut")
        return step(number)

    monkeypatch.setattr(broken, "step", breaking)
    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(broken, broken.optimisation, recipe.select, "k", checkpoint)
    resumed = task_of(recipe)
    fitted = fit(resumed, resumed.optimisation, recipe.select, "k", checkpoint)
    assert fitted.resumed_at == 4
    expected, found = whole.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"dataset": "fc100", "profile": "exp"}}, "few-shot split of cifar100"),
        ({"data": {"dataset": "cifar1000", "profile": "exp"}}, "did you mean 'cifar100'"),
        ({"data__ratio": 0.01}, "at least 1"),
        ({"data__profile": "counts"}, "without data.counts"),
        ({"data__profile": "full"}, "in the suite imbalanced"),
        ({"data__class_order": "sideways"}, "label, reversed, or random"),
        ({"data__per_class": 3}, "--per-class works in the suite supervised only"),
        ({"suite": "supervised"}, "in the suite supervised"),
        ({"loss__name": "lbam"}, "did you mean 'ldam'"),
        ({"loss__name": "ldam", "model__layer": "linear"}, "margins are angles"),
        ({"balance": {"reweight": "drv"}}, "did you mean 'drw'"),
        ({"balance": {"sampler": "balanced"}}, "did you mean 'class-balanced'"),
        ({"mix": {"name": "mix-up"}}, "did you mean 'mixup'"),
        ({"sla": {"objective": "rotated-classes"}}, "unknown objective"),
        ({"train__steps": None, "train__epochs": None}, "neither train.steps nor train.epochs"),
        ({"train__schedule": "step"}, "at least one"),
        ({"select": {"rule": "best_val", "points": 0}}, "needs validations"),
        ({"select": {"rule": "best_val"}, "data__val_images": 0}, "without validation images"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        classifier.check(tiny(**changes))


def test_a_class_that_is_too_small_is_named() -> None:
    with pytest.raises(UsageError, match="class '0' should keep 5000 images"):
        classifier.prepare(tiny(data__profile="counts", data__counts=[5000] + [20] * 9))
    with pytest.raises(UsageError, match="9 counts were given"):
        classifier.prepare(tiny(data__profile="counts", data__counts=[20] * 9))
    with pytest.raises(UsageError, match="without an image"):
        classifier.prepare(tiny(data__ratio=1e6))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"loss__name": "balanced-softmax", "balance": {"sampler": "class-balanced"}}, "favoured twice"),
        ({"loss__name": "ldam", "balance": {"reweight": "drw"}}, None),
        ({"sla": {"objective": "sla", "transforms": "color-perm"}, "augment": {"jitter": 0.4}}, "colour jitter"),
        ({"sla": {"objective": "baseline", "transforms": "color-perm"}, "augment": {"jitter": 0.4}}, None),
        ({"sla": {"objective": "sla"}, "augment": {"policy": "autoaugment"}}, "turns and recolours"),
    ],
)
def test_what_is_doubtful_is_said(changes: dict[str, Any], part: str | None) -> None:
    found = classifier.warnings(tiny(**changes))
    assert (found == []) if part is None else any(part in text for text in found)


def test_published_protocols() -> None:
    """LDAM-DRW: warm-up over 5 epochs of 85 steps, x 0.01 after 160 epochs, x 0.0001 after 180; SLA: /10 at 1/2 and 3/4."""
    from slabench.training.schedule import Resolved, learning_rate

    (ldam,) = load_recipe("imbalanced/ldam")
    assert isinstance(ldam, ClassifierRecipe)
    t = ldam.train
    train = Resolved(
        17_000, "sgd", t.lr, t.momentum, t.nesterov, t.weight_decay, t.schedule, t.milestones, t.factors, (5, 85)
    )
    for epoch in range(1, 201):  # theirs count from 1
        factor = epoch / 5 if epoch <= 5 else 0.0001 if epoch > 180 else 0.01 if epoch > 160 else 1
        for step in ((epoch - 1) * 85, epoch * 85 - 1):
            assert learning_rate(train, step) == pytest.approx(0.1 * factor), epoch
    (sla,) = load_recipe("supervised/sla")
    assert isinstance(sla, ClassifierRecipe)
    t = sla.train
    assert (t.steps, t.batch_size, t.batches, t.weight_decay, t.nesterov) == (80_000, 128, "independent", 1e-4, False)
    assert dict(zip(t.milestones, t.factors, strict=True)) == pytest.approx({0.5: 0.1, 0.75: 0.01})


def test_balanced_accuracy_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 7, 200), generator.integers(0, 7, 200)
    assert balanced_accuracy(predicted, labels) == pytest.approx(balanced_accuracy_score(labels, predicted))
