"""Drawing 5-way 5-shot 15-query episodes and gathering their uint8 pixels, beside learn2learn and easyfsl.

The peers hand out the same 100 images of an episode from memory, uint8, without any transform: their fastest case.
"""

from __future__ import annotations

import random

import torch
from _measure import Row, compare, main, peer, test_images
from torch.utils.data import DataLoader, Dataset, Sampler

from slabench.core.seeding import numpy_generator
from slabench.episodes.sampler import EpisodeSampler, gather

WAYS, SHOTS, QUERIES = 5, 5, 15
OURS, BATCH, PEERS = 16_384, 64, 200  # episodes a turn; episodes gathered at once; episodes of the peers a turn


class _Pixels(Dataset):  # type: ignore[type-arg]
    def __init__(self, images: torch.Tensor, labels: list[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], self.labels[index]

    def get_labels(self) -> list[int]:
        return self.labels


def measure() -> list[Row]:
    """Episodes a second."""
    name, pixels, labels = test_images()
    images = torch.from_numpy(pixels)
    class_rows = [(labels == c).nonzero()[0] for c in range(int(labels.max()) + 1)]
    sampler = EpisodeSampler(class_rows, WAYS, SHOTS, QUERIES, numpy_generator(0, "speed"))

    def ours() -> None:
        for _ in range(OURS // BATCH):
            gather(images, sampler.sample(BATCH).rows)

    references = []
    dataset = _Pixels(images, labels.tolist())
    if l2l := peer("learn2learn"):
        from learn2learn.data import MetaDataset, Taskset
        from learn2learn.data.transforms import KShots, LoadData, NWays, RemapLabels

        by_label = {c: rows.tolist() for c, rows in enumerate(class_rows)}
        by_index = dict(enumerate(labels.tolist()))
        meta = MetaDataset(dataset, labels_to_indices=by_label, indices_to_labels=by_index)
        steps = [NWays(meta, WAYS), KShots(meta, SHOTS + QUERIES), LoadData(meta), RemapLabels(meta)]
        tasks = Taskset(meta, task_transforms=steps, num_tasks=-1)
        version = getattr(l2l, "__version__", "")
        references.append((f"learn2learn {version} Taskset", lambda: [tasks.sample() for _ in range(PEERS)], PEERS))
    if peer("easyfsl"):
        task_sampler = easyfsl_sampler(dataset, PEERS)
        loader = DataLoader(dataset, batch_sampler=task_sampler, collate_fn=task_sampler.episodic_collate_fn)
        references.append(("easyfsl TaskSampler + DataLoader", lambda: list(loader), PEERS))
    random.seed(0)
    return compare("sampling", ("slabench index + gather", ours, OURS), references, "episodes/s", note=name)


def easyfsl_sampler(dataset: Dataset, n: int) -> Sampler:  # type: ignore[type-arg]
    """Their TaskSampler on today's torch, whose Sampler takes no data source any more."""
    from easyfsl.samplers import TaskSampler

    def init(self: Sampler, data_source: object = None) -> None:  # type: ignore[type-arg]
        del self, data_source

    before = Sampler.__init__
    Sampler.__init__ = init  # type: ignore[method-assign,assignment]
    try:
        return TaskSampler(dataset, WAYS, SHOTS, QUERIES, n)  # type: ignore[no-any-return]
    finally:
        Sampler.__init__ = before  # type: ignore[method-assign]


if __name__ == "__main__":
    main(measure)
