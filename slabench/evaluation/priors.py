"""Test priors: the accuracy that a classifier would have if the test classes were not equally frequent.

SADE and LADE re-sample the test set for this; from the recalls it is a weighted sum (`accuracy_under_prior`).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slabench.errors import DataError, UsageError, did_you_mean


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
            raise UsageError(f"--test-prior {text}: '{ratio_text}' is no ratio of at least 1", f"write {kind}:50")
        if counts is None:
            raise UsageError(f"--test-prior {text}: the training classes are all of one size", "use uniform, or a CSV")
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
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"class", "share"} <= set(reader.fieldnames or ()):
                raise DataError(f"{path} has the columns {reader.fieldnames}", "it needs the columns class,share")
            for row in reader:
                name, share = (row["class"] or "").strip(), (row["share"] or "").strip()
                if name not in index:
                    raise DataError(
                        f"{path}, line {reader.line_num}: no class '{name}'", did_you_mean(name, class_names)
                    )
                try:
                    prior[index[name]] = float(share)
                except ValueError as error:
                    raise DataError(
                        f"{path}, line {reader.line_num}: share '{share}' is no number", "write for example 0.25"
                    ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}", "give a CSV with the columns class,share") from error
    if np.isnan(prior).any():
        missing = class_names[int(np.isnan(prior).argmax())]
        raise DataError(f"{path} says nothing of '{missing}'", "give every class a line")
    return prior
