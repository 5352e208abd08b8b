"""Heads scored on features that are there, setting by setting: what a trained run and a frozen network have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from torch import Tensor

from slabench import plugins
from slabench.core.errors import DataError
from slabench.episodes.files import EpisodeFile
from slabench.episodes.sampler import Episodes, closed
from slabench.evaluation.episodes import PREDICTORS
from slabench.evaluation.open_set import score_open
from slabench.heads import watch_residuals
from slabench.learners import EpisodicLearner
from slabench.records.record import RunRecord, Score
from slabench.records.store import ResultStore
from slabench.suites.fewshot.head_selection import Selector
from slabench.suites.fewshot.head_settings import Setting
from slabench.suites.fewshot.scoring import (
    MEASURED_EPISODES,
    episode_score,
    looks_at_queries,
    open_score,
    score_watched,
)
from slabench.suites.fewshot.validation import Validation
from slabench.training.device import exact_float32


@dataclass(frozen=True)
class HeadScores:
    """One head on one kind of episodes: its scores by predictor, as in `record`, and the time they took now.

    The record holds what earlier scorings kept as well; `seconds` is 0 where they had kept all.
    """

    head: str
    setting: Setting
    record: RunRecord
    seconds: float


class Work(Protocol):
    """One head on one setting: the key of its record, and all of the record that is not measured."""

    key: str
    code: list[dict[str, str]]

    def outdated(self, kept: RunRecord) -> bool:
        """Whether a record of this key is of something that is no longer there."""
        ...

    def record(
        self, scores: list[Score], seconds: float, transductive: bool, started: datetime, argv: Sequence[str]
    ) -> RunRecord:
        """With these scores, which took so long, of a head that looks at other queries or does not."""
        ...


FIXED_HEAD = Selector()


def scored(
    files: Mapping[Setting, EpisodeFile],
    learners: Mapping[str, EpisodicLearner],
    predictors: Sequence[str],
    work_of: Callable[[str, Setting], Work],
    *,
    features: Tensor,
    centre: Tensor | None,
    class_names: Sequence[str],
    store: ResultStore,
    save: bool,
    again: bool,
    argv: Sequence[str],
    calibration: Validation | None = None,
    selector: Selector = FIXED_HEAD,
) -> Iterator[HeadScores]:
    """Score each head on each setting when it is asked for.

    Args:
        files: the episodes of each setting.
        learners: each head on the device of `features`, by its name; only head and scale are used.
        predictors: of `PREDICTORS`.
        work_of: what is recorded of a head on a setting.
        features: `[n, M, D]`, float32, of the test images.
        centre: `[M, D]`, taken off for heads that are centred; None: nothing is.
        class_names: of the test classes.
        store: where records are kept, if `save`.
        save: keep them; what is kept already is not computed again.
        again: compute it all the same.
        argv: the command line, for the records.
        calibration: validation episodes by which every score is calibrated; None: nothing is.
        selector: says how the heads' own parameters are come by.
    """
    for setting, file in files.items():
        for name, learner in learners.items():
            started, begin = datetime.now(UTC), time.perf_counter()
            work = work_of(name, setting)
            kept, right = kept_scores(store, work) if save else (None, {})
            scores = {score.predictor: score for score in kept.scores} if kept else {}
            missing = [
                predictor
                for predictor in predictors
                if again or predictor not in right or (calibration and not calibration.knows(scores.get(predictor)))
            ]
            if kept is not None and not missing:
                store.tidy(kept)  # a scoring that was killed after it had written this one may have left its lock
                yield HeadScores(name, setting, kept, 0)
                continue
            x = features - centre if learner.head.centred and centre is not None else features
            for predictor in missing:
                judged, selection = selector.chosen(learner, setting, predictor)
                made, right[predictor] = _score(judged, x, file.episodes, setting, predictor, class_names, calibration)
                scores[predictor] = made.model_copy(update={"head_selection": selection})
            seconds = time.perf_counter() - begin
            spent = seconds + (kept.cost.eval_seconds if kept and kept.cost else 0)
            few = closed(file.episodes[:MEASURED_EPISODES], setting.ways)
            with exact_float32():  # TF32 would look like a head that sees other queries
                seen = learner.head.transductive or looks_at_queries(learner, x, few)
            record = work.record([scores[p] for p in PREDICTORS if p in scores], spent, seen, started, argv)
            if save:
                store.save(record, right)
            yield HeadScores(name, setting, record, seconds)


def _score(
    learner: EpisodicLearner,
    features: Tensor,
    episodes: Episodes,
    setting: Setting,
    predictor: str,
    class_names: Sequence[str],
    validation: Validation | None,
) -> tuple[Score, Any]:
    """The score of one predictor, and what it is the mean of, float32 `[E]`; arguments as of `scored`."""
    if setting.unknown:
        with exact_float32(), watch_residuals() as residuals:
            opened = score_open(learner, features, episodes, setting.ways, predictor)
        made = open_score(predictor, opened, setting.unknown, max(residuals, default=None))
        return made, opened.auroc.numpy()
    confidence = validation.reliability(learner, setting, predictor) if validation else None
    watch = confidence.add if confidence else None
    with exact_float32():  # not around the loop of `scored`: whoever takes the results would run within it
        found, residual = score_watched(learner, features, episodes, predictor, len(class_names), watch)
    made = episode_score(predictor, found, class_names, residual)
    if validation and confidence:
        made = made.model_copy(update={"calibration": validation.told(confidence, setting)})
    return made, found.accuracy.numpy()


def kept_scores(store: ResultStore, work: Work) -> tuple[RunRecord | None, dict[str, Any]]:
    """What an earlier scoring of the same by the same code kept, with the accuracies behind it; none where either is missing,
    damaged or of others.
    """
    kept = store.find(work.key)
    if kept is None or work.outdated(kept) or plugins.untold(work.code):
        return None, {}
    try:
        return kept, dict(store.episodes(kept))
    except DataError:
        return None, {}
