"""Post-hoc methods that train nothing, against Bayes' rule, closed forms, scipy, scikit-learn and loops over j."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_outputs import make_model, predict
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import multivariate_normal
from sklearn.metrics import balanced_accuracy_score, log_loss

from slabench.core.errors import UsageError
from slabench.evaluation.calibration import MAX_TEMPERATURE, fit_temperature
from slabench.posthoc import methods, scoring
from slabench.posthoc.training import Stage2
from slabench.records.outputs import FeatureSplit
from slabench.sla.objectives import CLASSIFIER_OBJECTIVES

SHORT = Stage2(epochs=1, least_steps=0)


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("objective", list(CLASSIFIER_OBJECTIVES))
def test_recomputed_logits_are_the_models_own(objective: str, cosine: bool) -> None:
    outputs, model = make_model(objective, cosine=cosine)
    for split in ("train", "val", "test"):
        expected = predict(model, objective, outputs.splits[split].features, outputs.m)
        found = methods.logits(outputs, split)
        assert set(found) == set(expected)
        for name, z in expected.items():
            torch.testing.assert_close(found[name], z, atol=1e-5, rtol=1e-5)


def test_plain_logits_have_the_scale_of_cosine_layers_in_them() -> None:
    outputs, _ = make_model("baseline", cosine=True)
    assert float(outputs.test_logits["single"].abs().max()) <= 1
    torch.testing.assert_close(methods.plain(outputs).logits["single"], 30 * outputs.test_logits["single"])


def test_adjusted_logits_decide_as_bayes_rule_does_under_even_priors() -> None:
    # Three Gaussians with known means, one covariance and shares of 1000 : 100 : 10. Their posterior is linear in x.
    means, counts, variance = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), (1000, 100, 10), 1.5
    prior = np.array(counts) / sum(counts)
    weight = torch.tensor(means / variance).float()
    bias = torch.tensor(-(means**2).sum(1) / (2 * variance) + np.log(prior)).float()
    x = torch.randn(5000, 1, 2, generator=torch.Generator().manual_seed(0)) * 2
    outputs, _ = make_model(
        "baseline",
        m=1,
        c=3,
        d=2,
        counts=counts,
        layers={"classes": (weight, bias)},
        splits={"test": FeatureSplit(x, torch.zeros(5000).long())},
        test_logits={"single": x[:, 0] @ weight.T + bias},
    )
    likelihood = np.stack([multivariate_normal(mu, variance).logpdf(x[:, 0].numpy()) for mu in means], 1)
    own = methods.plain(outputs).logits["single"].argmax(1).numpy()
    np.testing.assert_array_equal(own, (likelihood + np.log(prior)).argmax(1))
    adjusted = methods.logit_adjust(outputs).logits["single"]
    np.testing.assert_array_equal(adjusted.argmax(1).numpy(), likelihood.argmax(1))
    assert (own != likelihood.argmax(1)).mean() > 0.1  # the adjustment mattered
    # The posterior under even priors, not only its greatest entry.
    np.testing.assert_allclose(adjusted.log_softmax(1).numpy(), log_softmax(likelihood, axis=1), atol=2e-5)


@pytest.mark.parametrize("cosine", [False, True])
def test_adjusting_the_aggregate_is_adjusting_every_joint_logit(cosine: bool) -> None:
    outputs, model = make_model("sla", m=3, cosine=cosine)
    n, m, c = 90, 3, 4
    with torch.no_grad():
        joint = outputs.scale * model.outputs(outputs.splits["test"].features.float().flatten(0, 1))["joint"]
    prior = np.array(outputs.counts) / sum(outputs.counts)
    summed = np.zeros((n, c))
    for image in range(n):
        for i in range(c):
            for j in range(m):
                summed[image, i] += float(joint[image * m + j, i * m + j]) - 0.7 * np.log(prior[i] / m)
    found = methods.logit_adjust(outputs, tau=0.7)
    np.testing.assert_allclose(
        found.logits["aggregated"].log_softmax(1).numpy(), log_softmax(summed / m, axis=1), atol=5e-5
    )
    assert found.values == {"single": 0.7, "aggregated": 0.7}


def test_adjustment_is_refused_where_training_had_it_and_where_tau_makes_no_sense() -> None:
    outputs, _ = make_model()
    with pytest.raises(UsageError, match="train-time and post-hoc adjustment together"):
        methods.logit_adjust(replace(outputs, train_shift=True))
    for tau in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="finite and not negative"):
            methods.logit_adjust(outputs, tau)
        with pytest.raises(UsageError, match="finite and not negative"):
            methods.tau_normalise(outputs, tau)


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_tau_normalisation_row_by_row(tau: float) -> None:
    outputs, _ = make_model("sla+sd", m=2, c=3)
    x = outputs.splits["test"].features.double().numpy()
    joint, student = (outputs.layers[name][0].double().numpy() for name in ("joint", "student"))
    single, summed, distilled = (np.zeros((90, 3)) for _ in range(3))
    for i in range(3):
        for j in range(2):
            row = joint[i * 2 + j] / np.sqrt((joint[i * 2 + j] ** 2).sum()) ** tau
            summed[:, i] += x[:, j] @ row
            if j == 0:
                single[:, i] = x[:, 0] @ row
        distilled[:, i] = x[:, 0] @ (student[i] / np.sqrt((student[i] ** 2).sum()) ** tau)
    found = methods.tau_normalise(outputs, tau).logits
    for name, expected in (("single", single), ("aggregated", summed / 2), ("distilled", distilled)):
        np.testing.assert_allclose(found[name].numpy(), expected, atol=1e-4)


def test_tau_0_drops_the_bias_alone_and_tau_1_gives_unit_rows() -> None:
    outputs, _ = make_model("baseline")
    weight, bias = outputs.layers["classes"]
    assert bias is not None
    expected = methods.plain(outputs).logits["single"] - bias
    torch.testing.assert_close(methods.tau_normalise(outputs, 0.0).logits["single"], expected, atol=1e-5, rtol=1e-5)
    rows, none = methods.normalised(outputs, 1.0)["classes"]
    assert none is None
    np.testing.assert_allclose(np.linalg.norm(rows.numpy(), axis=1), 1, rtol=1e-6)
    dead = replace(outputs, layers={"classes": (weight * torch.tensor([[0.0], [1], [1], [1]]), bias)})
    assert bool(torch.isfinite(methods.tau_normalise(dead, 2.0).logits["single"]).all())


def test_tau_is_the_best_on_validation_and_never_looks_at_the_test() -> None:
    # Lengths that favour the wrong classes, so that some tau above 0 is best.
    outputs, _ = make_model("baseline", m=2, c=4, d=8)
    train = outputs.splits["train"]
    centres = torch.stack([train.features[train.labels == c].float().mean((0, 1)) for c in range(4)])
    weight = centres * torch.tensor([[9.0], [5.0], [1.0], [0.3]])
    outputs = replace(outputs, layers={"classes": (weight, None)})
    val = outputs.splits["val"]
    truth, x, w = val.labels.numpy(), val.features.double().numpy(), weight.double().numpy()
    best = {}
    for name, read in (("single", x[:, 0]), ("aggregated", x.mean(1))):
        grid = [round(0.1 * k, 1) for k in range(21)]
        scores = [
            balanced_accuracy_score(truth, (read @ (w / np.linalg.norm(w, axis=1, keepdims=True) ** tau).T).argmax(1))
            for tau in grid
        ]
        best[name] = grid[int(np.argmax(scores))]
        assert max(scores) > scores[0] + 0.02
    found = methods.tau_normalise(outputs)
    assert dict(found.values) == best
    assert found.how == "balanced accuracy on 200 validation images of 4 of 4 classes"
    for name, tau in best.items():
        torch.testing.assert_close(found.logits[name], methods.tau_normalise(outputs, tau).logits[name])
    test = outputs.splits["test"]
    other = replace(outputs, splits={**outputs.splits, "test": FeatureSplit(test.features, test.labels.flip(0))})
    assert methods.tau_normalise(other).values == found.values


def test_tau_needs_validation_or_a_value_and_linear_layers() -> None:
    outputs, _ = make_model()
    without = replace(outputs, splits={"test": outputs.splits["test"]})
    with pytest.raises(UsageError, match="--norm-tau 1"):
        methods.tau_normalise(without)
    assert methods.tau_normalise(without, 0.5).values["single"] == 0.5
    with pytest.raises(UsageError, match="length one already"):
        methods.tau_normalise(make_model(cosine=True)[0], 1.0)


@pytest.mark.parametrize("cosine", [False, True])
def test_temperature_is_scipys_optimum_of_the_likelihood(cosine: bool) -> None:
    outputs, model = make_model("sla+sd", cosine=cosine)
    found = methods.temperature(outputs)
    assert set(found.values) == {"single", "aggregated", "distilled"}
    val = outputs.splits["val"]
    for name, z in predict(model, "sla+sd", val.features, outputs.m).items():
        scaled, truth = outputs.scale * z.double().numpy(), val.labels.numpy()

        def nll(log_t: float, scaled: Any = scaled, truth: Any = truth) -> float:
            return float(log_loss(truth, np.exp(log_softmax(scaled / np.exp(log_t), axis=1)), labels=range(4)))

        best = minimize_scalar(nll, bounds=(np.log(0.01), np.log(100)), method="bounded", options={"xatol": 1e-9})
        assert nll(np.log(found.values[name])) <= best.fun + 1e-9
        assert found.values[name] == pytest.approx(np.exp(best.x), rel=1e-3) or best.x > np.log(99)
        own = methods.plain(outputs).logits[name]
        torch.testing.assert_close(found.logits[name], own / found.values[name])
        assert torch.equal(found.logits[name].argmax(1), own.argmax(1))


def test_temperature_in_closed_form() -> None:
    # Every image has the logits (a, 0), a share q of them is of class 0: the fit has a / T = log(q / (1 - q)).
    z = torch.tensor([[3.0, 0.0]]).repeat(1000, 1)
    for q in (0.6, 0.9, 0.99):
        labels = (torch.arange(1000) >= round(1000 * q)).long()
        assert fit_temperature(z, labels) == pytest.approx(3 / np.log(q / (1 - q)), rel=1e-9)


def test_temperature_finds_the_factor_by_which_true_logits_were_multiplied() -> None:
    draw = torch.Generator().manual_seed(5)
    z = 2 * torch.randn(40_000, 5, generator=draw)
    labels = torch.multinomial(z.softmax(1), 1, generator=draw).squeeze(1)
    for factor in (0.25, 1.0, 4.0):
        assert fit_temperature(factor * z, labels) == pytest.approx(factor, rel=0.03)


def test_temperature_without_an_optimum_ends_where_the_range_does() -> None:
    z = torch.eye(3).repeat(4, 1)
    assert fit_temperature(z, z.argmax(1)) == 1 / MAX_TEMPERATURE
    assert fit_temperature(z, (z.argmax(1) + 1) % 3) == MAX_TEMPERATURE
    outputs, _ = make_model("baseline")
    with pytest.raises(UsageError, match=r"choosing T needs the split 'val'.*\n.*val_images"):
        methods.temperature(replace(outputs, splits={"test": outputs.splits["test"]}))
    right = FeatureSplit(outputs.splits["val"].features, methods.logits(outputs, "val")["single"].argmax(1))
    found = methods.temperature(replace(outputs, splits={**outputs.splits, "val": right}))
    assert "at the end of the range for single" in found.how


def test_apply_takes_what_the_model_allows_and_says_what_it_left_out() -> None:
    outputs, _ = make_model()
    found, left_out = scoring.apply(outputs, stage=SHORT)
    assert [one.method for one in found] == ["none", *methods.METHODS]
    assert left_out == []
    shifted = replace(make_model(cosine=True, train_shift=True)[0])
    found, left_out = scoring.apply(shifted, stage=SHORT)
    assert [one.method for one in found] == ["none", "crt", "lws", "temperature"]
    assert [line.split()[0] for line in left_out] == ["logit-adjust", "tau-norm"]
    bare = replace(outputs, splits={"test": outputs.splits["test"]})
    assert [one.method for one in scoring.apply(bare)[0]] == ["none", "logit-adjust"]
    with pytest.raises(UsageError, match="together"):
        scoring.apply(shifted, ["temperature", "logit-adjust"])
    with pytest.raises(UsageError, match=r"unknown post-hoc method 'tau-nrom'\n.*did you mean 'tau-norm'"):
        scoring.apply(outputs, ["tau-nrom"])
    with pytest.raises(UsageError, match="unknown objective"):
        scoring.apply(replace(outputs, objective="slaa"))
    one = scoring.apply(outputs, ["logit-adjust"], tau=2.0)[0][1]
    assert one.values["single"] == 2.0
