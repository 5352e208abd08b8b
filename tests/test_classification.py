"""Classification scores against scikit-learn, torch and naive loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from slabench.core.errors import SlabenchError
from slabench.evaluation.metrics import accuracy_under_prior, expected_calibration_error, score


def sample(seed: int, classes: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    logits = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    return logits, labels


@given(st.integers(0, 2**31 - 1), st.integers(2, 9))
@settings(deadline=None, max_examples=30)
def test_scores_are_scikit_learns(seed: int, classes: int) -> None:
    logits, labels = sample(seed, classes)
    p = torch.from_numpy(logits).softmax(1).numpy()
    predicted = logits.argmax(1)
    got = score(logits, labels)
    assert got.n == 300
    assert got.top1 == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert got.balanced == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    recall = metrics.recall_score(labels, predicted, average=None, labels=range(classes), zero_division=0)
    assert got.recall == pytest.approx(tuple(recall))
    assert got.worst_class == pytest.approx(recall.min())
    assert got.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert got.nll == pytest.approx(metrics.log_loss(labels, p))
    binary = classes == 2
    auroc = metrics.roc_auc_score(labels, p[:, 1] if binary else p, **({} if binary else {"multi_class": "ovr"}))
    assert got.auroc == pytest.approx(auroc)
    assert got.g_mean == pytest.approx(np.prod(recall) ** (1 / classes))
    if classes > 5:
        assert got.top5 == pytest.approx(metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(classes)))
    else:
        assert got.top5 is None


@given(st.integers(0, 2**31 - 1), st.integers(1, 20))
@settings(deadline=None, max_examples=40)
def test_calibration_is_the_loop_of_the_paper(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence = np.concatenate([rng.uniform(size=60), [1.0, 0.5]])
    right = rng.uniform(size=62) < confidence
    expected = 0.0
    edges = np.linspace(0, 1, bins + 1)
    for low, high in itertools.pairwise(edges):  # Guo et al.: open below, closed above
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(confidence, right, bins) == pytest.approx(expected, abs=1e-9)


def test_calibration_at_its_ends() -> None:
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0
    assert expected_calibration_error([1.0, 1.0], [False, False]) == 1
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == pytest.approx(0)


def test_groups_are_means_over_classes_and_absent_ones_are_none() -> None:
    # Class 0 always right, class 1 half, class 2 never.
    logits = np.array([[9, 0, 0], [9, 0, 0], [0, 9, 0], [9, 0, 0], [9, 0, 0], [9, 0, 0]], dtype=float)
    labels = np.array([0, 0, 1, 1, 2, 2])
    got = score(logits, labels, [500, 101, 5])
    assert (got.many, got.medium, got.few) == (0.75, None, 0.0)
    assert got.recall == (1.0, 0.5, 0.0)
    assert got.g_mean == 0
    assert got.g_mean_corrected == pytest.approx((1 * 0.5 * 0.001) ** (1 / 3))
    assert (score(logits, labels).many, score(logits, labels).few) == (None, None)


def test_a_class_without_test_images_has_no_recall() -> None:
    logits, labels = sample(0, 4)
    logits, labels = logits[labels != 2], labels[labels != 2]
    got = score(logits, labels, [500, 50, 5, 5])
    assert got.recall[2] is None
    assert got.auroc is None
    assert got.balanced == pytest.approx(np.mean([r for r in got.recall if r is not None]))
    assert got.few == got.recall[3]
    with pytest.raises(SlabenchError, match="class 2 has a share"):
        accuracy_under_prior(got.recall, [1, 1, 1, 1])
    assert accuracy_under_prior(got.recall, [1, 1, 0, 1]) == pytest.approx(got.balanced)


def test_accuracy_under_another_prior_is_that_of_a_resampled_test_set() -> None:
    logits, labels = sample(1, 3)
    copies = np.array([4, 1, 2])[labels]
    resampled = score(np.repeat(logits, copies, 0), np.repeat(labels, copies))
    prior = np.bincount(np.repeat(labels, copies))
    assert accuracy_under_prior(score(logits, labels).recall, prior) == pytest.approx(resampled.top1)


def test_shifting_all_logits_changes_nothing_and_large_ones_do_not_overflow() -> None:
    logits, labels = sample(2, 4)
    assert score(logits + 1e4, labels).nll == pytest.approx(score(logits, labels).nll, rel=1e-6)
    assert np.isfinite(score(logits * 1e4, labels).nll)


def test_ties_are_not_counted_twice() -> None:
    got = score(np.zeros((10, 10)), np.arange(10))
    assert (got.top1, got.top5) == (0.1, 0.5)


@pytest.mark.parametrize(
    ("logits", "labels", "counts", "message"),
    [
        (np.zeros((3, 2)), [0, 1], None, r"got \[3, 2\] and \[2\]"),
        (np.zeros((0, 2)), [], None, "scores need logits"),
        (np.zeros((2, 2)), [0, 2], None, "labels run from 0 to 2"),
        (np.array([[0, np.nan], [0, 0]]), [0, 1], None, "1 of 2 rows of logits are not finite"),
        (np.zeros((2, 2)), [0, 1], [1, 2, 3], "3 training counts were given for 2 classes"),
    ],
)
def test_what_does_not_fit_is_named(logits: np.ndarray, labels: list[int], counts: list[int], message: str) -> None:
    with pytest.raises(SlabenchError, match=message):
        score(logits, labels, counts)


@pytest.mark.parametrize("prior", [[1, 1], [-1, 1, 1], [0, 0, 0], [np.nan, 1, 1]])
def test_priors_that_are_none(prior: list[float]) -> None:
    with pytest.raises(SlabenchError, match="a prior over 3 classes"):
        accuracy_under_prior([0.5, 0.5, 0.5], prior)
