"""One SLA training step on Conv4 as slabench makes it, beside the same step written plainly.

The plain step is what a repository of the field does: images to float one by one with torchvision's transforms, four turned
copies concatenated, contiguous memory, float32. Then slabench's own step with one thing taken away at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from _measure import Row, compare, main, test_images
from torch.nn import functional
from torchvision.transforms import v2

from slabench.core.seeding import numpy_generator, torch_generator
from slabench.data.augment import BatchAugment
from slabench.data.catalog import info
from slabench.episodes.sampler import EpisodeSampler, gather
from slabench.learners import build_learner
from slabench.recipes.fewshot import Model
from slabench.sla.transforms import transform_set
from slabench.training.device import choose_precision, keep_heap

WAYS, SHOTS, QUERIES, M, STEPS = 5, 5, 10, 4, 10
IMAGES = WAYS * (SHOTS + QUERIES) * M


def measure() -> list[Row]:
    """Image passes a second, forward, backward and update."""
    keep_heap()  # allocation has a benchmark of its own
    name, pixels, labels = test_images()
    images = torch.from_numpy(pixels)
    class_rows = [(labels == c).nonzero()[0] for c in range(int(labels.max()) + 1)]
    precision = choose_precision("auto", torch.device("cpu"))
    best = _step(images, class_rows, channels_last=True, precision=precision)
    references: list[tuple[str, Callable[[], object], int]] = [
        ("plain PyTorch and torchvision", _plain(images, class_rows), STEPS * IMAGES)
    ]
    if precision is not None:
        float32 = _step(images, class_rows, channels_last=True, precision=None)
        references.append(("itself in float32", float32, STEPS * IMAGES))
    contiguous = _step(images, class_rows, channels_last=False, precision=None)
    references.append(("itself in float32, contiguous", contiguous, STEPS * IMAGES))
    kind = "bfloat16" if precision else "float32"
    ours = (f"slabench SLA step ({kind})", best, STEPS * IMAGES)
    return compare("training", ours, references, "images/s", note=f"conv4, 5-way 5-shot 10-query SLA, {name}")


def _step(
    images: torch.Tensor, class_rows: list[np.ndarray], *, channels_last: bool, precision: torch.dtype | None
) -> Callable[[], object]:
    entry, rotation = info("fc100"), transform_set("rotation")
    memory = torch.channels_last if channels_last else torch.contiguous_format
    learner = build_learner(Model(), entry, 0).to(memory_format=memory)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3, foreach=True)
    sampler = EpisodeSampler(class_rows, WAYS, SHOTS, QUERIES, numpy_generator(0, "order"))
    augment = BatchAugment(crop_padding=4, flip=True, jitter=0.4, mean=entry.mean, std=entry.std)
    generator = torch_generator(0, "augment")

    def run() -> None:
        for _ in range(STEPS):
            batch = augment(gather(images, sampler.sample().rows.reshape(-1)), generator)
            copies = rotation.apply(batch)
            copies = copies if channels_last else copies.contiguous()
            with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
                features = learner.embed(copies)
            _update(learner, features.view(WAYS, SHOTS + QUERIES, M, -1), optimizer)

    return run


def _plain(images: torch.Tensor, class_rows: list[np.ndarray]) -> Callable[[], object]:
    entry = info("fc100")
    learner = build_learner(Model(), entry, 0)
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    transform = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([m / 255 for m in entry.mean], [s / 255 for s in entry.std]),
        ]
    )

    def run() -> None:
        for _ in range(STEPS):
            classes = rng.choice(len(class_rows), WAYS, replace=False)
            rows = [rng.choice(class_rows[c], SHOTS + QUERIES, replace=False) for c in classes]
            batch = torch.stack([transform(images[int(row)].permute(2, 0, 1)) for way in rows for row in way])
            turned = torch.stack([torch.rot90(batch, k, (2, 3)) for k in range(M)], 1).flatten(0, 1)
            features = learner.embed(turned)
            _update(learner, features.view(WAYS, SHOTS + QUERIES, M, -1), optimizer)

    return run


def _update(learner: torch.nn.Module, features: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Joint cross-entropy of the queries, and an update. `features` `[N, K+Q, M, D]`."""
    labels = torch.arange(WAYS * M).view(WAYS, 1, M)
    support, query = features[:, :SHOTS].reshape(1, -1, features.shape[-1]), features[:, SHOTS:]
    support_labels = labels.expand(-1, SHOTS, -1).reshape(1, -1)
    query_labels = labels.expand(-1, QUERIES, -1).flatten()
    logits = learner.logits(support, support_labels, query.reshape(1, -1, features.shape[-1]), WAYS * M)  # type: ignore[operator]
    optimizer.zero_grad(set_to_none=True)
    functional.cross_entropy(logits[0], query_labels).backward()
    optimizer.step()


if __name__ == "__main__":
    main(measure)
