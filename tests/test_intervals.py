"""Intervals against scipy.stats' own closed forms, and by hand."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from slabench.core.errors import SlabenchError
from slabench.evaluation import intervals
from slabench.evaluation.intervals import across_seeds, clearly_above, finite_or_none, paired_difference, t_interval

fractions = st.integers(0, 75).map(lambda right: right / 75)


@given(arrays(np.float64, st.integers(2, 40), elements=fractions), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_t_interval_is_scipys(values: np.ndarray, confidence: float) -> None:
    found = t_interval(values, confidence)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    if np.ptp(values) == 0:
        assert found.half_width == pytest.approx(0, abs=1e-12)
        return
    low, high = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert found.half_width == pytest.approx((high - low) / 2, abs=1e-12)
    assert found.std == pytest.approx(stats.tstd(values), abs=1e-12)


def test_t_interval_by_hand() -> None:
    # std = 0.1, t(0.975, 2) = 4.302653 from the tables: 4.302653 * 0.1 / sqrt(3)
    assert t_interval([0.4, 0.5, 0.6]).half_width == pytest.approx(0.2484138, abs=1e-6)


@given(
    arrays(np.float64, 25, elements=fractions),
    arrays(np.float64, 25, elements=fractions),
    st.sampled_from([0.9, 0.95, 0.99]),
)
def test_paired_difference_is_the_paired_t_test(a: np.ndarray, b: np.ndarray, confidence: float) -> None:
    found = paired_difference(a, b, confidence)
    if np.ptp(a - b) < 1e-9:
        return
    test = stats.ttest_rel(a, b)
    expected = test.confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-10)
    assert found.p_value == pytest.approx(test.pvalue, rel=1e-8, abs=1e-12)
    if np.ptp(a) > 0 and np.ptp(b) > 0:
        assert found.correlation == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-9)
    else:
        assert math.isnan(found.correlation)


@settings(deadline=None)  # SciPy's own test takes its time on a busy machine
@given(
    arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(2, 30)), elements=fractions), st.sampled_from([4, 512])
)
def test_all_pairs_at_once_are_the_pairs_one_by_one(values: np.ndarray, at_once: int) -> None:
    with patch.object(intervals, "_METHODS_AT_ONCE", at_once):
        found = clearly_above(values)
    for a, first in enumerate(values):
        for b, second in enumerate(values):
            if np.ptp(first - second) > 0:
                low = stats.ttest_rel(first, second).confidence_interval(0.95).low
                assert found[a, b] == (low > 0) or abs(low) < 1e-9
            else:
                assert found[a, b] == (first[0] > second[0]) or abs(first[0] - second[0]) < 1e-9


def test_pairing_finds_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0.2, 0.8, 500)
    a, b = hardness + 0.01 + rng.normal(0, 0.01, 500), hardness
    one, other = t_interval(a), t_interval(b)
    assert one.low < other.high
    assert paired_difference(a, b).low > 0


def test_differences_without_spread_have_the_limits_of_the_test() -> None:
    assert paired_difference([0.5, 0.25], [0.5, 0.25]).p_value == 1.0
    steady = paired_difference([0.75, 0.5], [0.5, 0.25])
    assert (steady.mean, steady.half_width, steady.p_value) == (0.25, 0.0, 0.0)


def test_one_value_has_no_interval() -> None:
    alone = t_interval([0.5])
    assert alone.mean == 0.5
    assert math.isnan(alone.half_width)
    assert finite_or_none(alone.half_width) is None
    assert math.isnan(paired_difference([0.5], [0.4]).p_value)


def test_float32_is_summed_in_float64() -> None:
    values = np.full(2_000_001, 0.1, dtype=np.float32)
    assert t_interval(values).mean == pytest.approx(float(np.float32(0.1)), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "words"),
    [([], "empty"), ([[0.1, 0.2]], r"shape \(1, 2\)"), ([0.1, math.nan], r"values\[1\] is nan"), ([math.inf], "inf")],
)
def test_what_is_no_list_of_numbers_is_refused(values: list[float], words: str) -> None:
    with pytest.raises(SlabenchError, match=words):
        t_interval(values)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_outside_0_and_1_is_refused(confidence: float) -> None:
    for values in ([0.1, 0.2], [0.1]):
        with pytest.raises(SlabenchError, match=f"confidence {confidence}"):
            t_interval(values, confidence)


def test_unequal_lengths_are_named() -> None:
    with pytest.raises(SlabenchError, match="a has 3, b has 2"):
        paired_difference([0.1, 0.2, 0.3], [0.1, 0.2])


def test_across_seeds() -> None:
    spread = across_seeds({2: 0.6, 0: 0.4, 1: 0.5})
    assert (spread.mean, spread.n) == (0.5, 3)
    assert spread.std == pytest.approx(0.1)
    assert across_seeds({7: 0.4}).std is None
    with pytest.raises(SlabenchError, match="empty"):
        across_seeds({})
