"""The present version of each suite's protocol: what a record's `protocol_version` is held against.

A number is raised whenever a change of slabench can change a result: records of another version are shown as stale and never
ranked. They are kept apart from the suites so that the leaderboard can read them without torch; by suite: `slabench.core.suites`.
"""

from __future__ import annotations

__version__ = "0.1.0"
"""Of slabench itself, as in pyproject.toml."""

FEWSHOT = 1
CLASSIFICATION = 1
ALL_CLASSES = 1
OPEN_SET = 1

HEAD_REVISIONS = {"baseline-plus-plus": 2}
"""Heads that have not always computed what they compute now. A revision above 1 is part of the key and of the record.

baseline-plus-plus: 1 was what is called `cosine-fitted` now; 2 is the code of its authors (docs/parity.md).
"""

RENAMED_HEADS = {"baseline-plus-plus": "cosine-fitted"}
"""What the first revision of such a head is called now: a record that names no revision is a record of that head."""
