"""Episodic training of one few-shot trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench.core.registry import HEADS
from slabench.core.seeding import numpy_generator, torch_generator
from slabench.core.uploads import upload
from slabench.episodes.sampler import TRAINING, Episodes, EpisodeSampler, gather
from slabench.learners import EpisodicLearner, build_learner, with_head
from slabench.losses.loss import smoothing_as_torch
from slabench.recipes.fewshot import Recipe
from slabench.recipes.images import images_per_step
from slabench.records.outputs import ModelWeights
from slabench.sla.objectives import objective
from slabench.suites import Scored, on_device
from slabench.suites.dividing import own_rows, whole_batch
from slabench.suites.fewshot.data import Prepared
from slabench.suites.fewshot.scoring import EpisodeScoring, episode_score, train_augment
from slabench.training.loop import StepResult

if TYPE_CHECKING:
    from slabench.training.checkpoint import Progress
    from slabench.training.schedule import Optimisation


class EpisodicTask(EpisodeScoring):
    """Episodic training of one trial; see `slabench.training.loop.Task`. Arguments as of `EpisodeScoring`."""

    def __init__(
        self, recipe: Recipe, seed: int, prepared: Prepared, device: torch.device, autocast: torch.dtype | None
    ) -> None:
        super().__init__(recipe, seed, prepared, device, autocast)
        self.objective = objective(recipe.sla.objective)
        self.module = self._build().to(device).to(memory_format=torch.channels_last)
        self.images = on_device(prepared.train.images, device)
        self.augment = train_augment(recipe, self.info)
        class_rows, names = prepared.train.class_rows(), list(prepared.train.class_names)
        if self.objective.pairs:
            # Class c*M + j is class c under t_j: the images of c, turned when they are drawn.
            m = self.transforms.M
            class_rows = [rows for rows in class_rows for _ in range(m)]
            names = [f"{name} under t{j}" for name in names for j in range(m)]
        self.sampler = EpisodeSampler(
            class_rows,
            recipe.train_ways,
            recipe.train_shots,
            recipe.train.queries,
            numpy_generator(seed, "order"),
            names,
            TRAINING,
        )
        ways = recipe.train_ways
        self._labels = self.objective.labels(torch.arange(ways), self.transforms.M).to(device)  # [N, copies]
        self._n_labels = self.objective.n_labels(ways, self.transforms.M)
        train = recipe.train
        self._smoothing = smoothing_as_torch(train.label_smoothing, train.smoothing_over, self._n_labels)

    def _build(self) -> EpisodicLearner:
        model, features = self.recipe.model, self.prepared.features
        if features is not None:
            return with_head(features.adapter(model, self.seed), HEADS.get(model.head), self.seed)
        return build_learner(model, self.info, self.seed)

    @property
    def learner(self) -> EpisodicLearner:
        """The trained module itself."""
        return self.module

    @property
    def optimisation(self) -> Optimisation:
        """The recipe's `train`."""
        return self.recipe.train

    @property
    def episodes_per_step(self) -> int:
        """Episodes of one step."""
        return self.recipe.train.episodes_per_step

    @property
    def images_per_step(self) -> int:
        """Images seen in one step: supports and queries, transformed copies counted."""
        return images_per_step(self.recipe)

    def step(self, step: int) -> StepResult:
        """Loss and accuracy on fresh episodes: cross-entropy of the query copies over the labels of the objective."""
        episodes, inputs = self._draw(step)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            features = self.module.embed(inputs)
        features = whole_batch(features, episodes.rows.numel(), self._labels.shape[-1])
        seen = len(features)
        count, ways, per_class = episodes.rows.shape
        features = features.view(count, ways, per_class, -1, features.shape[-1])  # [E, N, K+Q, copies, D]
        shots = episodes.shots
        support, query = features[:, :, :shots].flatten(1, 3), features[:, :, shots:].flatten(1, 3)
        support_labels = self._row_labels(shots, count)
        query_labels = self._row_labels(per_class - shots, count)
        logits = self.module.logits(support, support_labels, query, self._n_labels)
        loss = functional.cross_entropy(logits.flatten(0, 1), query_labels.flatten(), label_smoothing=self._smoothing)
        accuracy = logits.detach().argmax(-1).eq(query_labels).float().mean()
        return StepResult(loss, accuracy, seen)

    def score(self, progress: Progress) -> Scored:
        """Scores on the frozen test episodes, and the weights that `slabench score` starts from."""
        return scored(self, self.module)

    def _draw(self, step: int) -> tuple[Episodes, Tensor]:
        """The episodes of a step and the augmented copies of this process's images, from seeds of the step.

        The backbone is told the step.
        """
        self.sampler.generator = numpy_generator(self.seed, "order", step)
        episodes = self.sampler.sample(self.recipe.train.episodes_per_step)
        backbone = self.module.backbone
        backbone.set_step(step)
        backbone.set_noise(torch_generator(self.seed, "dropout", step))
        return episodes, self._inputs(episodes, step)

    def _inputs(self, episodes: Episodes, step: int) -> Tensor:
        """Augmented images of the episodes, copies interleaved: `[E*N*(K+Q)*copies, 3, H, W]`; a share of them in one of several
        processes.

        The copies of an image share its crop, flip and colours, as in the code of the paper's authors.
        """
        images = gather(self.images, upload(episodes.rows.reshape(-1), self.device))
        own = own_rows(self.module.backbone, len(images), self._labels.shape[-1])
        inputs = self.augment(images, torch_generator(self.seed, "augment", step), own)
        if self.objective.copies:
            return self.transforms.apply(inputs)
        if self.objective.pairs:
            which = (episodes.classes % self.transforms.M).repeat_interleave(episodes.rows.shape[-1])[own]
            return self.transforms.apply_each(inputs, which)
        return self.transforms.plain(inputs)

    def _row_labels(self, per_class: int, count: int) -> Tensor:
        """Labels `[E, N*per_class*copies]` of the rows of all supports, or of all queries."""
        return self._labels.unsqueeze(1).expand(-1, per_class, -1).reshape(1, -1).expand(count, -1)


def scored(task: EpisodeScoring, module: nn.Module) -> Scored:
    """The end of a few-shot trial: scores of both predictors, and the weights of `module`."""
    names = task.prepared.test.class_names
    found = task.test()
    return Scored(
        [episode_score(name, score, names, residual) for name, (score, residual) in found.items()],
        {name: score.accuracy.numpy() for name, (score, _) in found.items()},
        ModelWeights(module.state_dict()),
        task.transductive(),
    )
