"""MAML and ANIL: a linear layer, and in MAML the backbone too, adapted to each episode by gradient descent on its supports.

MAML: Finn, Abbeel and Levine, ICML 2017. ANIL: Raghu, Raghu, Bengio and Vinyals, ICLR 2020. The inner loop is learn2learn's
`algorithms.MAML`; ANIL is MAML of the layer on features of the shared backbone, as in learn2learn's `anil_fc100.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.backbones import Backbone
from slabench.core.seeding import fork_for_init
from slabench.data.catalog import DatasetInfo
from slabench.episodes.learn2learn import require_learn2learn
from slabench.heads import Head
from slabench.learners import build_backbone

if TYPE_CHECKING:
    from slabench.recipes.fewshot import Model


@dataclass(frozen=True)
class Inner:
    """The inner loop.

    Attributes:
        steps: gradient steps on the supports.
        lr: their learning rate; the loss is the mean cross-entropy over the supports.
        first_order: leave the gradient through the inner gradients out.
        support_statistics: normalise the queries by batch statistics of the supports.
    """

    steps: int
    lr: float
    first_order: bool = False
    support_statistics: bool = True


class _Reference:
    """Which rows of a batch the norms take statistics of; shared by all norms of a backbone and by their clones."""

    rows: int | None = None


class EpisodeNorm(nn.Module):
    """Batch norm by statistics of the present batch, or of its first rows alone; it keeps no running ones.

    With the supports first, no query enters the statistics: "MetaBN" of Bronskill et al., TaskNorm, ICML 2020.

    Args:
        norm: the layer whose place it takes; its weights are taken over.
        reference: says how many rows count; None: all.
    """

    def __init__(self, norm: nn.BatchNorm2d, reference: _Reference) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.reference = norm.weight, norm.bias, norm.eps, reference

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, C, H, W]`, normalised."""
        rows = self.reference.rows
        if rows is None or rows == len(x):
            return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        variance, mean = torch.var_mean(x[:rows].float(), (0, 2, 3), correction=0)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)


class AdaptedLearner(nn.Module):
    """A backbone and a linear layer, the initial weights of every episode.

    Args:
        backbone: images to features.
        n_outputs: width of the layer: N, or N*M where it tells joint classes apart.
        stride: M where outputs are joint classes, else 1: every M-th output belongs to the plain images.
        test: the inner loop on test episodes, for `logits`.
        running: keep the backbone's running statistics for evaluation; otherwise every batch brings its own.
    """

    def __init__(self, backbone: Backbone, n_outputs: int, stride: int, test: Inner, running: bool) -> None:
        super().__init__()
        self.reference = _Reference()
        if not running:
            _replace_norms(backbone, self.reference)
        self.backbone = backbone
        self.layer = nn.Linear(backbone.feature_dim, n_outputs)
        nn.init.xavier_uniform_(self.layer.weight)  # as the classifier of learn2learn's CNN4
        nn.init.zeros_(self.layer.bias)
        self.stride, self.test_inner = stride, test
        # N outputs serve each view by itself; joint ones need the episode of N*M classes (`evaluation.fewshot`).
        self.head = Head("anil", self.logits, decomposes=stride == 1)

    def embed(self, images: Tensor) -> Tensor:
        """Features float32 `[B, D]` of normalised images `[B, 3, H, W]`, whatever precision the backbone ran in."""
        return self.backbone(images).float()  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 `[B, outputs]` of images `[B, 3, H, W]`."""
        features = self.embed(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.layer(features)  # type: ignore[no-any-return]

    @contextmanager
    def statistics_of(self, rows: int | None) -> Iterator[None]:
        """Within it, norms take statistics of the first `rows` rows of a batch."""
        self.reference.rows = rows
        try:
            yield
        finally:
            self.reference.rows = None

    def logits(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """ANIL's logits `[B, Q, N]` from features of test episodes; shapes as in `slabench.heads.HeadFunction`.

        The gradient of the softmax regression in closed form, for all episodes at once: equal to learn2learn's loop, which
        takes one episode at a time. Fewer classes than outputs are those of the plain images.
        """
        columns = slice(None) if n_classes == self.layer.out_features else slice(None, None, self.stride)
        weight = self.layer.weight[columns].expand(len(support), -1, -1)  # [B, N, D]
        bias = self.layer.bias[columns].expand(len(support), -1)  # [B, N]
        target = functional.one_hot(support_labels, n_classes).to(support.dtype)
        for _ in range(self.test_inner.steps):
            outputs = support @ weight.transpose(1, 2) + bias.unsqueeze(1)
            error = (outputs.softmax(-1) - target) * (self.test_inner.lr / support.shape[1])  # [B, S, N]
            weight = weight - error.transpose(1, 2) @ support
            bias = bias - error.sum(1)
        return query @ weight.transpose(1, 2) + bias.unsqueeze(1)


def adapted_logits(
    learner: AdaptedLearner,
    support: Tensor,
    labels: Tensor,
    query: Tensor,
    inner: Inner,
    whole: bool,
    columns: slice = slice(None),
) -> Tensor:
    """Logits `[Q, n]` of an episode's queries after the inner loop, differentiable in the initial weights.

    Args:
        learner: the initial weights; left as they are.
        support: images `[S, 3, H, W]`.
        labels: int64 `[S]`, 0 .. n-1.
        query: images `[Q, 3, H, W]`.
        inner: the inner loop.
        whole: adapt backbone and layer (MAML), or the layer alone on the features of the backbone (ANIL).
        columns: the outputs that take part, n of them.
    """
    maml: Any = require_learn2learn().algorithms.MAML
    reference = len(support) if inner.support_statistics else None
    if whole:
        adapted = maml(learner, lr=inner.lr, first_order=inner.first_order).clone()
        for _ in range(inner.steps):
            adapted.adapt(functional.cross_entropy(adapted(support)[:, columns], labels))
        if reference is None:
            return adapted(query)[:, columns]  # type: ignore[no-any-return]
        with learner.statistics_of(reference):
            return adapted(torch.cat([support, query]))[reference:, columns]  # type: ignore[no-any-return]
    with learner.statistics_of(reference):
        features = learner.embed(torch.cat([support, query]))
    supports, queries = features[: len(support)], features[len(support) :]
    with torch.autocast(features.device.type, enabled=False):
        adapted = maml(learner.layer, lr=inner.lr, first_order=inner.first_order).clone()
        for _ in range(inner.steps):
            adapted.adapt(functional.cross_entropy(adapted(supports)[:, columns], labels))
        return adapted(queries)[:, columns]  # type: ignore[no-any-return]


def build_adapted(
    model: Model, info: DatasetInfo, n_outputs: int, stride: int, test: Inner, running: bool, seed: int
) -> AdaptedLearner:
    """The learner of a recipe, initialised from `seed` alone; arguments as of `AdaptedLearner`.

    Backbone and layer have streams of their own, so that all objectives of a seed begin with the same backbone.
    """
    backbone = build_backbone(model, info, seed)
    with fork_for_init(seed, "init", "layers"):
        return AdaptedLearner(backbone, n_outputs, stride, test, running)


def _replace_norms(module: nn.Module, reference: _Reference) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            module.register_module(name, EpisodeNorm(child, reference))
        else:
            _replace_norms(child, reference)
