"""Images through a frozen network, once a view, into a feature set that goes on where it was stopped."""

from __future__ import annotations

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
from slabench.embedders.networks import Network
from slabench.embedders.store import (
    ARRAY,
    begin,
    group_digest,
    groups_of,
    open_array,
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
        data_folder: of prepared data and of features.

    Raises:
        UsageError: there is a set of that name, made otherwise.
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
        DataError: features are NaN or infinite, beyond float16, or another process embeds into this set.
    """
    device = device or torch.device("cpu")
    at_once = batch or max(1, _COPIES[device.type] // transforms.M)
    images = open_store(ensure(plan.manifest.dataset, data_folder)).images(plan.manifest.dataset).images
    network.module.to(device)
    forward = _faster(network, device, autocast)
    with hold(plan.path.with_suffix(".lock")) as state:
        if state == "busy":
            raise DataError(f"another process embeds into {plan.path}", "wait for it")
        manifest = read_manifest(plan.path)
        array: Any = open_array(plan.path, manifest, "r+")
        for group, rows in plan.groups.items():
            if group in manifest.groups:
                continue
            for start in range(0, len(rows), at_once):
                part = rows[start : start + at_once]
                found = _features(network, forward, images[part], transforms, device, autocast)
                array[part] = _stored(found, manifest, plan.path)
                done(len(part))
            array.flush()
            manifest = manifest.model_copy(update={"groups": {**manifest.groups, group: group_digest(array, rows)}})
            write_manifest(plan.path, manifest)
    return manifest


@torch.inference_mode()
def _features(
    network: Network,
    forward: Callable[[Tensor], Tensor],
    images: npt.NDArray[np.uint8],
    transforms: TransformSet,
    device: torch.device,
    autocast: torch.dtype | None,
) -> npt.NDArray[np.float32]:
    """float32 `[B, M, D]` of uint8 `[B, H, W, 3]`."""
    copies = transforms.apply(network.inputs(upload(torch.from_numpy(np.ascontiguousarray(images)), device)))
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        out = forward(copies)
    made: npt.NDArray[np.float32] = out.float().reshape(len(images), transforms.M, -1).cpu().numpy()
    return made


def _stored(found: npt.NDArray[np.float32], manifest: FeatureManifest, path: Path) -> npt.NDArray[Any]:
    if not np.isfinite(found).all():
        raise DataError(f"{path / ARRAY}: the network gives NaN or infinity", "try --precision float32")
    if manifest.dtype == "float16" and float(np.abs(found).max(initial=0)) > _LARGEST_HALF:
        raise DataError(
            f"{path / ARRAY}: the network gives {float(np.abs(found).max()):.3g}, more than float16 holds",
            "use --dtype float32 (and --replace)",
        )
    return found.astype(manifest.dtype)


def _faster(network: Network, device: torch.device, autocast: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """The network with batch norms folded into its convolutions, where it can be traced: a quarter faster on a CPU."""
    if device.type != "cpu" or autocast is not None or not isinstance(network.forward, torch.nn.Module):
        return network.forward
    sample = torch.zeros(2, 3, network.size, network.size).contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that tracing is deprecated: where it is gone, nothing is folded
            module = network.module.to(memory_format=torch.channels_last)
            frozen = torch.jit.freeze(torch.jit.trace(module, sample))
            other = torch.randn(3, 3, network.size, network.size)
            if torch.allclose(frozen(other), module(other), rtol=1e-3, atol=1e-3):
                return frozen  # type: ignore[no-any-return]
    except Exception:  # tracing fails in as many ways as networks are written: then they run as they are
        pass
    return network.forward
