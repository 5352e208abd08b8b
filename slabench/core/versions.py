"""The present version of each suite's protocol: what a record's `protocol_version` is held against.

A number is raised whenever a change of slabench can change a result: records of another version are shown as stale and never
ranked. They are kept apart from the suites so that the leaderboard can read them without torch; by suite: `slabench.core.suites`.
"""

from __future__ import annotations

__version__ = "0.1.0"
"""Of slabench itself, as in pyproject.toml."""

FEWSHOT = 1
CLASSIFICATION = 1
