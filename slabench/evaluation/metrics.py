"""Scores of a classifier from its logits, also under test priors.

What a long-tailed or plain classification run reports; a test prior says what the accuracy would be if the test classes were
not equally frequent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slabench.core.errors import DataError, SlabenchError, UsageError, did_you_mean
from slabench.core.tables import read_table
from slabench.data.longtail import groups

ECE_BINS = 15
"""Equal-width bins of the top-1 confidence, as in MiSLAS and torchmetrics."""


_G_MEAN_CORRECTION = 0.001
"""Takes the place of a recall of 0 in the corrected G-mean; the raw one is 0 as soon as one class is never found."""


@dataclass(frozen=True)
class ClassificationScores:
    """Scores on n test images of C classes.

    Attributes:
        top1: accuracy.
        top5: the true class is among the five likeliest; None for C <= 5, where it says little or nothing.
        balanced: mean recall over the classes that have test images.
        recall: of each class; None without test images.
        worst_class: the least recall.
        many: mean recall of the classes with many training images; None if there are none, as for medium and few.
        medium: likewise.
        few: likewise.
        macro_f1: mean F1 over the classes that have test images or were predicted.
        g_mean: geometric mean of the recalls.
        g_mean_corrected: the same with a recall of 0 counted as 0.001.
        nll: mean negative log-likelihood, natural logarithm.
        ece: expected calibration error, 15 bins.
        auroc: one class against the rest, mean over classes; None where a class has no test image.
        n: test images.
    """

    top1: float
    top5: float | None
    balanced: float
    recall: tuple[float | None, ...]
    worst_class: float
    many: float | None
    medium: float | None
    few: float | None
    macro_f1: float
    g_mean: float
    g_mean_corrected: float
    nll: float
    ece: float
    auroc: float | None
    n: int


def score(logits: ArrayLike, labels: ArrayLike, train_counts: Sequence[int] | None = None) -> ClassificationScores:
    """All scores of one predictor.

    Args:
        logits: `[n, C]`, any float type; softmax of them are the probabilities.
        labels: int `[n]`, 0 .. C-1.
        train_counts: training images by class, for many, medium and few; None leaves them out.

    Raises:
        SlabenchError: shapes that do not fit, labels out of range, logits that are not finite.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    _check(z, y, train_counts)
    n, n_classes = z.shape
    log_p = z - z.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    predicted = z.argmax(1)
    right = predicted == y
    total = np.bincount(y, minlength=n_classes)
    tested = total > 0
    recall = np.bincount(y[right], minlength=n_classes)[tested] / total[tested]
    by_class: list[float | None] = [None] * n_classes
    for label, value in zip(np.flatnonzero(tested), recall, strict=True):
        by_class[int(label)] = float(value)
    parts = {
        name: None if train_counts is None else _mean(by_class, own) for name, own in _groups(train_counts).items()
    }
    return ClassificationScores(
        top1=float(right.mean()),
        top5=float((_rank(z, y) < 5).mean()) if n_classes > 5 else None,
        balanced=float(recall.mean()),
        recall=tuple(by_class),
        worst_class=float(recall.min()),
        many=parts["many"],
        medium=parts["medium"],
        few=parts["few"],
        macro_f1=float(f1_score(y, predicted, average="macro", zero_division=0)),
        g_mean=_geometric(recall),
        g_mean_corrected=_geometric(np.where(recall == 0, _G_MEAN_CORRECTION, recall)),
        nll=float(-log_p[np.arange(n), y].mean()),
        ece=expected_calibration_error(p.max(1), right),
        auroc=float(_auroc(roc_auc_score, y, p)) if tested.all() else None,
        n=n,
    )


def balanced_accuracy(predicted: ArrayLike, labels: ArrayLike) -> float:
    """Mean recall over the classes that have images (scikit-learn's `balanced_accuracy_score`).

    Args:
        predicted: int `[n]`.
        labels: int `[n]`.
    """
    y, right = np.asarray(labels), np.asarray(predicted) == np.asarray(labels)
    total = np.bincount(y)
    return float((np.bincount(y[right], minlength=len(total))[total > 0] / total[total > 0]).mean())


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = ECE_BINS) -> float:
    """sum over bins of (share of the bin) * |accuracy - mean confidence| (Guo et al., ICML 2017, eq. 3).

    Bins are of equal width, open below and closed above, as in their code.

    Args:
        confidence: `[n]`, probability of the predicted class, 0 .. 1.
        right: bool `[n]`.
        bins: how many.
    """
    c, ok = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.clip(np.ceil(c * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=ok, minlength=bins) - np.bincount(place, weights=c, minlength=bins)
    return float(np.abs(gap).sum() / len(c))


def accuracy_under_prior(recall: Sequence[float | None], prior: ArrayLike) -> float:
    """Accuracy on a test set with other class shares, from the recalls: sum_i q_i recall_i.

    Args:
        recall: of each class.
        prior: q, not negative; scaled to sum to 1.

    Raises:
        SlabenchError: a class with a share but without a recall, or a prior that is none.
    """
    q = np.asarray(prior, dtype=np.float64)
    if q.shape != (len(recall),) or not np.isfinite(q).all() or (q < 0).any() or q.sum() <= 0:
        raise SlabenchError(f"a prior over {len(recall)} classes needs as many shares, none negative, not all 0")
    missing = [label for label, value in enumerate(recall) if value is None and q[label] > 0]
    if missing:
        raise SlabenchError(f"class {missing[0]} has a share in the prior, but no test image to measure its recall on")
    values = np.array([0.0 if value is None else value for value in recall])
    return float((q / q.sum() * values).sum())


def _groups(train_counts: Sequence[int] | None) -> Mapping[str, NDArray[np.int64]]:
    return groups(train_counts if train_counts is not None else [])


def _mean(recall: Sequence[float | None], labels: NDArray[np.int64]) -> float | None:
    values = [value for label in labels if (value := recall[int(label)]) is not None]
    return float(np.mean(values)) if values else None


def _rank(z: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes are likelier than the true one; of equal ones the first counts, as in argmax."""
    own = z[np.arange(len(y)), y][:, None]
    before = (z == own) & (np.arange(z.shape[1]) < y[:, None])
    ranks: NDArray[np.int64] = ((z > own) | before).sum(1)
    return ranks


def _geometric(recall: NDArray[np.float64]) -> float:
    return 0.0 if (recall == 0).any() else float(np.exp(np.log(recall).mean()))


def _auroc(roc_auc_score: object, y: NDArray[np.int64], p: NDArray[np.float64]) -> float:
    assert callable(roc_auc_score)
    if p.shape[1] == 2:
        return float(roc_auc_score(y, p[:, 1]))
    # The rows of a float64 softmax sum to 1 up to rounding, which scikit-learn checks.
    return float(roc_auc_score(y, p / p.sum(1, keepdims=True), multi_class="ovr", average="macro"))


def _check(z: NDArray[np.float64], y: NDArray[np.int64], train_counts: Sequence[int] | None) -> None:
    if z.ndim != 2 or y.shape != (len(z),) or len(z) == 0 or z.shape[1] < 2:
        raise SlabenchError(f"scores need logits [n, C] and labels [n], got {list(z.shape)} and {list(y.shape)}")
    if not np.isfinite(z).all():
        raise SlabenchError(f"{int((~np.isfinite(z)).any(1).sum())} of {len(z)} rows of logits are not finite")
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise SlabenchError(f"labels run from {y.min()} to {y.max()}, and the logits have {z.shape[1]} classes")
    if train_counts is not None and len(train_counts) != z.shape[1]:
        raise SlabenchError(f"{len(train_counts)} training counts were given for {z.shape[1]} classes")


def read_prior(text: str, class_names: Sequence[str], counts: Sequence[int] | None) -> NDArray[np.float64]:
    """A prior over the classes, float64 `[C]`, not normalised.

    Args:
        text: `uniform`; `forward:RATIO` or `backward:RATIO`, an exponential long tail in the order of the training counts or
            against it; or a CSV with the columns class,share.
        class_names: C of them.
        counts: training images by class, which `forward` and `backward` are in the order of; None where all are equal.

    Raises:
        UsageError: another text, or a ratio below 1.
        DataError: the CSV is not such a table; names the line.
    """
    n = len(class_names)
    if text == "uniform":
        return np.ones(n)
    kind, _, ratio_text = text.partition(":")
    if kind in ("forward", "backward"):
        try:
            ratio = float(ratio_text)
        except ValueError:
            ratio = float("nan")
        if not 1 <= ratio < float("inf"):
            raise UsageError(f"--test-prior {text}: '{ratio_text}' is not a ratio of at least 1", f"write {kind}:50")
        if counts is None:
            raise UsageError(f"--test-prior {text}: all training classes have the same size", "use uniform, or a CSV")
        shares = ratio ** (-np.arange(n) / (n - 1))
        order = np.argsort(-np.asarray(counts), kind="stable")
        prior = np.empty(n)
        prior[order] = shares if kind == "forward" else shares[::-1]
        return prior
    if not text.endswith(".csv"):
        raise UsageError(
            f"--test-prior {text} is unknown", "use uniform, forward:50, backward:50 or a CSV with class,share"
        )
    return _from_csv(Path(text), class_names)


def _from_csv(path: Path, class_names: Sequence[str]) -> NDArray[np.float64]:
    index = {name: place for place, name in enumerate(class_names)}
    prior = np.full(len(class_names), np.nan)
    for number, cells in read_table(path, ("class", "share"), "give a CSV with the columns class,share"):
        name, share = cells["class"], cells["share"]
        if name not in index:
            raise DataError(f"{path}, line {number}: there is no class '{name[:60]}'", did_you_mean(name, class_names))
        try:
            prior[index[name]] = float(share)
        except ValueError as error:
            raise DataError(
                f"{path}, line {number}: share '{share[:60]}' is not a number", "write for example 0.25"
            ) from error
    if np.isnan(prior).any():
        missing = class_names[int(np.isnan(prior).argmax())]
        raise DataError(f"{path} has no line for '{missing}'", "give every class a line")
    return prior
