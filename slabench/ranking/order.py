"""In which order people ask for protocols: standard settings first, then what most rows stand on.

For what is read from the top: the terminal. Files for programs keep the order of the alphabet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from slabench.core.suites import KNOWN
from slabench.ranking.boards import table_of
from slabench.ranking.columns import LeaderboardRow
from slabench.ranking.standard import standard_setting


def asked_first(protocols: Sequence[str]) -> list[str]:
    """The distinct `protocols` in the order in which people ask for them.

    Standard settings (`slabench.ranking.standard`) come before others, suites in their own order, data sets by how often they
    occur, and the numbers in a name by size: 5-way before 10-way.

    Args:
        protocols: one for each row, so that they can be counted.
    """
    counts = Counter(_dataset(protocol) for protocol in protocols)
    suites = {name: place for place, name in enumerate(KNOWN)}

    def key(protocol: str) -> tuple[Any, ...]:
        dataset = _dataset(protocol)
        place = suites.get(dataset[0], len(suites))
        return (not standard_setting(protocol), place, -counts[dataset], dataset, _by_size(protocol))

    return sorted(set(protocols), key=key)


def in_order(rows: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    """The rows with their protocols in the order of `asked_first`; within a protocol as they stood."""
    places = {protocol: place for place, protocol in enumerate(asked_first([row.protocol for row in rows]))}
    return sorted(rows, key=lambda row: places[row.protocol])  # sorted() is stable


def best_of_each(rows: Sequence[LeaderboardRow], top: int) -> list[LeaderboardRow]:
    """The first `top` rows of each table, which are its best; ranks stay those among all of them."""
    seen: Counter[tuple[Any, ...]] = Counter()
    kept = []
    for row in rows:
        table = table_of(row)
        seen[table] += 1
        if seen[table] <= top:
            kept.append(row)
    return kept


def _dataset(protocol: str) -> tuple[str, str]:
    """Suite and data set."""
    suite, _, rest = protocol.partition("/")
    return suite, rest.partition("/")[0]


def _by_size(protocol: str) -> tuple[Any, ...]:
    """Words and numbers in turn, so that 5 stands before 10: `5w1s` is ("", 5, "w", 1, "s")."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", protocol))
