"""Embed once, score from features: the same as the episode-by-episode loop, and inductive."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from slabench.core.errors import UsageError
from slabench.core.seeding import numpy_generator, torch_generator
from slabench.data.augment import normalise
from slabench.data.catalog import info
from slabench.episodes.sampler import Episodes, EpisodeSampler
from slabench.evaluation.episodes import PREDICTORS, embed, embed_episodes, episode_logits, score_episodes
from slabench.learners import EpisodicLearner, build_learner
from slabench.recipes.fewshot import Model
from slabench.sla import aggregate, joint_labels
from slabench.sla.transforms import TransformSet, transform_set

CLASSES, EACH = 6, 12
INFO = info("fc100")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (CLASSES * EACH, 32, 32, 3), generator=torch_generator(0, "images")).to(torch.uint8)


@pytest.fixture(scope="module")
def learner(images: torch.Tensor) -> EpisodicLearner:
    """A Conv4 whose batch norms have seen some images, so that evaluation mode differs from training mode."""
    built = build_learner(Model(), INFO, 0).train()
    with torch.no_grad():
        built.embed(normalise(images, INFO.mean, INFO.std))
        built.scale.fill_(1.7)
    return built


def episodes(n: int = 9) -> Episodes:
    rows = torch.arange(CLASSES * EACH).view(CLASSES, EACH).numpy()
    return EpisodeSampler(list(rows), 4, 2, 3, numpy_generator(0, "episodes")).sample(n)


def loop_logits(
    learner: EpisodicLearner, images: torch.Tensor, drawn: Episodes, transforms: TransformSet
) -> torch.Tensor:
    """The textbook: for each episode and each transformation, embed supports and queries anew, and average the logits."""
    learner.eval()
    out = []
    for rows in drawn.rows:
        total = torch.zeros(())
        for j in range(transforms.M):
            pixels = normalise(images[rows.reshape(-1)], INFO.mean, INFO.std)
            turned = transforms.apply(pixels)[j :: transforms.M]
            features = learner.backbone(turned).view(*rows.shape, -1)
            means = features[:, : drawn.shots].mean(1)
            query = features[:, drawn.shots :].flatten(0, 1)
            distance = (query[:, None] - means[None]).square().sum(-1)
            total = total - learner.scale * distance / query.shape[-1]
        out.append(total / transforms.M)
    return torch.stack(out)


@pytest.mark.parametrize("name", ["rotation", "color-perm3", "rot-color-perm12"])
@torch.no_grad()
def test_embedding_once_is_the_loop_over_episodes(name: str, learner: EpisodicLearner, images: torch.Tensor) -> None:
    transforms, drawn = transform_set(name), episodes()
    features, rows = embed_episodes(learner, images, drawn, transforms, INFO)
    expected = loop_logits(learner, images, drawn, transforms)
    torch.testing.assert_close(episode_logits(learner, features, rows), expected, rtol=1e-4, atol=1e-5)
    plain = loop_logits(learner, images, drawn, replace(transforms, views=transforms.views[:1]))
    torch.testing.assert_close(episode_logits(learner, features[:, :1], rows), plain, rtol=1e-4, atol=1e-5)

    truth = torch.arange(4).repeat_interleave(3)
    for predictor, logits in (("aggregated", expected), ("single", plain)):
        scores = score_episodes(learner, features, rows, predictor, CLASSES)
        assert torch.equal(scores.accuracy, logits.argmax(-1).eq(truth).float().mean(1))
        by_class = torch.zeros(CLASSES, dtype=torch.long)
        for right, classes in zip(logits.argmax(-1).eq(truth).view(-1, 4, 3), drawn.classes, strict=True):
            by_class[classes] += right.sum(1)
        assert torch.equal(scores.correct, by_class)
        assert scores.total.tolist() == [3 * int((drawn.classes == c).sum()) for c in range(CLASSES)]


@torch.no_grad()
def test_views_one_by_one_are_the_joint_problem(learner: EpisodicLearner, images: torch.Tensor) -> None:
    """For a head that decomposes, N-way problems view by view give what one problem of N*M classes gives."""
    features, rows = embed_episodes(learner, images, episodes(), transform_set("rotation"), INFO)
    by_view = episode_logits(learner, features, rows)
    whole = EpisodicLearner(learner.backbone, replace(learner.head, decomposes=False))
    whole.scale.data = learner.scale.data
    torch.testing.assert_close(episode_logits(whole, features, rows), by_view, rtol=1e-4, atol=1e-5)
    # And the joint problem by hand, for one episode.
    one = features[rows.rows[0]]  # [N, K+Q, M, D]
    support, query = one[:, :2].reshape(1, -1, one.shape[-1]), one[:, 2:].reshape(1, -1, one.shape[-1])
    labels = joint_labels(torch.arange(4).repeat_interleave(2), 4).reshape(1, -1)
    joint = learner.logits(support, labels, query, 16).unflatten(1, (-1, 4))
    torch.testing.assert_close(aggregate(joint, 4)[0], by_view[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["conv4", "resnet12-slim"])
@torch.no_grad()
def test_no_hidden_transduction(backbone: str, images: torch.Tensor) -> None:
    """A query's logits are the same whatever the other queries are, though the learner comes in training mode."""
    learner = build_learner(Model(backbone=backbone), INFO, 0).train()
    transforms, drawn = transform_set("rotation"), episodes(1)
    features, rows = embed_episodes(learner, images, drawn, transforms, INFO)
    before = episode_logits(learner, features, rows)[0, 0]
    assert learner.training  # put back as it was

    others = images.clone()
    keep = torch.cat([drawn.support.flatten(), drawn.query[0, 0, :1]])
    mask = torch.ones(len(images), dtype=torch.bool)
    mask[keep] = False
    others[mask] = 255 - others[mask]
    features, rows = embed_episodes(learner, others, drawn, transforms, INFO)
    after = episode_logits(learner, features, rows)
    torch.testing.assert_close(after[0, 0], before, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(after[0, 1], before)

    # The same check must catch a learner that does leak: in training mode, batch norm sees the other queries.
    def leaking(pixels: torch.Tensor) -> torch.Tensor:
        return learner.train().embed(normalise(pixels[drawn.rows.reshape(-1)], INFO.mean, INFO.std))[2]

    assert not torch.allclose(leaking(images), leaking(others), rtol=1e-5, atol=1e-6)


def test_embedding_changes_nothing_in_the_learner(learner: EpisodicLearner, images: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    embed(learner, images[:10], transform_set("rotation"), INFO)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_batches_and_order_do_not_matter(learner: EpisodicLearner, images: torch.Tensor) -> None:
    whole = embed(learner, images, transform_set("rotation2"), INFO, batch=72)
    parts = embed(learner, images.flip(0), transform_set("rotation2"), INFO, batch=7).flip(0)
    assert whole.shape == (72, 2, 256)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_an_unknown_predictor_is_named(learner: EpisodicLearner, images: torch.Tensor) -> None:
    features, rows = embed_episodes(learner, images, episodes(1), transform_set("rotation"), INFO)
    with pytest.raises(UsageError, match="unknown predictor 'averaged'"):
        score_episodes(learner, features, rows, "averaged", CLASSES)
    assert PREDICTORS == ("single", "aggregated")
