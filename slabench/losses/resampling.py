"""Re-sampling: which images an epoch shows, by class probabilities that may change over training.

With the share p_i = n_i / sum(n) of class i, an epoch at progress t (0 at the first, 1 after the last) draws class i with

| name | probability | source |
|---|---|---|
| none | p_i: every image once, in random order | |
| sqrt | n_i^(1/2), normalised | Mahajan et al., ECCV 2018 |
| class-balanced | 1 / C | Kang et al., ICLR 2020 |
| progressive | (1 - t) p_i + t / C | Kang et al., ICLR 2020, eq. 2 |
| deferred | p_i, then 1 / C from `switch` on (DRS) | Cao et al., NeurIPS 2019 |

Images are drawn before SLA's transformations: all M copies of a drawn image enter the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from slabench.core.errors import UsageError, unknown_name

RESAMPLINGS: dict[str, str] = {
    "none": "every image once an epoch",
    "sqrt": "classes by the square root of their counts",
    "class-balanced": "every class equally often",
    "progressive": "from every image once to every class equally often, epoch by epoch",
    "deferred": "every image once, and every class equally often from 4/5 of the training on (DRS)",
}

SWITCH = 0.8
"""160 of 200 epochs, where LDAM-DRW defers to."""


def class_probabilities(
    name: str, counts: Sequence[int], progress: float = 0.0, switch: float = SWITCH
) -> NDArray[np.float64]:
    """The chance of each class to be drawn next: float64 `[C]`, summing to 1.

    Args:
        name: one of `RESAMPLINGS`.
        counts: training images by class, all positive.
        progress: t of the epoch, 0 .. 1.
        switch: `deferred` alone: from when on classes are balanced.

    Raises:
        UsageError: an unknown name, a class without images, progress outside 0 .. 1.
    """
    n = np.asarray(counts, dtype=np.float64)
    if n.ndim != 1 or not (n > 0).all():
        raise UsageError("re-sampling needs classes that have training images", "leave empty classes out")
    if not 0 <= progress <= 1:
        raise UsageError(f"progress {progress} is not in 0 .. 1")
    share: NDArray[np.float64] = n / n.sum()
    even: NDArray[np.float64] = np.full(len(n), 1 / len(n))
    if name == "none":
        return share
    if name == "sqrt":
        root: NDArray[np.float64] = np.sqrt(n) / np.sqrt(n).sum()
        return root
    if name == "class-balanced":
        return even
    if name == "progressive":
        mixed: NDArray[np.float64] = (1 - progress) * share + progress * even
        return mixed
    if name == "deferred":
        return even if progress >= switch else share
    raise unknown_name("re-sampling", name, RESAMPLINGS)


def epoch_rows(
    class_rows: Sequence[NDArray[np.integer]],
    name: str,
    generator: np.random.Generator,
    progress: float = 0.0,
    size: int | None = None,
    switch: float = SWITCH,
) -> NDArray[np.int64]:
    """The rows that one epoch shows, in random order: int64 `[size]`.

    How many images a class gets is drawn (multinomial); which ones is dealt, so that within an epoch the images of a class
    are used equally often to within one. Drawing them one by one with replacement, as torch's WeightedRandomSampler
    does, would leave a third of a class unseen.

    Args:
        class_rows: rows of each class.
        name: one of `RESAMPLINGS`.
        generator: the epoch's own.
        progress: t of the epoch, 0 .. 1.
        size: rows to show; by default as many as there are.
        switch: see `class_probabilities`.
    """
    counts = [len(rows) for rows in class_rows]
    total = sum(counts)
    probabilities = class_probabilities(name, counts, progress, switch)
    size = total if size is None else size
    even_share = name == "none" or (name == "deferred" and progress < switch)
    if even_share and size == total:
        return generator.permutation(np.concatenate(class_rows)).astype(np.int64)
    chosen = []
    for rows, wanted in zip(class_rows, generator.multinomial(size, probabilities), strict=True):
        rounds = -(-int(wanted) // len(rows)) if wanted else 0
        dealt = [generator.permutation(rows) for _ in range(rounds)]
        chosen.append(np.concatenate(dealt)[:wanted] if dealt else np.empty(0, np.int64))
    return generator.permutation(np.concatenate(chosen)).astype(np.int64)
