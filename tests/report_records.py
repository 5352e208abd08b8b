"""A folder of records that has something for every section of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from model_outputs import make_outputs
from result_records import classifier_record, make_record

from slabench.records.store import ResultStore


def controls(root: Path) -> dict[str, Any]:
    """SLA above the plain baseline, level with the aggregated one, below the one at equal passes; a long tail; odd names."""
    rng = np.random.default_rng(1)
    base = rng.integers(30, 50, 200) / 100
    noise = rng.integers(-2, 3, 200) / 100
    plans = {
        "baseline": ("baseline", 1_000_000, {"single": base, "aggregated": base + 0.1 + noise}),
        "sla": ("sla", 4_000_000, {"single": base + 0.02, "aggregated": base + 0.1 - noise}),
        "equal": ("baseline", 4_000_000, {"single": base, "aggregated": base + 0.3}),
    }
    store = ResultStore(root)
    for name, (objective, passes, own) in plans.items():
        accuracies = {predictor: np.float32(np.clip(a, 0, 1)) for predictor, a in own.items()}
        record = make_record(objective, 0, accuracies, name=f"fewshot/controls/{name}", images_seen=passes)
        if name == "equal":
            recipe = {**record.recipe, "train": {"steps": 400}}
            record = record.model_copy(update={"recipe": recipe, "recipe_digest": "a" * 64, "key": "a" * 64})
        store.save(record, accuracies)
    tail = classifier_record(
        per_class={"<ant> & co": 0.75, "bee": 0.25},
        counts={"<ant> & co": 500, "bee": 5},
        few=0.25,
        name="imbalanced/<b>ce</b>",
    )
    store.save(tail, {}, make_outputs())
    return {name: own for name, (_, _, own) in plans.items()}
