"""Intervals and tests of a comparison against scipy, closed forms, published values and simulated coverage."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import stats

from slabench.core import paths
from slabench.core.errors import SlabenchError
from slabench.episodes.files import read_rows
from slabench.evaluation.intervals import Interval, t_interval
from slabench.evaluation.paired_tests import (
    bootstrap_interval,
    class_jackknife,
    disjoint_sets,
    mcnemar,
    paired_over_seeds,
    seeds_and_units,
    wilcoxon_p,
    without_reuse,
)


def covers(interval: Interval | None, value: float = 0.0) -> bool:
    assert interval is not None
    return interval.low <= value <= interval.high


def test_pairs_are_over_the_common_seeds() -> None:
    rng = np.random.default_rng(0)
    a = {seed: rng.random(50) for seed in (0, 1, 2)}
    b = {seed: rng.random(50) for seed in (1, 2, 5)}
    pairs = paired_over_seeds(a, b)
    assert list(pairs.per_seed) == [1, 2]
    for seed in (1, 2):
        test = stats.ttest_rel(a[seed], b[seed])
        assert pairs.per_seed[seed].p_value == pytest.approx(test.pvalue)
        assert (pairs.per_seed[seed].low, pairs.per_seed[seed].high) == pytest.approx(tuple(test.confidence_interval()))
    means = [np.mean(a[seed] - b[seed]) for seed in (1, 2)]
    assert pairs.spread.std == pytest.approx(np.std(means, ddof=1))
    assert pairs.spread.half_width == pytest.approx(12.7062 * np.std(means, ddof=1) / np.sqrt(2), rel=1e-4)
    assert pairs.together.mean == pytest.approx(np.mean(means))
    with pytest.raises(SlabenchError, match="one has 0, 1, 2, the other 7"):
        paired_over_seeds(a, {7: b[1]})


@pytest.mark.parametrize("discrete", [True, False])
def test_the_bootstrap_is_scipys(discrete: bool) -> None:
    rng = np.random.default_rng(1)
    d = rng.exponential(1, 40) - 0.8
    if discrete:
        d = np.round(d * 15) / 15
    expected = stats.bootstrap(
        (d,), np.mean, n_resamples=20_000, method="percentile", random_state=np.random.default_rng(2)
    ).confidence_interval
    found = bootstrap_interval(d, resamples=20_000)
    # Quantiles of two times 20,000 resamples differ by 0.027 standard errors (1 sigma).
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.1 * d.std() / np.sqrt(40))
    assert found.mean == pytest.approx(d.mean())
    assert bootstrap_interval(d) == bootstrap_interval(d)


def test_the_bootstrap_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 -- it is what must not change
    bootstrap_interval([0.1, 0.2, 0.3])
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_wilcoxon_in_closed_form_and_with_ties() -> None:
    assert wilcoxon_p([0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08]) == pytest.approx(2 / 2**8)
    assert wilcoxon_p(np.zeros(5)) == 1
    rng = np.random.default_rng(3)
    d = rng.integers(-4, 6, 300) / 75
    # Pratt's normal approximation by hand: ranks with the zeros, then the zeros' ranks are dropped.
    ranks = stats.rankdata(np.abs(d))
    plus, zeros, n = ranks[d > 0].sum(), (d == 0).sum(), len(d)
    mean = (n * (n + 1) - zeros * (zeros + 1)) / 4
    variance = (n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)) / 24
    _, ties = np.unique(np.abs(d[d != 0]).round(9), return_counts=True)
    variance -= (ties**3 - ties).sum() / 48
    z = (plus - mean) / np.sqrt(variance)
    assert wilcoxon_p(d) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.02)
    assert wilcoxon_p(d + rng.uniform(-1e-9, 1e-9, 300)) == wilcoxon_p(d), "rounding is no difference"


def test_mcnemar_of_a_published_table() -> None:
    # Fagerland, Lydersen and Laake (2013), airway hyper-responsiveness: 1 and 7 discordant of 21.
    a = np.array([1] * 1 + [0] * 7 + [1] * 5 + [0] * 8)
    b = np.array([0] * 1 + [1] * 7 + [1] * 5 + [0] * 8)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b, found.n) == (1, 7, 21)
    assert found.p_exact == pytest.approx(0.0703, abs=5e-5)
    assert found.p_mid == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize(("only_a", "only_b"), [(903, 731), (5, 5), (0, 9), (3, 4)])
def test_mcnemar_is_the_binomial_test(only_a: int, only_b: int) -> None:
    a, b = np.repeat([1, 0, 1], [only_a, only_b, 50]), np.repeat([0, 1, 1], [only_a, only_b, 50])
    found = mcnemar(a, b)
    n = only_a + only_b
    assert found.p_exact == pytest.approx(stats.binomtest(only_a, n).pvalue)
    point = comb(n, only_a) / 2**n
    expected = 1.0 if only_a == only_b else found.p_exact - point
    assert found.p_mid == pytest.approx(expected)
    assert mcnemar(b, a).p_mid == pytest.approx(found.p_mid)


def test_mcnemar_needs_decisions() -> None:
    assert mcnemar([1, 0], [1, 0]).p_mid == 1
    with pytest.raises(SlabenchError, match="not a fraction"):
        mcnemar([0.5, 1], [0, 1])
    with pytest.raises(SlabenchError, match="a has 2, b has 3"):
        mcnemar([0, 1], [0, 1, 1])


def test_seeds_and_units_in_its_limits() -> None:
    rng = np.random.default_rng(4)
    units, seeds = rng.normal(0, 1, 30), rng.normal(0, 1, 4)
    alike = seeds_and_units(np.tile(units, (4, 1)))
    assert alike.half_width == pytest.approx(t_interval(units).half_width), "equal trainings: the units alone"
    flat = seeds_and_units(np.tile(seeds[:, None], (1, 30)))
    assert flat.half_width == pytest.approx(t_interval(seeds).half_width), "equal units: the seeds alone"
    both = seeds_and_units(seeds[:, None] + units)
    expected = np.hypot(t_interval(seeds).half_width, t_interval(units).half_width)
    assert both.half_width == pytest.approx(expected), "two additive effects: half widths in squares"
    with pytest.raises(SlabenchError, match="more seeds"):
        seeds_and_units(units[None, :])


@pytest.mark.parametrize("spread", [0.0, 0.005, 0.02])
def test_seeds_and_units_cover_where_units_alone_do_not(spread: float) -> None:
    rng = np.random.default_rng(5)
    k, n, rounds = 3, 100, 1500
    hits = alone = 0
    for _ in range(rounds):
        d = rng.normal(0, spread, (k, 1)) + rng.normal(0, 0.05, (1, n)) + rng.normal(0, 0.05, (k, n))
        hits += covers(seeds_and_units(d))
        alone += covers(t_interval(d.mean(0)))
    assert hits / rounds > 0.935  # 0.95 less three standard errors of the simulation
    if spread == 0.02:
        assert alone / rounds < 0.75


def test_disjoint_sets_of_the_published_episodes() -> None:
    manifest, rows = read_rows(paths.episodes() / "fc100" / "test-5w5s15q-2000.npy")
    sets = disjoint_sets(rows)
    assert sorted(np.concatenate(sets)) == list(range(2000))
    assert [len(members) for members in sets] == [120] * 16 + [80]
    for members in sets[:16]:
        assert len(np.unique(rows[members])) == sum(manifest.class_sizes) == 12_000


def test_disjoint_sets_by_hand() -> None:
    sets = disjoint_sets([[0, 1], [1, 2], [2, 3], [0, 3], [4, 5]])
    assert [list(members) for members in sets] == [[0, 2, 4], [1, 3]]


def test_without_reuse_is_the_t_interval_of_one_pass() -> None:
    rng = np.random.default_rng(6)
    d = rng.normal(0, 1, 24)
    one = without_reuse(d, [np.arange(24)])
    assert (one.low, one.high, one.n) == pytest.approx((t_interval(d).low, t_interval(d).high, 24))
    again = without_reuse(np.tile(d, 50), np.split(np.arange(24 * 50), 50))
    assert again.half_width == pytest.approx(one.half_width, rel=0.1), "asking the same images again narrows nothing"
    assert t_interval(np.tile(d, 50)).half_width < 0.2 * one.half_width
    assert np.isnan(without_reuse(d[:2], [np.array([0]), np.array([1])]).half_width)


def test_without_reuse_covers_when_images_are_drawn_anew() -> None:
    rng = np.random.default_rng(7)
    images, size, passes, rounds = 200, 10, 8, 300
    open_hits = closed_hits = 0
    for _ in range(rounds):
        effect = rng.normal(0, 1, images)  # A's advantage on each image, of mean 0 in the population
        rows = np.concatenate([rng.permutation(images).reshape(-1, size) for _ in range(passes)])
        d = effect[rows].mean(1) + rng.normal(0, 0.1, len(rows))
        open_hits += covers(without_reuse(d, disjoint_sets(rows)))
        closed_hits += covers(t_interval(d))
    assert open_hits / rounds > 0.91
    assert closed_hits / rounds < 0.7


def test_the_class_jackknife_of_one_way_episodes_is_the_t_interval_over_classes() -> None:
    rng = np.random.default_rng(8)
    effects = rng.normal(0, 1, 12)
    classes = np.tile(np.arange(12), 30)[:, None]
    found = class_jackknife(effects[classes[:, 0]], classes, 12)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((t_interval(effects).low, t_interval(effects).high))
    assert class_jackknife(np.zeros(3), np.tile(np.arange(4), (3, 1)), 4) is None, "all classes in every episode"


@pytest.mark.parametrize(("own", "distractor"), [(0.02, 0.005), (0.005, 0.001), (0.0, 0.0)])
def test_the_class_jackknife_covers_when_classes_are_drawn_anew(own: float, distractor: float) -> None:
    rng = np.random.default_rng(9)
    n_classes, ways, rounds = 20, 5, 200
    hits = plain = 0
    for _ in range(rounds):
        effect = rng.normal(0, own, n_classes) + (ways - 1) * rng.normal(0, distractor, n_classes)
        classes = np.argsort(rng.random((800, n_classes)), 1)[:, :ways]
        d = effect[classes].mean(1) + rng.normal(0, 0.06, 800)
        hits += covers(class_jackknife(d, classes, n_classes))
        plain += covers(t_interval(d))
    assert hits / rounds > 0.89  # 0.95 less four standard errors of the simulation
    if own == 0.02:
        assert plain / rounds < 0.75
    if own == 0:
        assert hits / rounds < 1, "without effects of classes it is hardly wider than the plain interval"


@pytest.mark.parametrize("wrong", [[], [[0.1]], [0.1, np.nan]])
def test_values_that_are_none(wrong: object) -> None:
    with pytest.raises(SlabenchError, match="finite values of the shape"):
        bootstrap_interval(wrong)  # type: ignore[arg-type]
