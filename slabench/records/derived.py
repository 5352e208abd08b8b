"""Features of a classifier on a frozen feature set: not kept again, but told by rows of that set and the adapter's weights.

All images under four views of 1,280 features are 0.6 GB, and every seed and variant of a table has the very same ones: the set
holds them already. What a trial adds is a layer or an adapter, some megabytes at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from slabench.core.errors import DataError, DataMissingError
from slabench.core.files import SHORT
from slabench.embedders.facts import Name, Sha256
from slabench.embedders.inputs import open_inputs
from slabench.learners.adapter import adapted, build_adapter
from slabench.recipes.base import AdapterName, Few


def compact(features: Tensor) -> Tensor:
    """Features as they are kept: float16, or float32 where one of them is beyond float16's 65,504."""
    narrow = features.half()
    return features.float() if bool((narrow.isinf() & features.isfinite()).any()) else narrow


class SourceFacts(BaseModel):
    """What a file of outputs says of the feature set behind it.

    Attributes:
        features: its name.
        dataset: whose images.
        digests: sha256 by split of `slabench.embedders.open_features`, as the trial read them.
        adapter: what the trial put on the features.
        hidden: units of its hidden layer, if it has one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: Name
    dataset: Name
    digests: dict[Annotated[str, Field(pattern=r"^[a-z]+(-[a-z]+)*$")], Sha256]
    adapter: AdapterName
    hidden: Few

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return self.model_dump(mode="json")


@dataclass(frozen=True, eq=False)
class Source:
    """A frozen feature set, and the weights of what was trained on it.

    Attributes:
        facts: which set.
        weights: of the adapter, by name; none of raw features.
        folder: of prepared data; None: the user's own.
    """

    facts: SourceFacts
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    folder: Path | None = None

    def features(self, split: str, rows: Tensor) -> Tensor:
        """`[n, M, D]` of rows of a split, adapted as the trial did, in float32 and then `compact`.

        Raises:
            DataMissingError: the set is not here.
            DataError: it is another one than the trial was run on, or the weights are of another adapter.
        """
        facts = self.facts
        what = f"features '{facts.features}' of {facts.dataset}"
        try:
            found = open_inputs(facts.features, facts.dataset, split, facts.adapter, self.folder)
        except DataMissingError as error:
            raise DataMissingError(
                f"these outputs rest on the {what}, which are not here: {error.message}", error.remedy
            ) from error
        if found.digest != facts.digests.get(split):
            raise DataError(
                f"these outputs rest on the {what} with the digest {facts.digests.get(split, 'none')[:SHORT]}, and those "
                f"that are here have {found.digest[:SHORT]}",
                "embed the images again as they were, or run the trial again with --resume force",
            )
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(found.of):
            raise DataError(
                f"these outputs name rows that the {len(found.of):,} images of {facts.dataset}/{split} lack"
            )
        stored = torch.from_numpy(np.array(found.values(rows.numpy())))
        backbone = build_adapter(facts.adapter, facts.hidden, found.of.D, 0, found.maps)  # its weights are replaced
        try:
            backbone.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise DataError(
                f"these outputs hold weights of another adapter than '{facts.adapter}' on {found.of.D} features: "
                f"{' '.join(str(error).split())[:200]}",
                "run the trial again with --resume force",
            ) from error
        return compact(adapted(backbone, stored))


@dataclass(frozen=True, eq=False)
class DerivedSplit:
    """Images of one split whose features are computed when they are asked for, once; see `slabench.records.outputs.FeatureSplit`.

    Attributes:
        labels: int64 `[n]`.
        rows: int64 `[n]`, of `split`.
        split: a name of `slabench.embedders.open_features`.
        source: the feature set.
    """

    labels: Tensor
    rows: Tensor
    split: str
    source: Source

    @cached_property
    def features(self) -> Tensor:
        """float `[n, M, D]`; errors as of `Source.features`."""
        return self.source.features(self.split, self.rows)
