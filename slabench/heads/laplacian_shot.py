"""Prototypes moved by the queries (BD-CSPN), and queries that agree with their neighbours (LaplacianShot): transductive heads.

Prototype rectification: Liu, Song and Qin, ECCV 2020. Laplacian regularisation: Ziko, Dolz, Granger and Ben Ayed, ICML 2020, with
the constants of their code. Features have length one; the mean of the training classes is taken off before (`Head.centred`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.errors import UsageError
from slabench.heads import Grid, Head
from slabench.heads.metric import class_means

SHARPNESS = 10.0
"""Of the weights of rectification: softmax over the classes of 10 cos (epsilon in BD-CSPN)."""


def rectified(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Prototypes from supports and queries together, and the queries moved to where the supports lie.

    Queries are shifted by the difference of the means (the cross-class bias); every image is given to the class mean of
    largest cosine; a prototype is the mean over its images of softmax(10 cos) x (the intra-class bias). The shift takes the
    classes to be equally frequent among the queries. All queries take part, as in LaplacianShot's code; BD-CSPN's paper takes
    the 8 surest.

    Args:
        support: `[B, S, D]`, of length one.
        support_labels: int64 `[B, S]`.
        query: `[B, Q, D]`, of length one.
        n_classes: N.

    Returns:
        prototypes `[B, N, D]`, not of length one; a class to which no image is given keeps its mean. Queries `[B, Q, D]`.
    """
    query = query + (support.mean(1, keepdim=True) - query.mean(1, keepdim=True))
    means = class_means(support, support_labels, n_classes)
    images = torch.cat([support, query], 1)
    cosines = functional.normalize(images, dim=-1) @ functional.normalize(means, dim=-1).mT  # [B, S+Q, N]
    own = functional.one_hot(cosines.argmax(-1), n_classes).to(images.dtype)
    weights = own * (SHARPNESS * cosines).softmax(-1)
    members = own.sum(1).unsqueeze(-1)  # [B, N, 1]
    return torch.where(members > 0, weights.mT @ images / members.clamp_min(1), means), query


def bd_cspn_logits(support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
    """-||q - p_i||^2 to the `rectified` prototypes.

    Args:
        support: `[B, S, D]`, float32 or float64; brought to length one, as is `query`.
        support_labels: int64 `[B, S]`.
        query: `[B, Q, D]`.
        n_classes: N.

    Returns:
        logits `[B, Q, N]`.
    """
    support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    prototypes, query = rectified(support, support_labels, query, n_classes)
    return -_squared_distances(query, prototypes)


def laplacian_shot_logits(
    support: Tensor,
    support_labels: Tensor,
    query: Tensor,
    n_classes: int,
    *,
    smoothness: float = 0.7,
    neighbours: int = 2,
    rounds: int = 20,
    rectify: bool = True,
) -> Tensor:
    """log of the assignments Y that minimise sum_q Y_q a_q - lambda / 2 sum_qp w_qp Y_q Y_p, with an entropy barrier.

    a_qi = ||q - p_i||^2; w_qp = 1 where p is among the nearest neighbours of q. Minimised by bound optimisation (algorithm 1):
    Y_q = softmax(-a_q + lambda sum_p w_qp Y_p), all queries at once, from Y_q = softmax(-a_q) on.

    Args:
        support: `[B, S, D]`, float32 or float64; brought to length one, as is `query`.
        support_labels: int64 `[B, S]`; classes may have unequal shots.
        query: `[B, Q, D]`.
        n_classes: N.
        smoothness: lambda. The authors choose it on validation classes for each data set, network and number of shots; the
            code of Veilleux et al. (2021) has 0.7 for balanced queries with one shot, 0.1 to 0.3 with five. It is fixed here,
            unless somebody asks for a selection (`Head.grid`).
        neighbours: of each query, itself left out; 2 in the authors' code (its `knn` of 3 counts the query itself).
        rounds: of the bound; 0 gives softmax(-a).
        rectify: prototypes by `rectified`, as in the authors' tables.

    Returns:
        logits `[B, Q, N]`.
    """
    if smoothness < 0 or neighbours < 1 or rounds < 0:
        raise UsageError(
            f"laplacian-shot with smoothness = {smoothness}, neighbours = {neighbours}, rounds = {rounds}",
            "smoothness and rounds must not be negative, neighbours 1 or more",
        )
    support, query = functional.normalize(support, dim=-1), functional.normalize(query, dim=-1)
    if rectify:
        prototypes, query = rectified(support, support_labels, query, n_classes)
    else:
        prototypes = class_means(support, support_labels, n_classes)
    unary = -_squared_distances(query, prototypes)
    affinity = nearest(query, neighbours)
    logits = unary
    for _ in range(rounds):
        logits = unary + smoothness * (affinity @ logits.softmax(-1))
    return logits


def nearest(x: Tensor, k: int) -> Tensor:
    """w `[B, Q, Q]`: 1 where p is one of the k nearest of q, itself left out; not symmetric. All others where Q - 1 < k."""
    distances = _squared_distances(x, x).detach()
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    found = distances.topk(min(k, x.shape[1] - 1), dim=-1, largest=False).indices
    return torch.zeros_like(distances).scatter_(-1, found, 1.0)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """`[B, Q, N]` from `[B, Q, D]` and `[B, N, D]`, without `[B, Q, N, D]`."""
    squares: Tensor = x.square().sum(-1, keepdim=True) + y.square().sum(-1).unsqueeze(1)
    return squares - 2 * (x @ y.mT)


# An assignment is a softmax over all classes, so that other classes' supports move the logits: neither decomposes.
BD_CSPN = Head("bd-cspn", bd_cspn_logits, decomposes=False, centred=True, transductive=True)

LAPLACIAN_SHOT = Head(
    "laplacian-shot",
    laplacian_shot_logits,
    decomposes=False,
    centred=True,
    transductive=True,
    grid=Grid("smoothness", (0.1, 0.3, 0.5, 0.7, 1.0)),
)
