"""cRT and LWS against scikit-learn's and scipy's optima of the same convex problems."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_outputs import make_model
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from slabench.core.errors import SlabenchError, UsageError
from slabench.evaluation.metrics import balanced_accuracy
from slabench.posthoc.methods import logits, plain
from slabench.posthoc.training import Stage2, crt, lws
from slabench.records.outputs import FeatureSplit, ModelOutputs

Array = NDArray[np.float64]
COUNTS = (300, 60, 12)
STAGE = Stage2(epochs=60, least_steps=0, lr=0.1, batch_size=64, weight_decay=1e-2)


def long_tailed(objective: str, m: int = 2, cosine: bool = False, d: int = 5) -> ModelOutputs:
    """Overlapping Gaussians of COUNTS images for training and 400 a class for the test; views are shifted apart."""
    outputs, _ = make_model(objective, m, len(COUNTS), d, cosine)
    draw = torch.Generator().manual_seed(3)
    centres = 1.2 * torch.randn(len(COUNTS), 1, d, generator=draw) + 0.8 * torch.randn(1, m, d, generator=draw)
    splits = {}
    for name, counts in (("train", COUNTS), ("test", (400,) * len(COUNTS))):
        labels = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(counts))
        features = centres[labels] + torch.randn(len(labels), m, d, generator=draw)
        splits[name] = FeatureSplit(features.half(), labels)
    bare = replace(outputs, counts=COUNTS, splits=splits, test_logits={})
    return replace(bare, test_logits=logits(bare, "test"))


def arrays(outputs: ModelOutputs, split: str) -> tuple[Array, NDArray[np.int64]]:
    return outputs.splits[split].features.double().numpy(), outputs.splits[split].labels.numpy()


def logistic(x: Array, y: NDArray[np.int64], decay: float) -> LogisticRegression:
    """The optimum that class-balanced sampling with weight decay heads for: mean weighted loss + decay / 2 |W|^2."""
    return LogisticRegression(class_weight="balanced", C=1 / (decay * len(y)), max_iter=5000, tol=1e-8).fit(x, y)


def agreement(a: Any, b: Any) -> float:
    return float((np.asarray(a) == np.asarray(b)).mean())


def test_crt_of_a_baseline_is_balanced_logistic_regression_on_the_plain_view() -> None:
    outputs = long_tailed("baseline")
    (x, y), (tx, ty) = arrays(outputs, "train"), arrays(outputs, "test")
    expected = logistic(x[:, 0], y, STAGE.weight_decay)
    found = crt(outputs, stage=STAGE).logits["single"]
    assert agreement(found.argmax(1), expected.predict(tx[:, 0])) > 0.97
    # What balance is for: a head on the plain sample has another boundary, and finds the rare class less often.
    plain_fit = LogisticRegression(C=1 / (STAGE.weight_decay * len(y)), max_iter=5000).fit(x[:, 0], y)
    assert agreement(found.argmax(1), plain_fit.predict(tx[:, 0])) < 0.9
    recall = (found.argmax(1).numpy()[ty == 2] == 2).mean()
    assert recall > (plain_fit.predict(tx[:, 0])[ty == 2] == 2).mean() + 0.1


def test_weight_decay_shortens_the_new_layer_as_ridge_regularisation_does() -> None:
    outputs = long_tailed("baseline")
    (x, y), (tx, _) = arrays(outputs, "train"), arrays(outputs, "test")
    # SGD's decay shortens the bias too: for scikit-learn it is the weight of a column of ones.
    ones = [np.column_stack([part, np.ones(len(part))]) for part in (x[:, 0], tx[:, 0])]
    short, free = (
        LogisticRegression(class_weight="balanced", C=1 / (decay * len(y)), max_iter=5000, fit_intercept=False)
        .fit(ones[0], y)
        .predict_proba(ones[1])
        for decay in (0.2, 1e-6)
    )
    found = crt(outputs, stage=replace(STAGE, weight_decay=0.2)).logits["single"].softmax(1).numpy()
    assert np.abs(found - short).mean() < 0.02
    assert np.abs(free - short).mean() > 0.08


def test_crt_of_da_learns_the_class_from_every_view() -> None:
    outputs = long_tailed("da")
    (x, y), (tx, _) = arrays(outputs, "train"), arrays(outputs, "test")
    expected = logistic(x.reshape(-1, 5), y.repeat(2), STAGE.weight_decay)
    found = crt(outputs, stage=STAGE)
    assert agreement(found.logits["single"].argmax(1), expected.predict(tx[:, 0])) > 0.97
    mean = np.mean([expected.decision_function(tx[:, j]) for j in range(2)], 0)
    assert agreement(found.logits["aggregated"].argmax(1), mean.argmax(1)) > 0.97


@pytest.mark.parametrize("objective", ["sla", "sla+sd"])
def test_crt_of_sla_learns_joint_labels_over_all_views(objective: str) -> None:
    outputs = long_tailed(objective)
    (x, y), (tx, ty) = arrays(outputs, "train"), arrays(outputs, "test")
    rows = np.concatenate([x[:, j] for j in range(2)])
    labels = np.concatenate([y * 2 + j for j in range(2)])
    expected = logistic(rows, labels, STAGE.weight_decay)
    by_view = [expected.decision_function(tx[:, j]) for j in range(2)]
    single = np.stack([by_view[0][:, i * 2] for i in range(3)], 1)
    aggregated = np.stack([np.mean([by_view[j][:, i * 2 + j] for j in range(2)], 0) for i in range(3)], 1)
    found = crt(outputs, stage=STAGE).logits
    assert agreement(found["single"].argmax(1), single.argmax(1)) > 0.97
    assert agreement(found["aggregated"].argmax(1), aggregated.argmax(1)) > 0.97
    if objective == "sla+sd":
        # The student sees the plain view alone; it is taught by the aggregate and by balanced labels.
        student = balanced_accuracy(found["distilled"].argmax(1).numpy(), ty)
        own = logistic(x[:, 0], y, STAGE.weight_decay)
        assert student > balanced_accuracy(own.predict(tx[:, 0]), ty) - 0.02


def test_crt_of_a_cosine_layer_stays_one() -> None:
    outputs = long_tailed("baseline", cosine=True)
    outputs = replace(outputs, scale=10.0)
    found = crt(outputs, stage=STAGE).logits["single"]
    assert float(found.abs().max()) <= 10
    (x, y), (tx, ty) = arrays(outputs, "train"), arrays(outputs, "test")
    unit = x[:, 0] / np.linalg.norm(x[:, 0], axis=1, keepdims=True)
    test = tx[:, 0] / np.linalg.norm(tx[:, 0], axis=1, keepdims=True)
    weight = np.array([1 / COUNTS[label] for label in y]) / 3

    def loss(flat: Array) -> float:
        w = flat.reshape(3, 5)
        z = 10 * unit @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
        return float(-(weight * log_softmax(z, axis=1)[np.arange(len(y)), y]).sum())

    best = minimize(loss, np.stack([unit[y == c].mean(0) for c in range(3)]).ravel(), method="L-BFGS-B").x.reshape(3, 5)
    expected = test @ (best / np.linalg.norm(best, axis=1, keepdims=True)).T
    assert agreement(found.argmax(1), expected.argmax(1)) > 0.97
    assert balanced_accuracy(found.argmax(1).numpy(), ty) > 0.5


def optimal_scales(z: Array, y: NDArray[np.int64], weights: Array, m: int) -> Array:
    """argmin over f of the weighted cross-entropy of f_i z_(i,j): z `[rows, N*m]` and y joint labels."""

    def both(f: Array) -> tuple[float, Array]:
        scaled = z * f.repeat(m)
        own = np.arange(len(y)), y
        gap = softmax(scaled, axis=1)
        value = -(weights * log_softmax(scaled, axis=1)[own]).sum()
        gap[own] -= 1
        return float(value), ((weights[:, None] * gap * z).sum(0)).reshape(-1, m).sum(1)

    result = minimize(both, np.ones(z.shape[1] // m), jac=True, method="L-BFGS-B", options={"ftol": 1e-14})
    assert result.success
    return np.asarray(result.x)


def test_lws_of_a_baseline_is_scipys_optimum_over_the_scales() -> None:
    outputs = long_tailed("baseline")
    (x, y), (tx, _) = arrays(outputs, "train"), arrays(outputs, "test")
    head = LogisticRegression(max_iter=1000).fit(x[:, 0], y)  # an ordinary, unbalanced head
    layer = torch.tensor(head.coef_).float(), torch.tensor(head.intercept_).float()
    outputs = replace(outputs, layers={"classes": layer})
    f = optimal_scales(head.decision_function(x[:, 0]), y, 1 / np.array(COUNTS)[y] / 3, 1)
    assert np.abs(f - 1).max() > 0.1  # there is something to learn
    found = lws(outputs, stage=Stage2(epochs=200, batch_size=372)).logits
    np.testing.assert_allclose(found["single"].numpy(), f * head.decision_function(tx[:, 0]), rtol=0.03, atol=0.01)
    both = np.mean([head.decision_function(tx[:, j]) for j in range(2)], 0)
    np.testing.assert_allclose(found["aggregated"].numpy(), f * both, rtol=0.03, atol=0.01)


def test_small_training_sets_get_steps_enough_by_default() -> None:
    # 372 images are 3 batches: 30 epochs of them leave the scales on their way.
    outputs = replace(long_tailed("baseline"))
    (x, y), (tx, _) = arrays(outputs, "train"), arrays(outputs, "test")
    head = LogisticRegression(max_iter=1000).fit(x[:, 0], y)
    layer = torch.tensor(head.coef_).float(), torch.tensor(head.intercept_).float()
    outputs = replace(outputs, layers={"classes": layer})
    f = optimal_scales(head.decision_function(x[:, 0]), y, 1 / np.array(COUNTS)[y] / 3, 1)
    expected = f * head.decision_function(tx[:, 0])
    gaps = [
        float(np.abs(lws(outputs, stage=stage).logits["single"].numpy() - expected).mean())
        for stage in (Stage2(), Stage2(least_steps=0))
    ]
    assert gaps[0] < 0.05 * np.abs(expected).mean()
    assert gaps[1] > 2 * gaps[0]


def test_lws_of_sla_has_one_scale_for_the_joint_classes_of_a_class() -> None:
    outputs = long_tailed("sla")
    (x, y), (tx, _) = arrays(outputs, "train"), arrays(outputs, "test")
    rows, labels = x.reshape(-1, 5), (y[:, None] * 2 + np.arange(2)).ravel()
    head = LogisticRegression(max_iter=1000).fit(rows, labels)
    layer = torch.tensor(head.coef_).float(), torch.tensor(head.intercept_).float()
    outputs = replace(outputs, layers={"joint": layer})
    f = optimal_scales(head.decision_function(rows), labels, 1 / np.array(COUNTS)[labels // 2] / 6, 2)
    found = lws(outputs, stage=Stage2(epochs=200, batch_size=372)).logits
    by_view = [head.decision_function(tx[:, j]) for j in range(2)]
    single = np.stack([f[i] * by_view[0][:, i * 2] for i in range(3)], 1)
    aggregated = np.stack([f[i] * np.mean([by_view[j][:, i * 2 + j] for j in range(2)], 0) for i in range(3)], 1)
    np.testing.assert_allclose(found["single"].numpy(), single, rtol=0.03, atol=0.01)
    np.testing.assert_allclose(found["aggregated"].numpy(), aggregated, rtol=0.03, atol=0.01)


def test_lws_of_a_student_scales_it_by_itself() -> None:
    outputs = long_tailed("sla+sd")
    found, own = lws(outputs, stage=STAGE).logits["distilled"], plain(outputs).logits["distilled"]
    ratio = found / own
    assert float((ratio.max(0).values - ratio.min(0).values).abs().max()) < 1e-2  # one factor a class
    assert float((ratio.median(0).values - 1).abs().max()) > 0.05


@pytest.mark.parametrize("objective", ["mt", "sla+sd"])
def test_training_depends_on_its_seed_alone_and_touches_nothing(objective: str) -> None:
    outputs, short = long_tailed(objective), Stage2(epochs=2, least_steps=0)
    before = {name: weight.clone() for name, (weight, _) in outputs.layers.items()}
    state = torch.random.get_rng_state()
    for method in (crt, lws):
        first, again, other = (method(outputs, seed, short).logits for seed in (0, 0, 1))
        for name in first:
            assert torch.equal(first[name], again[name])
            assert not torch.equal(first[name], other[name])
    untrained = [crt(outputs, seed, Stage2(epochs=0, least_steps=0)).logits["single"] for seed in (0, 1)]
    assert not torch.equal(*untrained)  # the new layer's beginning depends on the seed, not the order alone
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, weight in before.items():
        assert torch.equal(outputs.layers[name][0], weight)


def test_what_cannot_be_trained_is_refused() -> None:
    outputs = long_tailed("sla")
    test = {"test": outputs.splits["test"]}
    missing = FeatureSplit(outputs.splits["train"].features[:360], outputs.splits["train"].labels[:360])
    for method in (crt, lws):
        with pytest.raises(UsageError, match="needs the split 'train'"):
            method(replace(outputs, splits=test))
        with pytest.raises(UsageError, match="class 2 has 0 training images"):
            method(replace(outputs, splits={**test, "train": missing}))
        with pytest.raises(SlabenchError, match="diverged at lr 1e"):
            method(outputs, stage=Stage2(epochs=5, least_steps=0, lr=1e38))
    assert "without augmentation" in crt(outputs, stage=Stage2(epochs=1, least_steps=0)).how
