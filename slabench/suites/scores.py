"""A classifier's scores as a record keeps them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from slabench.evaluation.classification import ClassificationScores
from slabench.evaluation.intervals import finite_or_none, t_interval
from slabench.results.record import ClassScores, Score


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
