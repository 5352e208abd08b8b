"""The features of a trained few-shot run as a file that others read, and that `slabench features import` takes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from slabench.core import paths
from slabench.core.errors import UsageError, unknown_name
from slabench.core.files import SHORT
from slabench.data import load
from slabench.data.catalog import info
from slabench.data.splits import SPLIT_NAMES
from slabench.embedders.files import SUFFIXES, write_features
from slabench.evaluation.episodes import embed
from slabench.recipes import parse_recipe
from slabench.recipes.fewshot import Recipe
from slabench.records.store import ResultStore
from slabench.sla.transforms import transform_set
from slabench.suites import on_device
from slabench.suites.fewshot.features import image_features
from slabench.suites.fewshot.score_heads import learner_of, open_weights
from slabench.training.device import choose_device, exact_float32


def export_features(
    run: str,
    file: Path,
    *,
    split: str = "test",
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    told: Callable[[str], None] = lambda text: None,
) -> tuple[int, int, int]:
    """Write the features of one split's images, under all transformations of the run, to `file`.

    Args:
        run: the first characters of the trial's key.
        file: `.npz`, `.safetensors` or `.parquet`.
        split: of the run's data set.
        results: the folder of records.
        data_folder: of prepared data.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        told: told what is going on.

    Returns:
        n, M and D.

    Raises:
        UsageError: no such run or split, a run that left no weights, or a file of another kind.
        DataError: its weights are missing or damaged, or the data is not here.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{file.name} does not say what to write", f"end it in {', '.join(SUFFIXES)}")
    if split not in SPLIT_NAMES:
        raise unknown_name("split", split, SPLIT_NAMES)
    store = ResultStore(paths.results(results))
    record = store.match(run)
    weights = open_weights(record, store)
    recipe = parse_recipe({**record.recipe, "seeds": [record.seed]})
    assert isinstance(recipe, Recipe)
    if recipe.model.embedder:
        raise UsageError(
            f"run {record.key[:SHORT]} adapts the features '{recipe.model.embedder}', which are here as they are",
            "name a run that was trained on images",
        )
    images = load(recipe.data.dataset, split, data_folder)
    learner = learner_of(recipe, record.seed, None, recipe.model.head, weights).to(choose_device(device)).eval()
    if split == "test":
        found = image_features(learner, recipe, images, store.root, record, told)
    else:
        told(f"embedding {len(images):,} images of {split}")
        with exact_float32():
            transforms = transform_set(recipe.sla.transforms)
            entry = info(recipe.data.dataset)
            found = embed(learner, on_device(images.images, torch.device("cpu")), transforms, entry)
    features = found.cpu().numpy()
    facts = {
        "embedder": f"slabench:{record.name.removeprefix('fewshot/')}@{record.key[:SHORT]}",
        "pretraining": f"training classes of {record.dataset}",
        "resolution": info(record.dataset).image_size,
        "weights_sha256": record.outputs_sha256,
        "precision": "float32",
        "contaminated": "no",
        "contaminated_why": "trained by slabench on the training classes alone",
    }
    write_features(
        file,
        features,
        ids=np.arange(len(images), dtype=np.int64),
        labels=images.labels,
        class_names=images.class_names,
        split=split,
        facts=facts,
    )
    return features.shape[0], features.shape[1], features.shape[2]
