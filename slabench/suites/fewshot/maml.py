"""MAML and ANIL in the few-shot suite: the same episodes, objectives, predictors and records as of `slabench.suites.fewshot`.

A layer of N outputs makes an N-way learner; under SLA it has N*M outputs, and an episode is an N*M-way one of joint labels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slabench.core.uploads import upload
from slabench.data.augment import normalise
from slabench.episodes.sampler import Episodes, gather
from slabench.evaluation.episodes import EpisodeScores, tally
from slabench.learners.maml import AdaptedLearner, Inner, adapted_logits, build_adapted
from slabench.sla import aggregate, joint_labels
from slabench.suites.fewshot.episodic import EpisodicTask
from slabench.training.finite import require_finite
from slabench.training.loop import StepResult


class AdaptedTask(EpisodicTask):
    """Training and scoring of MAML or ANIL; arguments as of `EpisodicTask`."""

    module: AdaptedLearner  # type: ignore[assignment]
    divides = False

    def _build(self) -> AdaptedLearner:  # type: ignore[override]
        recipe, settings = self.recipe, self.recipe.maml
        self._whole = recipe.model.learner == "maml"
        by_support = recipe.batch_norm == "support"
        self._train_inner = Inner(settings.steps, settings.lr, settings.first_order, by_support)
        # Nothing is differentiated through the inner loop of a test episode, which first order makes cheaper.
        self._test_inner = Inner(settings.test_steps, settings.lr, True, by_support)
        m = self.transforms.M
        return build_adapted(
            recipe.model,
            self.info,
            self.objective.n_labels(recipe.protocol.ways, m),
            m if self.objective.joint else 1,
            self._test_inner,
            recipe.batch_norm == "running",
            self.seed,
        )

    def step(self, step: int) -> StepResult:
        """Mean loss and accuracy on the queries of fresh episodes, each after an inner loop of its own."""
        episodes, inputs = self._draw(step)
        count, ways, per_class = episodes.rows.shape
        shots = episodes.shots
        support_labels = self._row_labels(shots, 1)[0]
        query_labels = self._row_labels(per_class - shots, 1)[0]
        losses, accuracies = [], []
        for images in inputs.unflatten(0, (count, ways, per_class, -1)):
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                logits = adapted_logits(
                    self.module,
                    images[:, :shots].flatten(0, 2),
                    support_labels,
                    images[:, shots:].flatten(0, 2),
                    self._train_inner,
                    self._whole,
                )
            losses.append(functional.cross_entropy(logits, query_labels, label_smoothing=self._smoothing))
            accuracies.append(logits.detach().argmax(-1).eq(query_labels).float().mean())
        return StepResult(torch.stack(losses).mean(), torch.stack(accuracies).mean(), self.images_per_step)

    def transductive(self) -> bool:
        """Where queries are normalised by their own statistics; the tests show that nothing else makes them see each other."""
        return self.recipe.batch_norm == "batch"

    def _score(
        self, images: Tensor, episodes: Episodes, n_classes: int, autocast: torch.dtype | None
    ) -> dict[str, tuple[EpisodeScores, float | None]]:
        if self.recipe.from_features:
            return super()._score(images, episodes, n_classes, autocast)
        self.module.eval()
        truth = torch.arange(episodes.ways, device=self.device).repeat_interleave(episodes.queries)
        right: dict[str, list[Tensor]] = {}
        with torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
            for rows in episodes.rows:
                for name, logits in self._predict(self._views(images, rows), episodes.shots).items():
                    require_finite(logits, "logits of the adapted layer")
                    right.setdefault(name, []).append(logits.argmax(-1).eq(truth))
        return {name: (tally(torch.stack(found), episodes, n_classes), None) for name, found in right.items()}

    def _views(self, images: Tensor, rows: Tensor) -> Tensor:
        """The images of an episode under every transformation: `[N, K+Q, M, 3, H, W]`."""
        picked = upload(gather(images, rows.reshape(-1)), self.device)
        copies = self.transforms.apply(normalise(picked, self.info.mean, self.info.std))
        views: Tensor = copies.unflatten(0, (*rows.shape, self.transforms.M))
        return views

    def _predict(self, views: Tensor, shots: int) -> dict[str, Tensor]:
        """Logits `[N*Q, N]` by predictor.

        `single`: plain supports and queries, by the outputs of the plain images. `aggregated`: the mean over j of the logits of
        t_j(query) after adaptation to t_j(supports); a layer of joint outputs is adapted to all supports at once.
        """
        ways, m = views.shape[0], views.shape[2]
        labels = torch.arange(ways, device=self.device).repeat_interleave(shots)

        def logits(chosen: Tensor, own: Tensor, columns: slice = slice(None)) -> Tensor:
            support, query = chosen[:, :shots].flatten(0, 2), chosen[:, shots:].flatten(0, 2)
            found = adapted_logits(self.module, support, own, query, self._test_inner, self._whole, columns)
            return found.detach()

        if not self.objective.joint:
            by_view = [logits(views[:, :, j : j + 1], labels) for j in range(m)]
            return {"single": by_view[0], "aggregated": torch.stack(by_view).mean(0)}
        joint = logits(views, joint_labels(labels, m).flatten())
        return {
            "single": logits(views[:, :, :1], labels, slice(None, None, m)),
            "aggregated": aggregate(joint.unflatten(0, (-1, m)), m),
        }
