"""Classical pre-training: a classifier over the training classes, whose features then serve any head.

Baseline of Chen et al. (ICLR 2019), SimpleShot (Wang et al., 2019) and RFS (Tian et al., ECCV 2020). With SLA the layer has the
C*M joint classes of the training set; the head sees N*M-way episodes as after episodic training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from slabench.backbones import Backbone
from slabench.core.registry import BACKBONES, HEADS
from slabench.core.seeding import numpy_generator, torch_generator
from slabench.core.uploads import upload
from slabench.learners import Classifier, EpisodicLearner, backbone_settings, build_classifier, with_head
from slabench.losses.loss import build_loss
from slabench.recipes.fewshot import Recipe
from slabench.recipes.images import images_per_step
from slabench.sla.objectives import classifier_objective
from slabench.suites import Scored, on_device
from slabench.suites.dividing import own_rows, whole_batch
from slabench.suites.fewshot.data import Prepared
from slabench.suites.fewshot.episodic import scored
from slabench.suites.fewshot.scoring import EpisodeScoring, train_augment
from slabench.training.loop import StepResult

if TYPE_CHECKING:
    from slabench.training.checkpoint import Progress
    from slabench.training.schedule import Optimisation


class PretrainingTask(EpisodeScoring):
    """Training of a classifier on the training classes; see `slabench.training.loop.Task`.

    Arguments as of `EpisodeScoring`.
    """

    def __init__(
        self, recipe: Recipe, seed: int, prepared: Prepared, device: torch.device, autocast: torch.dtype | None
    ) -> None:
        super().__init__(recipe, seed, prepared, device, autocast)
        train = prepared.train
        self.objective = classifier_objective(recipe.sla.objective)
        model = recipe.model
        self.module: Classifier = build_classifier(
            self._backbone(),
            self.info.image_size,
            self.objective.layers(train.n_classes, self.transforms.M),
            cosine=False,
            seed=seed,
        )
        self.module.to(device).to(memory_format=torch.channels_last)
        self._learner = with_head(self.module.backbone, HEADS.get(model.head), seed).to(device)
        counts = [len(rows) for rows in train.class_rows()]
        plain = build_loss("ce", counts, smoothing=recipe.train.label_smoothing)
        self.loss = replace(plain, smoothing_over=recipe.train.smoothing_over).on(device)
        self.images = on_device(train.images, device)
        self.labels = torch.from_numpy(train.labels.astype("int64")).to(device)
        self.augment = train_augment(recipe, self.info)
        self._steps_per_epoch = -(-len(self.labels) // recipe.train.batch_size)
        self._epoch: tuple[int, torch.Tensor] | None = None

    def _backbone(self) -> Callable[[int], Backbone]:
        model, features = self.recipe.model, self.prepared.features
        if features is not None:
            return lambda size: features.adapter(model, self.seed)
        return partial(BACKBONES.get(model.backbone), **backbone_settings(model, self.info))

    @property
    def learner(self) -> EpisodicLearner:
        """The backbone as it is now under the recipe's head."""
        return self._learner

    @property
    def optimisation(self) -> Optimisation:
        """The recipe's `train`."""
        return self.recipe.train

    @property
    def episodes_per_step(self) -> int:
        """0: training is on batches of images."""
        return 0

    @property
    def images_per_step(self) -> int:
        """Images seen in one step: a whole batch, transformed copies counted."""
        return images_per_step(self.recipe, len(self.labels))

    def step(self, step: int) -> StepResult:
        """Loss and accuracy on the batch of update `step`."""
        rows = self._rows(step)
        labels = self.labels[rows]
        copies = self.objective.n_copies(self.transforms.M)
        own = own_rows(self.module.backbone, len(rows), copies)
        inputs = self.augment(self.images.index_select(0, rows), torch_generator(self.seed, "augment", step), own)
        inputs = self.transforms.apply(inputs) if self.objective.copies else self.transforms.plain(inputs)
        self.module.backbone.set_step(step)
        self.module.backbone.set_noise(torch_generator(self.seed, "dropout", step))
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            features = whole_batch(self.module.embed(inputs), len(rows), copies)
        outputs, m = self.module.outputs(features), self.transforms.M
        loss = self.objective.loss(outputs, labels, m, self.loss)
        plain = outputs["joint" if self.objective.joint else "classes"].detach()[::copies]
        predicted = plain[:, :: m if self.objective.joint else 1].argmax(1)
        return StepResult(loss, predicted.eq(labels).float().mean(), len(features))

    def score(self, progress: Progress) -> Scored:
        """Scores on the frozen test episodes, and the weights that `slabench score` starts from."""
        return scored(self, self.module)

    def _rows(self, step: int) -> torch.Tensor:
        """Rows of the batch of update `step`: every epoch deals all training images out once."""
        epoch, place = divmod(step, self._steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            order = numpy_generator(self.seed, "order", epoch).permutation(len(self.labels))
            self._epoch = epoch, upload(torch.from_numpy(order), self.device)
        size = self.recipe.train.batch_size
        return self._epoch[1][place * size : (place + 1) * size]
