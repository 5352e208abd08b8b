"""Re-sampling by the class histogram of an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slabench.core.errors import UsageError
from slabench.losses.resampling import RESAMPLINGS, class_probabilities, epoch_rows

COUNTS = [500, 100, 20, 4]
ROWS = np.split(np.random.default_rng(0).permutation(sum(COUNTS)), np.cumsum(COUNTS)[:-1])
LABEL = np.empty(sum(COUNTS), dtype=np.int64)
for _label, _rows in enumerate(ROWS):
    LABEL[_rows] = _label


def histogram(name: str, progress: float, size: int = 100_000, seed: int = 0) -> np.ndarray:
    rows = epoch_rows(ROWS, name, np.random.default_rng(seed), progress, size)
    return np.bincount(LABEL[rows], minlength=4) / size


SHARE = np.array(COUNTS) / sum(COUNTS)
ROOT = np.sqrt(COUNTS) / np.sqrt(COUNTS).sum()
EVEN = np.full(4, 0.25)


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("none", 0.0, SHARE),
        ("none", 1.0, SHARE),
        ("sqrt", 0.3, ROOT),
        ("class-balanced", 0.0, EVEN),
        ("progressive", 0.0, SHARE),
        ("progressive", 0.5, 0.5 * SHARE + 0.5 * EVEN),
        ("progressive", 1.0, EVEN),
        ("deferred", 0.79, SHARE),
        ("deferred", 0.8, EVEN),
    ],
)
def test_the_histogram_of_an_epoch_is_the_rules(name: str, progress: float, expected: np.ndarray) -> None:
    np.testing.assert_allclose(class_probabilities(name, COUNTS, progress), expected, rtol=1e-12)
    sigma = np.sqrt(expected * (1 - expected) / 100_000)
    assert (np.abs(histogram(name, progress) - expected) < 5 * sigma + 1e-12).all()


@pytest.mark.parametrize("name", ["none", "deferred"])
def test_without_resampling_every_image_comes_once(name: str) -> None:
    rows = epoch_rows(ROWS, name, np.random.default_rng(0))
    assert sorted(rows.tolist()) == list(range(sum(COUNTS)))


@given(st.sampled_from(sorted(RESAMPLINGS)), st.floats(0, 1), st.integers(0, 2**31 - 1))
@settings(deadline=None, max_examples=40)
def test_images_of_a_class_are_used_equally_often(name: str, progress: float, seed: int) -> None:
    rows = epoch_rows(ROWS, name, np.random.default_rng(seed), progress)
    assert len(rows) == sum(COUNTS)
    uses = np.bincount(rows, minlength=sum(COUNTS))
    for own in ROWS:
        assert np.ptp(uses[own]) <= 1


def test_the_order_is_random_and_the_generators() -> None:
    first, again, other = (epoch_rows(ROWS, "class-balanced", np.random.default_rng(s)).tolist() for s in (1, 1, 2))
    assert first == again != other
    labels = LABEL[epoch_rows(ROWS, "class-balanced", np.random.default_rng(0))]
    # Neighbours are of unequal classes about three times in four: classes do not come in blocks.
    assert 0.65 < (labels[1:] != labels[:-1]).mean() < 0.85


def test_what_makes_no_sense_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'class-balanced'"):
        class_probabilities("class_balanced", COUNTS)
    with pytest.raises(UsageError, match="have training images"):
        class_probabilities("sqrt", [3, 0])
    with pytest.raises(UsageError, match=r"progress 1\.5"):
        class_probabilities("progressive", COUNTS, 1.5)
