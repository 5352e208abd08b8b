"""Images embedded once under every transformation, and episodes scored from these features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from slabench.backbones import Backbone
from slabench.core.errors import UsageError
from slabench.core.seeding import torch_generator
from slabench.core.team import share, whole, whole_flags
from slabench.core.uploads import upload
from slabench.data.augment import centre_crop, normalise
from slabench.data.catalog import DatasetInfo
from slabench.data.loading import input_size
from slabench.data.mapped_tensor import in_memory
from slabench.episodes.sampler import Episodes
from slabench.learners import EpisodicLearner
from slabench.sla import aggregate, joint_labels
from slabench.sla.transforms import TransformSet
from slabench.training.finite import require_finite


class HasBackbone(Protocol):
    """A learner of any kind."""

    @property
    def backbone(self) -> Backbone:
        """Images to features."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights, for the device that they are on."""
        ...


@torch.inference_mode()
def embed(
    learner: HasBackbone,
    images: Tensor,
    transforms: TransformSet,
    info: DatasetInfo,
    batch: int = 64,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Features of every image under every transformation; of several processes each embeds its share of the images.

    Args:
        learner: its backbone is used in eval mode, as a copy; the learner itself is left as it is.
        images: uint8 `[n, H, W, 3]`, on any device; or features `[n, V, D]` of a frozen embedder, or numbers of its maps
            `[n, V, 1]`, which are not normalised.
        transforms: M transformations; of features, the views that they are.
        info: for the normalisation.
        batch: rows embedded at once, copies counted. Small batches stay in a CPU's cache.
        autocast: run the backbone in this precision; None is float32.

    Returns:
        float32 `[n, M, D]` on the learner's device.

    Raises:
        NotFiniteError: some are NaN or infinite.
    """
    device = next(learner.parameters()).device
    if device.type == "cuda" or images.is_floating_point():
        batch *= 64
    batch = max(1, batch // transforms.M)  # images
    backbone = learner.backbone.folded()
    n, images = len(images), images[share(len(images))]
    features = torch.empty((len(images), transforms.M, learner.backbone.feature_dim), device=device)
    for start in range(0, len(images), batch):
        part = upload(in_memory(images[start : start + batch]), device)
        copies = transforms.apply(_inputs(part, info))
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            out = backbone(copies)
        features[start : start + len(part)] = out.float().unflatten(0, (len(part), transforms.M))
    features = whole(features, n, counted=True)
    require_finite(features, "features")
    return features


def _inputs(images: Tensor, info: DatasetInfo) -> Tensor:
    """What a backbone is given of stored images: normalised pixels `[n, 3, H, W]`, float32 features `[n, V, D]`, or numbers."""
    if images.dtype != torch.uint8:
        return images.float() if images.is_floating_point() else images
    if input_size(info) != info.image_size:
        images = centre_crop(images, input_size(info))
    return normalise(images, info.mean, info.std)


_BLOCK = 64
"""Images that are augmented at once: always as many, so that every device and M draws the same."""


@torch.inference_mode()
def embed_augmented(
    learner: HasBackbone,
    images: Tensor,
    transforms: TransformSet,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    copies: int,
    seed: int,
    autocast: torch.dtype | None = None,
) -> Tensor:
    """Features of augmented copies of every image, `[n, copies, M, D]`, each copy under every transformation.

    Args:
        learner: as of `embed`, as are `images`, `transforms` and `autocast`.
        augment: uint8 `[B, H, W, 3]` and a CPU generator to normalised images; see `slabench.data.augment.BatchAugment`.
        copies: A, of each image.
        seed: the draws derive from it by name.

    Raises:
        NotFiniteError: some are NaN or infinite.
    """
    device = next(learner.backbone.parameters()).device
    backbone = learner.backbone.folded()
    n_blocks = -(-len(images) // _BLOCK)
    own = range(n_blocks)[share(n_blocks)]
    features = torch.zeros((len(own), _BLOCK, copies, transforms.M, learner.backbone.feature_dim), device=device)
    for place, block in enumerate(own):
        start = block * _BLOCK
        part = upload(in_memory(images[start : start + _BLOCK]), device)
        for copy in range(copies):
            views = transforms.apply(augment(part, torch_generator(seed, "support-copies", start, copy)))
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                out = backbone(views)
            features[place, : len(part), copy] = out.float().unflatten(0, (len(part), transforms.M))
    features = whole(features, n_blocks, counted=True).flatten(0, 1)[: len(images)]
    require_finite(features, "features of augmented copies")
    return features


def in_place_of_supports(features: Tensor, episodes: Episodes, copies: Tensor) -> tuple[Tensor, Episodes]:
    """Episodes in which the copies of a support stand for it: an N-way K-shot one becomes an N-way K*A-shot one.

    Args:
        features: `[n, M, D]`, of the images.
        episodes: rows of `features`.
        copies: `[n, A, M, D]` from `embed_augmented`.

    Returns:
        `[n + n*A, M, D]`, the copies of image i in rows n + A*i, ..., and the episodes with rows of it; queries are the images.
    """
    n, a = copies.shape[:2]
    support = episodes.support.unsqueeze(-1)
    rows = torch.where(support >= 0, n + a * support + torch.arange(a), -1).flatten(2)
    made = Episodes(torch.cat([rows, episodes.query], 2), episodes.classes, a * episodes.shots)
    return torch.cat([features, copies.flatten(0, 1)]), made


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
        balanced: float32 `[E]`, the mean over an episode's classes (those that have queries) of the accuracy on them; equal to
            `accuracy` where all have as many.
    """

    accuracy: Tensor
    correct: Tensor
    total: Tensor
    balanced: Tensor


def embed_episodes(
    learner: EpisodicLearner,
    images: Tensor,
    episodes: Episodes,
    transforms: TransformSet,
    info: DatasetInfo,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, Episodes]:
    """`embed` for the images that `episodes` use, and the episodes with rows of the returned features."""
    used, episodes = used_rows(episodes)
    return embed(learner, images[used.to(images.device)], transforms, info, autocast=autocast), episodes


def used_rows(episodes: Episodes) -> tuple[Tensor, Episodes]:
    """The rows that occur, ascending, and the episodes with places in that list for rows."""
    there = episodes.rows >= 0
    used, places = torch.unique(episodes.rows[there], return_inverse=True)
    rows = torch.full_like(episodes.rows, -1)
    rows[there] = places
    return used, Episodes(rows, episodes.classes, episodes.shots)


@torch.inference_mode()
def score_episodes(
    learner: EpisodicLearner,
    features: Tensor,
    episodes: Episodes,
    predictor: str,
    n_classes: int,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> EpisodeScores:
    """Score episodes from features; of several processes each scores its share of the episodes.

    Args:
        learner: only its head and scale are used.
        features: `[n, M, D]` from `embed`; view 0 is the plain image.
        episodes: E episodes of rows of `features`.
        predictor: one of `PREDICTORS`.
        n_classes: C, classes of the split, for the counts by class.
        watch: told the logits `[e, T, N]` and ways int64 `[e, T]` of every few episodes.

    Raises:
        NotFiniteError: the head gives logits that are NaN or infinite.
    """
    logits = _LOGITS.get(predictor)
    if logits is None:
        raise UsageError(f"unknown predictor '{predictor}'", f"known: {', '.join(PREDICTORS)}")
    views = features[:, :1] if predictor == "single" else features
    truth = upload(episodes.flat(query=True)[1], features.device)  # [E, T]
    chunk = episodes_at_once(episodes, views)
    # Who watches sees all episodes, in every process.
    own = share(len(episodes)) if watch is None else slice(0, len(episodes))
    right = [truth.new_empty((0, truth.shape[1]), dtype=torch.bool)]
    for start in range(own.start, own.stop, chunk):
        part = slice(start, min(start + chunk, own.stop))
        found = logits(learner, views, episodes[part])
        require_finite(found, f"logits of the head {learner.head.name}")
        right.append(found.argmax(-1).eq(truth[part]))
        if watch is not None:
            watch(found, truth[part])
    flags = torch.cat(right)
    return tally(flags if watch is not None else whole_flags(flags, len(episodes)), episodes, n_classes)


def episodes_at_once(episodes: Episodes, features: Tensor) -> int:
    """How many are scored together, so that what is gathered of `features` `[n, M, D]` stays small."""
    images = episodes.ways * (episodes.shots + episodes.queries)
    return max(1, _CHUNK_FLOATS // (images * features.shape[1] * features.shape[2]))


def tally(right: Tensor, episodes: Episodes, n_classes: int) -> EpisodeScores:
    """Scores from which queries were right.

    Args:
        right: bool `[E, T]`, queries class by class.
        episodes: the E episodes.
        n_classes: C, classes of the split, for the counts by class.
    """
    right, ways = right.cpu(), episodes.flat(query=True)[1]
    by_way, asked = (
        torch.zeros((len(right), episodes.ways), dtype=torch.long).scatter_add_(1, ways, x.long())
        for x in (right, torch.ones_like(right))
    )  # [E, N]
    recall = torch.where(asked > 0, by_way / asked.clamp_min(1), 0.0).sum(1) / (asked > 0).sum(1)
    classes = episodes.classes.reshape(-1)
    correct, total = (
        torch.zeros(n_classes, dtype=torch.long).index_add_(0, classes, x.reshape(-1)) for x in (by_way, asked)
    )
    return EpisodeScores(right.float().mean(1), correct, total, recall)


def episode_logits(learner: EpisodicLearner, features: Tensor, episodes: Episodes, ways: int | None = None) -> Tensor:
    """Aggregated logits `[E, T, N]`, queries class by class; with one view they are the plain ones.

    `ways` is N where the episodes have queries of further classes, without supports (open sets).
    """
    (rows, labels), (query_rows, _) = episodes.flat(query=False), episodes.flat(query=True)
    support, query = (
        features.index_select(0, upload(r.reshape(-1), features.device)).unflatten(0, r.shape)
        for r in (rows, query_rows)
    )  # [E, S, M, D], [E, T, M, D]
    return view_logits(learner, support, upload(labels, features.device), query, ways or episodes.ways)


def view_logits(learner: EpisodicLearner, support: Tensor, labels: Tensor, query: Tensor, ways: int) -> Tensor:
    """Aggregated logits `[E, T, N]` of queries `[E, T, M, D]` from supports `[E, S, M, D]` with labels `[E, S]`.

    A head that decomposes is asked view by view; any other gets the joint problem of N*M classes (the same rule
    makes an N-way task an N*M-way one), and its joint logits are aggregated.
    """
    m = support.shape[2]
    if learner.head.decomposes:
        by_view = [
            learner.logits(support[:, :, j].contiguous(), labels, query[:, :, j].contiguous(), ways) for j in range(m)
        ]
        return torch.stack(by_view).mean(0) if m > 1 else by_view[0]
    joint = learner.logits(support.flatten(1, 2), joint_labels(labels, m).flatten(1), query.flatten(1, 2), ways * m)
    return aggregate(joint.unflatten(1, (-1, m)), m)


_LOGITS: dict[str, Callable[[EpisodicLearner, Tensor, Episodes], Tensor]] = dict.fromkeys(PREDICTORS, episode_logits)
