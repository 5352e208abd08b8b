"""Long-tail subsets: how many images each class keeps, and which.

The rule is that of LDAM-DRW (Cao et al., NeurIPS 2019), which the published tables of CIFAR-LT follow: counts are truncated,
not rounded, and each class, in the order of its label, is shuffled by one legacy generator (MT19937, seed 0) of which the
first n_i images are kept. Subsets of one seed are therefore nested: ratio 200 is contained in 100, 100 in 50.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from slabench.core.errors import DataError, UsageError, did_you_mean
from slabench.core.tables import read_table
from slabench.data.imageset import ImageSet

_DIGITS = 12  # of a count
Profile = Literal["exp", "step"]
PROFILES: tuple[Profile, ...] = ("exp", "step")
MANY, FEW = 100, 20
"""Groups by training images: many > 100, medium 20 .. 100, few < 20 (Kang et al., ICLR 2020; `shot_acc` in their code)."""


@dataclass(frozen=True)
class Subset:
    """Which training images a long-tail run learns from.

    Attributes:
        rows: int64 `[n]`, rows of the image set, class after class, in the order in which they were drawn.
        counts: images kept of each class, by label.
        source_order: whether the draw was made on the original order of the data, so that these are the very images of the
            published tables; otherwise on the canonical order, which gives as many images but other ones.
        seed: of the draw; apart from any training seed.
    """

    rows: NDArray[np.int64]
    counts: tuple[int, ...]
    source_order: bool
    seed: int

    @property
    def realised_ratio(self) -> float:
        """Largest over smallest class as it came out: truncation makes 500 / 2 of CIFAR-100 at ratio 200."""
        return max(self.counts) / min(self.counts)


def profile_counts(largest: int, n_classes: int, ratio: float, profile: str = "exp") -> tuple[int, ...]:
    """Images of each class by rank, the most frequent one first.

    `exp`: n_i = trunc(largest * ratio^(-i / (C - 1))). `step`: the first C // 2 classes keep `largest`, the others
    trunc(largest / ratio); an odd class belongs to the second half (LDAM-DRW's code drops it).

    Args:
        largest: images of the first class.
        n_classes: C, at least 2.
        ratio: the nominal imbalance ratio, largest over smallest class, at least 1.
        profile: one of `PROFILES`.

    Raises:
        UsageError: ratio below 1 or not finite, an unknown profile, fewer than 2 classes, or a class left empty.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown profile '{profile}'", did_you_mean(profile, PROFILES))
    if not 1 <= ratio < float("inf"):
        hint = f"--ratio {1 / ratio:g}" if 0 < ratio < 1 else "--ratio 100"
        raise UsageError(
            f"--ratio {ratio:g}: the ratio is largest over smallest class, at least 1",
            f"give for example {hint} (the imb_factor of LDAM-DRW is its inverse)",
        )
    if n_classes < 2:
        raise UsageError(f"a long tail needs at least 2 classes, not {n_classes}")
    if profile == "exp":
        counts = tuple(int(largest * (1 / ratio) ** (i / (n_classes - 1))) for i in range(n_classes))
    else:
        head = n_classes // 2
        counts = (largest,) * head + (int(largest / ratio),) * (n_classes - head)
    if ratio <= largest:  # 49 * (1 / 49) is 0.999... in floats: of a class of 49 the smallest is 1 all the same
        counts = tuple(max(1, count) for count in counts)
    if min(counts) < 1:
        raise UsageError(
            f"ratio {ratio:g} leaves {counts.count(0)} of {n_classes} classes without an image: the largest has {largest}",
            f"use a ratio of at most {largest}",
        )
    return counts


def read_counts(path: Path, class_names: Sequence[str]) -> tuple[int, ...]:
    """Counts by label from a CSV with the columns `class` (name or label) and `count`; every class exactly once.

    Raises:
        DataError: the file is not such a table; names the line.
    """
    index = {name: label for label, name in enumerate(class_names)}
    index |= {str(label): label for label in range(len(class_names)) if str(label) not in index}
    counts: dict[int, int] = {}
    for number, cells in read_table(path, ("class", "count"), "give a CSV with the columns class,count"):
        name, text = cells["class"], cells["count"]
        if name not in index:
            raise DataError(f"{path}, line {number}: there is no class '{name[:60]}'", did_you_mean(name, class_names))
        if not text.isdecimal() or len(text) > _DIGITS or int(text) < 1:
            raise DataError(
                f"{path}, line {number}: count '{text[:60]}' of '{name}' is not a positive whole number",
                "write a whole number of 1 or more",
            )
        if index[name] in counts:
            raise DataError(f"{path}, line {number}: class '{name}' is listed twice", "keep one of the lines")
        counts[index[name]] = int(text)
    missing = [name for name, label in index.items() if label not in counts and name in class_names]
    if missing:
        raise DataError(
            f"{path} has no line for {len(missing)} classes, such as '{missing[0]}'", "give every class a line"
        )
    return tuple(counts[label] for label in range(len(class_names)))


def class_order(text: str, n_classes: int) -> NDArray[np.int64]:
    """Labels by rank of frequency, the most frequent first.

    Args:
        text: `label` (as in every published table: frequency and class are confounded), `reversed`, or `random:SEED`.
        n_classes: C.

    Raises:
        UsageError: another text.
    """
    if text == "label":
        return np.arange(n_classes)
    if text == "reversed":
        return np.arange(n_classes)[::-1].copy()
    kind, _, seed = text.partition(":")
    if kind == "random" and seed.isdecimal():
        return np.random.Generator(np.random.PCG64(int(seed))).permutation(n_classes)
    raise UsageError(f"--class-order {text} is unknown", "use label, reversed, or random:0 with any seed")


def draw(images: ImageSet, counts: Sequence[int], seed: int = 0) -> Subset:
    """Keep `counts[c]` images of each class c.

    Args:
        images: the training images, on their original order where the store knows it.
        counts: by label.
        seed: of the legacy generator, below 2^32; 0 is the published subsets'.

    Raises:
        UsageError: more images asked of a class than it has, or none (names the class and the counts); a seed out of range.
    """
    if len(counts) != images.n_classes:
        raise UsageError(
            f"{len(counts)} counts were given, and {images.name} has {images.n_classes} classes",
            "give one for each class",
        )
    class_rows = images.class_rows()
    for label, (rows, count) in enumerate(zip(class_rows, counts, strict=True)):
        if not 1 <= count <= len(rows):
            raise UsageError(
                f"class '{images.class_names[label]}' should keep {count} images, and {images.name} has {len(rows)}",
                f"ask for 1 to {len(rows)}",
            )
    if not 0 <= seed < 2**32:
        raise UsageError(
            f"--data-seed {seed}: the generator of the published subsets takes 0 to {2**32 - 1}",
            "give a seed in this range",
        )
    source_order = bool((images.source_positions >= 0).all())
    # Legacy on purpose: this very stream, class after class, is what the published subsets were drawn from.
    generator = np.random.RandomState(seed)
    kept = []
    for rows, count in zip(class_rows, counts, strict=True):
        pile = rows[np.argsort(images.source_positions[rows], kind="stable")] if source_order else rows.copy()
        generator.shuffle(pile)
        kept.append(pile[:count])
    return Subset(np.concatenate(kept), tuple(int(count) for count in counts), source_order, seed)


def long_tail(images: ImageSet, ratio: float, profile: str = "exp", order: str = "label", seed: int = 0) -> Subset:
    """The long-tail subset of `images` with the given ratio; the first class keeps as many as the smallest class has.

    Raises:
        UsageError: see `profile_counts`, `class_order` and `draw`.
    """
    sizes = [len(rows) for rows in images.class_rows()]
    by_rank = profile_counts(min(sizes), images.n_classes, ratio, profile)
    counts = np.empty(images.n_classes, dtype=np.int64)
    counts[class_order(order, images.n_classes)] = by_rank
    return draw(images, counts.tolist(), seed)


def groups(counts: Sequence[int]) -> dict[str, NDArray[np.int64]]:
    """Labels of the many, medium and few classes; a group may be empty, and then has no accuracy."""
    n = np.asarray(counts)
    return {
        "many": np.flatnonzero(n > MANY),
        "medium": np.flatnonzero((n >= FEW) & (n <= MANY)),
        "few": np.flatnonzero(n < FEW),
    }
