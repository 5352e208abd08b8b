"""Tensors beside a record: one safetensors file whose header holds facts as JSON, sealed by the sha256 in the record.

Nothing in it is pickled, and its digest is checked before a byte of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slabench.errors import DataError, IntegrityError
from slabench.fsio import sha256_file, write_bytes

REMEDY = "run the trial again with --resume force, or restore the file from its source"


def seal(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], path: Path) -> str:
    """Write both atomically and return the sha256 (hex) of the file; equal content gives equal bytes."""
    from safetensors.torch import save

    # One entry of metadata: safetensors writes several in any order.
    header = {"slabench": json.dumps(facts, sort_keys=True, allow_nan=False)}
    data = save(dict(tensors), metadata=header)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def unseal(path: Path, sha256: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors of a file that `seal` wrote; `what` it should hold is for the errors.

    Raises:
        IntegrityError: the file has another digest.
        DataError: it is missing, or `seal` did not write it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        found = sha256_file(path)
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {error.strerror}", REMEDY) from error
    if found != sha256:
        raise IntegrityError(f"{path} has the sha256 {found}, its record says {sha256}", REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(json.loads((file.metadata() or {})["slabench"]))
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} holds no {what}: {error}", REMEDY) from error


def plain(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous CPU tensor of its own: safetensors stores no aliases and no strides."""
    return tensor.detach().to("cpu", dtype or tensor.dtype).contiguous().clone()
