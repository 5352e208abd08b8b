"""Long-tail subsets against the golden counts and ranks of the published protocol (LDAM-DRW)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from longtail_protocol import CIFAR100, RANKS, image_set

from slabench.core.errors import DataError, UsageError
from slabench.data.longtail import class_order, draw, groups, long_tail, profile_counts, read_counts

CIFAR10 = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    20: [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}


@pytest.mark.parametrize("ratio", sorted(CIFAR10))
def test_cifar10_counts(ratio: int) -> None:
    assert list(profile_counts(5000, 10, ratio)) == CIFAR10[ratio]


@pytest.mark.parametrize("ratio", sorted(CIFAR100))
def test_cifar100_counts_and_groups(ratio: int) -> None:
    first, last, total, sizes = CIFAR100[ratio]
    counts = profile_counts(500, 100, ratio)
    assert (list(counts[:5]), list(counts[-5:]), sum(counts)) == (first, last, total)
    assert tuple(len(labels) for labels in groups(counts).values()) == sizes


@pytest.mark.parametrize(
    ("largest", "classes", "ratio", "total"),
    [
        (5000, 10, 10, 27500),
        (5000, 10, 200, 25125),
        (500, 100, 50, 25500),
        (500, 100, 100, 25250),
        (500, 100, 200, 25100),
    ],
)
def test_step_totals(largest: int, classes: int, ratio: int, total: int) -> None:
    assert sum(profile_counts(largest, classes, ratio, "step")) == total


def test_an_odd_class_is_not_dropped() -> None:
    assert profile_counts(100, 5, 10, "step") == (100, 100, 10, 10, 10)


def test_ratio_one_is_balanced() -> None:
    assert profile_counts(500, 100, 1) == (500,) * 100
    assert profile_counts(500, 100, 1, "step") == (500,) * 100


@pytest.mark.parametrize(("classes", "ratio"), sorted(RANKS))
def test_the_very_ranks_of_the_published_subsets(classes: int, ratio: int) -> None:
    images = image_set(classes, 50_000 // classes)
    subset = long_tail(images, ratio)
    assert subset.source_order
    # The rank of a kept image is its place among the images of its class in the original order.
    rank = np.empty(len(images), dtype=np.int64)
    for rows in images.class_rows():
        rank[rows[np.argsort(images.source_positions[rows])]] = np.arange(len(rows))
    text = ",".join(map(str, rank[subset.rows].tolist()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == RANKS[classes, ratio]


def test_first_ranks_are_the_published_ones() -> None:
    images = image_set(10, 5000, ordered=False)
    rows = long_tail(images, 100).rows
    assert (rows[:5]).tolist() == [398, 3833, 4836, 4572, 636]  # rows of class 0 are its ranks
    assert (rows[-50:][:5] - 45_000).tolist() == [2204, 3816, 2206, 2507, 1926]


def test_without_the_original_order_it_says_so() -> None:
    subset = long_tail(image_set(4, 50, ordered=False), 10)
    assert not subset.source_order
    assert subset.counts == profile_counts(50, 4, 10)


@given(
    st.integers(2, 12),
    st.integers(20, 80),
    st.floats(1, 20),
    st.sampled_from(["exp", "step"]),
    st.sampled_from(["label", "reversed", "random:0", "random:7"]),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_every_subset_is_one(classes: int, each: int, ratio: float, profile: str, order: str, seed: int) -> None:
    images = image_set(classes, each)
    subset = long_tail(images, ratio, profile, order, seed)
    assert len(set(subset.rows.tolist())) == len(subset.rows) == sum(subset.counts)
    assert np.bincount(images.labels[subset.rows], minlength=classes).tolist() == list(subset.counts)
    assert sorted(subset.counts, reverse=True) == list(profile_counts(each, classes, ratio, profile))
    assert subset.realised_ratio >= 1
    again = long_tail(images, ratio, profile, order, seed)
    assert (again.rows == subset.rows).all()


def test_subsets_of_a_seed_are_nested_and_other_seeds_differ() -> None:
    images = image_set(5, 200)
    small, large = (set(long_tail(images, ratio).rows.tolist()) for ratio in (100, 10))
    assert small < large
    assert set(long_tail(images, 100, seed=1).rows.tolist()) != small


def test_class_orders() -> None:
    assert class_order("reversed", 4).tolist() == [3, 2, 1, 0]
    assert sorted(class_order("random:3", 9).tolist()) == list(range(9))
    assert (
        class_order("random:3", 9).tolist()
        == class_order("random:3", 9).tolist()
        != class_order("random:4", 9).tolist()
    )
    tail_first = long_tail(image_set(4, 50), 10, order="reversed")
    assert tail_first.counts == profile_counts(50, 4, 10)[::-1]
    for text in ("random", "random:x", "frequency"):
        with pytest.raises(UsageError, match="--class-order"):
            class_order(text, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((500, 100, 0.01), "--ratio 0.01.*\n.*--ratio 100 "),
        ((500, 100, float("nan")), "--ratio nan"),
        ((500, 100, float("inf")), "--ratio inf"),
        ((500, 100, -3), "--ratio -3"),
        ((500, 100, 10, "exponential"), "unknown profile 'exponential'"),
        ((500, 1, 10), "at least 2 classes"),
        ((5, 10, 100), "without an image: the largest has 5"),
    ],
)
def test_profiles_that_make_no_sense(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        profile_counts(*arguments)  # type: ignore[arg-type]


def test_more_than_there_are_names_the_class() -> None:
    images = image_set(3, [10, 4, 10])
    with pytest.raises(UsageError, match="class 'class1' should keep 5 images, and small/train has 4"):
        draw(images, [10, 5, 1])
    with pytest.raises(UsageError, match="class 'class2' should keep 0 images"):
        draw(images, [10, 4, 0])
    with pytest.raises(UsageError, match="2 counts were given"):
        draw(images, [10, 4])
    assert long_tail(images, 2).counts == (4, 2, 2)  # the smallest class says how large the head can be


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_own_counts(tmp_path: Path) -> None:
    names = ("cat", "dog", "7")
    assert read_counts(write(tmp_path / "c.csv", "class,count\ndog,3\n7,2\ncat,9\n"), names) == (9, 3, 2)
    assert read_counts(write(tmp_path / "c.csv", "\ufeffcount,class\n9,0\n3,1\n2,7\n"), names) == (9, 3, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class,n\ncat,1\n", "needs the columns class,count"),
        ("class,count\ncta,1\n", "line 2: there is no class 'cta'\ndid you mean 'cat'"),
        ("class,count\ncat,1.5\n", "line 2: count '1.5' of 'cat'"),
        ("class,count\ncat,0\n", "count '0'"),
        ("class,count\ncat,1\ncat,1\n", "line 3: class 'cat' is listed twice"),
        ("class,count\ncat,1\n", "no line for 1 classes, such as 'dog'"),
        ("", "needs the columns"),
    ],
)
def test_counts_that_make_no_sense(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_counts(write(tmp_path / "c.csv", text), ("cat", "dog"))


def test_a_missing_file_of_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_counts(tmp_path / "none.csv", ("cat",))


def test_groups_at_their_borders() -> None:
    got = {name: labels.tolist() for name, labels in groups([101, 100, 20, 19]).items()}
    assert got == {"many": [0], "medium": [1, 2], "few": [3]}
