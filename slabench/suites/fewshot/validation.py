"""What heads are judged by before the test: features of validation classes on their frozen episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slabench.data.imageset import ImageSet
from slabench.episodes.files import EpisodeFile, protocol_part
from slabench.episodes.sampler import Episodes
from slabench.evaluation.calibration import Reliability, fit_temperature
from slabench.evaluation.episodes import score_episodes
from slabench.evaluation.metrics import ECE_BINS
from slabench.learners import EpisodicLearner
from slabench.records.record import Calibration, Score
from slabench.suites.fewshot.head_settings import Setting
from slabench.training.device import exact_float32

EPISODES = 500
"""The first of a file, as validations in training use."""

MAX_HEAD_TEMPERATURE = 1e6
"""Logits of ridge regression are thousandths, those of unnormalised prototypes thousands."""


@dataclass(frozen=True)
class Validation:
    """Validation episodes of every setting that is scored.

    Attributes:
        features: `[v, M, D]`, float32, of the images that the episodes use.
        centre: `[M, D]`, taken off for heads that are centred; None: nothing is.
        files: by setting.
        episodes: the first `EPISODES` of each file, as rows of `features`.
        n_classes: validation classes.
        digest: of the features, where they are of a stored set.
    """

    features: Tensor
    centre: Tensor | None
    files: Mapping[Setting, EpisodeFile]
    episodes: Mapping[Setting, Episodes]
    n_classes: int
    digest: str | None = None

    def logits(self, learner: EpisodicLearner, setting: Setting, predictor: str) -> tuple[Tensor, Tensor]:
        """Logits `[n, N]` of all queries of the episodes, and their ways int64 `[n]`, on the CPU."""
        x = self.features - self.centre if learner.head.centred and self.centre is not None else self.features
        parts: list[tuple[Tensor, Tensor]] = []

        def watch(logits: Tensor, ways: Tensor) -> None:
            parts.append((logits.flatten(0, 1).cpu(), ways.flatten().cpu()))

        with exact_float32():
            score_episodes(learner, x, self.episodes[setting], predictor, self.n_classes, watch)
        return torch.cat([logits for logits, _ in parts]), torch.cat([ways for _, ways in parts])

    def reliability(self, learner: EpisodicLearner, setting: Setting, predictor: str) -> Reliability:
        """For the test: gathers confidences as they are, and at the temperature that these episodes ask for."""
        fitted = fit_temperature(*self.logits(learner, setting, predictor), MAX_HEAD_TEMPERATURE)
        return Reliability((1.0, fitted))

    def told(self, found: Reliability, setting: Setting) -> Calibration:
        """As a record keeps it."""
        (nll, nll_scaled), (ece, ece_scaled) = found.nll(), found.ece()
        return Calibration(
            nll=nll,
            ece=ece,
            bins=ECE_BINS,
            temperature=found.temperatures[1],
            nll_scaled=nll_scaled,
            ece_scaled=ece_scaled,
            episodes=self.files[setting].name,
            episodes_digest=protocol_part(self.files[setting]),
            n=len(self.episodes[setting]),
            features_digest=self.digest,
        )

    def knows(self, score: Score | None) -> bool:
        """Whether a score that was kept has the calibration of these very features."""
        return score is not None and score.calibration is not None and score.calibration.features_digest == self.digest


def validation_of(
    images: ImageSet,
    dataset: str,
    settings: Sequence[Setting],
    embed: Callable[[Tensor], Tensor],
    centre: Tensor | None,
    digest: str | None = None,
) -> Validation:
    """Open the validation episodes of every setting, and embed the images that they use.

    Args:
        images: of the validation classes.
        dataset: that they are of.
        settings: of the test.
        embed: rows int64 `[v]` of `images` to features `[v, M, D]`, float32, on the device.
        centre: see `Validation`.
        digest: see `Validation`.

    Raises:
        UsageError: the validation classes cannot serve such episodes.
    """
    files = {setting: setting.validation_file(images, dataset) for setting in settings}
    first = {setting: file.episodes[:EPISODES] for setting, file in files.items()}
    used = torch.unique(torch.cat([episodes.rows.flatten() for episodes in first.values()]))
    used = used[used >= 0]
    place = torch.full((len(images) + 1,), -1)
    place[used] = torch.arange(len(used))  # the last place stands for no image
    episodes = {setting: Episodes(place[e.rows], e.classes, e.shots) for setting, e in first.items()}
    return Validation(embed(used), centre, files, episodes, images.n_classes, digest)
