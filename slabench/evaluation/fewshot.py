"""Few-shot evaluation: embed every test image once under every transformation, then score episodes from the features.

A batch-norm layer in training mode would let queries see each other; everything here runs in eval mode, and an episode's
prediction for a query depends on that query and the supports alone (inductive).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slabench.data.catalog import DatasetInfo
from slabench.episodes import Episodes
from slabench.errors import UsageError
from slabench.evaluation.features import embed
from slabench.learners.episodic import EpisodicLearner
from slabench.sla.joint import aggregate, joint_labels
from slabench.sla.transforms import TransformSet

PREDICTORS = ("single", "aggregated")
"""`single`: plain supports and plain query. `aggregated`: the mean over j of the logits of t_j(query) against t_j(supports),
defined for every learner, trained with joint labels or not."""

_CHUNK_FLOATS = 2**24  # features gathered at once while scoring: 64 MiB in float32


@dataclass(frozen=True)
class EpisodeScores:
    """What one predictor did on E episodes.

    Attributes:
        accuracy: float32 `[E]`, fraction of an episode's queries that were right.
        correct: int64 `[C]`, right queries of each class over all episodes.
        total: int64 `[C]`, queries of each class.
    """

    accuracy: Tensor
    correct: Tensor
    total: Tensor


def embed_episodes(
    learner: EpisodicLearner,
    images: Tensor,
    episodes: Episodes,
    transforms: TransformSet,
    info: DatasetInfo,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Episodes]:
    """`embed` for the images that `episodes` use, and the episodes with rows of the returned features."""
    used, rows = torch.unique(episodes.rows, return_inverse=True)
    features = embed(learner, images[used.to(images.device)], transforms, info, autocast=autocast)
    return features, Episodes(rows, episodes.classes, episodes.shots)


@torch.inference_mode()
def score_episodes(
    learner: EpisodicLearner, features: Tensor, episodes: Episodes, predictor: str, n_classes: int
) -> EpisodeScores:
    """Score episodes from features.

    Args:
        learner: only its head and scale are used.
        features: `[n, M, D]` from `embed`; view 0 is the plain image.
        episodes: E episodes of rows of `features`.
        predictor: one of `PREDICTORS`.
        n_classes: C, classes of the split, for the counts by class.
    """
    logits = _LOGITS.get(predictor)
    if logits is None:
        raise UsageError(f"unknown predictor '{predictor}'", f"known: {', '.join(PREDICTORS)}")
    views = features[:, :1] if predictor == "single" else features
    _, ways, per_class = episodes.rows.shape
    queries = episodes.queries
    chunk = max(1, _CHUNK_FLOATS // (ways * per_class * views.shape[1] * views.shape[2]))
    truth = torch.arange(ways, device=features.device).repeat_interleave(queries)
    right = torch.cat(
        [
            logits(learner, views, episodes[start : start + chunk]).argmax(-1).eq(truth)
            for start in range(0, len(episodes), chunk)
        ]
    ).cpu()  # [E, N*Q]
    by_way = right.unflatten(1, (ways, queries)).sum(-1)
    correct = torch.zeros(n_classes, dtype=torch.long).index_add_(0, episodes.classes.reshape(-1), by_way.reshape(-1))
    total = torch.bincount(episodes.classes.reshape(-1), minlength=n_classes) * queries
    return EpisodeScores(right.float().mean(1), correct, total)


def episode_logits(learner: EpisodicLearner, features: Tensor, episodes: Episodes) -> Tensor:
    """Aggregated logits `[E, N*Q, N]`, queries class by class; with one view they are the plain ones.

    A head that decomposes is asked view by view; any other gets the joint problem of N*M classes (DESIGN: the same rule
    makes an N-way task an N*M-way one), and its joint logits are aggregated.
    """
    rows = episodes.rows.to(features.device)
    count, ways, per_class = rows.shape
    shots, m, dim = episodes.shots, features.shape[1], features.shape[2]
    gathered = features.index_select(0, rows.reshape(-1)).view(count, ways, per_class, m, dim)
    support, query = gathered[:, :, :shots], gathered[:, :, shots:]
    labels = torch.arange(ways, device=features.device).repeat_interleave(shots)  # [N*K]
    if learner.head.decomposes:
        by_view = [
            learner.logits(
                support[..., j, :].reshape(count, ways * shots, dim),
                labels.expand(count, -1),
                query[..., j, :].reshape(count, -1, dim),
                ways,
            )
            for j in range(m)
        ]
        return torch.stack(by_view).mean(0) if m > 1 else by_view[0]
    joint = learner.logits(
        support.reshape(count, ways * shots * m, dim),
        joint_labels(labels, m).reshape(-1).expand(count, -1),
        query.reshape(count, -1, dim),
        ways * m,
    )
    return aggregate(joint.unflatten(1, (-1, m)), m)


_LOGITS: dict[str, Callable[[EpisodicLearner, Tensor, Episodes], Tensor]] = dict.fromkeys(PREDICTORS, episode_logits)
