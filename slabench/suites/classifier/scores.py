"""What a record keeps of a classifier's scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from slabench.evaluation.intervals import finite_or_none, t_interval
from slabench.evaluation.metrics import ClassificationScores
from slabench.records.record import Chosen, ClassScores, Score


def best_point(points: list[dict[str, Any]], predictor: str, by: str) -> Chosen | None:
    """The point that is best by its `val` or `test` accuracy, the earliest of equals, and its test accuracy."""
    if not points:
        return None
    best = max(points, key=lambda point: (point[by][predictor], -point["step"]))
    return Chosen(step=best["step"], value=best["test"][predictor])


def class_score(predictor: str, found: ClassificationScores, right: ArrayLike, class_names: Sequence[str]) -> Score:
    """The scores of one predictor as a record keeps them.

    Args:
        predictor: its name.
        found: on the test images.
        right: `[n]`, 1 for every image that was classified rightly; for the interval.
        class_names: by label.
    """
    interval = t_interval(np.asarray(right))
    return Score(
        predictor=predictor,
        value=found.top1,
        ci95=finite_or_none(interval.half_width),
        std=finite_or_none(interval.std),
        n=found.n,
        worst_class=found.worst_class,
        per_class={class_names[c]: round(r, 6) for c, r in enumerate(found.recall) if r is not None},
        metrics=ClassScores(**{key: getattr(found, key) for key in ClassScores.model_fields}),
    )
