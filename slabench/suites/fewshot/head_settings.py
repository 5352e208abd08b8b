"""What heads are scored on: kinds of episodes and predictors, as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from slabench.core.errors import UsageError, unknown_name
from slabench.data.imageset import ImageSet
from slabench.episodes.files import EpisodeFile, load_episodes
from slabench.episodes.profiles import BALANCED
from slabench.evaluation.episodes import PREDICTORS
from slabench.recipes.fewshot import Protocol as EpisodeProtocol
from slabench.suites.fewshot.rules import VALIDATION_FILE_EPISODES


@dataclass(frozen=True)
class Setting:
    """One kind of test episodes; `unknown` classes have queries and no supports."""

    ways: int
    shots: int
    queries: int
    episodes: int
    support_profile: str = BALANCED
    query_profile: str = BALANCED
    unknown: int = 0

    def file(self, test: ImageSet, dataset: str) -> EpisodeFile:
        """Its frozen episodes of the test classes."""
        return load_episodes(
            test,
            dataset,
            "test",
            self.ways,
            self.shots,
            self.queries,
            self.episodes,
            self.support_profile,
            self.query_profile,
            self.unknown,
        )

    def validation_file(self, images: ImageSet, dataset: str) -> EpisodeFile:
        """Frozen episodes of the validation classes with these ways, shots and queries; always balanced."""
        sizes = (self.ways, self.shots, self.queries, VALIDATION_FILE_EPISODES)
        return load_episodes(images, dataset, "val", *sizes)

    def plain(self) -> dict[str, Any]:
        """As the recipe of a record has it; balanced profiles and closed episodes go without saying."""
        unsaid = {"support_profile": BALANCED, "query_profile": BALANCED, "unknown": 0}
        return {name: value for name, value in asdict(self).items() if unsaid.get(name) != value}


def check_counts(queries: int | None, episodes: int | None, open_set: int | None = None) -> None:
    """Refuse numbers that no episodes have, before anything is looked up.

    Raises:
        UsageError: one that is not positive.
    """
    for flag, value in (("--queries", queries), ("--episodes", episodes), ("--open-set", open_set)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} {value} is not positive", f"give {flag} 1 or more")


def check_open_set(open_set: int | None, calibrate: bool) -> None:
    """Refuse to calibrate open episodes: probabilities over the ways say nothing of a query that is of none of them.

    Raises:
        UsageError: both were asked for.
    """
    if open_set and calibrate:
        raise UsageError(
            "--calibrate has no effect with --open-set: softmax knows the ways alone",
            "leave one of them out, and ask for the other in a run of its own",
        )


def settings_of(
    base: EpisodeProtocol,
    ways: Sequence[int] | None,
    shots: Sequence[int] | None,
    *,
    queries: int | None,
    episodes: int | None,
    support_profile: str | None,
    query_profile: str | None,
    open_set: int | None = None,
) -> list[Setting]:
    """Every combination of ways and shots; what is None is that of `base`. `open_set`: unknown classes of an episode."""
    return [
        Setting(
            n,
            k,
            queries or base.queries,
            episodes or base.episodes,
            support_profile or base.support_profile,
            query_profile or base.query_profile,
            open_set or 0,
        )
        for n in (ways or [base.ways])
        for k in (shots or [base.shots])
    ]


def predictors_of(asked: Sequence[str] | None) -> list[str]:
    """Some of `PREDICTORS`; None: all of them.

    Raises:
        UsageError: an unknown one.
    """
    wanted = list(asked or PREDICTORS)
    for name in wanted:
        if name not in PREDICTORS:
            raise unknown_name("predictor", name, PREDICTORS)
    return wanted


def predictors_of_features(asked: Sequence[str] | None, name: str, views: int) -> tuple[list[str], list[str]]:
    """Those of `predictors_of` that features of so many views have, and a line for one that is left out.

    Raises:
        UsageError: an unknown one, or `aggregated` alone where there is one view.
    """
    wanted = predictors_of(asked)
    if views > 1 or "aggregated" not in wanted:
        return wanted, []
    if asked and wanted == ["aggregated"]:
        raise UsageError(f"the features '{name}' have one view, and nothing to aggregate", "leave --predictors out")
    return [predictor for predictor in wanted if predictor != "aggregated"], [
        "aggregated: these features have one view"
    ]
