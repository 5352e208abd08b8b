"""The published long-tail subsets of CIFAR-100 in numbers (LDAM-DRW), and a data set small enough to draw subsets of."""

from __future__ import annotations

import numpy as np

from slabench.data.imageset import ImageSet

CIFAR100 = {  # first five, last five, total, many/medium/few
    10: ([500, 488, 477, 466, 455], [54, 53, 52, 51, 50], 19573, (69, 31, 0)),
    20: ([500, 485, 470, 456, 442], [28, 27, 26, 25, 25], 15907, (53, 47, 0)),
    50: ([500, 480, 462, 444, 426], [11, 11, 10, 10, 10], 12608, (41, 41, 18)),
    100: ([500, 477, 455, 434, 415], [6, 5, 5, 5, 5], 10847, (35, 35, 30)),
    200: ([500, 473, 449, 425, 403], [3, 2, 2, 2, 2], 9502, (30, 31, 39)),
}
# sha256 (first 16 letters) of the comma-joined ranks within each class, class after class.
RANKS = {
    (10, 10): "0142699dfa1a8a02",
    (10, 50): "6179428412d5d787",
    (10, 100): "d719ad5407f225ec",
    (10, 200): "b840cb75ece7bd61",
    (100, 10): "872c240c88186087",
    (100, 50): "79172e2054d429b6",
    (100, 100): "f3c931209f1da241",
    (100, 200): "d7225039773597a4",
}


def image_set(n_classes: int, each: int | list[int], *, ordered: bool = True, seed: int = 0) -> ImageSet:
    """Images of one pixel, whose original order is a random one and not that of the rows."""
    sizes = [each] * n_classes if isinstance(each, int) else each
    labels = np.repeat(np.arange(n_classes), sizes)
    n = len(labels)
    positions = np.random.default_rng(seed).permutation(n).astype(np.int32) if ordered else np.full(n, -1, np.int32)
    return ImageSet(
        "small/train",
        np.zeros((n, 1, 1, 3), np.uint8),
        labels,
        tuple(f"class{c}" for c in range(n_classes)),
        "d",
        "",
        np.zeros(n, np.uint8),
        positions,
    )
