"""SLA's arithmetic against naive loops and numpy: transformations, joint labels, aggregation, objectives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slabench.core.errors import UsageError
from slabench.sla import aggregate, joint_labels, same_view, single
from slabench.sla.objectives import OBJECTIVES, objective
from slabench.sla.transforms import TRANSFORM_SETS, transform_set

# (turns, channel order) of every set, written out from the authors' code, not derived from ours.
_PERMUTATIONS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
_CYCLES = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
GOLDEN = {
    "rotation": [(k, (0, 1, 2)) for k in (0, 1, 2, 3)],
    "rotation2": [(0, (0, 1, 2)), (2, (0, 1, 2))],
    "color-perm": [(0, order) for order in _PERMUTATIONS],
    "color-perm3": [(0, order) for order in _CYCLES],
    "rot-color-perm6": [(k, order) for k in (0, 2) for order in _CYCLES],
    "rot-color-perm12": [(k, order) for k in (0, 1, 2, 3) for order in _CYCLES],
    "rot-color-perm24": [(k, order) for k in (0, 1, 2, 3) for order in _PERMUTATIONS],
}
sets = st.sampled_from(sorted(TRANSFORM_SETS))
seeds = st.integers(0, 2**31 - 1)


def random_images(seed: int, batch: int, size: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    images = torch.randint(0, 256, (batch, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return images.to(dtype)


def turned(image: np.ndarray, turns: int, order: tuple[int, int, int]) -> np.ndarray:
    """One image [3, H, W], turned counter-clockwise and with its channels reordered, by numpy."""
    return np.rot90(image, turns, axes=(1, 2))[list(order)]


def test_the_sets_are_those_of_the_paper() -> None:
    assert set(TRANSFORM_SETS) == set(GOLDEN)
    assert {name: len(views) for name, views in GOLDEN.items()} == {
        name: transform_set(name).M for name in TRANSFORM_SETS
    }


@given(sets, seeds, st.integers(1, 3), st.integers(1, 7), st.sampled_from([torch.uint8, torch.float32, torch.float64]))
@settings(deadline=None, max_examples=60)
def test_copies_are_numpys_turns_and_interleaved(
    name: str, seed: int, batch: int, size: int, dtype: torch.dtype
) -> None:
    images = random_images(seed, batch, size, dtype)
    copies = transform_set(name).apply(images)
    views = GOLDEN[name]
    assert copies.dtype == dtype
    assert copies.shape == (batch * len(views), 3, size, size)
    assert copies.is_contiguous(memory_format=torch.channels_last)
    for b, (j, (turns, order)) in itertools.product(range(batch), enumerate(views)):
        np.testing.assert_array_equal(copies[b * len(views) + j].numpy(), turned(images[b].numpy(), turns, order))


@given(sets, seeds, st.integers(1, 3), st.integers(1, 7))
@settings(deadline=None, max_examples=60)
def test_identity_first_inverses_undo_and_interleaving_round_trips(name: str, seed: int, batch: int, size: int) -> None:
    images = random_images(seed, batch, size)
    chosen = transform_set(name)
    by_view = chosen.apply(images).unflatten(0, (batch, chosen.M))
    assert torch.equal(by_view[:, 0], images)
    for j in range(chosen.M):
        assert torch.equal(chosen.undo(by_view[:, j], j), images)


@given(sets, seeds, st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_one_transformation_an_image(name: str, seed: int, batch: int) -> None:
    chosen = transform_set(name)
    images = random_images(seed, batch, 5)
    which = torch.randint(chosen.M, (batch,), generator=torch.Generator().manual_seed(seed))
    expected = chosen.apply(images).unflatten(0, (batch, chosen.M))[torch.arange(batch), which]
    assert torch.equal(chosen.apply_each(images, which), expected)


@pytest.mark.parametrize("name", sorted(TRANSFORM_SETS))
def test_views_differ_from_each_other(name: str) -> None:
    copies = transform_set(name).apply(random_images(3, 1, 6))
    assert len({copy.contiguous().numpy().tobytes() for copy in copies}) == transform_set(name).M


@pytest.mark.parametrize("name", sorted(TRANSFORM_SETS))
def test_images_that_are_not_square(name: str) -> None:
    oblong = torch.zeros(2, 3, 4, 6)
    if any(turns % 2 for turns, _ in GOLDEN[name]):
        with pytest.raises(UsageError, match=r"4 x 6 is not square"):
            transform_set(name).apply(oblong)
        with pytest.raises(UsageError, match="rotation2"):
            transform_set(name).apply_each(oblong, torch.zeros(2, dtype=torch.long))
    else:
        assert transform_set(name).apply(oblong).shape == (2 * len(GOLDEN[name]), 3, 4, 6)


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 8, 3), (2, 1, 8, 8)])
def test_other_shapes_are_refused_with_the_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=str(list(shape)).replace("[", r"\[").replace("]", r"\]")):
        transform_set("rotation").apply(torch.zeros(shape))


def test_unknown_names_suggest() -> None:
    with pytest.raises(UsageError, match="did you mean 'rotation'"):
        transform_set("rotatoin")
    with pytest.raises(UsageError, match="did you mean 'rot-color-perm12'"):
        transform_set("rot_color_perm12")
    with pytest.raises(UsageError, match="did you mean 'baseline'"):
        objective("baselin")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 24))
@settings(deadline=None)
def test_joint_labels_are_i_times_m_plus_j(labels: list[int], m: int) -> None:
    got = joint_labels(torch.tensor(labels), m)
    assert got.tolist() == [[i * m + j for j in range(m)] for i in labels]


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_aggregation_is_the_naive_loop(seed: int, batch: int, classes: int, m: int) -> None:
    logits = torch.randn((batch, m, classes * m), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = np.zeros((batch, classes))
    plain = np.zeros((batch, classes))
    for b, i in itertools.product(range(batch), range(classes)):
        expected[b, i] = sum(float(logits[b, j, i * m + j]) for j in range(m)) / m
        plain[b, i] = float(logits[b, 0, i * m])
    np.testing.assert_allclose(aggregate(logits, m).numpy(), expected, rtol=1e-12)
    np.testing.assert_array_equal(single(logits, m).numpy(), plain)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(1, 24))
@settings(deadline=None)
def test_one_hot_joint_logits_give_the_class(labels: list[int], m: int) -> None:
    rows = joint_labels(torch.tensor(labels), m)  # [B, M]: what a perfect learner answers for each copy
    logits = torch.nn.functional.one_hot(rows, 7 * m).double()
    assert aggregate(logits, m).argmax(-1).tolist() == labels
    assert single(logits, m).argmax(-1).tolist() == labels
    assert torch.equal(aggregate(logits, m), torch.nn.functional.one_hot(torch.tensor(labels), 7).double())


def test_the_mean_is_over_logits_not_probabilities() -> None:
    # Two views, two classes: view 0 is sure of class 0, view 1 twice as sure of class 1. By probabilities they would tie.
    logits = torch.tensor([[[10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 20.0]]])
    assert aggregate(logits, 2).tolist() == [[5.0, 10.0]]


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (2, 4, 9), (8,)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="joint logits of M=4"):
        same_view(torch.zeros(shape), 4)


@pytest.mark.parametrize(
    ("name", "rows", "classes", "expected"),
    [
        ("baseline", 1, 5, [[0], [1], [2]]),
        ("da", 4, 5, [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2]]),
        ("rotated-classes", 1, 5, [[0], [1], [2]]),
        ("sla", 4, 20, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]),
    ],
)
def test_objectives_label_the_copies(name: str, rows: int, classes: int, expected: list[list[int]]) -> None:
    chosen = objective(name)
    assert chosen.n_copies(4) == rows
    assert chosen.n_labels(5, 4) == classes
    assert chosen.labels(torch.tensor([0, 1, 2]), 4).tolist() == expected


def test_there_are_four_objectives() -> None:
    assert sorted(OBJECTIVES) == ["baseline", "da", "rotated-classes", "sla"]
