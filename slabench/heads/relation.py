"""Relation networks: a learned comparison of a query and a class (Sung et al., CVPR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.heads import Head
from slabench.heads.prototypes import class_means

HIDDEN = 256


class RelationModule(nn.Module):
    """g([mean of the class's supports, q]): two layers on feature vectors.

    The paper's module for images convolves maps of 19 x 19 pixels, which the backbones here do not leave (Conv4 has maps of
    2 x 2 for 32 pixels, ResNet-12 vectors). This is the form of its zero-shot experiments, two fully connected layers. Two
    more departures, both of Chen et al. (ICLR 2019): the loss is cross-entropy over the scores instead of squared errors
    of their sigmoids, and the mean of the supports stands for their sum, so that unequal shots do not change its length.

    Args:
        feature_dim: D.
        hidden: width of the hidden layer.
    """

    def __init__(self, feature_dim: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.support = nn.Linear(feature_dim, hidden)
        self.query = nn.Linear(feature_dim, hidden, bias=False)
        self.score = nn.Linear(hidden, 1)

    def forward(self, support: Tensor, support_labels: Tensor, query: Tensor, n_classes: int) -> Tensor:
        """Relation scores `[B, Q, N]`; shapes as in `slabench.heads.HeadFunction`."""
        means = class_means(support, support_labels, n_classes)
        # One linear layer on [class, query] is the sum of one on each: 2 D H (N + Q) products instead of 2 D H N Q.
        asked, known = self.query(query), self.support(means)  # [B, Q, H], [B, N, H]
        # Class by class: all pairs at once would be [B, Q, N, H].
        scores = [self.score(functional.relu(asked + known[:, n : n + 1])) for n in range(n_classes)]
        return torch.cat(scores, -1)


RELATION = Head("relationnet", None, decomposes=True, module=RelationModule)
