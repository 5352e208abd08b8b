"""Uncertainty of accuracies: over test episodes, between two methods on the same episodes, and over training seeds.

Three questions, three answers that are never mixed:

- How well does *this* trained model do on tasks of this kind? `t_interval` over its per-episode accuracies.
- Does A beat B on the same tasks? `paired_difference`: the hardness of an episode is common to both and cancels.
- How much does training itself vary? `across_seeds`: the spread over trial seeds, which no number of episodes narrows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slabench.core.errors import SlabenchError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import ArrayLike, NDArray


_METHODS_AT_ONCE = 512


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided t interval. `half_width`, `low`, `high` and `std` are NaN for a single value."""

    mean: float
    half_width: float
    low: float
    high: float
    std: float
    n: int
    confidence: float


@dataclass(frozen=True)
class Paired:
    """The mean of a - b over the same episodes, its t interval and the two-sided p-value of "no difference".

    `correlation` (Pearson, of a with b) says what pairing earned: the variance of the difference is
    var(a) + var(b) - 2 cov(a, b). It is NaN where one of them does not vary.
    """

    mean: float
    half_width: float
    low: float
    high: float
    n: int
    p_value: float
    correlation: float


@dataclass(frozen=True)
class SeedSpread:
    """Mean and standard deviation (ddof 1; None for one seed) over trial seeds."""

    mean: float
    std: float | None
    n: int


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of `values` and its Student t interval, mean +- t((1 + confidence) / 2, n - 1) * std / sqrt(n).

    Args:
        values: per-episode accuracies as fractions, [n].
        confidence: in (0, 1).

    Raises:
        SlabenchError: no values, more than one dimension, a value that is not finite.
    """
    array = _vector(values, "values")
    n = len(array)
    mean = float(array.mean())
    if n < 2:
        _critical_t(1, confidence)  # a wrong confidence is an error whatever n is
        return Interval(mean, math.nan, math.nan, math.nan, math.nan, n, confidence)
    std = float(array.std(ddof=1))
    half = t_half_width(std, n, n - 1, confidence)
    return Interval(mean, half, mean - half, mean + half, std, n, confidence)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Paired:
    """The mean of a - b, episode by episode, with the interval and p-value of the paired t test (Student, 1908).

    Args:
        a: per-episode accuracies of one method, [n].
        b: those of the other on the same episodes in the same order, [n].
        confidence: in (0, 1).

    Raises:
        SlabenchError: the lengths differ, or what `t_interval` raises.
    """
    import numpy
    from scipy.special import stdtr

    left, right = _vector(a, "a"), _vector(b, "b")
    if len(left) != len(right):
        raise SlabenchError(
            f"a paired difference needs the same episodes: a has {len(left)}, b has {len(right)}",
            "score both on one episode file",
        )
    difference = left - right
    interval = t_interval(difference, confidence)
    if interval.n < 2:
        p_value = math.nan
    elif interval.std == 0:
        p_value = 1.0 if interval.mean == 0 else 0.0  # the limits of the t test as the spread vanishes
    else:
        t = interval.mean / (interval.std / math.sqrt(interval.n))
        p_value = float(2 * stdtr(interval.n - 1, -abs(t)))
    varies = interval.n > 1 and float(left.std()) > 0 and float(right.std()) > 0
    correlation = float(numpy.corrcoef(left, right)[0, 1]) if varies else math.nan
    return Paired(interval.mean, interval.half_width, interval.low, interval.high, interval.n, p_value, correlation)


def clearly_above(values: NDArray[numpy.float64], confidence: float = 0.95) -> NDArray[numpy.bool_]:
    """Which methods are better than which: the interval of `paired_difference` lies above 0. All pairs at once.

    The variance of each difference is var(a) + var(b) - 2 cov(a, b), so that matrix products stand for all pairs; some hundred
    methods at a time, since ten thousand methods have covariances of a gigabyte.

    Args:
        values: per-episode accuracies, one method a row, [methods, n]; n >= 2, all finite.
        confidence: in (0, 1).

    Returns:
        [methods, methods]; true at [a, b] where a is better than b.
    """
    import numpy

    n = values.shape[1]
    means = values.mean(axis=1)
    centred = values - means[:, None]
    own = (centred * centred).sum(axis=1) / (n - 1)
    critical = _critical_t(n - 1, confidence)
    above = numpy.empty((len(values), len(values)), dtype=numpy.bool_)
    for start in range(0, len(values), _METHODS_AT_ONCE):
        part = slice(start, start + _METHODS_AT_ONCE)
        covariance = centred[part] @ centred.T / (n - 1)
        variance = numpy.maximum(own[part, None] + own[None, :] - 2 * covariance, 0)
        above[part] = means[part, None] - means[None, :] > critical * numpy.sqrt(variance / n)
    return above


def across_seeds(values_by_seed: Mapping[int, float]) -> SeedSpread:
    """Mean and spread of one number per trial seed.

    Raises:
        SlabenchError: no seeds, or a value that is not finite.
    """
    array = _vector([values_by_seed[seed] for seed in sorted(values_by_seed)], "values by seed")
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return SeedSpread(float(array.mean()), std, len(array))


def t_half_width(std: float, n: int, degrees: float, confidence: float) -> float:
    """Half of a two-sided Student t interval: t((1 + confidence) / 2, degrees) * std / sqrt(n).

    Raises:
        SlabenchError: the confidence is not in (0, 1).
    """
    return _critical_t(degrees, confidence) * std / math.sqrt(n)


def finite_or_none(value: float) -> float | None:
    """`value`, or None in place of NaN: records are JSON, which has no NaN."""
    return value if math.isfinite(value) else None


def _vector(values: ArrayLike, name: str) -> NDArray[numpy.float64]:
    """`values` as float64 [n], n >= 1, all finite. The accuracies come as float32, whose sums lose digits."""
    import numpy

    array = numpy.asarray(values, dtype=numpy.float64)
    if array.ndim != 1:
        raise SlabenchError(f"{name} must be one-dimensional, but have the shape {array.shape}")
    if len(array) == 0:
        raise SlabenchError(f"{name} are empty: an interval needs at least one value")
    wrong = numpy.flatnonzero(~numpy.isfinite(array))
    if len(wrong):
        raise SlabenchError(f"{name}[{wrong[0]}] is {array[wrong[0]]}, and {len(wrong)} in all are not finite")
    return array


def _critical_t(degrees: float, confidence: float) -> float:
    # scipy.special is what scipy.stats.t calls, without the second that importing scipy.stats takes.
    from scipy.special import stdtrit

    if not 0 < confidence < 1:
        raise SlabenchError(f"confidence {confidence} is not between 0 and 1", "0.95 is the usual one")
    return float(stdtrit(degrees, (1 + confidence) / 2))
