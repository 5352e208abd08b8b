"""The weights of a finished few-shot trial: what `slabench score` embeds images with.

One safetensors file that names its trial; its sha256, which the trial's record keeps, is checked before a byte of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from slabench.errors import DataError, IntegrityError
from slabench.fsio import sha256_file, write_bytes

SCHEMA = "slabench.weights/1"
_REMEDY = "run the trial again with --resume force, or restore the file from its source"


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
    from safetensors.torch import save as pack

    # safetensors stores no aliases and no strides.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.tensors.items()}
    # One entry: safetensors writes several in any order, and equal weights are to give equal bytes.
    data = pack(tensors, metadata={"slabench": json.dumps({"schema": SCHEMA, "key": weights.key}, sort_keys=True)})
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load(path: Path, sha256: str, key: str) -> ModelWeights:
    """Read what `save` wrote for the trial `key`.

    Raises:
        IntegrityError: the file has another digest.
        DataError: the file is missing, holds no weights, or another trial's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        found = sha256_file(path)
    except OSError as error:
        raise DataError(f"weights {path} cannot be read: {error.strerror}", _REMEDY) from error
    if found != sha256:
        raise IntegrityError(f"{path} has the sha256 {found}, its record says {sha256}", _REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("slabench", "{}"))
            if facts != {"schema": SCHEMA, "key": key}:
                raise DataError(f"{path} holds no weights of trial {key[:12]}", _REMEDY)
            return ModelWeights(key, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} holds no weights: {error}", _REMEDY) from error
