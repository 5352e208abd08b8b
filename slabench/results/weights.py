"""The weights of a finished few-shot trial: what `slabench score` embeds images with.

One sealed file (`slabench.results.sealed`) that names its trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from slabench.errors import DataError
from slabench.fsio import SHORT
from slabench.results.sealed import REMEDY, plain, seal, unseal

SCHEMA = "slabench.weights/1"


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """Weights and buffers by their names in the trained module.

    Attributes:
        key: the trial's.
        tensors: its `state_dict`.
    """

    key: str
    tensors: Mapping[str, Tensor]


def save(weights: ModelWeights, path: Path) -> str:
    """Write `weights` atomically and return the sha256 (hex) of the file."""
    tensors = {name: plain(tensor) for name, tensor in weights.tensors.items()}
    return seal(tensors, {"schema": SCHEMA, "key": weights.key}, path)


def load(path: Path, sha256: str, key: str) -> ModelWeights:
    """Read what `save` wrote for the trial `key`.

    Raises:
        IntegrityError: the file has another digest.
        DataError: the file is missing, holds no weights, or another trial's.
    """
    facts, tensors = unseal(path, sha256, "weights")
    if facts != {"schema": SCHEMA, "key": key}:
        raise DataError(f"{path} holds no weights of trial {key[:SHORT]}", REMEDY)
    return ModelWeights(key, tensors)
