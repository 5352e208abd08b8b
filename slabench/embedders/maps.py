"""Maps before the last block of a frozen network, memory-mapped, and that block as the network had it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.core.files import SHORT, digest_json, read_plain
from slabench.core.uploads import upload
from slabench.embedders.facts import MapsFacts
from slabench.embedders.networks import Network, open_tail
from slabench.embedders.store import BLOCK, MAPS, FeatureSet, check_groups, open_map_array

_AGAIN = "embed the images again with --maps --replace"


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of a feature set, one for each view of each image of its store.

    Attributes:
        path: of the set.
        facts: what its manifest says of them.
        network: such as `timm:tf_efficientnet_lite0`.
    """

    path: Path
    facts: MapsFacts
    network: str
    _array: npt.NDArray[np.floating[Any]]

    def take(self, numbers: Tensor) -> Tensor:
        """Maps float32 `[B, ...]` by number: row of the store times the views, plus the view.

        Args:
            numbers: int64 `[B]` or `[B, 1]`; the maps are on its device.
        """
        found = self._array[numbers.reshape(-1).cpu().numpy()]
        return upload(torch.from_numpy(np.ascontiguousarray(found)), numbers.device).float()

    def tail(self) -> nn.Module:
        """The network's last block and what follows it, with its pre-trained weights, in eval mode on the CPU.

        Raises:
            UsageError: the library that knows the network is not installed.
            IntegrityError: the file of the block is missing, or another one.
            DataError: the block is not one of this network, or of another version of its library.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.path / BLOCK
        try:
            data = read_plain(path)
        except DataError as error:
            raise IntegrityError(f"{error.message}: it holds the last block", _AGAIN) from error
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != self.facts.block_sha256:
            raise IntegrityError(
                f"{path} has the sha256 {sha256[:SHORT]}, the manifest says {self.facts.block_sha256[:SHORT]}", _AGAIN
            )
        tail = open_tail(self.network)
        try:
            tail.load_state_dict(load(data))
        except (RuntimeError, SafetensorError) as error:
            raise DataError(
                f"{path} does not fit the last block of {self.network} here: {' '.join(str(error).split())[:200]}",
                _AGAIN,
            ) from error
        return tail.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> Maps:
        return self  # a copy for inference reads the same file


def open_maps(features: FeatureSet) -> tuple[Maps, str]:
    """The maps behind features, and the digest of those of the split.

    Raises:
        UsageError: the set has none.
        IntegrityError: they are damaged.
    """
    manifest, facts = features.manifest, features.manifest.maps
    if facts is None:
        raise UsageError(
            f"the feature set '{features.name}' of {manifest.dataset} has no maps, which the adapter last-block is trained on",
            "embed the images with --maps under another --name, or choose --adapter linear or mlp",
        )
    array = open_map_array(features.path, manifest)
    check_groups(features.path / MAPS, array, features.groups, facts.groups)
    digest = digest_json({**facts.identity(), "groups": {group: facts.groups[group] for group in features.groups}})
    flat = array.reshape(manifest.n * manifest.M, *facts.shape)
    return Maps(features.path, facts, manifest.embedder.embedder, flat), digest


def numbers(features: FeatureSet) -> npt.NDArray[np.int64]:
    """int64 `[n, M, 1]`: the number of the map of every view of every image of a split, in place of its features."""
    first = features.rows[:, None] * features.M
    return (first + np.arange(features.M))[..., None]


def block_bytes(network: Network) -> bytes:
    """The last block of a network as a safetensors file; equal weights give equal bytes."""
    from safetensors.torch import save

    assert network.cut is not None  # `check_cut`
    state = network.cut.tail.state_dict()
    return save({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})


def maps_facts(network: Network, shape: tuple[int, ...], block: bytes) -> MapsFacts:
    """What a manifest says of maps that are not there yet."""
    assert network.cut is not None
    return MapsFacts(block=network.cut.block, shape=list(shape), block_sha256=hashlib.sha256(block).hexdigest())
