"""What a trial of each kind trains on and how it is scored. A suite is a module with the functions of `Suite`."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from slabench.core.suites import SUITES
from slabench.evaluation.episodes import embed
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

    @property
    def scored_images(self) -> int:
        """Images embedded by all validations and the test together, each under all transformations."""
        ...

    def score(self, progress: Progress) -> Scored:
        """Score the weights in `module` on the test."""
        ...


@runtime_checkable
class ScoresOtherwise(Protocol):
    """A task that embeds its images not once but anew in every episode, and so knows better what its scoring takes."""

    def seconds_to_score(self) -> float:
        """Seconds that all validations and the test will take, measured on a few episodes."""
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


def estimate(task: SuiteTask, seconds: float = 3.0) -> dict[str, float]:
    """`seconds_per_step` and `images_per_second`, from a few measured steps on a task that is thrown away afterwards."""
    task.module.train()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < seconds and len(times) < 50):
        start = time.perf_counter()
        result = task.step(len(times) % max(1, task.optimisation.steps))
        result.loss.backward()
        if task.device.type == "cuda":
            torch.cuda.synchronize(task.device)
        times.append(time.perf_counter() - start)
    typical = float(np.median(times[1:]))  # the first one pays for allocation and kernel choice
    return {"seconds_per_step": typical, "images_per_second": task.images_per_step / typical}


def estimate_scoring(task: SuiteTask) -> float:
    """Seconds that all validations and the test will take, from embedding a few test-sized batches."""
    if isinstance(task, ScoresOtherwise):
        return task.seconds_to_score()
    sample = torch.zeros_like(task.images[:128], device="cpu")
    start = time.perf_counter()
    module: Any = task.module
    embed(module, sample, task.transforms, task.info)
    return (time.perf_counter() - start) / len(sample) * task.scored_images


def on_device(
    images: NDArray[Any], device: torch.device, rows: Sequence[int] | NDArray[Any] | None = None
) -> torch.Tensor:
    """uint8 `[n, H, W, 3]`, or features, in memory: index_select from a memory map would read it page by page."""
    # Rows picked from a memory map are a copy already; a second one of photographs would be gigabytes.
    if rows is not None:
        return torch.from_numpy(np.asarray(images[np.asarray(rows)])).to(device)
    held = images.flags.writeable and not isinstance(images, np.memmap)  # features are in memory already
    return torch.from_numpy(images if held else np.array(images)).to(device)
