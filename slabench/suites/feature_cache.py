"""Features that cost minutes to compute, kept beside the checkpoints until someone clears them away."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from slabench.fsio import write_bytes

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
