"""Is A better than B? Differences on the same test episodes or images, and every interval that can be put around them.

Each interval answers "how far could the mean difference have come out otherwise", and they differ in what is drawn anew:

- the episodes, from the same images (`paired_over_seeds`, `bootstrap_interval`): what the field prints. It shrinks with the
  number of episodes, although the images behind them stay the same;
- the images, none of them used twice (`without_reuse`): the "open" interval of Lafargue et al., "Oops, I sampled it again"
  (arXiv:2409.02850);
- the classes (`class_jackknife`): other classes than the few a test split has;
- the training seeds (`SeedPairs.spread`), and seeds with episodes together (`seeds_and_units`).

None of them contains the others, so they are reported beside each other. All functions are pure; differences are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from slabench.core.errors import SlabenchError
from slabench.core.seeding import numpy_generator
from slabench.evaluation.intervals import Interval, Paired, paired_difference, t_half_width, t_interval

if TYPE_CHECKING:
    Floats = NDArray[np.float64]

BOOTSTRAP_RESAMPLES = 10_000
_SEED = 0  # of the bootstrap's named stream: equal records give equal intervals
_RESOLUTION = 6  # accuracies are float32 fractions of some hundred queries: what differs in the seventh digit is equal


@dataclass(frozen=True)
class SeedPairs:
    """a - b on the same units (episodes or images), for each seed that both have and for their average.

    Attributes:
        per_seed: the paired difference of each common seed.
        together: that of the accuracies averaged over the common seeds.
        spread: t interval over the per-seed means: training again. NaN half width for one seed.
        differences: [seeds, units], in order of the seed.
    """

    per_seed: dict[int, Paired]
    together: Paired
    spread: Interval
    differences: Floats


@dataclass(frozen=True)
class Bounds:
    """A mean with a two-sided interval that need not be symmetric, and the number of resamples behind it."""

    mean: float
    low: float
    high: float
    resamples: int
    confidence: float


@dataclass(frozen=True)
class McNemar:
    """Images that only one of two classifiers has right, and the two-sided p-values of "equally many".

    `p_exact` is the binomial test (McNemar, 1947, in its exact form), which keeps its level but is conservative; `p_mid` counts
    half of the observed outcome (Fagerland, Lydersen and Laake, 2013) and is the one to read.
    """

    only_a: int
    only_b: int
    n: int
    p_exact: float
    p_mid: float


def paired_over_seeds(a: Mapping[int, ArrayLike], b: Mapping[int, ArrayLike], confidence: float = 0.95) -> SeedPairs:
    """The paired differences of two methods over the seeds that both have.

    Args:
        a: by seed, the accuracy on each unit, [n] fractions.
        b: likewise, on the same units in the same order.
        confidence: in (0, 1).

    Raises:
        SlabenchError: no common seed, or arrays of unequal length.
    """
    seeds = sorted(set(a) & set(b))
    if not seeds:
        raise SlabenchError(
            f"no seed in common: one has {_list(a)}, the other {_list(b)}",
            "run the missing seeds, or name two single runs by their keys",
        )
    per_seed = {seed: paired_difference(a[seed], b[seed], confidence) for seed in seeds}
    left, right = (np.stack([np.asarray(side[seed], dtype=np.float64) for seed in seeds]) for side in (a, b))
    return SeedPairs(
        per_seed=per_seed,
        together=paired_difference(left.mean(0), right.mean(0), confidence),
        spread=t_interval([paired.mean for paired in per_seed.values()], confidence),
        differences=left - right,
    )


def bootstrap_interval(
    differences: ArrayLike, confidence: float = 0.95, resamples: int = BOOTSTRAP_RESAMPLES
) -> Bounds:
    """Percentile bootstrap of a mean of paired differences (Efron, 1979), from a stream of its own.

    Drawing n units with replacement is drawing how often each distinct value comes up, so the resamples are rows of one
    multinomial: differences of accuracies take few values.

    Args:
        differences: [n], n >= 2.
        confidence: in (0, 1).
        resamples: how many.
    """
    values, counts = np.unique(_vector(differences).round(_RESOLUTION), return_counts=True)
    n = int(counts.sum())
    generator = numpy_generator(_SEED, "compare", "bootstrap")
    means = np.empty(resamples)
    step = max(1, 4_000_000 // len(values))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        means[start : start + size] = generator.multinomial(n, counts / n, size=size) @ values / n
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Bounds(float(_vector(differences).mean()), float(low), float(high), resamples, confidence)


def wilcoxon_p(differences: ArrayLike) -> float:
    """Two-sided p-value of Wilcoxon's signed rank test; ties by Pratt (1959), which keeps differences of 0 in the ranking.

    Accuracies of two seeds' average agree only up to rounding, so differences are rounded to six digits first.
    """
    values = _vector(differences).round(_RESOLUTION)
    if not values.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(values, zero_method="pratt", method="auto").pvalue)


def mcnemar(a: ArrayLike, b: ArrayLike) -> McNemar:
    """McNemar's test on whether each image is classified correctly.

    Args:
        a: 0 or 1 for each image, [n].
        b: the same images of the other classifier.

    Raises:
        SlabenchError: unequal lengths, or values other than 0 and 1.
    """
    from scipy.special import bdtr
    from scipy.stats import binom

    left, right = _vector(a), _vector(b)
    if len(left) != len(right):
        raise SlabenchError(f"McNemar's test needs the same images: a has {len(left)}, b has {len(right)}")
    if not (np.isin(left, (0, 1)).all() and np.isin(right, (0, 1)).all()):
        raise SlabenchError("McNemar's test needs 0 (wrong) or 1 (right) for each image, not a fraction")
    only_a, only_b = int(((left == 1) & (right == 0)).sum()), int(((left == 0) & (right == 1)).sum())
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    if discordant == 0:
        return McNemar(0, 0, len(left), 1.0, 1.0)
    tail, point = float(bdtr(fewer, discordant, 0.5)), float(binom.pmf(fewer, discordant, 0.5))
    p_mid = 1.0 if only_a == only_b else 2 * tail - point
    return McNemar(only_a, only_b, len(left), min(1.0, 2 * tail), min(1.0, p_mid))


def seeds_and_units(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """The interval that takes both levels: other training seeds and other units (episodes or images) at once.

    Seeds and units are crossed random effects, d_se = mu + S_s + E_e + R_se, every seed being scored on every unit. With the
    mean squares of the two-way layout the mean varies by MS_S / (k n) over seeds, which holds the residual, and by
    (MS_E - MS_R) / (k n) over units. The half widths of the two, each with its own degrees of freedom, are added in squares (the
    MOVER of Zou and Donner, 2008): with two or three seeds one pooled number of degrees of freedom is too optimistic. The
    interval is so never narrower than that of the seeds or that of the units.

    Args:
        differences: [k, n], k seeds and n units, both >= 2.
        confidence: in (0, 1).

    Returns:
        The interval; `std` is the standard error times sqrt(k n), `n` the number of seeds.

    Raises:
        SlabenchError: fewer than two seeds or units: one seed says nothing about training again.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or min(d.shape) < 2:
        raise SlabenchError(
            f"differences have the shape {list(d.shape)}: at least two seeds and two units are needed",
            "run more seeds",
        )
    k, n = d.shape
    mean, by_seed, by_unit = float(d.mean()), d.mean(1), d.mean(0)
    residual = d - by_seed[:, None] - by_unit[None, :] + mean
    ms_seeds, ms_units = n * float(by_seed.var(ddof=1)), k * float(by_unit.var(ddof=1))
    ms_residual = float((residual**2).sum()) / ((k - 1) * (n - 1))
    units_beyond = max(0.0, ms_units - ms_residual)
    half = math.hypot(
        t_half_width(math.sqrt(ms_seeds), k * n, k - 1, confidence),
        t_half_width(math.sqrt(units_beyond), k * n, n - 1, confidence),
    )
    half = max(half, t_half_width(math.sqrt(ms_units), k * n, n - 1, confidence))
    std = math.sqrt(ms_seeds + units_beyond)
    return Interval(mean, half, mean - half, mean + half, std, k, confidence)


def disjoint_sets(rows: ArrayLike) -> list[NDArray[np.int64]]:
    """A partition of the episodes into sets within which no image is used twice, by first fit in order.

    Args:
        rows: the images of each episode, [E, images].

    Returns:
        For each set its episodes. Balanced files deal each image once before any is dealt again, so that a set is one pass
        over all images: 120 episodes of 100 images on FC100's 12,000.
    """
    images = np.asarray(rows, dtype=np.int64)
    images = images.reshape(len(images), -1)
    used: list[NDArray[np.bool_]] = []
    sets: list[list[int]] = []
    for episode, own in enumerate(images):
        place = next((i for i, taken in enumerate(used) if not taken[own].any()), None)
        if place is None:
            place = len(sets)
            used.append(np.zeros(int(images.max()) + 1, dtype=np.bool_))
            sets.append([])
        used[place][own] = True
        sets[place].append(episode)
    return [np.asarray(members, dtype=np.int64) for members in sets]


def without_reuse(differences: ArrayLike, sets: Sequence[NDArray[np.int64]], confidence: float = 0.95) -> Interval:
    """The interval when images, not episodes, are the finite resource: n is that of the largest set without a shared image.

    Within such a set the episodes are independent draws of images (given the classes), which 2,000 episodes over 12,000
    images are not. The variance is pooled within all sets and the mean is that of all episodes, which varies no more than
    that of one set: the interval errs on the wide side. The classes are still the same ones; `class_jackknife` is about those.

    Args:
        differences: [E].
        sets: from `disjoint_sets`.
        confidence: in (0, 1).

    Returns:
        The interval; `n` is the number of episodes in the largest set, and its half width is NaN where that is 1.
    """
    d = _vector(differences)
    n = max(len(members) for members in sets)
    mean = float(d.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan, math.nan, n, confidence)
    squares = math.fsum(float(((d[s] - d[s].mean()) ** 2).sum()) for s in sets)
    std = math.sqrt(squares / sum(len(members) - 1 for members in sets))
    half = t_half_width(std, n, n - 1, confidence)
    return Interval(mean, half, mean - half, mean + half, std, n, confidence)


def class_jackknife(
    differences: ArrayLike, classes: ArrayLike, n_classes: int, confidence: float = 0.95
) -> Interval | None:
    """The interval when the classes are drawn anew: leave out one class, and with it every episode that holds it.

    The mean over episodes is an (incomplete) U-statistic of the classes, each of which counts through its own queries and
    as a distractor of the others; the jackknife takes both (Arvesen, 1969), with n_classes - 1 degrees of freedom. The part of
    its variance that comes from having fewer episodes in each leave-one-out mean is taken off, down to that of the plain t
    interval.

    Args:
        differences: [E].
        classes: of each episode's ways, [E, N], in 0..n_classes-1.
        n_classes: C.
        confidence: in (0, 1).

    Returns:
        The interval, `n` the number of classes; None where some class is in every episode (N = C), or C < 3.
    """
    d, ways = _vector(differences), np.asarray(classes, dtype=np.int64)
    count = len(d)
    holds = np.zeros((count, n_classes), dtype=np.bool_)
    holds[np.arange(count)[:, None], ways] = True
    share = holds.mean(0)
    if n_classes < 3 or bool((share == 1).any()):
        return None
    mean = float(d.mean())
    without = (d.sum() - d @ holds) / (count - holds.sum(0))
    raw = (n_classes - 1) / n_classes * float(((without - without.mean()) ** 2).sum())
    # Residuals from additive class effects: what an episode varies by beyond its classes.
    design = holds.astype(np.float64) - share
    residual = d - mean - design @ np.linalg.lstsq(design, d - mean, rcond=None)[0]
    noise = float((residual**2).sum()) / max(1, count - n_classes)
    excess = (n_classes - 1) / n_classes * float((share / (1 - share)).sum()) - 1
    variance = max(raw - excess * noise / count, float(d.var(ddof=1)) / count)
    half = t_half_width(math.sqrt(variance), 1, n_classes - 1, confidence)
    return Interval(mean, half, mean - half, mean + half, math.sqrt(variance * n_classes), n_classes, confidence)


def _vector(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not bool(np.isfinite(array).all()):
        raise SlabenchError(f"a comparison needs finite values of the shape [n], not {list(array.shape)}")
    return array


def _list(seeds: Mapping[int, ArrayLike]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds)) or "none"
