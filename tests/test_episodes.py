"""The samplers: uniform, without repetition, reproducible, and clear about what they cannot do."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slabench.core.errors import UsageError
from slabench.core.seeding import numpy_generator
from slabench.episodes.sampler import EpisodeSampler, balanced_episodes, gather


def pools(sizes: list[int]) -> list[np.ndarray]:
    """Rows of each class, scattered over the image set so that a class is not a range."""
    rows = np.random.default_rng(0).permutation(sum(sizes))
    return np.split(rows, np.cumsum(sizes)[:-1])


def sampler(sizes: list[int], ways: int, shots: int, queries: int, seed: int = 0) -> EpisodeSampler:
    return EpisodeSampler(pools(sizes), ways, shots, queries, numpy_generator(seed, "order"))


@given(
    st.lists(st.integers(4, 40), min_size=2, max_size=8),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2**31 - 1),
    st.booleans(),
    st.data(),
)
@settings(deadline=None, max_examples=60)
def test_every_episode_is_one(
    sizes: list[int], shots: int, queries: int, seed: int, balanced: bool, data: st.DataObject
) -> None:
    ways = data.draw(st.integers(2, len(sizes)))
    rows_of = pools(sizes)
    if balanced:
        drawn = balanced_episodes(rows_of, ways, shots, queries, 20, numpy_generator(seed, "x"))
    else:
        drawn = EpisodeSampler(rows_of, ways, shots, queries, numpy_generator(seed, "x")).sample(20)
    assert drawn.rows.shape == (20, ways, shots + queries)
    assert (drawn.ways, drawn.shots, drawn.queries, len(drawn)) == (ways, shots, queries, 20)
    assert drawn.rows.dtype == drawn.classes.dtype == torch.int64
    assert torch.equal(torch.cat([drawn.support, drawn.query], -1), drawn.rows)
    for rows, classes in zip(drawn.rows.tolist(), drawn.classes.tolist(), strict=True):
        assert len(set(classes)) == ways
        for way, label in zip(rows, classes, strict=True):
            assert len(set(way)) == shots + queries  # no support is a query, no image comes twice
            assert set(way) <= set(rows_of[label].tolist())


def test_ordered_choices_are_uniform() -> None:
    """All 24 ordered pairs of classes, and all 20 ordered pairs of images, equally often: chi-square at 1e-6."""
    from scipy.stats import chi2

    n = 24_000
    drawn = sampler([5, 5, 5, 5], 2, 1, 1).sample(n)
    classes = Counter(map(tuple, drawn.classes.tolist()))
    position = {int(row): i for rows in pools([5, 5, 5, 5]) for i, row in enumerate(rows)}
    images = Counter(tuple(position[r] for r in way) for rows in drawn.rows.tolist() for way in rows)
    for counts, cells in ((classes, 4 * 3), (images, 5 * 4)):
        assert len(counts) == cells
        expected = sum(counts.values()) / cells
        statistic = sum((count - expected) ** 2 / expected for count in counts.values())
        assert statistic < chi2.ppf(1 - 1e-6, cells - 1)


def test_large_classes_are_uniform_too() -> None:
    """The other branch of the drawing: many images, redrawn where one repeats."""
    from scipy.stats import chi2

    drawn = sampler([600] * 20, 5, 5, 15).sample(3000)
    for counts in (
        torch.bincount(drawn.rows.flatten()),
        torch.bincount(drawn.rows[..., 0].flatten(), minlength=12_000),
    ):
        expected = counts.sum() / 12_000
        statistic = float(((counts - expected) ** 2 / expected).sum())
        # Without replacement the counts vary a little less than a multinomial's, so that this bound is one-sided.
        assert statistic < chi2.ppf(1 - 1e-6, 11_999)


def test_unequal_classes_are_equally_likely_and_images_within_them() -> None:
    drawn = sampler([4, 400], 2, 1, 2).sample(4000)
    small = torch.bincount(drawn.rows[drawn.classes == 0].flatten(), minlength=404)
    used = small[small > 0]
    assert len(used) == 4
    assert int(used.sum()) == 4000 * 3
    assert ((used - 3000).abs() < 5 * (4000 * 0.75 * 0.25) ** 0.5).all()


def test_all_classes_and_all_images_at_once() -> None:
    drawn = sampler([4, 4, 4], 3, 1, 3).sample(50)
    assert (drawn.classes.sort(1).values == torch.arange(3)).all()
    assert (drawn.rows.reshape(50, -1).sort(1).values == torch.arange(12)).all()


def test_seeds_decide_and_nothing_else_is_touched() -> None:
    state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (sampler([60] * 8, 5, 5, 15, seed).sample(7) for seed in (1, 1, 2))
    assert torch.equal(first.rows, again.rows)
    assert not torch.equal(first.rows, other.rows)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_iterating_gives_one_episode_after_another() -> None:
    one = list(itertools.islice(sampler([9] * 5, 2, 1, 1), 3))
    assert [len(episodes) for episodes in one] == [1, 1, 1]
    assert len({tuple(episodes.rows.flatten().tolist()) for episodes in one}) == 3


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "message"),
    [
        (6, 1, 1, "6 ways were asked for, and the split has 5 classes"),
        (1, 1, 1, "--ways 1"),
        (2, 0, 1, "--shots 0 is not positive"),
        (2, 1, 0, "--queries 0 is not positive"),
        (2, 3, 5, "class 'small' has 7 images, and 3 shots \\+ 5 queries need 8"),
        (2, 10, 15, "\\(5 classes fall short\\)"),
    ],
)
def test_what_cannot_be_served_is_named(ways: int, shots: int, queries: int, message: str) -> None:
    names = ["a", "b", "small", "c", "d"]
    for make in (
        lambda *a: EpisodeSampler(pools([20, 20, 7, 20, 20]), *a, numpy_generator(0), names),
        lambda *a: balanced_episodes(pools([20, 20, 7, 20, 20]), *a, 3, numpy_generator(0), names),
    ):
        with pytest.raises(UsageError, match=message):
            make(ways, shots, queries)


@pytest.mark.parametrize(("ways", "n"), [(5, 2000), (3, 7), (20, 11)])
def test_balanced_episodes_use_classes_and_images_equally(ways: int, n: int) -> None:
    drawn = balanced_episodes(pools([50] * 20), ways, 2, 3, n, numpy_generator(0))
    uses = torch.bincount(drawn.classes.flatten(), minlength=20)
    assert int(uses.max() - uses.min()) <= 1
    images = torch.bincount(drawn.rows.flatten(), minlength=1000)
    for rows in pools([50] * 20):
        of_class = images[torch.from_numpy(rows)]
        assert int(of_class.max() - of_class.min()) <= 1


def test_balance_does_not_pin_places() -> None:
    """Which image of a deal becomes a support is drawn anew: every image is a support about as often as any other."""
    drawn = balanced_episodes(pools([20] * 5), 5, 1, 3, 4000, numpy_generator(0))
    supports = torch.bincount(drawn.support.flatten(), minlength=100).double()
    assert ((supports - 200).abs() < 5 * (4000 * 0.05 * 0.95) ** 0.5).all()


@given(st.integers(0, 2**31 - 1), st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(deadline=None, max_examples=30)
def test_gather_is_indexing(seed: int, shape: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (11, 4, 4, 3), generator=generator).to(torch.uint8)
    rows = torch.randint(0, 11, shape, generator=generator)
    assert torch.equal(gather(images, rows), images[rows])
