"""n shots of all classes: frozen features, n images of every class for training, the whole test set for the test.

The form of the literature of CLIP. Which images are learned from is frozen, ten draws of each number of shots
(`slabench.episodes.draws`), and the seed of a record is the number of its draw. A head sees one episode of C ways and n shots
whose queries are the test images, so that every rule of episodes holds: the joint problem of C*M classes for `aggregated`, one
view for `single`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from slabench.backbones import Backbone
from slabench.core import paths, versions
from slabench.core.errors import UsageError
from slabench.core.files import digest_json
from slabench.core.registry import DATASETS, HEADS
from slabench.data.loading import whole_dataset
from slabench.embedders.store import FeatureSet, open_features
from slabench.episodes.draws import DRAWS, SHOTS, DrawFile, load_draws
from slabench.evaluation.episodes import PREDICTORS, view_logits
from slabench.evaluation.metrics import score
from slabench.heads import watch_residuals
from slabench.heads.apart import query_gap
from slabench.learners import EpisodicLearner
from slabench.recipes.base import checked_seeds
from slabench.records.record import RunRecord, Score, protocol_digest
from slabench.records.store import ResultStore
from slabench.suites.classifier.scores import class_score
from slabench.suites.fewshot.chosen_heads import heads_of_features
from slabench.suites.fewshot.frozen import FrozenRecord, record_name
from slabench.suites.fewshot.head_scores import kept_scores
from slabench.suites.fewshot.head_settings import predictors_of_features
from slabench.suites.fewshot.scoring import LOGIT_NOISE
from slabench.training.device import choose_device, exact_float32, use_threads
from slabench.training.finite import require_finite

SUITE = "allclasses"
PROTOCOL_VERSION = versions.ALL_CLASSES
SEEDS = (0, 1, 2)

_MOST_BYTES = 2**30
"""Of what a head keeps of every class at once."""


@dataclass(frozen=True)
class DrawScores:
    """One head from one draw of so many images of every class.

    The record holds what earlier scorings kept as well; `seconds` is 0 where they had kept all.
    """

    head: str
    shots: int
    seed: int
    record: RunRecord
    seconds: float


@dataclass(frozen=True)
class AllClasses:
    """A scoring that is under way.

    Attributes:
        features: of the test images.
        results: shots by shots, draw by draw, head by head, each scored when it is asked for.
        left_out: heads and predictors that are not scored, with the reason.
        count: how many results there will be.
    """

    features: FeatureSet
    results: Iterator[DrawScores]
    left_out: list[str]
    count: int


@dataclass(frozen=True)
class _Keeping:
    """Where records go, and whether what is kept counts."""

    store: ResultStore
    save: bool
    again: bool
    argv: Sequence[str]


def score_all_classes(
    name: str,
    dataset: str,
    heads: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    *,
    seeds: Sequence[int] | None = None,
    predictors: Sequence[str] | None = None,
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    save: bool = False,
    again: bool = False,
    argv: Sequence[str] = (),
    told: Callable[[str], None] = lambda text: None,
) -> AllClasses:
    """Score heads on all classes of a data set from a few training images of each.

    Heads that are centred (SimpleShot) take off the mean of the images that they learn from: nothing else is known here.

    Args:
        name: of a feature set of the data set's training and test images.
        dataset: a whole data set, such as `cifar100`.
        heads: registered names; None takes all that need no training of their own and look at no other query.
        shots: n; by default 1, 2, 4, 8 and 16.
        seeds: of the draws, 0 to 9; by default 0, 1 and 2.
        predictors: some of `slabench.evaluation.episodes.PREDICTORS`; None: those that the features have.
        results: the folder of records.
        data_folder: of prepared data and features.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: CPU threads; None leaves torch's choice.
        save: keep a record of each head, number of shots and seed; what is kept already is not computed again.
        again: compute it all the same.
        argv: the command line, for these records.
        told: told what is going on.

    Raises:
        UsageError: no such head or data set, a seed without a draw, or a class with too few images.
        DataMissingError: no features of all training and test images.
    """
    use_threads(threads)
    drawn = _seeds(seeds)
    if dataset not in DATASETS and dataset == name:
        raise UsageError(
            f"the features '{name}' came with labels alone: their classes are split, not their images",
            "score them on episodes: leave --all-classes out",
        )
    entry = whole_dataset(dataset)
    test, train = (open_features(name, entry.name, part, data_folder) for part in ("image-test", "image-train"))
    chosen, left_out = _heads(heads)
    wanted, fewer = predictors_of_features(predictors, name, test.M)
    files = {n: load_draws(train.images, entry.name, n) for n in (shots or SHOTS)}
    where = choose_device(device)
    keeping = _Keeping(ResultStore(paths.results(results)), save, again, argv)
    for n in files if save else ():  # what cannot be saved is not computed
        keeping.store.check_writable(SUITE, protocol_of(entry.name, n), record_name(SUITE, name, max(chosen, key=len)))
    told(f"{len(test):,} test images of {len(test.class_names)} classes, {test.M} x {test.D} features each")
    pairs = {n: _pairs(chosen, wanted, len(test.class_names), n, test.M) for n in files}
    if not any(found for found, _ in pairs.values()):
        raise UsageError(pairs[min(pairs)][1][0], "choose another head, fewer --shots, or --predictors single")
    left_out += fewer + [line for n, (_, lines) in pairs.items() for line in lines]

    def scored() -> Iterator[DrawScores]:
        query = torch.from_numpy(test.features().astype(np.float32)).to(where)
        for n, file in files.items():
            for seed in drawn:
                rows = file.rows[seed].reshape(-1)
                support = torch.from_numpy(train.features(rows).astype(np.float32)).to(where)
                for head, predictors in pairs[n][0].items():
                    work = _work(test, train, file, head, seed, where)
                    yield DrawScores(head, n, seed, *_one(work, n, predictors, support, query, test, keeping))

    count = sum(len(found) for found, _ in pairs.values()) * len(drawn)
    return AllClasses(test, scored(), left_out, count)


def protocol_of(dataset: str, shots: int) -> str:
    """The readable id of the protocol, such as `allclasses/cifar100/4s`."""
    return f"{SUITE}/{dataset}/{shots}s"


def _seeds(asked: Sequence[int] | None) -> tuple[int, ...]:
    seeds = checked_seeds(SEEDS if asked is None else asked)
    beyond = [seed for seed in seeds if seed >= DRAWS]
    if beyond:
        raise UsageError(
            f"seed {beyond[0]} has no draw: there are {DRAWS} of each number of shots", f"give seeds 0 to {DRAWS - 1}"
        )
    return seeds


def _heads(asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """As `heads_of_features`; what predicts queries from each other is not asked here: its queries would be the test set."""
    chosen, left_out = heads_of_features(asked)
    together = [head for head in chosen if HEADS.get(head).transductive]
    if together:
        raise UsageError(
            f"{together[0]} is transductive: with --all-classes it would see the whole test set at once",
            "choose other heads, or leave --all-classes out",
        )
    return chosen, left_out


def _pairs(
    heads: Sequence[str], predictors: Sequence[str], classes: int, shots: int, views: int
) -> tuple[dict[str, list[str]], list[str]]:
    """Predictors by head, and a line for each that would take more memory than there is reason to."""
    kept: dict[str, list[str]] = {}
    lines = []
    for head in heads:
        for predictor in predictors:
            m = views if predictor == "aggregated" else 1
            # The SVM's solver has a Gram matrix of all supports for every class (`slabench.heads.svm_solver`).
            size = 8 * classes * m * (classes * m * shots) ** 2 if head == "metaoptnet-svm" else 0
            if size <= _MOST_BYTES:
                kept.setdefault(head, []).append(predictor)
            else:
                lines.append(f"{head}, {predictor}, {shots} shots: its solver would take {size / 2**30:,.0f} GiB")
    return kept, lines


def _work(
    test: FeatureSet, train: FeatureSet, file: DrawFile, head: str, seed: int, device: torch.device
) -> FrozenRecord:
    dataset, shots = file.manifest.dataset, file.manifest.shots
    protocol, origin = protocol_of(dataset, shots), test.images.origin
    facts: dict[str, Any] = {
        "protocol": protocol,
        "protocol_version": PROTOCOL_VERSION,
        "protocol_digest": protocol_digest(
            protocol,
            PROTOCOL_VERSION,
            dataset_digest=test.images.digest,
            split_digest=file.digest,
            episodes_digest=None,
        ),
        "dataset_digest": test.images.digest,
        "data_source": origin.facts() if origin else None,
        "split_digest": file.digest,
        "train_classes": train.images.n_classes,
        "test_classes": test.images.n_classes,
        "images_per_class": shots,
        "training_set": {
            "images": shots * file.manifest.classes,
            "draws": file.name,
            "draws_sha256": file.digest,
            "seed": seed,
        },
    }
    return FrozenRecord(
        SUITE,
        test,
        head,
        dataset=dataset,
        protocol={"shots": shots},
        facts=facts,
        warnings=list(origin.doubts) if origin else [],
        features=digest_json({"test": test.digest, "train": train.digest}),
        centre=None,  # the supports' own mean
        device=device,
        seed=seed,
    )


def _one(
    work: FrozenRecord,
    shots: int,
    predictors: Sequence[str],
    support: Tensor,
    query: Tensor,
    test: FeatureSet,
    keeping: _Keeping,
) -> tuple[RunRecord, float]:
    """The record of one head from one draw, and the seconds that it took; what an earlier scoring kept is taken from there."""
    started, begin = datetime.now(UTC), time.perf_counter()
    kept, right = kept_scores(keeping.store, work) if keeping.save else (None, {})
    missing = [predictor for predictor in predictors if keeping.again or predictor not in right]
    if kept is not None and not missing:
        keeping.store.tidy(kept)  # a killed scoring may have left its lock
        return kept, 0
    backbone = cast("Backbone", nn.Identity())  # never asked: the features are there
    learner = EpisodicLearner(backbone, HEADS.get(work.head)).to(query.device).eval()
    classes = len(test.class_names)
    labels = torch.arange(classes, device=query.device).repeat_interleave(shots)
    if learner.head.centred:
        mean = support.mean(0)
        support, query = support - mean, query - mean
    scores: dict[str, Score] = {score.predictor: score for score in kept.scores} if kept else {}
    for predictor in missing:
        logits, residual = class_logits(learner, support, labels, query, classes, predictor)
        right[predictor] = (logits.argmax(-1).numpy() == test.labels).astype(np.float32)
        made = class_score(predictor, score(logits, test.labels), right[predictor], test.class_names)
        scores[predictor] = made.model_copy(update={"solver_residual": residual})
    seconds = time.perf_counter() - begin
    spent = seconds + (kept.cost.eval_seconds if kept and kept.cost else 0)
    transductive = _looks_at_queries(learner, support, labels, query, shots)
    record = work.record([scores[p] for p in PREDICTORS if p in scores], spent, transductive, started, keeping.argv)
    if keeping.save:
        keeping.store.save(record, right)
    return record, seconds


@torch.inference_mode()
def class_logits(
    learner: EpisodicLearner, support: Tensor, labels: Tensor, query: Tensor, n_classes: int, predictor: str
) -> tuple[Tensor, float | None]:
    """Logits `[T, C]` on the CPU of every query, and the largest residual of the head's solver, if it solves anything.

    Args:
        learner: only its head and scale are used.
        support: `[S, M, D]`, of all classes.
        labels: int64 `[S]`.
        query: `[T, M, D]`.
        n_classes: C.
        predictor: `single` takes view 0 alone, `aggregated` all of them.

    Raises:
        NotFiniteError: the head gives logits that are NaN or infinite.
    """
    views = slice(1) if predictor == "single" else slice(None)
    with exact_float32(), watch_residuals() as residuals:
        found = view_logits(learner, support[None, :, views], labels[None], query[None, :, views], n_classes)
    require_finite(found, f"logits of the head {learner.head.name}")
    return found[0].cpu(), max(residuals, default=None)


_MEASURED = 5
"""Classes whose supports are enough to tell whether a head looks at other queries."""


@torch.inference_mode()
def _looks_at_queries(learner: EpisodicLearner, support: Tensor, labels: Tensor, query: Tensor, shots: int) -> bool:
    """Measured on the first classes and some of the queries: every query alone is a problem of its own to solve."""
    some = query[:: max(1, len(query) // 15), 0][None]
    few = slice(_MEASURED * shots)
    with exact_float32():
        gap = query_gap(learner.logits, support[None, few, 0], labels[None, few], some, min(_MEASURED, len(labels)))
    return learner.head.transductive or gap > LOGIT_NOISE
