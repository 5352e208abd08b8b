"""What a trial of each kind trains on and how it is scored. A suite is a module with the functions of `Suite`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from slabench.core.suites import SUITES
from slabench.data.mapped import MappedRows, rows_of, too_large
from slabench.data.mapped_tensor import MappedTensor
from slabench.records.record import Score
from slabench.training.loop import Task
from slabench.training.schedule import Optimisation

if TYPE_CHECKING:
    from slabench.data.catalog import DatasetInfo
    from slabench.recipes import AnyRecipe
    from slabench.records.outputs import ModelOutputs, ModelWeights
    from slabench.sla.transforms import TransformSet
    from slabench.training.checkpoint import Progress


@dataclass(frozen=True)
class Scored:
    """The end of a trial.

    Attributes:
        scores: one of each predictor.
        per_unit: per predictor, the accuracy of every test episode or image, `[n]`, for paired tests.
        outputs: logits, features and layers of a classifier, or the weights of a few-shot trial: for what needs no training.
        transductive: whether the queries of an episode were seen together.
    """

    scores: list[Score]
    per_unit: Mapping[str, NDArray[np.float32]]
    outputs: ModelOutputs | ModelWeights | None = None
    transductive: bool = False


class Prepared(Protocol):
    """The opened data of a recipe."""

    @property
    def protocol(self) -> str:
        """Readable id of the protocol."""
        ...

    @property
    def n_train(self) -> int:
        """Images to train on."""
        ...

    def facts(self) -> dict[str, Any]:
        """Fields of the record that say on what was trained and tested."""
        ...

    def doubts(self) -> list[str]:
        """What is doubtful about the images, for the record's warnings."""
        ...

    def notes(self) -> list[str]:
        """Lines for the reader before the first trial on this data."""
        ...


class SuiteTask(Task, Protocol):
    """A `slabench.training.loop.Task`, with all that the record and the estimate need to know of it."""

    info: DatasetInfo
    transforms: TransformSet
    device: torch.device
    images: torch.Tensor
    recipe: Any
    divides: bool
    """Whether `step` works on this process's share of a batch (`slabench.core.team`)."""

    @property
    def optimisation(self) -> Optimisation:
        """What `slabench.training.loop.fit` trains by."""
        ...

    @property
    def images_per_step(self) -> int:
        """Images seen in one step, copies counted; see `slabench.recipes.images`."""
        ...

    @property
    def episodes_per_step(self) -> int:
        """Episodes of one step; 0 for a classifier."""
        ...

    def score(self, progress: Progress) -> Scored:
        """Score the weights in `module` on the test."""
        ...


class Suite(Protocol):
    """The module of a suite."""

    PROTOCOL_VERSION: int

    def check(self, recipe: Any) -> None:
        """Refuse what no data could serve, with a UsageError. Loads nothing."""
        ...

    def warnings(self, recipe: Any) -> list[str]:
        """What is legal and doubtful about a recipe, with the reason."""
        ...

    def label(self, recipe: Any, seed: int) -> str:
        """What a person calls the trial."""
        ...

    def task_id(self, recipe: Any) -> str:
        """Recipes with the same one share their prepared data."""
        ...

    def prepare(self, recipe: Any, data_folder: Path | None = None) -> Any:
        """Open the data of a recipe that `check` has accepted."""
        ...

    def check_data(self, recipe: Any, prepared: Any) -> None:
        """Refuse what this data cannot serve, with a UsageError: before anything is run."""
        ...

    def trial_key(self, recipe: Any, seed: int, prepared: Any, code: Sequence[Mapping[str, str]] | None = None) -> str:
        """sha256 (hex) of all that decides the result, the `code` of plug-ins (`slabench.plugins.used`) with it.

        There is no other key of a trial: records, outputs, checkpoints and what is derived from them carry this one.
        """
        ...

    def build_task(
        self, recipe: Any, seed: int, prepared: Any, device: torch.device, autocast: torch.dtype | None
    ) -> SuiteTask:
        """The task of a trial: weights initialised from the seed, images on `device`."""
        ...


def suite_of(recipe: AnyRecipe) -> Suite:
    """The suite of a recipe, imported now if need be."""
    module: Any = importlib.import_module(f"slabench.suites.{SUITES[recipe.suite].module}")
    return module  # type: ignore[no-any-return]


def on_device(
    images: NDArray[Any], device: torch.device, rows: Sequence[int] | NDArray[Any] | None = None
) -> torch.Tensor:
    """uint8 `[n, H, W, 3]`, or features, in memory: index_select from a memory map would read it page by page.

    What is too large for the memory stays in its file all the same (`slabench.data.mapped`).
    """
    # Rows picked from a memory map are a copy already; a second one of photographs would be gigabytes.
    if rows is not None:
        images = rows_of(images, np.asarray(rows))
    if isinstance(images, MappedRows) or (isinstance(images, np.memmap) and too_large(images.nbytes)):
        return cast("torch.Tensor", MappedTensor(images, device))
    if rows is not None:
        return torch.from_numpy(np.asarray(images)).to(device)
    held = type(images) is np.ndarray and images.flags.writeable  # features are in memory already
    return torch.from_numpy(images if held else np.array(images)).to(device)
