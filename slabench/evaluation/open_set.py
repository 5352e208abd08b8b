"""Open sets: does a head see that a query is of none of its classes? Judged by the largest logit, episode by episode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from slabench.core.uploads import upload
from slabench.episodes.sampler import Episodes
from slabench.evaluation.episodes import episode_logits, episodes_at_once
from slabench.learners import EpisodicLearner
from slabench.training.finite import require_finite

TRUE_POSITIVES = 0.95
"""Part of the known queries that is accepted where false positives are counted."""


@dataclass(frozen=True)
class OpenScores:
    """What one predictor did on E open episodes, float32 `[E]` each.

    Attributes:
        auroc: the chance that a known query has a larger largest logit than an unknown one, ties counted half.
        fpr95: the part of the unknown queries that is accepted where 95 % of the known ones are (known are the positives, as
            in ODIN: Liang et al., ICLR 2018).
        accuracy: of the known queries among their classes.
    """

    auroc: Tensor
    fpr95: Tensor
    accuracy: Tensor


@torch.inference_mode()
def score_open(learner: EpisodicLearner, features: Tensor, episodes: Episodes, ways: int, predictor: str) -> OpenScores:
    """Score open episodes from features.

    Args:
        learner: only its head and scale are used.
        features: `[n, M, D]`; view 0 is the plain image.
        episodes: E of them, `[E, N+U, K+Q]`, the last U classes without supports.
        ways: N.
        predictor: one of `slabench.evaluation.episodes.PREDICTORS`.

    Raises:
        NotFiniteError: the head gives logits that are NaN or infinite.
    """
    views = features[:, :1] if predictor == "single" else features
    chunk = episodes_at_once(episodes, views)
    parts = []
    for start in range(0, len(episodes), chunk):
        some = episodes[start : start + chunk]
        logits = episode_logits(learner, views, some, ways)
        require_finite(logits, f"logits of the head {learner.head.name}")
        parts.append(_judged(logits, upload(some.flat(query=True)[1], logits.device), ways))
    return OpenScores(*(torch.cat([part[i] for part in parts]).cpu() for i in range(3)))


def _judged(logits: Tensor, truth: Tensor, ways: int) -> tuple[Tensor, Tensor, Tensor]:
    """AUROC, FPR and accuracy `[e]` of logits `[e, T, N]`, queries class by class, those of unknown classes last."""
    known = int((truth[0] < ways).sum())
    largest, found = logits.max(-1)
    inside, outside = largest[:, :known], largest[:, known:]
    above, equal = (
        compare(inside.unsqueeze(2), outside.unsqueeze(1)).float().mean((1, 2)) for compare in (torch.gt, torch.eq)
    )
    needed = math.ceil(TRUE_POSITIVES * known - 1e-9)  # 0.95 * 20 is a little more than 19
    threshold = inside.sort(1, descending=True).values[:, needed - 1 : needed]
    accuracy = (found == truth)[:, :known].float().mean(1)
    return above + equal / 2, (outside >= threshold).float().mean(1), accuracy
