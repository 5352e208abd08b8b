"""Weights from files that nobody vouches for: safetensors, or torch files read as tensors alone; under the network's names."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from slabench.core.errors import DataError, UnsafePickleError

_NESTED = ("state_dict", "model", "model_state", "state_dict_ema")
_WRAPPERS = ("module.", "_orig_mod.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name.

    Args:
        path: `.safetensors`, or what `torch.save` wrote; of the latter nothing but tensors and plain containers is read.

    Raises:
        DataError: it is missing, damaged, or holds no tensors.
        UnsafePickleError: it asks for code.
    """
    if not path.is_file():
        raise DataError(f"{path} cannot be read: there is no such file", "name the file of the weights: --weights FILE")
    remedy = "fetch the file again; safetensors, or a state dict saved by torch.save"
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is not a whole safetensors file: {str(error)[:200]}", remedy) from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        said = str(error)
        if "Unsupported" in said or "GLOBAL" in said or "WeightsUnpickler" in said:
            raise UnsafePickleError(
                f"{path} holds more than tensors, and is not read: {said.splitlines()[0][:200]}",
                "ask for a state dict, or for safetensors",
            ) from error
        raise DataError(f"{path} is not a file of weights: {said.splitlines()[0][:200]}", remedy) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a whole file of weights: {str(error)[:200]}", remedy) from error
    for name in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise DataError(f"{path} holds no tensors by name", remedy)
    return tensors


def fitted(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the names of a network, without those that it does not have (its classifier).

    Args:
        found: as read.
        wanted: the network's own state.
        path: of the file, for errors.

    Raises:
        DataError: one is missing, or has another shape.
    """
    tensors = dict(found)
    for wrapper in _WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    if "_conv_stem.weight" in tensors:
        tensors = efficientnet_names(tensors, wanted)
    # Counters of batches decide nothing at rest, and some publishers leave them out.
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    tensors = {**counters, **{name: value for name, value in tensors.items() if name in wanted}}
    for name, value in wanted.items():
        if name not in tensors:
            raise DataError(
                f"{path} lacks '{name}' ({len(wanted.keys() - tensors.keys())} of {len(wanted)} tensors of the network)",
                "it holds the weights of another network, or names them otherwise: name the --model that they are of",
            )
        if tensors[name].shape != value.shape:
            raise DataError(
                f"{path}: '{name}' is {list(tensors[name].shape)}, and the network's {list(value.shape)}",
                "it holds the weights of another network, or of another input: name the --model that they are of",
            )
    return {name: tensors[name] for name in wanted}


_BLOCK = re.compile(r"^_blocks\.(\d+)\._(.+)$")


def efficientnet_names(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of `efficientnet_pytorch` (and its Lite variants) under timm's names.

    There blocks are counted through all stages, and the first of them has no expansion, so that its batch norms are called 1
    and 2; here they are counted within a stage and from 1 on.

    Args:
        tensors: of the file.
        wanted: of timm's network: its stages say how many blocks each has.
    """
    blocks = sorted({tuple(int(n) for n in name.split(".")[1:3]) for name in wanted if name.startswith("blocks.")})
    renamed = {}
    for name, value in tensors.items():
        match = _BLOCK.match(name)
        if match is None:
            renamed[_OUTER.get(name.partition(".")[0], name.partition(".")[0]) + "." + name.partition(".")[2]] = value
            continue
        number, rest = int(match[1]), match[2]
        if number >= len(blocks):
            continue
        stage = "blocks.{}.{}".format(*blocks[number])
        part, _, leaf = rest.partition(".")
        expands = f"{stage}.conv_pwl.weight" in wanted
        names = _EXPANDED if expands else _PLAIN
        renamed[f"{stage}.{names.get(part, part)}.{leaf}"] = value
    return renamed


_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_EXPANDED = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
    "se_reduce": "se.conv_reduce",
    "se_expand": "se.conv_expand",
}
_PLAIN = {**_EXPANDED, "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
