"""The few-shot suite: what a trial trains on, and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slabench import protocol_versions
from slabench.data import ImageSet, load
from slabench.data.augment import BatchAugment
from slabench.data.catalog import DatasetInfo, info
from slabench.episode_files import EpisodeFile, load_episodes, profile_suffix, protocol_part
from slabench.episode_profiles import BALANCED
from slabench.episodes import Episodes, EpisodeSampler, gather
from slabench.errors import UsageError
from slabench.fsio import digest_json
from slabench.heads import Head
from slabench.learners.episodic import EpisodicLearner, build_learner
from slabench.recipe import ADAPTED, Recipe
from slabench.registry import BACKBONES, HEADS
from slabench.results.record import protocol_digest
from slabench.results.weights import ModelWeights
from slabench.seeding import numpy_generator, torch_generator
from slabench.sla.classification import classifier_objective
from slabench.sla.objectives import objective
from slabench.sla.transforms import transform_set
from slabench.suites import Scored, SuiteTask, on_device
from slabench.suites.fewshot_scoring import EpisodeScoring, episode_score
from slabench.training.loop import StepResult

if TYPE_CHECKING:
    from slabench.training.checkpoint import Progress
    from slabench.training.schedule import Optimisation

PROTOCOL_VERSION = protocol_versions.FEWSHOT
"""Raised whenever a change of slabench can change a number: records of another version are never ranked together."""

_VALIDATION_FILE_EPISODES = 2000
"""Frozen validation files hold so many; a recipe uses the first `select.episodes` of them."""


@dataclass(frozen=True)
class Prepared:
    """The data of a recipe, opened and checked.

    Attributes:
        info: catalog entry.
        train: images of the training classes.
        val: images of the validation classes.
        test: images of the test classes; nothing but the final scoring reads their pixels.
        val_episodes: frozen validation episodes.
        test_episodes: frozen test episodes.
    """

    info: DatasetInfo
    train: ImageSet
    val: ImageSet
    test: ImageSet
    val_episodes: EpisodeFile
    test_episodes: EpisodeFile

    @property
    def protocol(self) -> str:
        """Readable id, such as `fewshot/fc100/5w5s15q`."""
        m = self.test_episodes.manifest
        profiles = profile_suffix(m.support_profile, m.query_profile)
        return f"fewshot/{m.dataset}/{m.ways}w{m.shots}s{m.queries}q{profiles}"

    @property
    def protocol_digest(self) -> str:
        """Digest of all that must agree before two numbers are compared."""
        return protocol_digest(
            self.protocol,
            PROTOCOL_VERSION,
            dataset_digest=self.test.digest,
            split_digest=self.test.split_digest,
            episodes_digest=protocol_part(self.test_episodes),
        )

    def facts(self) -> dict[str, Any]:
        """Fields of the record that say on what was trained and tested."""
        sizes = [len(rows) for rows in self.train.class_rows()]
        return {
            "protocol": self.protocol,
            "protocol_version": PROTOCOL_VERSION,
            "protocol_digest": self.protocol_digest,
            "dataset_digest": self.test.digest,
            "split_digest": self.test.split_digest,
            "episodes": self.test_episodes.name,
            "episodes_digest": protocol_part(self.test_episodes),
            "train_classes": self.train.n_classes,
            "test_classes": self.test.n_classes,
            "images_per_class": sizes[0]
            if len(set(sizes)) == 1
            else dict(zip(self.train.class_names, sizes, strict=True)),
        }

    def notes(self) -> list[str]:
        """Nothing that a reader must know beforehand."""
        return []


def check(recipe: Recipe) -> None:
    """Refuse what no data could serve: unknown names, and combinations that make no sense. Loads nothing."""
    entry = info(recipe.data.dataset)
    if not entry.fewshot:
        raise UsageError(
            f"'{entry.name}' has no few-shot class split",
            "few-shot datasets: fc100, cifar-fs, mini-imagenet, glyphs",
        )
    BACKBONES.entry(recipe.model.backbone)
    if recipe.model.learner in ADAPTED:
        from slabench.suites.fewshot_maml import check_adapted

        check_adapted(recipe)
        objective(recipe.sla.objective)
    elif recipe.model.learner == "classifier":
        classifier_objective(recipe.sla.objective)
        head: Head = HEADS.get(recipe.model.head)
        if head.module is not None:
            raise UsageError(
                f"the head {head.name} learns from episodes, and --learner classifier trains on none",
                "choose another --head (logistic, simpleshot, protonet, ...), or --learner episodic",
            )
    else:
        HEADS.entry(recipe.model.head)
        objective(recipe.sla.objective)
    transform_set(recipe.sla.transforms)
    train = recipe.train
    if train.schedule == "step" and (len(train.milestones) != len(train.factors) or not train.milestones):
        raise UsageError(
            f"train.milestones has {len(train.milestones)} values and train.factors {len(train.factors)}",
            "the step schedule needs as many of each, at least one",
        )
    if recipe.select.rule == "best_val" and recipe.select.points == 0:
        raise UsageError("select.rule = best_val needs validations", "set select.points to 1 or more")
    if recipe.select.episodes > _VALIDATION_FILE_EPISODES:
        raise UsageError(
            f"select.episodes = {recipe.select.episodes}: validation files hold {_VALIDATION_FILE_EPISODES}",
            f"use {_VALIDATION_FILE_EPISODES} or fewer",
        )


def warnings(recipe: Recipe) -> list[str]:
    """What is legal and doubtful about a recipe."""
    if recipe.model.learner == "maml" and recipe.batch_norm == "running":
        return [
            "maml adapts weights whose running statistics are of other weights: maml.batch_norm = support tests better"
        ]
    found: list[str] = []
    if recipe.model.learner == "classifier":
        return found
    if recipe.train_shots != recipe.protocol.shots and recipe.model.head == "protonet":
        found.append(
            f"trained at {recipe.train_shots} shots and tested at {recipe.protocol.shots}: prototypes lose by that"
        )
    if recipe.model.head in ("simpleshot", "baseline-plus-plus"):
        found.append(f"{recipe.model.head} was made for features of a classifier: see --learner classifier")
    if recipe.model.head == "simpleshot":
        found.append("training episodes are not centred; the test is, by the mean of the training classes")
    return found


def label(recipe: Recipe, seed: int) -> str:
    """What a person calls the trial: `fc100 5w5s protonet/conv4 sla 8,000 steps seed 0`."""
    p = recipe.protocol
    learner = "classifier+" if recipe.model.learner == "classifier" else ""
    return (
        f"{recipe.data.dataset} {p.ways}w{p.shots}s{profile_suffix(p.support_profile, p.query_profile)}"
        f" {learner}{recipe.model.head}/{recipe.model.backbone} {recipe.sla.objective}"
        f" {recipe.train.steps:,} steps seed {seed}"
    )


def task_id(recipe: Recipe) -> str:
    """Recipes with the same one share their prepared data."""
    return f"{recipe.data} {recipe.protocol}"


def prepare(recipe: Recipe, data_folder: Path | None = None) -> Prepared:
    """Open the data and the frozen episodes of a recipe, making them where they can be made."""
    check(recipe)
    name, p = recipe.data.dataset, recipe.protocol
    splits = {split: load(name, split, data_folder) for split in ("train", "val", "test")}
    # Validation is always balanced: it watches training, which profiles do not touch.
    profiles = {"val": (BALANCED, BALANCED), "test": (p.support_profile, p.query_profile)}
    files = {
        split: load_episodes(splits[split], name, split, p.ways, p.shots, p.queries, n, *profiles[split])
        for split, n in (("val", _VALIDATION_FILE_EPISODES), ("test", p.episodes))
    }
    return Prepared(info(name), **splits, val_episodes=files["val"], test_episodes=files["test"])


def trial_key(recipe: Recipe, seed: int, prepared: Prepared) -> str:
    """sha256 (hex) of the whole resolved recipe, the seed, the protocol and the data; of no path and no device."""
    return digest_json(
        {
            "recipe": recipe.resolved(),
            "seed": seed,
            "protocol": prepared.protocol_digest,
            "train": prepared.train.digest,
            "validation": protocol_part(prepared.val_episodes),
        }
    )


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
        )
        ways = recipe.train_ways
        self._labels = self.objective.labels(torch.arange(ways), self.transforms.M).to(device)  # [N, copies]
        self._n_labels = self.objective.n_labels(ways, self.transforms.M)

    def _build(self) -> EpisodicLearner:
        return build_learner(self.recipe.model, self.info, self.seed)

    @property
    def learner(self) -> EpisodicLearner:
        """What is trained is what scores."""
        return self.module

    @property
    def optimisation(self) -> Optimisation:
        """Steps, optimiser, schedule."""
        return self.recipe.train

    @property
    def episodes_per_step(self) -> int:
        """Episodes of one step."""
        return self.recipe.train.episodes_per_step

    @property
    def images_per_step(self) -> int:
        """Image passes of one step, copies counted."""
        s = self.sampler
        copies = self.objective.n_copies(self.transforms.M)
        return self.recipe.train.episodes_per_step * s.ways * (s.shots + s.queries) * copies

    def step(self, step: int) -> StepResult:
        """Loss and accuracy on fresh episodes: cross-entropy of the query copies over the labels of the objective."""
        episodes, inputs = self._draw(step)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            features = self.module.embed(inputs)
        count, ways, per_class = episodes.rows.shape
        features = features.view(count, ways, per_class, -1, features.shape[-1])  # [E, N, K+Q, copies, D]
        shots = episodes.shots
        support, query = features[:, :, :shots].flatten(1, 3), features[:, :, shots:].flatten(1, 3)
        support_labels = self._row_labels(shots, count)
        query_labels = self._row_labels(per_class - shots, count)
        logits = self.module.logits(support, support_labels, query, self._n_labels)
        loss = functional.cross_entropy(
            logits.flatten(0, 1), query_labels.flatten(), label_smoothing=self.recipe.train.label_smoothing
        )
        accuracy = logits.detach().argmax(-1).eq(query_labels).float().mean()
        return StepResult(loss, accuracy, len(inputs))

    def score(self, progress: Progress) -> Scored:
        """Scores on the frozen test episodes, and the weights that `slabench score` starts from."""
        return scored(self, self.module)

    def _draw(self, step: int) -> tuple[Episodes, Tensor]:
        """The episodes of a step and their augmented copies, from seeds of the step; the backbone hears of the step, too."""
        self.sampler.generator = numpy_generator(self.seed, "order", step)
        episodes = self.sampler.sample(self.recipe.train.episodes_per_step)
        backbone = self.module.backbone
        backbone.set_step(step)
        backbone.set_noise(torch_generator(self.seed, "dropout", step))
        return episodes, self._inputs(episodes, step)

    def _inputs(self, episodes: Episodes, step: int) -> Tensor:
        """Augmented images of the episodes, copies interleaved: `[E*N*(K+Q)*copies, 3, H, W]`.

        The copies of an image share its crop, flip and colours, as in the code of the paper's authors.
        """
        images = gather(self.images, episodes.rows.reshape(-1).to(self.device))
        inputs = self.augment(images, torch_generator(self.seed, "augment", step))
        if self.objective.copies:
            return self.transforms.apply(inputs)
        if self.objective.pairs:
            which = (episodes.classes % self.transforms.M).repeat_interleave(episodes.rows.shape[-1])
            return self.transforms.apply_each(inputs, which)
        return inputs

    def _row_labels(self, per_class: int, count: int) -> Tensor:
        """Labels `[E, N*per_class*copies]` of the rows of all supports, or of all queries."""
        return self._labels.unsqueeze(1).expand(-1, per_class, -1).reshape(1, -1).expand(count, -1)


def train_augment(recipe: Recipe, entry: DatasetInfo) -> BatchAugment:
    """Crop, flip and colours of a recipe, where the data set allows them."""
    train = recipe.train
    return BatchAugment(
        crop_padding=entry.crop_padding if train.crop else 0,
        flip=train.flip and entry.mirror,
        jitter=train.jitter,
        mean=entry.mean,
        std=entry.std,
    )


def scored(task: EpisodeScoring, module: nn.Module) -> Scored:
    """The end of a few-shot trial: scores of both predictors, and the weights of `module`."""
    names = task.prepared.test.class_names
    found = task.test()
    return Scored(
        [episode_score(name, score, names, residual) for name, (score, residual) in found.items()],
        {name: score.accuracy.numpy() for name, (score, _) in found.items()},
        ModelWeights(trial_key(task.recipe, task.seed, task.prepared), module.state_dict()),
    )


def build_task(
    recipe: Recipe, seed: int, prepared: Prepared, device: torch.device, autocast: torch.dtype | None
) -> SuiteTask:
    """The task of the recipe's learner; arguments as of `EpisodeScoring`."""
    if recipe.model.learner == "classifier":
        from slabench.suites.fewshot_pretraining import PretrainingTask

        return PretrainingTask(recipe, seed, prepared, device, autocast)
    if recipe.model.learner in ADAPTED:
        from slabench.suites.fewshot_maml import AdaptedTask

        return AdaptedTask(recipe, seed, prepared, device, autocast)
    return EpisodicTask(recipe, seed, prepared, device, autocast)
