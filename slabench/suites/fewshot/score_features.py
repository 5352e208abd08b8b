"""Features of a frozen network under every head, at any ways and shots, on the frozen episodes: records without any training.

The counterpart of `slabench.suites.fewshot.score_heads`, which scores a trained run. The protocol is that of images, so that the
digests are the same; the record names the embedder, and such rows stand in tables of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from slabench import plugins
from slabench.backbones import Backbone
from slabench.core import paths
from slabench.core.code_digest import code_of
from slabench.core.errors import DataMissingError, UsageError
from slabench.core.files import digest_json
from slabench.core.registry import DATASETS, HEADS
from slabench.core.versions import HEAD_REVISIONS
from slabench.data.catalog import DatasetInfo, info
from slabench.embedders.store import FeatureSet, open_features
from slabench.episodes.files import EpisodeFile
from slabench.episodes.profiles import BALANCED
from slabench.learners import EpisodicLearner
from slabench.recipes.fewshot import Protocol
from slabench.records.environment import describe
from slabench.records.record import Cost, RunRecord, Score, Selection
from slabench.records.store import ResultStore
from slabench.suites.fewshot.chosen_heads import heads_of_features
from slabench.suites.fewshot.data import Prepared
from slabench.suites.fewshot.head_scores import HeadScores, Setting, check_counts, predictors_of, scored, settings_of
from slabench.suites.fewshot.scoring import base_rows
from slabench.training.device import choose_device, use_threads

FROZEN = "frozen"
"""What such records call their learner and objective: nothing is trained."""

_NOT_CENTRED = "not centred: the features have no training classes, whose mean {head} takes off"


@dataclass(frozen=True)
class FeatureScoring:
    """A scoring that is under way.

    Attributes:
        features: of the test classes.
        results: head by head, setting by setting, each scored when it is asked for.
        left_out: heads and predictors that cannot be scored on these features, with the reason.
        count: how many results there will be.
    """

    features: FeatureSet
    results: Iterator[HeadScores]
    left_out: list[str]
    count: int


def score_features(
    name: str,
    dataset: str | None = None,
    heads: Sequence[str] | None = None,
    ways: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    *,
    queries: int | None = None,
    episodes: int | None = None,
    predictors: Sequence[str] | None = None,
    support_profile: str | None = None,
    query_profile: str | None = None,
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    save: bool = False,
    again: bool = False,
    argv: Sequence[str] = (),
    told: Callable[[str], None] = lambda text: None,
) -> FeatureScoring:
    """Score heads on the stored features of a frozen network.

    Args:
        name: of a feature set (`slabench features list`).
        dataset: whose test classes; None where the features came with labels alone.
        heads: registered names; None takes all that need no training of their own.
        ways: N of the episodes; by default 5.
        shots: K; by default 5.
        queries: Q per class; by default 15.
        episodes: how many; by default 2,000.
        predictors: some of `slabench.evaluation.episodes.PREDICTORS`; None: both. With one view there is no `aggregated`.
        support_profile: see `slabench.episodes.profiles`.
        query_profile: the same.
        results: the folder of records.
        data_folder: of prepared data and features.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: CPU threads; None leaves torch's choice.
        save: keep a record of each head and setting; what is kept already is not computed again.
        again: compute it all the same.
        argv: the command line, for these records.
        told: told what is going on.

    Raises:
        UsageError: no such head, data set or setting.
        DataMissingError: no such features.
    """
    check_counts(queries, episodes)
    use_threads(threads)
    dataset = dataset or name
    test = open_features(name, dataset, "test", data_folder)
    chosen, left_out = heads_of_features(heads)
    wanted = predictors_of(predictors)
    if test.M == 1 and "aggregated" in wanted:
        if predictors and wanted == ["aggregated"]:
            raise UsageError(f"the features '{name}' have one view, and nothing to aggregate", "leave --predictors out")
        wanted.remove("aggregated")
        left_out.append("aggregated: these features have one view")
    where = choose_device(device)
    settings = settings_of(
        Protocol(),
        ways,
        shots,
        queries=queries,
        episodes=episodes,
        support_profile=support_profile,
        query_profile=query_profile,
    )
    files = {setting: setting.file(test.images, dataset) for setting in settings}
    train, centre = _training(name, dataset, data_folder, any(HEADS.get(head).centred for head in chosen))
    store = ResultStore(paths.results(results))
    for file in files.values() if save else ():  # what cannot be saved is not computed
        prepared = _prepared(dataset, train, test, file)
        store.check_writable("fewshot", prepared.protocol, record_name(name, max(chosen, key=len)))
    told(f"{len(test):,} test images of {len(test.class_names)} classes, {test.M} x {test.D} features each")
    features = torch.from_numpy(test.features().astype(np.float32)).to(where)
    middle = None if centre is None else torch.from_numpy(centre[0]).to(where)

    def work_of(head: str, setting: Setting) -> _FrozenRecord:
        prepared = _prepared(dataset, train, test, files[setting])
        return _FrozenRecord(test, None if centre is None else centre[1], head, setting, prepared, where)

    backbone = cast("Backbone", nn.Identity())  # never asked: the features are there
    found = scored(
        files,
        {head: EpisodicLearner(backbone, HEADS.get(head)).to(where).eval() for head in chosen},
        wanted,
        work_of,
        features=features,
        centre=middle,
        class_names=test.class_names,
        store=store,
        save=save,
        again=again,
        argv=argv,
    )
    return FeatureScoring(test, found, left_out, len(settings) * len(chosen))


def record_name(name: str, head: str) -> str:
    """The name of the records of a head on a feature set."""
    return f"fewshot/{FROZEN}/{name}+{head}"


def _training(
    name: str, dataset: str, folder: Path | None, centred: bool
) -> tuple[FeatureSet | None, tuple[Any, str] | None]:
    """The features of the training classes, and their mean `[M, D]` with its digest; None for what is not there."""
    try:
        train = open_features(name, dataset, "train", folder)
    except DataMissingError:
        return None, None
    if not centred:
        return train, None
    return train, (train.features(base_rows(train.images)).astype(np.float64).mean(0).astype(np.float32), train.digest)


def _prepared(dataset: str, train: FeatureSet | None, test: FeatureSet, file: EpisodeFile) -> Prepared:
    images = train.images if train is not None else test.images
    return Prepared(_info(dataset, test), images, test.images, test.images, file, file)


def _info(dataset: str, test: FeatureSet) -> DatasetInfo:
    """The entry of the catalog; of features that came with labels alone one without images."""
    if dataset in DATASETS:
        return info(dataset)
    return DatasetInfo(
        name=dataset,
        store=dataset,
        image_size=1,
        n_classes=len(test.class_names),
        summary="features without images",
        source="features",
        licence=test.embedder.licence,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop_padding=0,
        fewshot=True,
        embedded=False,
        digest=None,
        dropblock_size=1,
    )


class _FrozenRecord:
    """The record of a head on features: its recipe, keys, and all that is not measured."""

    def __init__(
        self,
        test: FeatureSet,
        centre: str | None,
        head: str,
        setting: Setting,
        prepared: Prepared,
        device: torch.device,
    ) -> None:
        self.test, self.head, self.setting, self.prepared, self.device = test, head, setting, prepared, device
        centred = HEADS.get(head).centred
        self.warnings = [_NOT_CENTRED.format(head=head)] if centred and centre is None else []
        revision = HEAD_REVISIONS.get(head, 1)
        entry = HEADS.entry(head)
        self.code: list[dict[str, str]] = []
        if not entry.built_in:
            code = code_of(HEADS, entry)
            told = {"kind": HEADS.kind, "name": head, "origin": entry.origin, "sha256": code.sha256}
            self.code = [told | ({"unknown": code.unknown} if code.unknown else {})]
        names = ("ways", "shots", "queries", "episodes", "support_profile", "query_profile")
        profiles = ("support_profile", "query_profile")
        protocol = {
            name: value for name in names if (value := getattr(self.setting, name)) != BALANCED or name not in profiles
        }
        model = {"learner": FROZEN, "embedder": self.test.name, "head": self.head}
        self.recipe: dict[str, Any] = {
            "suite": "fewshot",
            "limited": False,
            "data": {"dataset": prepared.test_episodes.manifest.dataset},
            "protocol": protocol,
            "model": model | ({"head_revision": revision} if revision > 1 else {}),
            "sla": {"objective": FROZEN, "transforms": self.test.manifest.transforms},
        }
        facts = self.test.embedder.plain()
        self.recipe_digest = plugins.bound(digest_json({"recipe": self.recipe, "embedder": facts}), self.code)
        key = frozen_key(self.recipe, facts, self.test.digest, centre if centred else None, prepared.protocol_digest)
        self.key = plugins.bound(key, self.code)

    def outdated(self, kept: RunRecord) -> bool:
        """Never: the key holds the digest of the features."""
        return False

    def record(
        self, scores: list[Score], seconds: float, transductive: bool, started: datetime, argv: Sequence[str]
    ) -> RunRecord:
        """With these scores, which took so long, of a head that looks at other queries or does not."""
        environment = describe(self.device) | ({"plugins": self.code} if self.code else {})
        return RunRecord.model_validate(
            {
                "key": self.key,
                "name": record_name(self.test.name, self.head),
                "recipe": self.recipe,
                "recipe_digest": self.recipe_digest,
                "seed": 0,
                "suite": "fewshot",
                "dataset": self.prepared.test_episodes.manifest.dataset,
                **self.prepared.facts(),
                "embedder": self.test.embedder.plain() | {"features": self.test.digest},
                "scores": [score.model_dump() for score in scores],
                "selection": Selection(rule="last", step=0).model_dump(),
                "transductive": transductive,
                "warnings": [*self.prepared.doubts(), *self.warnings],
                "cost": Cost(
                    train_seconds=0,
                    eval_seconds=round(seconds, 3),
                    images_seen=0,
                    steps=0,
                    episodes=0,
                    parameters=0,
                ).model_dump(),
                "environment": environment,
                "started": started.isoformat(timespec="seconds"),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "status": "done",
                "argv": list(argv),
            }
        )


def frozen_key(
    recipe: Mapping[str, Any], embedder: Mapping[str, Any], features: str, centre: str | None, protocol: str
) -> str:
    """The key of a head on frozen features, without the code of plug-ins.

    Args:
        recipe: as in the record.
        embedder: its facts, without the digest of the features.
        features: digest of the test split's.
        centre: digest of the features by which a centred head centres; None where it has none.
        protocol: digest of the protocol.
    """
    bytes_of = {"test": features, "centre": centre, "protocol": protocol}
    return digest_json({"recipe": dict(recipe), "embedder": dict(embedder), "features": bytes_of})
