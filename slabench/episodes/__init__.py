"""Episodes: how they are sampled, shared out and frozen, and a bridge to learn2learn's tasks."""

from __future__ import annotations

from slabench.core.files import digest_json

MOST_EPISODES = 10**6
"""Of one file, and of one test."""


def episodes_digest(sha256: str, ways: int | None, shots: int | None, queries: int | None) -> str:
    """Digest (hex) of test episodes as a protocol sees them: which indices, split into which supports and queries.

    Args:
        sha256: of the index file.
        ways: classes of an episode.
        shots: supports of a class, on average.
        queries: queries of a class, on average.
    """
    return digest_json({"sha256": sha256, "ways": ways, "shots": shots, "queries": queries})
