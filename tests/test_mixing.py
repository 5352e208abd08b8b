"""Mixing: the pictures, the labels, and that SLA's transformations commute with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slabench.core.errors import UsageError
from slabench.data.mixing import MIXINGS, boxes, inverse_frequency, mix, remix_share
from slabench.losses.loss import build_loss
from slabench.sla.transforms import TRANSFORM_SETS, transform_set

COUNTS = [100, 50, 10, 2]
RULES = sorted(set(MIXINGS) - {"none"})


def batch(size: int = 8, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (size,), generator=generator)
    return torch.randn((size, 3, 16, 16), generator=generator), labels


def mixed(name: str, seed: int = 0, size: int = 8):  # type: ignore[no-untyped-def]
    images, labels = batch(size)
    partners = batch(size, 1) if name == "cmo" else None
    return (
        images,
        labels,
        partners,
        mix(name, images, labels, np.random.default_rng(seed), counts=COUNTS, partners=partners),
    )


@pytest.mark.parametrize("name", RULES)
def test_shares_are_shares_and_the_generator_decides(name: str) -> None:
    *_, first = mixed(name, 1)
    *_, again = mixed(name, 1)
    *_, other = mixed(name, 2)
    assert first.share.shape == (8,)
    assert ((first.share >= 0) & (first.share <= 1)).all()
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)


def test_mixup_is_a_weighted_sum_of_an_image_and_its_partner() -> None:
    images, labels, _, got = mixed("mixup")
    order = torch.from_numpy(np.random.default_rng(0).permutation(8))
    assert torch.equal(got.first, labels)
    assert torch.equal(got.second, labels[order])
    for b in range(8):
        s = float(got.share[b])
        torch.testing.assert_close(got.images[b], s * images[b] + (1 - s) * images[order[b]])


def test_shares_of_mixup_are_beta_distributed() -> None:
    from scipy.stats import beta, kstest

    images = torch.zeros(4000, 3, 1, 1)
    for alpha in (0.4, 1.0):
        share = mix("mixup", images, torch.zeros(4000, dtype=torch.long), np.random.default_rng(0), alpha=alpha).share
        assert kstest(share.numpy(), beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize("name", ["cutmix", "cmo"])
def test_boxes_come_from_the_partner_and_the_share_is_the_area_that_is_left(name: str) -> None:
    images, _, partners, got = mixed(name)
    others = partners[0] if partners else images[torch.from_numpy(np.random.default_rng(0).permutation(8))]
    for b in range(8):
        from_other = (got.images[b] == others[b]).all(0)
        from_own = (got.images[b] == images[b]).all(0)
        assert (from_other | from_own).all()
        if from_own.all() and from_other.all():
            continue  # the permutation left this image in its place: it is its own partner
        assert float(from_own.float().mean()) == pytest.approx(float(got.share[b]), abs=1e-6)
        rows, columns = from_other.any(1).nonzero().flatten(), from_other.any(0).nonzero().flatten()
        if len(rows):  # one solid rectangle
            assert from_other[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_boxes_are_never_larger_than_asked(share: float, height: int, width: int, seed: int) -> None:
    mask = boxes(torch.tensor([share]), height, width, np.random.default_rng(seed))
    assert mask.shape == (1, height, width)
    assert float(mask.float().mean()) <= 1 - share + 1e-6


def test_a_whole_share_leaves_the_image_alone() -> None:
    assert not boxes(torch.ones(5), 16, 16, np.random.default_rng(0)).any()


def test_cmo_leaves_about_half_of_the_images_alone() -> None:
    images = torch.zeros(2000, 3, 16, 16)
    labels = torch.zeros(2000, dtype=torch.long)
    got = mix("cmo", images, labels, np.random.default_rng(0), partners=(images + 1, labels + 1))
    untouched = (got.share == 1).float().mean()
    # Besides those not chosen, some boxes round to nothing.
    assert 0.5 - 0.06 < float(untouched) < 0.5 + 0.12


def test_remix_gives_the_label_to_the_rarer_class() -> None:
    first, second = torch.tensor([0, 0, 0, 3, 3, 1, 0]), torch.tensor([3, 3, 1, 0, 0, 0, 0])
    share = torch.tensor([0.3, 0.7, 0.3, 0.7, 0.3, 0.7, 0.3])
    #  n_a/n_b:        50   50   2    .02  .02  .5   1
    assert remix_share(share, first, second, COUNTS).tolist() == pytest.approx([0.0, 0.7, 0.3, 1.0, 0.3, 0.7, 0.3])


def test_the_loss_is_the_mixed_loss() -> None:
    *_, got = mixed("cutmix")
    logits = torch.randn((8, 4), generator=torch.Generator().manual_seed(5))
    loss = build_loss("balanced-softmax", COUNTS)
    expected = [
        float(got.share[b]) * float(loss(logits[b : b + 1], got.first[b : b + 1]))
        + (1 - float(got.share[b])) * float(loss(logits[b : b + 1], got.second[b : b + 1]))
        for b in range(8)
    ]
    torch.testing.assert_close(got.loss(loss, logits), torch.tensor(expected))


@pytest.mark.parametrize("transforms", sorted(TRANSFORM_SETS))
def test_transforming_mixed_images_is_mixing_transformed_ones(transforms: str) -> None:
    chosen = transform_set(transforms)
    images, labels, _, got = mixed("mixup")
    order = torch.from_numpy(np.random.default_rng(0).permutation(8))
    s = got.share.repeat_interleave(chosen.M).view(-1, 1, 1, 1)
    expected = s * chosen.apply(images) + (1 - s) * chosen.apply(images[order])
    torch.testing.assert_close(chosen.apply(got.images), expected)
    assert torch.equal(labels, got.first)


def test_nothing_is_mixed_by_none() -> None:
    images, labels = batch()
    generator = np.random.default_rng(0)
    state = generator.bit_generator.state
    got = mix("none", images, labels, generator)
    assert torch.equal(got.images, images)
    assert (got.share == 1).all()
    assert generator.bit_generator.state == state


def test_inverse_frequency_draws_rare_classes_more() -> None:
    rows = np.split(np.random.default_rng(0).permutation(162), np.cumsum(COUNTS)[:-1])
    label = np.empty(162, dtype=int)
    for c, own in enumerate(rows):
        label[own] = c
    drawn = np.bincount(label[inverse_frequency(rows, 50_000, np.random.default_rng(1))], minlength=4) / 50_000
    expected = (1 / np.array(COUNTS)) / (1 / np.array(COUNTS)).sum()
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected * (1 - expected) / 50_000)).all()


def test_what_is_missing_is_named() -> None:
    images, labels = batch()
    generator = np.random.default_rng(0)
    with pytest.raises(UsageError, match="did you mean 'cutmix'"):
        mix("cut-mix", images, labels, generator)
    with pytest.raises(UsageError, match="pass `partners`"):
        mix("cmo", images, labels, generator)
    with pytest.raises(UsageError, match="pass `counts`"):
        mix("remix", images, labels, generator)
    with pytest.raises(UsageError, match="alpha 0"):
        mix("mixup", images, labels, generator, alpha=0)
    with pytest.raises(UsageError, match="do not fit"):
        mix("cmo", images, labels, generator, partners=(images[:3], labels[:3]))
    with pytest.raises(UsageError, match="have images"):
        inverse_frequency([np.arange(3), np.empty(0, int)], 2, generator)
