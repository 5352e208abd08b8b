"""The features of a trained few-shot run's test images, embedded once and kept beside its records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slabench import plugins
from slabench.core.files import SHORT, digest_json, write_bytes
from slabench.core.locks import hold
from slabench.data.catalog import info
from slabench.data.imageset import ImageSet
from slabench.evaluation.episodes import embed
from slabench.learners import EpisodicLearner
from slabench.recipes.fewshot import Recipe
from slabench.records.record import RunRecord
from slabench.suites import on_device
from slabench.suites.fewshot.cross_domain import Crossing
from slabench.suites.on_features import transforms_of
from slabench.training.device import exact_float32


def image_features(
    learner: EpisodicLearner,
    recipe: Recipe,
    test: ImageSet,
    root: Path,
    record: RunRecord,
    told: Callable[[str], None],
    crossing: Crossing | None = None,
) -> Tensor:
    """`[n, M, D]` of all test images, from the cache of an earlier scoring where there is one.

    Args:
        learner: with the trial's weights, on its device.
        recipe: the trial's.
        test: the images.
        root: the folder of results.
        record: the trial's.
        told: told when images are embedded.
        crossing: where the images are of another data set than the run's.
    """
    transforms = transforms_of(recipe)
    device = next(learner.parameters()).device

    def compute() -> Tensor:
        told(f"embedding {len(test):,} test images under {transforms.M} transformations")
        images, entry = on_device(test.images, torch.device("cpu")), info(recipe.data.dataset)
        if crossing is not None:
            images, entry = crossing.fit(images), crossing.shown
        with exact_float32():
            return embed(learner, images, transforms, entry)

    if recipe.model.embedder:
        return compute().to(device)  # adapting features is as quick as reading adapted ones
    facts = {
        "weights": record.outputs_sha256,
        "data": test.digest,
        "split": test.split_digest,
        "transforms": recipe.sla.transforms,
    }
    key = digest_json(facts if crossing is None else facts | crossing.facts())
    if plugins.untold(plugins.recorded(record.environment)):
        return compute().to(device)  # nobody could tell whose they are
    owner = record.key[:SHORT] + (f"@{crossing.target.name}" if crossing else "")
    path = root / "checkpoints" / f"{owner}-{key[:SHORT]}.features"
    for old in path.parent.glob(f"{owner}-{'[0-9a-f]' * SHORT}.features"):
        if old != path:
            old.unlink(missing_ok=True)  # of weights that the trial had before
    # Of several processes that score one trial, one embeds; the others wait for it, and find the features here.
    with hold(path.with_name(f"{path.name}.lock"), seconds=_WAIT_SECONDS):
        return cached(path, key, compute).to(device)


_WAIT_SECONDS = 1800
_LIMIT = 2**30  # bytes; larger ones are computed again


def cached(path: Path, key: str, compute: Callable[[], Tensor]) -> Tensor:
    """The features of `key`, from the file if it holds them whole, otherwise computed and written.

    Args:
        path: of the file; any damage to it, or another key in it, means computing again.
        key: a digest of all that decides the features.
        compute: makes them, float32.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    try:
        with safe_open(path, framework="pt") as file:
            facts, features = file.metadata() or {}, file.get_tensor("features")
        if facts == {"key": key, "sha256": _digest(features)}:
            return features  # type: ignore[no-any-return]
    except (SafetensorError, OSError):
        pass
    features = compute().cpu().contiguous()
    if features.numel() * features.element_size() <= _LIMIT:
        write_bytes(path, save({"features": features}, metadata={"key": key, "sha256": _digest(features)}))
    return features


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().view(torch.uint8).numpy().data).hexdigest()
