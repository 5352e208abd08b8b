"""Unequal supports and queries: golden counts, totals, files, and balanced accuracy against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from slabench.core.errors import DataError, UsageError
from slabench.core.files import read_json, sha256_file, write_json
from slabench.data import load
from slabench.episodes.files import load_episodes, make, open_file, profile_suffix, read_manifest, usage
from slabench.episodes.profiles import SHAPES, parse_profile
from slabench.episodes.sampler import Episodes
from slabench.evaluation.episodes import episode_logits, score_episodes, tally
from slabench.heads.metric import PROTONET
from slabench.learners import EpisodicLearner


def counts(text: str, ways: int = 5, mean: int = 5, n: int = 40, least: int = 1) -> np.ndarray:
    return parse_profile(text).counts(ways, mean, n, np.random.default_rng(0), least)


@pytest.mark.parametrize(
    ("text", "ways", "mean", "expected"),
    [
        ("linear:9", 5, 5, [1, 3, 5, 7, 9]),  # Ochal et al.'s 1-9 shots, linear
        ("step:9", 5, 5, [1, 1, 7, 8, 8]),  # shares 1:1:9:9:9 of 25 supports are 0.86 0.86 7.76 7.76 7.76
        ("exp:16", 5, 31, [5, 10, 20, 40, 80]),  # 1:2:4:8:16
        ("linear:1", 4, 3, [3, 3, 3, 3]),
    ],
)
def test_counts_of_the_shapes(text: str, ways: int, mean: int, expected: list[int]) -> None:
    found = counts(text, ways, mean)
    for row in found:
        assert sorted(row) == expected
    if len(set(expected)) > 1:
        assert len({tuple(row) for row in found}) > 1, "classes stand in random order"


@given(
    shape=st.sampled_from(SHAPES),
    number=st.floats(1, 50),
    ways=st.integers(2, 12),
    mean=st.integers(1, 20),
    least=st.integers(0, 1),
)
@settings(deadline=None, max_examples=80)
def test_every_episode_has_the_same_total(shape: str, number: float, ways: int, mean: int, least: int) -> None:
    found = counts(f"{shape}:{number}", ways, mean, n=9, least=least)
    assert found.shape == (9, ways)
    assert (found.sum(1) == ways * mean).all()
    assert found.min() >= least


def test_dirichlet_shares_have_the_moments_of_the_distribution() -> None:
    """Mean 1/N and variance (1/N)(1 - 1/N) / (N a + 1), with counts large enough for rounding not to matter."""
    shares = counts("dirichlet:2", ways=5, mean=2000, n=4000, least=0) / 10_000
    np.testing.assert_allclose(shares.mean(0), 0.2, atol=0.01)
    np.testing.assert_allclose(shares.var(0), 0.2 * 0.8 / 11, rtol=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linaer:9", "did you mean 'linear'"),
        ("linear", "no number"),
        ("linear:x", "no number"),
        ("step:0.5", "a ratio of 1 or more"),
        ("dirichlet:0", "a concentration above 0"),
        ("exp:inf", "a ratio of 1 or more"),
        ("balanced:2", "unknown profile"),
    ],
)
def test_profiles_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_profile(text)


def test_names_tell_profiles_apart() -> None:
    assert profile_suffix("balanced", "balanced") == ""
    assert profile_suffix("linear:9", "dirichlet:2") == "-slinear9-qdirichlet2"


@pytest.mark.usefixtures("glyphs")
class TestFiles:
    """Frozen files with profiles."""

    def test_supports_and_queries_are_shared_out(self, tmp_path: Path) -> None:
        images = load("glyphs", "test")
        path = make(images, "glyphs", "test", 5, 5, 6, 50, tmp_path, None, "linear:9", "dirichlet:2")
        file = open_file(path, images)
        assert file.name == "glyphs/test-5w5s6q-50-slinear9-qdirichlet2"
        shots = (file.episodes.support >= 0).sum(-1)
        assert all(sorted(row) == [1, 3, 5, 7, 9] for row in shots.tolist())
        queries = (file.episodes.query >= 0).sum(-1)
        assert queries.sum(1).unique().tolist() == [30]
        assert len(queries.unique()) > 3
        # No image twice in an episode, and every image belongs to its class.
        labels = torch.from_numpy(np.asarray(images.labels, dtype=np.int64))
        for rows, classes in zip(file.episodes.rows, file.episodes.classes, strict=True):
            for way, label in zip(rows, classes, strict=True):
                there = way[way >= 0]
                assert len(there.unique()) == len(there)
                assert (labels[there] == label).all()
        least, most = usage(file, images)["class_uses"]
        assert most - least <= 1

    def test_the_same_call_gives_the_same_bytes(self, tmp_path: Path) -> None:
        images = load("glyphs", "test")
        paths = [
            make(images, "glyphs", "test", 4, 3, 5, 20, tmp_path / x, None, "step:4", "balanced") for x in ("a", "b")
        ]
        assert paths[0].read_bytes() == paths[1].read_bytes()

    def test_a_balanced_file_is_what_it_was_before_profiles(self, tmp_path: Path) -> None:
        images = load("glyphs", "test")
        path = make(images, "glyphs", "test", 5, 1, 3, 20, tmp_path)
        table = read_json(path.with_suffix(".json"))
        assert set(table).isdisjoint({"support_profile", "query_profile", "columns"})
        assert table["method"] == "balanced/1"
        assert read_manifest(path).support_profile == "balanced"

    def test_an_episode_with_fewer_images_than_the_manifest_says_is_refused(self, tmp_path: Path) -> None:
        images = load("glyphs", "test")
        path = make(images, "glyphs", "test", 4, 3, 5, 20, tmp_path, None, "linear:3", "balanced")
        rows = np.load(path)
        rows[..., 2] = 2**16 - 1
        np.save(path, rows)
        table = read_json(path.with_suffix(".json"))
        write_json(path.with_suffix(".json"), {**table, "sha256": sha256_file(path)})
        with pytest.raises(DataError, match="supports"):
            open_file(path, images)

    def test_a_class_too_small_for_its_largest_share_is_named(self) -> None:
        images = load("glyphs", "test")
        with pytest.raises(UsageError, match="images, and"):
            load_episodes(images, "glyphs", "test", 5, 5, 5000, 3, "balanced", "linear:9")


def test_balanced_accuracy_is_scikit_learns() -> None:
    rows = torch.full((3, 4, 1 + 6), -1)
    rows[..., 0] = 0
    rows[:, 0, 1:7] = 1
    rows[:, 1, 1:3] = 1
    rows[:, 2, 1:2] = 1  # the last class has no query at all
    episodes = Episodes(rows, torch.arange(4).expand(3, -1), 1)
    truth = episodes.flat(query=True)[1]
    guess = torch.randint(0, 3, truth.shape, generator=torch.Generator().manual_seed(0))
    scores = tally(guess.eq(truth), episodes, 4)
    for episode in range(3):
        expected = balanced_accuracy_score(truth[episode].numpy(), guess[episode].numpy())
        assert float(scores.balanced[episode]) == pytest.approx(expected, abs=1e-6)
        assert float(scores.accuracy[episode]) == pytest.approx(float(guess[episode].eq(truth[episode]).float().mean()))
    assert scores.total.tolist() == [18, 6, 3, 0]


def test_unequal_episodes_are_scored_like_each_alone() -> None:
    """Aggregated prototypes of unequal shots, against a loop over episodes, classes and views."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((30, 2, 6), generator=generator)
    rows = torch.full((2, 3, 3 + 2), -1)
    for e, shots in enumerate(([1, 2, 3], [3, 2, 1])):
        deck = torch.randperm(30, generator=generator).tolist()
        for way, k in enumerate(shots):
            rows[e, way, :k] = torch.tensor([deck.pop() for _ in range(k)])
            rows[e, way, 3:5] = torch.tensor([deck.pop() for _ in range(2)])
    episodes = Episodes(rows, torch.arange(3).expand(2, -1), 3)
    learner = EpisodicLearner(nn.Identity(), PROTONET)  # type: ignore[arg-type]
    got = episode_logits(learner, features, episodes)
    for e in range(2):
        queries = [int(q) for way in rows[e] for q in way[3:] if q >= 0]
        for place, q in enumerate(queries):
            for way in range(3):
                supports = [int(s) for s in rows[e, way, :3] if s >= 0]
                value = 0.0
                for view in range(2):
                    mean = features[supports, view].mean(0)
                    value -= float((features[q, view] - mean).square().sum()) / 6 / 2
                assert float(got[e, place, way].detach()) == pytest.approx(value, rel=1e-4)
    scores = score_episodes(learner, features, episodes, "aggregated", 3)
    truth = episodes.flat(query=True)[1]
    torch.testing.assert_close(scores.accuracy, got.argmax(-1).eq(truth).float().mean(1))
