"""The suites `imbalanced` and `supervised`: a classifier on a long-tail subset, or on all images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from slabench.backbones import Backbone
from slabench.core.files import digest_json
from slabench.core.registry import BACKBONES
from slabench.core.seeding import numpy_generator, torch_generator
from slabench.core.uploads import upload
from slabench.data.augment import ALL, Augment, BatchAugment
from slabench.data.catalog import DatasetInfo, normalised_by
from slabench.data.imageset import class_rows
from slabench.data.loading import input_size
from slabench.data.mixing import inverse_frequency, mix
from slabench.evaluation.episodes import embed
from slabench.evaluation.metrics import balanced_accuracy, score
from slabench.learners import Classifier, build_classifier
from slabench.losses.loss import build_loss, class_weights
from slabench.losses.resampling import epoch_rows
from slabench.plugins import bound, used
from slabench.recipes.images import images_per_step, steps_of
from slabench.records.derived import DerivedSplit, compact
from slabench.records.outputs import FeatureSplit, ModelOutputs, Split
from slabench.records.record import Score
from slabench.sla.objectives import classifier_objective
from slabench.sla.transforms import TransformSet
from slabench.suites import Scored, on_device
from slabench.suites.classifier.data import PROTOCOL_VERSION, ClassifierPrepared, check_data, prepare, task_id
from slabench.suites.classifier.rules import check, uses_cosine, warnings
from slabench.suites.classifier.scores import best_point, class_score
from slabench.suites.dividing import own_rows, whole_batch
from slabench.suites.on_features import Features, transforms_of, unaugmented
from slabench.training.finite import require_finite
from slabench.training.loop import StepResult
from slabench.training.schedule import Resolved

if TYPE_CHECKING:
    from slabench.recipes.classifier import ClassifierRecipe
    from slabench.training.checkpoint import Progress


__all__ = [
    "PROTOCOL_VERSION",
    "build_task",
    "check",
    "check_data",
    "label",
    "prepare",
    "task_id",
    "trial_key",
    "warnings",
]


_OUTPUT_BYTES = 2**28
"""Training features of images are kept for cRT and LWS up to so many bytes (float16)."""


def label(recipe: ClassifierRecipe, seed: int) -> str:
    """What a person calls the trial: `cifar100 exp-r100 ldam+drw resnet32 sla 60 epochs seed 0`."""
    d, b = recipe.data, recipe.balance
    what = {"full": "full", "counts": "own counts"}.get(d.profile, f"{d.profile}-r{d.ratio:g}")
    if d.per_class is not None:
        what = f"{d.per_class} a class"
    parts = [recipe.loss.name, *(x for x in (b.reweight, b.sampler, recipe.mix.name) if x != "none")]
    length = f"{recipe.train.steps:,} steps" if recipe.train.steps else f"{recipe.train.epochs} epochs"
    return f"{d.dataset} {what} {'+'.join(parts)} {recipe.model.backbone} {recipe.sla.objective} {length} seed {seed}"


def trial_key(
    recipe: ClassifierRecipe, seed: int, prepared: ClassifierPrepared, code: Sequence[Mapping[str, str]] | None = None
) -> str:
    """sha256 (hex) of the whole resolved recipe, the seed, the protocol, the data and the code of plug-ins; of no path or device.

    Args:
        recipe: resolved.
        seed: the trial's.
        prepared: its data.
        code: what `slabench.plugins.used` says of the recipe; None asks for it.
    """
    key = digest_json(
        {
            "recipe": recipe.resolved(),
            "seed": seed,
            "protocol": prepared.protocol_digest,
            "train": prepared.split_digest,
            "validation": prepared.validation_digest,
            **({"features": prepared.features.digest} if prepared.features else {}),
        }
    )
    return bound(key, used(recipe) if code is None else code)


class ClassifierTask:
    """Training of one classifier; see `slabench.training.loop.Task`.

    Args:
        recipe: the resolved recipe.
        seed: the trial's seed.
        prepared: its data.
        device: where images, learner and features live.
        autocast: precision of the backbone, None for float32.
    """

    divides = True

    def __init__(
        self,
        recipe: ClassifierRecipe,
        seed: int,
        prepared: ClassifierPrepared,
        device: torch.device,
        autocast: torch.dtype | None,
    ) -> None:
        self.recipe, self.seed, self.prepared = recipe, seed, prepared
        self.device, self.autocast = device, autocast
        self.info: DatasetInfo = normalised_by(prepared.info, recipe.data.normalise)
        self.objective = classifier_objective(recipe.sla.objective)
        self.transforms: TransformSet = transforms_of(recipe)
        self.cosine = uses_cosine(recipe)
        self.loss = build_loss(recipe.loss.name, prepared.counts, **recipe.loss.parameters)
        if self.cosine:
            self.loss = self.loss.on_cosines(recipe.loss.scale)
        self.loss = self.loss.on(device)
        size = input_size(prepared.info)
        self.module: Classifier = build_classifier(
            self._backbone(),
            size,
            self.objective.layers(prepared.train.n_classes, self.transforms.M),
            self.cosine,
            seed,
            recipe.model.layer_init,
            recipe.model.conv_init,
        )
        self.module.to(device).to(memory_format=torch.channels_last)
        self.images = on_device(prepared.train.images, device, prepared.rows)
        labels = prepared.train.labels[prepared.rows]
        self.labels = torch.from_numpy(labels).to(device)
        self._class_rows = class_rows(labels, prepared.train.n_classes)
        self.augment = self._augment()
        self.steps_per_epoch = -(-len(labels) // recipe.train.batch_size)
        self._epoch: tuple[int, np.ndarray[Any, np.dtype[np.int64]]] | None = None
        self._weights = self._class_weights()
        self._val: Tensor | None = None
        self._test: Tensor | None = None

    def _backbone(self) -> Callable[[int], Backbone]:
        model, features = self.recipe.model, self.prepared.features
        if features is not None:
            return lambda size: features.adapter(model, self.seed)
        return BACKBONES.get(model.backbone)  # type: ignore[no-any-return]

    def _augment(self) -> Augment:
        if self.recipe.model.embedder:
            return unaugmented
        a, entry, size = self.recipe.augment, self.info, input_size(self.info)
        return BatchAugment(
            crop_padding=entry.crop_padding if a.crop else 0,
            flip=a.flip and entry.mirror,
            jitter=a.jitter,
            mean=entry.mean,
            std=entry.std,
            cutout=a.cutout,
            policy=a.policy,
            resized_crop=size if size != entry.image_size else None,
        )

    @property
    def optimisation(self) -> Resolved:
        """The recipe's `train` in steps; an epoch is ceil(n / batch) of them."""
        t = self.recipe.train
        return Resolved(
            steps=steps_of(self.recipe, len(self.labels)),
            optimizer=t.optimizer,
            lr=t.lr,
            momentum=t.momentum,
            nesterov=t.nesterov,
            weight_decay=t.weight_decay,
            schedule=t.schedule,
            milestones=t.milestones,
            factors=t.factors,
            warmup=(t.warmup_epochs, self.steps_per_epoch),
        )

    @property
    def images_per_step(self) -> int:
        """Images seen in one step: a whole batch, transformed copies counted."""
        return images_per_step(self.recipe, len(self.labels))

    @property
    def episodes_per_step(self) -> int:
        """0: training is not episodic."""
        return 0

    def step(self, step: int) -> StepResult:
        """Loss and accuracy on the batch of update `step`."""
        rows = upload(torch.from_numpy(self._rows(step)), self.device)
        labels = self.labels[rows]
        copies = self.objective.n_copies(self.transforms.M)
        own = own_rows(self.module.backbone, len(rows), copies)
        mixes = self.recipe.mix.name != "none"  # with images of the whole batch
        generator = torch_generator(self.seed, "augment", step)
        inputs = self.augment(self.images.index_select(0, rows), generator, ALL if mixes else own)
        inputs, mixed, labels = self._mix(inputs, labels, step)
        inputs = inputs[own] if mixes else inputs
        inputs = self.transforms.apply(inputs) if self.objective.copies else self.transforms.plain(inputs)
        backbone = self.module.backbone
        backbone.set_step(step)
        backbone.set_noise(torch_generator(self.seed, "dropout", step))
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            features = whole_batch(self.module.embed(inputs), len(rows), copies)
        outputs = self.module.outputs(features)
        sla, m = self.recipe.sla, self.transforms.M
        deferred = self.recipe.balance.reweight == "drw" and not self._deferred_now(step)
        loss = self.objective.loss(
            outputs,
            labels,
            m,
            self.loss,
            weights=None if deferred else self._weights,
            reduction=sla.reduction,
            temperature=sla.temperature,
            beta=sla.beta,
            mixed=mixed,
        )
        main = outputs["joint" if self.objective.joint else "classes"].detach()[::copies]
        predicted = main[:, :: m if self.objective.joint else 1].argmax(1)
        return StepResult(loss, predicted.eq(labels).float().mean(), len(features))

    def validate(self) -> dict[str, float]:
        """Balanced accuracy of every predictor over the classes that have validation images; empty without any.

        The first one is that which `select.by` asks for: it decides a `best_val` selection.
        """
        p = self.prepared
        if not len(p.validation):
            return {}
        if self._val is None:
            self._val = on_device(p.train.images, torch.device("cpu"), p.validation)
        truth = p.train.labels[p.validation]
        logits = self._logits(self._features(self._val, self.autocast))
        order = sorted(logits, key=lambda name: name != self.recipe.select.by)  # stable: the others stay as they are
        return {name: balanced_accuracy(logits[name].argmax(1).numpy(), truth) for name in order}

    def watch(self) -> dict[str, float]:
        """Test accuracy of every predictor."""
        logits = self._logits(self._features(self._test_images(), self.autocast))
        truth = torch.from_numpy(np.asarray(self.prepared.test.labels))
        return {name: float(values.argmax(1).eq(truth).float().mean()) for name, values in logits.items()}

    def score(self, progress: Progress) -> Scored:
        """All scores on the test images, in float32 whatever the training precision, and what post-hoc methods need."""
        p = self.prepared
        truth = np.asarray(p.test.labels)
        features = self._features(self._test_images(), None)
        logits = {name: values.numpy() for name, values in self._logits(features).items()}
        scores, right = [], {}
        for name, values in logits.items():
            right[name] = (values.argmax(1) == truth).astype(np.float32)
            scores.append(self._score(name, values * self.loss.scale, truth, right[name], progress))
        return Scored(scores, right, self._outputs(features, logits))

    def _score(
        self,
        name: str,
        z: np.ndarray[Any, Any],
        truth: np.ndarray[Any, Any],
        right: np.ndarray[Any, Any],
        progress: Progress,
    ) -> Score:
        p = self.prepared
        found = score(z, truth, p.counts if p.longtail else None)
        points = [point for point in progress.curve if name in point.get("test", {})]
        validated = [point for point in points if name in point["val"]]
        return class_score(name, found, right, p.train.class_names).model_copy(
            update={"best_val": best_point(validated, name, "val"), "oracle": best_point(points, name, "test")}
        )

    def _outputs(self, test: Tensor, logits: dict[str, np.ndarray[Any, Any]]) -> ModelOutputs:
        p = self.prepared
        layers = {}
        for name, layer in self.module.layers.items():
            bias = getattr(layer, "bias", None)
            weight = layer.weight.detach().float().cpu()  # type: ignore[operator]
            layers[name] = (weight, None if bias is None else bias.detach().float().cpu())
        return ModelOutputs(
            objective=self.objective.name,
            m=self.transforms.M,
            scale=float(self.loss.scale),
            cosine=self.cosine,
            train_shift=self.loss.shift is not None,
            counts=p.counts,
            class_names=p.train.class_names,
            layers=layers,
            splits=self._kept_splits(test) if p.features is None else self._derived_splits(p.features),
            test_logits={name: torch.from_numpy(values) for name, values in logits.items()},
        )

    def _kept_splits(self, test: Tensor) -> dict[str, Split]:
        """Features of the images, of those to train on as far as they are not too many."""
        p = self.prepared
        splits: dict[str, Split] = {
            "test": FeatureSplit(compact(test), torch.from_numpy(np.asarray(p.test.labels))),
        }
        if len(p.validation):
            images = on_device(p.train.images, torch.device("cpu"), p.validation)
            truth = torch.from_numpy(p.train.labels[p.validation])
            splits["val"] = FeatureSplit(compact(self._features(images, None)), truth)
        if 2 * len(p.rows) * self.transforms.M * test.shape[-1] <= _OUTPUT_BYTES:
            splits["train"] = FeatureSplit(compact(self._features(self.images, self.autocast)), self.labels.cpu())
        return splits

    def _derived_splits(self, features: Features) -> dict[str, Split]:
        """Rows of the feature set, which holds the features; what was trained on them is kept."""
        p, state = self.prepared, self.module.backbone.state_dict()
        source = features.source(self.recipe, {name: weight.detach().cpu() for name, weight in state.items()})
        test = np.arange(len(p.test), dtype=np.int64)
        chosen = [("test", "image-test", p.test, test), ("train", "image-train", p.train, p.rows)]
        if len(p.validation):
            chosen.append(("val", "image-train", p.train, p.validation))
        return {
            name: DerivedSplit(torch.from_numpy(images.labels[rows]), torch.from_numpy(rows), split, source)
            for name, split, images, rows in chosen
        }

    def _features(self, images: Tensor, autocast: torch.dtype | None) -> Tensor:
        """`[n, M, D]` on the CPU."""
        return embed(self.module, images, self.transforms, self.info, autocast=autocast).cpu()

    @torch.inference_mode()
    def _logits(self, features: Tensor) -> dict[str, Tensor]:
        """Logits `[n, C]` by predictor on the CPU, as the layers give them (cosines unscaled)."""
        flat = features.flatten(0, 1).to(self.device)
        outputs = {name: value.float() for name, value in self.module.outputs(flat).items()}
        for name, value in outputs.items():
            require_finite(value, f"logits of the layer '{name}'")
        return {name: value.cpu() for name, value in self.objective.predictors(outputs, self.transforms.M).items()}

    def _test_images(self) -> Tensor:
        if self._test is None:
            self._test = on_device(self.prepared.test.images, torch.device("cpu"))
        return self._test

    def _rows(self, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of `self.images` of the batch of update `step`."""
        t, sampler, n = self.recipe.train, self.recipe.balance.sampler, len(self.labels)
        switch = self.recipe.balance.switch
        if t.batches == "independent":
            generator, size = numpy_generator(self.seed, "order", step), min(t.batch_size, n)
            if sampler == "none":
                return generator.choice(n, size, replace=False)
            return epoch_rows(self._class_rows, sampler, generator, self._progress(step), size, switch)
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            progress = self._progress(epoch * self.steps_per_epoch)
            generator = numpy_generator(self.seed, "order", epoch)
            self._epoch = epoch, epoch_rows(self._class_rows, sampler, generator, progress, switch=switch)
        return self._epoch[1][place * t.batch_size : (place + 1) * t.batch_size]

    def _progress(self, step: int) -> float:
        return min(1.0, step / self.optimisation.steps)

    def _deferred_now(self, step: int) -> bool:
        """Whether DRW's weights are on: from the epoch that begins at `switch` of the training on."""
        return step >= round(self.recipe.balance.switch * self.optimisation.steps)

    def _class_weights(self) -> Tensor | None:
        b = self.recipe.balance
        if b.reweight == "none":
            return None
        name = "effective" if b.reweight == "drw" else b.reweight
        return class_weights(name, self.prepared.counts, b.beta).to(self.device)

    def _mix(self, inputs: Tensor, labels: Tensor, step: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None, Tensor]:
        name, part = self.recipe.mix.name, self.recipe.mix
        if name == "none":
            return inputs, None, labels
        partners = None
        generator = numpy_generator(self.seed, "mix", step)
        if name == "cmo":
            skip = part.skip_epochs * self.steps_per_epoch
            if not skip <= step < self.optimisation.steps - skip:
                return inputs, None, labels
            drawn = inverse_frequency(self._class_rows, len(labels), generator)
            rows = upload(torch.from_numpy(drawn), self.device)
            others = self.augment(self.images.index_select(0, rows), torch_generator(self.seed, "partners", step))
            partners = others, self.labels[rows]
        mixed = mix(name, inputs, labels, generator, counts=self.prepared.counts, alpha=part.alpha, partners=partners)
        return mixed.images, (mixed.second, mixed.share), mixed.first


build_task = ClassifierTask
