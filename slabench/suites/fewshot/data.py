"""The data of a few-shot recipe: images by class split, and the frozen episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slabench.core import versions
from slabench.core.errors import UsageError
from slabench.core.files import digest_json
from slabench.core.suites import SCORED
from slabench.data import ImageSet, load
from slabench.data.catalog import DatasetInfo, info
from slabench.episodes.files import EpisodeFile, load_episodes, profile_suffix, protocol_part
from slabench.episodes.profiles import BALANCED
from slabench.episodes.sampler import TRAINING, check_sizes
from slabench.plugins import bound, used
from slabench.recipes.fewshot import Recipe
from slabench.records.record import protocol_digest
from slabench.sla.objectives import objective
from slabench.sla.transforms import transform_set
from slabench.suites.fewshot.rules import VALIDATION_FILE_EPISODES
from slabench.suites.on_features import Features, check_views, embedded, read_of

PROTOCOL_VERSION = versions.FEWSHOT
"""Raised whenever a change of slabench can change a number: records of another version are never ranked together."""


@dataclass(frozen=True)
class Prepared:
    """The data of a recipe, opened and checked.

    Attributes:
        info: catalog entry.
        train: images of the training classes.
        val: images of the validation classes.
        test: images of the test classes; nothing but the final scoring reads their pixels.
        val_episodes: frozen validation episodes; None where the validation classes cannot serve any.
        test_episodes: frozen test episodes.
        unserved: why there are no validation episodes.
        features: those of a frozen embedder that stand in the images' place in all three splits; None for images.
        trained_on: the data set of the training classes, where the test classes are of another one.
    """

    info: DatasetInfo
    train: ImageSet
    val: ImageSet
    test: ImageSet
    val_episodes: EpisodeFile | None
    test_episodes: EpisodeFile
    unserved: UsageError | None = None
    features: Features | None = None
    trained_on: str | None = None

    @property
    def protocol(self) -> str:
        """Readable id: `fewshot/fc100/5w5s15q`, `fewshot/cub/5w5s15q-from-fc100` across data sets, `openset/fc100/5w5s15q-5u`."""
        m = self.test_episodes.manifest
        profiles = profile_suffix(m.support_profile, m.query_profile)
        source = f"-from-{self.trained_on}" if self.trained_on else ""
        unknown = f"-{m.unknown}u" if m.unknown else ""
        return f"{self.suite}/{m.dataset}/{m.ways}w{m.shots}s{m.queries}q{profiles}{unknown}{source}"

    @property
    def suite(self) -> str:
        """`openset` where the test has queries of unknown classes."""
        return "openset" if self.test_episodes.manifest.unknown else "fewshot"

    @property
    def version(self) -> int:
        """Of the protocol."""
        return SCORED["openset"].protocol_version if self.test_episodes.manifest.unknown else PROTOCOL_VERSION

    @property
    def protocol_digest(self) -> str:
        """Digest of all that must agree before two numbers are compared."""
        return protocol_digest(
            self.protocol,
            self.version,
            dataset_digest=self.test.digest,
            split_digest=self.test.split_digest,
            episodes_digest=protocol_part(self.test_episodes),
        )

    @property
    def n_train(self) -> int:
        """Images of the training classes."""
        return len(self.train)

    def facts(self) -> dict[str, Any]:
        """Fields of the record that say on what was trained and tested."""
        sizes = [len(rows) for rows in self.train.class_rows()]
        return {
            "protocol": self.protocol,
            "protocol_version": self.version,
            "protocol_digest": self.protocol_digest,
            "dataset_digest": self.test.digest,
            "data_source": self.test.origin.facts() if self.test.origin else None,
            "split_digest": self.test.split_digest,
            "episodes": self.test_episodes.name,
            "episodes_digest": protocol_part(self.test_episodes),
            "train_classes": self.train.n_classes,
            "test_classes": self.test.n_classes,
            "images_per_class": sizes[0]
            if len(set(sizes)) == 1
            else dict(zip(self.train.class_names, sizes, strict=True)),
            **(self.features.facts() if self.features else {}),
        }

    def doubts(self) -> list[str]:
        """What is doubtful about the images."""
        return list(self.test.origin.doubts) if self.test.origin else []

    def notes(self) -> list[str]:
        """No lines: the recipe says it all."""
        return []


def task_id(recipe: Recipe) -> str:
    """Recipes with the same one share their prepared data."""
    return f"{recipe.data} {recipe.protocol} {read_of(recipe)}"


def prepare(recipe: Recipe, data_folder: Path | None = None) -> Prepared:
    """Open the data and the frozen episodes of a recipe that `check` has accepted, making them where they can be made.

    Raises:
        DataMissingError: the data is not here.
        UsageError: the data has too few classes, or images of a class, for the test episodes.
    """
    name, p = recipe.data.dataset, recipe.protocol
    names = ("train", "val", "test")
    opened, features = embedded([load(name, split, data_folder) for split in names], names, recipe, data_folder)
    splits = dict(zip(names, opened, strict=True))
    # Validation is always balanced: it watches training, which profiles do not touch.
    profiles = {"val": (BALANCED, BALANCED), "test": (p.support_profile, p.query_profile)}

    def episodes(split: str, n: int) -> EpisodeFile:
        return load_episodes(splits[split], name, split, p.ways, p.shots, p.queries, n, *profiles[split])

    test = episodes("test", p.episodes)
    val, unserved = None, None
    try:
        val = episodes("val", VALIDATION_FILE_EPISODES)
    except UsageError as error:  # `check_data` asks whether a recipe needs them
        unserved = error
    return Prepared(info(name), splits["train"], splits["val"], splits["test"], val, test, unserved, features)


def check_data(recipe: Recipe, prepared: Prepared) -> None:
    """Refuse what this data cannot serve.

    Raises:
        UsageError: the training classes have too few images for training episodes, or the validation classes are too few.
    """
    if recipe.select.points and prepared.unserved is not None:
        raise UsageError(
            f"{prepared.unserved.message}: validation episodes are as those of the test",
            f"{prepared.unserved.remedy}, or validate nothing: --set select.points=0",
        )
    if prepared.features is not None:
        check_views(recipe, prepared.features)
    if recipe.model.learner != "classifier":
        pairs = objective(recipe.sla.objective).pairs
        copies = transform_set(recipe.sla.transforms).M if pairs else 1  # pairs: every class under every transformation
        sizes = [len(rows) for rows in prepared.train.class_rows() for _ in range(copies)]
        names = [name for name in prepared.train.class_names for _ in range(copies)]
        check_sizes(sizes, names, recipe.train_ways, recipe.train_shots, recipe.train.queries, TRAINING)


def trial_key(recipe: Recipe, seed: int, prepared: Prepared, code: Sequence[Mapping[str, str]] | None = None) -> str:
    """sha256 (hex) of the whole resolved recipe, the seed, the protocol, the data and the code of plug-ins; of no path or device.

    Args:
        recipe: resolved.
        seed: the trial's.
        prepared: its data.
        code: what `slabench.plugins.used` says of the recipe; None asks for it.
    """
    validation = protocol_part(prepared.val_episodes) if prepared.val_episodes else None
    features = prepared.features.digest if prepared.features else None
    key = plain_key(recipe.resolved(), seed, prepared.protocol_digest, prepared.train.digest, validation, features)
    return bound(key, used(recipe) if code is None else code)


def plain_key(
    resolved: Mapping[str, Any],
    seed: int,
    protocol: str,
    train: str,
    validation: str | None,
    features: str | None = None,
) -> str:
    """The key of a trial without the code of plug-ins.

    Args:
        resolved: the recipe's `resolved()`.
        seed: the trial's.
        protocol: digest of the protocol.
        train: digest of the images.
        validation: `protocol_part` of the validation episodes; None where there are none.
        features: digest of the features that an adapter is trained on; None for a trial on images.
    """
    settings = {"recipe": dict(resolved), "seed": seed, "protocol": protocol, "train": train, "validation": validation}
    return digest_json(settings if features is None else {**settings, "features": features})
