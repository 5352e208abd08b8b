"""learn2learn 0.2: finding it, and an adapter both ways between our episodes and its Taskset."""

from __future__ import annotations

import contextlib
import importlib
import io
import random
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from slabench.core.errors import UsageError
from slabench.core.seeding import derive
from slabench.data.imageset import ImageSet
from slabench.episodes.sampler import Episodes

INSTALL = """\
pip install 'cython<3.1' 'setuptools<81' wheel gym tqdm requests
pip install --use-pep517 --no-build-isolation --no-deps -C--global-option=build_ext learn2learn==0.2.0"""
"""What to type: its C files do not compile on Python >= 3.11 unless cython makes them anew, and its pins must not reach us."""


def require_learn2learn() -> Any:
    """The module learn2learn, imported now if need be.

    Raises:
        UsageError: it is missing, or lacks something itself; the remedy is what to type.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gym, which it imports, prints an advertisement there
            return importlib.import_module("learn2learn")
    except ImportError as error:
        raise UsageError(
            f"this needs learn2learn 0.2, which cannot be imported here ({error})",
            f"install it with a C compiler at hand, in a checkout by `sh scripts/install_learn2learn.sh python`, or:\n{INSTALL}",
        ) from error


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """An image set as the kind of dataset that learn2learn wraps: `dataset[row]` is `(image, label)`.

    Args:
        images: uint8 pixels and labels.
        transform: from a uint8 tensor `[3, H, W]` to what a task shall hold; None: float32 in 0..1, as torchvision's ToTensor.
    """

    def __init__(self, images: ImageSet, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.images, self.transform = images, transform or _to_unit

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(np.array(self.images.images[row])).permute(2, 0, 1)
        return self.transform(pixels), int(self.images.labels[row])


def meta_dataset(images: ImageSet, transform: Callable[[Tensor], Tensor] | None = None) -> Any:
    """learn2learn's `MetaDataset` of an image set; it is told the labels, since it would load every image to find them."""
    rows = {label: own.tolist() for label, own in enumerate(images.class_rows())}
    labels = dict(enumerate(images.labels.tolist()))
    made = require_learn2learn().data.MetaDataset
    return made(LabelledImages(images, transform), labels_to_indices=rows, indices_to_labels=labels)


class EpisodeTasks(Sequence[tuple[Tensor, Tensor]]):
    """Episodes as learn2learn's code consumes a Taskset: `len`, indexing, iteration and `sample()`.

    A task is `(data [N*(K+Q), 3, H, W], labels int64 [N*(K+Q)])`: way after way, the K supports of a way before its Q queries,
    labels 0 .. N-1. `learn2learn.data.partition_task(data, labels, shots=K)` parts them again. (The examples' other way, every
    second row a support, is right only where K = Q, and for rows in another order.)

    Args:
        images: the image set whose rows the episodes hold.
        episodes: E episodes.
        transform: as of `LabelledImages`.
    """

    def __init__(
        self, images: ImageSet, episodes: Episodes, transform: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        if len(episodes) and int(episodes.rows.max()) >= len(images):
            raise UsageError(
                f"the episodes hold row {int(episodes.rows.max())}, and {images.name} has {len(images)} images",
                "take the image set that the episodes were drawn from",
            )
        self._dataset, self.episodes = LabelledImages(images, transform), episodes

    def __len__(self) -> int:
        return len(self.episodes)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> EpisodeTasks: ...
    def __getitem__(self, index: int | slice) -> tuple[Tensor, Tensor] | EpisodeTasks:
        """Task `index`, or the tasks of a slice."""
        if isinstance(index, slice):
            part = EpisodeTasks.__new__(EpisodeTasks)
            part._dataset, part.episodes = self._dataset, self.episodes[index]
            return part
        rows = self.episodes.rows[range(len(self))[index]]  # [N, K+Q]; range knows what lies outside
        data = torch.stack([self._dataset[row][0] for row in rows.flatten().tolist()])
        return data, torch.arange(len(rows)).repeat_interleave(rows.shape[1])

    def sample(self) -> tuple[Tensor, Tensor]:
        """A task at random, drawn from Python's global `random` as learn2learn does."""
        return self[random.randrange(len(self))]


def episodes_from_taskset(taskset: Any, n: int, shots: int, seed: int) -> Episodes:
    """Episodes of the tasks that a learn2learn Taskset describes; no image is loaded.

    Of a Taskset that keeps its tasks (`num_tasks`) they are the first `n`, and `taskset[i]` gives episode i ever after; of an
    endless one `n` fresh tasks. The first `shots` samples of a class are its supports, as `partition_task` has it. Ways are in
    the order in which the task first names them: RemapLabels may number them otherwise, which no episode depends on.

    Args:
        taskset: over `meta_dataset(images)`, or any whose labels are those of the image set.
        n: how many.
        shots: K; the rest of a class's samples are queries.
        seed: of the tasks that are not drawn yet. learn2learn draws from Python's global `random`, which is put back.

    Raises:
        UsageError: the Taskset keeps fewer tasks, or its tasks are no N-way episodes of equal shots with queries.
    """
    if taskset.num_tasks != -1 and n > taskset.num_tasks:
        raise UsageError(
            f"{n} episodes were asked for, and the Taskset keeps {taskset.num_tasks} tasks",
            "ask for fewer, or raise num_tasks",
        )
    state = random.getstate()
    random.seed(derive(seed, "learn2learn"))
    try:
        tasks = [_described(taskset, number) for number in range(n)]
    finally:
        random.setstate(state)
    label_of = taskset.dataset.indices_to_labels
    rows, classes = [], []
    for number, task in enumerate(tasks):
        by_class: dict[int, list[int]] = {}
        for index in task:
            by_class.setdefault(int(label_of[index]), []).append(index)
        sizes = {len(own) for own in by_class.values()}
        if len(sizes) != 1 or min(sizes) <= shots:
            raise UsageError(
                f"task {number} has {sorted(len(own) for own in by_class.values())} samples of its classes: "
                f"an episode of {shots} shots needs equally many of each, more than {shots}",
                "use NWays and KShots (or FusedNWaysKShots) with k = shots + queries",
            )
        rows.append(list(by_class.values()))
        classes.append(list(by_class))
    kinds = sorted({(len(task), len(task[0])) for task in rows})
    if len(kinds) > 1:
        found = " and ".join(f"{ways} x {samples}" for ways, samples in kinds)
        raise UsageError(f"the tasks differ in ways or samples: {found}", "give each kind of task a Taskset of its own")
    return Episodes(torch.tensor(rows), torch.tensor(classes), shots)


def _described(taskset: Any, number: int) -> list[int]:
    """The dataset's indices of task `number`, in the task's order."""
    if taskset.num_tasks == -1:
        description = taskset.sample_task_description()
    else:
        kept = taskset.sampled_descriptions
        if number not in kept:
            kept[number] = taskset.sample_task_description()
        description = kept[number]
    return [int(sample.index) for sample in description]


def _to_unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255
