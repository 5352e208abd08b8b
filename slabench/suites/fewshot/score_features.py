"""Features of a frozen network under every head, at any ways and shots, on the frozen episodes: records without any training.

The counterpart of `slabench.suites.fewshot.score_heads`, which scores a trained run. The protocol is that of images, so that the
digests are the same; the record names the embedder, and such rows stand in tables of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from slabench.backbones import Backbone
from slabench.core import paths
from slabench.core.errors import DataMissingError
from slabench.core.registry import DATASETS, HEADS
from slabench.data.catalog import DatasetInfo, info
from slabench.embedders.store import FeatureSet, open_features
from slabench.episodes.files import EpisodeFile
from slabench.learners import EpisodicLearner
from slabench.recipes.fewshot import Protocol
from slabench.records.store import ResultStore
from slabench.suites.fewshot.chosen_heads import heads_of_features
from slabench.suites.fewshot.data import Prepared
from slabench.suites.fewshot.frozen import FrozenRecord, record_name
from slabench.suites.fewshot.head_scores import HeadScores, scored
from slabench.suites.fewshot.head_selection import BY_VALIDATION, FIXED, Selector, named, selectable
from slabench.suites.fewshot.head_settings import (
    Setting,
    check_counts,
    check_open_set,
    predictors_of_features,
    settings_of,
)
from slabench.suites.fewshot.scoring import base_rows
from slabench.suites.fewshot.validation import validation_of
from slabench.training.device import choose_device, use_threads

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
    open_set: int | None = None,
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    save: bool = False,
    again: bool = False,
    calibrate: bool = False,
    head_selection: str = FIXED,
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
        open_set: so many classes of each episode are unknown: they have queries and no supports (`slabench.evaluation.open_set`).
        results: the folder of records.
        data_folder: of prepared data and features.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: CPU threads; None leaves torch's choice.
        save: keep a record of each head and setting; what is kept already is not computed again.
        again: compute it all the same.
        calibrate: with NLL and ECE, and a temperature chosen on validation episodes; takes features of the validation classes.
        head_selection: how heads come by their own parameter: `fixed`, the best of a grid on `validation` episodes (which takes
            features of the validation classes), or an `ensemble` over the grid.
        argv: the command line, for these records.
        told: told what is going on.

    Raises:
        UsageError: no such head, data set or setting.
        DataMissingError: no such features.
    """
    check_counts(queries, episodes, open_set)
    check_open_set(open_set, calibrate)
    use_threads(threads)
    dataset = dataset or name
    test = open_features(name, dataset, "test", data_folder)
    chosen, left_out = heads_of_features(heads)
    chosen, fixed = selectable(chosen, head_selection, heads)
    left_out += fixed
    wanted, fewer = predictors_of_features(predictors, name, test.M)
    left_out += fewer
    where = choose_device(device)
    settings = settings_of(
        Protocol(),
        ways,
        shots,
        queries=queries,
        episodes=episodes,
        support_profile=support_profile,
        query_profile=query_profile,
        open_set=open_set,
    )
    files = {setting: setting.file(test.images, dataset) for setting in settings}
    train, centre = _training(name, dataset, data_folder, any(HEADS.get(head).centred for head in chosen))
    val = open_features(name, dataset, "val", data_folder) if calibrate or head_selection == BY_VALIDATION else None
    store = ResultStore(paths.results(results))
    longest = named(max(chosen, key=len), head_selection)
    for file in files.values() if save else ():  # what cannot be saved is not computed
        prepared = _prepared(dataset, train, test, file)
        store.check_writable(prepared.suite, prepared.protocol, record_name(prepared.suite, name, longest))
    told(f"{len(test):,} test images of {len(test.class_names)} classes, {test.M} x {test.D} features each")
    features = torch.from_numpy(test.features().astype(np.float32)).to(where)
    middle = None if centre is None else torch.from_numpy(centre[0]).to(where)

    def of_validation(rows: torch.Tensor) -> torch.Tensor:
        assert val is not None
        return torch.from_numpy(val.features(rows.numpy()).astype(np.float32)).to(where)

    validation = None
    if val is not None:
        validation = validation_of(val.images, dataset, settings, of_validation, middle, val.digest)
    selector = Selector(head_selection, validation if head_selection == BY_VALIDATION else None)

    def work_of(head: str, setting: Setting) -> FrozenRecord:
        prepared = _prepared(dataset, train, test, files[setting])
        centred = HEADS.get(head).centred
        return FrozenRecord(
            prepared.suite,
            test,
            head,
            dataset=dataset,
            protocol=setting.plain(),
            facts=prepared.facts(),
            warnings=[
                *prepared.doubts(),
                *([_NOT_CENTRED.format(head=head)] if centred and centre is None else []),
            ],
            features=test.digest,
            centre=centre[1] if centred and centre is not None else None,
            device=where,
            selection=selector.facts(head, setting),
        )

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
        calibration=validation if calibrate else None,
        selector=selector,
    )
    return FeatureScoring(test, found, left_out, len(settings) * len(chosen))


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
