"""Checkpoints: one safetensors file whose header carries the JSON state, so that one rename replaces all of it at once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from slabench.core.errors import DataError, IntegrityError
from slabench.core.files import write_bytes

_REMEDY = "remove it, or start again with --resume never"


@dataclass
class Progress:
    """How far a run has come, besides its weights.

    Attributes:
        step: updates done.
        images_seen: forward passes of training images, copies counted.
        seconds: training time so far, over all sittings, validations not counted.
        curve: validation points as plain values.
        best_step: the step of the best validation so far.
        best_accuracy: its accuracy.
        loss_sum: of the steps since the last curve point.
        accuracy_sum: likewise.
        since: steps since the last curve point.
        processes: steps by the number of processes that made them together.
    """

    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_accuracy: float | None = None
    loss_sum: float = 0.0
    accuracy_sum: float = 0.0
    since: int = 0
    processes: dict[str, int] = field(default_factory=dict)


class _State(BaseModel):
    """What the header of a checkpoint says."""

    model_config = ConfigDict(extra="forbid")

    key: str
    progress: Progress
    sha256: str


def save_checkpoint(
    path: Path,
    key: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: dict[str, Tensor] | None,
) -> None:
    """Write all that a run needs to go on bit for bit, atomically."""
    from safetensors.torch import save

    tensors = {f"model.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None
        }
    # Scalars and views alike become plain contiguous CPU tensors; safetensors stores no aliases.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    state = {"key": key, "progress": vars(progress), "sha256": _digest(tensors)}
    write_bytes(path, save(tensors, metadata={"slabench": json.dumps(state)}))


def load_checkpoint(
    path: Path, key: str, module: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Tensor] | None]:
    """Put a saved state into `module` and `optimizer`.

    Raises:
        DataError: the file is damaged, or not of slabench.
        IntegrityError: it belongs to another trial, or its tensors are not those that were saved.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = _State.model_validate_json((file.metadata() or {})["slabench"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"checkpoint {path} cannot be read: {_first_line(error)}", _REMEDY) from error
    if state.key != key:
        raise IntegrityError(f"checkpoint {path} belongs to trial {state.key[:12]}, not {key[:12]}", _REMEDY)
    if state.sha256 != _digest(tensors):
        raise IntegrityError(f"checkpoint {path} is damaged: its tensors are not those that were saved", _REMEDY)
    model, best = _part(tensors, "model."), _part(tensors, "best.")
    for name, value in module.state_dict().items():
        for part in (model, best) if best else (model,):
            found = part.get(name)
            if found is None or found.shape != value.shape or found.dtype != value.dtype:
                is_there = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
                raise IntegrityError(
                    f"checkpoint {path}: '{name}' {is_there}, and the model has {value.dtype} {list(value.shape)}",
                    _REMEDY,
                )
    try:
        module.load_state_dict(model)
        saved: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer.").items():
            index, _, entry = name.partition(".")
            saved.setdefault(int(index), {})[entry] = value
        optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, ValueError, KeyError) as error:
        raise IntegrityError(f"checkpoint {path} is not of this model: {_first_line(error)}", _REMEDY) from error
    return state.progress, best or None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
