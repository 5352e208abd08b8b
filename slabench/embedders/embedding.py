"""Images through a frozen network, once a view, into a feature set that goes on where it was stopped."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from slabench.core.errors import DataError
from slabench.core.locks import hold
from slabench.core.uploads import upload
from slabench.data.catalog import info
from slabench.data.loading import ensure, load_rows
from slabench.data.store import open_store
from slabench.embedders.facts import FeatureManifest
from slabench.embedders.last_block import WithMaps, check_cut
from slabench.embedders.maps import block_bytes, maps_facts
from slabench.embedders.networks import Network
from slabench.embedders.store import (
    begin,
    group_digest,
    groups_of,
    open_array,
    open_map_array,
    read_manifest,
    set_folder,
    write_manifest,
)
from slabench.sla.transforms import IDENTITY, TransformSet

_COPIES = {"cpu": 16, "cuda": 1024}
"""Rows of a batch, copies counted: few stay in a CPU's cache (measured: 8 to 16 are the fastest)."""

_LARGEST_HALF = 6e4


@dataclass(frozen=True)
class Embedding:
    """What an embedding is going to do.

    Attributes:
        path: of the feature set.
        manifest: as it is before.
        groups: rows to embed, by group, in order.
        kept: images that are there already, of those asked for.
    """

    path: Path
    manifest: FeatureManifest
    groups: dict[str, npt.NDArray[np.int64]]
    kept: int

    @property
    def count(self) -> int:
        """Images to embed."""
        return sum(len(rows) for rows in self.groups.values())


def plan_embedding(
    network: Network,
    name: str,
    dataset: str,
    *,
    splits: Sequence[str] | None = None,
    transforms: TransformSet = IDENTITY,
    precision: str = "float32",
    dtype: str = "float16",
    told: dict[str, Any] | None = None,
    maps: bool = False,
    data_folder: Path | None = None,
) -> Embedding:
    """Open or begin the feature set, and find which images it lacks.

    Args:
        network: the frozen one.
        name: of the feature set.
        dataset: whose images; the set is of its prepared store.
        splits: of the data set, as of `open_features`; None for the whole store.
        transforms: the views.
        precision: for the facts.
        dtype: of the array, `float16` or `float32`.
        told: facts that a person gives; see `EmbedderFacts`.
        maps: keep what goes into the network's last block too, and that block.
        data_folder: of prepared data and of features.

    Raises:
        UsageError: there is a set of that name, made otherwise, or maps of a network whose last block is not known.
        DataMissingError: the images are not here.
    """
    store = open_store(ensure(dataset, data_folder))
    images = store.images(dataset)
    groups = groups_of(images.labels, images.parts)
    if splits is not None:
        used = np.zeros(len(images), bool)
        for split in splits:
            used[load_rows(dataset, split, data_folder).source_positions] = True
        groups = {group: rows for group, rows in groups.items() if used[rows].any()}
    path = set_folder(name, dataset, data_folder)
    block, facts = b"", None
    if maps:
        shape = check_cut(network.name, network.module, network.cut, network.size)
        block = block_bytes(network)
        facts = maps_facts(network, shape, block)
    manifest = begin(
        path,
        dataset=info(dataset).store,
        dataset_digest=store.digest,
        n=len(images),
        transforms=transforms.name,
        M=transforms.M,
        D=network.dim,
        dtype=dtype,
        embedder=network.facts(precision, **(told or {})),
        maps=facts,
        block=block,
    )
    missing = {group: rows for group, rows in groups.items() if group not in manifest.groups}
    kept = sum(len(rows) for group, rows in groups.items() if group in manifest.groups)
    return Embedding(path, manifest, missing, kept)


def embed_images(
    network: Network,
    plan: Embedding,
    transforms: TransformSet,
    *,
    device: torch.device | None = None,
    autocast: torch.dtype | None = None,
    batch: int | None = None,
    data_folder: Path | None = None,
    done: Callable[[int], None] = lambda n: None,
) -> FeatureManifest:
    """Embed what `plan` lacks, group by group; each that is whole is vouched for at once, so that an interruption costs one.

    Args:
        network: moved to `device`.
        plan: of `plan_embedding`, as are `transforms` and `data_folder`.
        transforms: the views, of the network's input.
        device: the CPU by default.
        autocast: precision of the network; None is float32.
        batch: images at once; by default 16 copies on a CPU, 1,024 on a GPU.
        data_folder: of prepared data.
        done: told how many more images are embedded.

    Returns:
        The manifest, all groups of the plan in it.

    Raises:
        DataError: features are NaN or infinite, beyond float16, the disk has no room for them, or another process embeds into
            this set.
    """
    device = device or torch.device("cpu")
    at_once = batch or max(1, _COPIES[device.type] // transforms.M)
    images = open_store(ensure(plan.manifest.dataset, data_folder)).images(plan.manifest.dataset).images
    _refuse_size(plan)
    network.module.to(device)
    forward = _faster(network, device, autocast, maps=plan.manifest.maps is not None)
    with hold(plan.path.with_suffix(".lock")) as state:
        if state == "busy":
            raise DataError(f"another process embeds into {plan.path}", "wait for it")
        manifest = read_manifest(plan.path)
        arrays: list[Any] = [open_array(plan.path, manifest, "r+")]
        if manifest.maps is not None:
            arrays.append(open_map_array(plan.path, manifest, "r+"))
        for group, rows in plan.groups.items():
            if group in manifest.groups:
                continue
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                made = _features(network, forward, images[part], transforms, device, autocast)
                for array, found in zip(arrays, made, strict=True):
                    array[part] = _stored(found, array, manifest)
                done(len(part))
            manifest = _vouched(manifest, group, arrays, rows)
            write_manifest(plan.path, manifest)
    return manifest


def _refuse_size(plan: Embedding) -> None:
    """Refuse what the disk has no room for: a memory map that finds none while it is written ends the process."""
    needed, free = plan.manifest.bytes_of(plan.count), shutil.disk_usage(plan.path).free
    if needed > free:
        raise DataError(
            f"the features of {plan.count:,} images take {needed:,} bytes, and {free:,} are free in {plan.path}",
            "make room, or point SLABENCH_DATA at a larger disk",
        )


def _vouched(manifest: FeatureManifest, group: str, arrays: list[Any], rows: npt.NDArray[np.int64]) -> FeatureManifest:
    """The manifest with a group that is whole: of its features, and of its maps if there are any."""
    for array in arrays:
        array.flush()
    features, *others = (group_digest(array, rows) for array in arrays)
    update: dict[str, Any] = {"groups": {**manifest.groups, group: features}}
    if manifest.maps is not None:
        groups = {**manifest.maps.groups, group: others[0]}
        update["maps"] = manifest.maps.model_copy(update={"groups": groups})
    return manifest.model_copy(update=update)


_Forward = Callable[[Tensor], Tensor | tuple[Tensor, Tensor]]
"""Features `[B, D]` of inputs, or maps `[B, ...]` and features."""


@torch.inference_mode()
def _features(
    network: Network,
    forward: _Forward,
    images: npt.NDArray[np.uint8],
    transforms: TransformSet,
    device: torch.device,
    autocast: torch.dtype | None,
) -> list[npt.NDArray[np.float32]]:
    """float32 `[B, M, D]` of uint8 `[B, H, W, 3]`; and maps `[B, M, ...]`, where they are kept."""
    copies = transforms.apply(network.inputs(upload(torch.from_numpy(np.ascontiguousarray(images)), device)))
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        out = forward(copies)
    parts = (out,) if isinstance(out, Tensor) else (out[1], out[0])
    return [part.float().unflatten(0, (len(images), transforms.M)).cpu().numpy() for part in parts]


def _stored(found: npt.NDArray[np.float32], array: Any, manifest: FeatureManifest) -> npt.NDArray[Any]:
    """As `array`, one of the set's two, keeps them."""
    path = Path(array.filename)
    if not np.isfinite(found).all():
        raise DataError(f"{path}: the network gives NaN or infinity", "try --precision float32")
    if manifest.dtype == "float16" and float(np.abs(found).max(initial=0)) > _LARGEST_HALF:
        raise DataError(
            f"{path}: the network gives {float(np.abs(found).max()):.3g}, more than float16 holds",
            "use --dtype float32 (and --replace)",
        )
    return found.astype(manifest.dtype)


def _faster(network: Network, device: torch.device, autocast: torch.dtype | None, maps: bool) -> _Forward:
    """The network, with its maps or without, with batch norms folded into its convolutions where it can be traced: a quarter
    faster on a CPU."""
    plain: Any = network.forward
    if maps:
        assert network.cut is not None
        plain = WithMaps(network.module, network.cut.entered)
    if device.type != "cpu" or autocast is not None or not isinstance(plain, torch.nn.Module):
        return plain  # type: ignore[no-any-return]
    sample = torch.zeros(2, 3, network.size, network.size).contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that tracing is deprecated: where it is gone, nothing is folded
            module = (plain if maps else network.module).eval().to(memory_format=torch.channels_last)
            frozen = torch.jit.freeze(torch.jit.trace(module, sample))
            other = torch.randn(3, 3, network.size, network.size)
            both = ((own,) if isinstance(own, Tensor) else own for own in (frozen(other), module(other)))
            if all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(*both, strict=True)):
                return frozen  # type: ignore[no-any-return]
    except Exception:  # tracing fails in as many ways as networks are written: then they run as they are
        pass
    return plain
