"""What a trial reads of a feature set in the place of images: features, or numbers of maps for the last block."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slabench.core.files import digest_json
from slabench.embedders.maps import Maps, numbers, open_maps
from slabench.embedders.store import FeatureSet, open_features


@dataclass(frozen=True, eq=False)
class Inputs:
    """Of one split.

    Attributes:
        of: its features.
        digest: sha256 (hex) of all that is read of the set.
        maps: where the numbers are of; None where the features themselves are read.
    """

    of: FeatureSet
    digest: str
    maps: Maps | None

    def values(self, rows: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
        """float `[n, M, D]`, as stored, or int64 numbers of maps `[n, M, 1]`; of rows of the split, or of all."""
        if self.maps is None:
            return self.of.features(rows)
        found = numbers(self.of)
        return found if rows is None else found[np.asarray(rows, np.int64)]


def open_inputs(name: str, dataset: str, split: str, adapter: str, folder: Path | None = None) -> Inputs:
    """What an adapter reads of a split of a feature set.

    Args:
        name: of the set.
        dataset: whose images.
        split: see `open_features`, as the errors.
        adapter: `last-block` reads maps, every other one features.
        folder: of prepared data.

    Raises:
        UsageError: maps are asked of a set that has none.
    """
    of = open_features(name, dataset, split, folder)
    if adapter != "last-block":
        return Inputs(of, of.digest, None)
    maps, digest = open_maps(of)
    return Inputs(of, digest_json({"features": of.digest, "maps": digest}), maps)
