"""What the Python API has beside the modules themselves; see `slabench.__init__` and docs/api.md."""

from __future__ import annotations

import warnings
from pathlib import Path

from slabench import paths
from slabench.results.leaderboard import rows
from slabench.results.leaderboard_row import LeaderboardRow
from slabench.results.store import ResultStore


def leaderboard(
    results: Path | str | None = None, *, include_quick: bool = False, shipped: bool = False
) -> list[LeaderboardRow]:
    """The rows of the leaderboard, protocol by protocol, the best first; empty where there is no finished trial.

    Args:
        results: the folder of records; by default `SLABENCH_RESULTS`, else `results/` here.
        include_quick: also runs of a reduced budget, without a rank.
        shipped: the records that travel with slabench.

    Warns:
        UserWarning: names each record that is damaged and left out.
    """
    folder = paths.shipped_results() if shipped else paths.results(Path(results) if results else None)
    store = ResultStore(folder)
    records, problems = store.scan()
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return rows(records, include_limited=include_quick, episodes=store.episodes)
